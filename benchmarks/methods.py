"""What each method can be told, and how long it takes: made from the code, for the pages and for the command line.

``--measure`` measures the times; otherwise they stay as they were measured last. Fits of thousands of steps are too
long to wait for: a few steps are timed and multiplied.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import publish
import torch
from gpu import phantom

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.classical import Classical
from monai_dnaprior.denoisers.dnaprior import PRESETS
from monai_dnaprior.denoisers.options import METHODS, options_of
from monai_dnaprior.denoisers.registry import DENOISERS, FITTED, create_denoiser, find_method
from monai_dnaprior.noise.models import add_noise

SIDE, SLICES = 256, 100
TRIED = (5, 15)  # steps of the fits that end after a fixed number of them
TIMED: dict[str, tuple[str, dict[str, Any]]] = {
    "dna-prior": ("dna-prior", {}),
    **{f"dna-prior:{preset}": ("dna-prior", {"preset": preset}) for preset in PRESETS if preset != "default"},
    "iddp": ("iddp", {}),
    "iddp:refinements=2": ("iddp", {"refinements": 2}),
    **{name: (name, {}) for name in DENOISERS if name not in ("dna-prior", "iddp")},
}
IN_README = "median nl-means iddp iddp:refinements=2 dna-prior:instant dna-prior:fast dna-prior dna-prior:best".split()
ON_GPU = {"iddp": "iddp", "iddp:refinements=2": "iddp refined", "dna-prior:fast": "fast", "dna-prior": "default"}
UNITS = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
SPEEDS = (("under a second", 1), ("seconds", 60), ("minutes", 3600), ("hours", float("inf")))
SIGNS = {"hat": "", "sigma": "σ", "lambda": "λ", "beta": "β", "alpha": "α", "omega": "ω", ",": " ", "overline": "mean "}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the times anew, on one core")
    path = publish.RESULTS / "methods.json"
    stored = measure() if parser.parse_args().measure else json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    methods = described(stored["seconds a slice"])
    METHODS.write_text(json.dumps(methods, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, table in tables(methods, stored["seconds a slice"]).items():
        (publish.RESULTS / f"{name}.md").write_text(table + "\n", encoding="utf-8")
        publish.show(name)


def measure() -> dict[str, Any]:
    """Seconds that every method takes for one slice, on one core, with the machine and the versions."""
    torch.set_num_threads(1)
    return {**publish.about(), "seconds a slice": {label: seconds_of(*method) for label, method in TIMED.items()}}


def seconds_of(name: str, options: Mapping[str, Any]) -> float:
    """Seconds of one slice, after calls that load what is loaded once."""
    noisy = add_noise(phantom(SIDE), "gaussian:25")
    create_denoiser("dna-prior", steps=2)(noisy)
    denoiser: Any = create_denoiser(name, **options)
    if getattr(denoiser, "stopping", None) == "steps":
        few, more = (timed(create_denoiser(name, **{**options, "steps": steps}), noisy) for steps in TRIED)
        return round(few + (more - few) / (TRIED[1] - TRIED[0]) * (denoiser.steps - TRIED[0]), 1)
    create_denoiser(name, **({"steps": 2} if name in FITTED else options))(noisy)
    return round(timed(denoiser, noisy), 4)


def timed(denoiser: Any, noisy: torch.Tensor) -> float:
    started = time.perf_counter()
    denoiser(noisy)
    return time.perf_counter() - started


def described(seconds: Mapping[str, float]) -> dict[str, Any]:
    """Every method in words: what it is, what it needs, how long it takes, and its options."""
    return {
        name: {
            "what": summary(sources_of(find_method(name))[0]),
            "network": "fitted to each slice" if name in FITTED else "trained, shipped" if name == "iddp" else "none",
            "a slice takes": next(word for word, limit in SPEEDS if seconds[name] < limit),
            "options": dict(described_options(find_method(name))),
        }
        for name in DENOISERS
    }


def described_options(create: Callable[..., Any]) -> Iterator[tuple[str, list[str]]]:
    """The type, the default and the meaning of every option, by its name."""
    meanings: dict[str, str] = {}
    for source in sources_of(create):
        meanings = arguments_of(source) | meanings
    for name, option in options_of(create).items():
        default = option.default
        shown = f"{default:.4g}" if isinstance(default, float) else json.dumps(default).replace("null", "None")
        yield name, [option.annotation, shown.replace("true", "True").replace("false", "False"), meanings[name]]


def sources_of(create: Callable[..., Any]) -> list[Any]:
    """What documents a method, first its own class or function."""
    create = create.func if isinstance(create, functools.partial) else create
    own = getattr(create, "__self__", None)
    kind = own or create
    if isinstance(kind, type):
        return [*kind.__mro__[:-1], *([create] if own else [])]
    return [create, Classical]


def summary(source: Any) -> str:
    """The first paragraph of a docstring, without its equation."""
    return plain(re.split(r"\n\n|,? ?:math:", inspect.getdoc(source) or "")[0]).rstrip(".,:") + "."


def arguments_of(source: Any) -> dict[str, str]:
    """What a docstring says of every argument; for those that it sends elsewhere, what is said there."""
    section = re.search(r"^Args:\n((?: {4}.*\n?)+)", inspect.getdoc(source) or "", flags=re.M)
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section[1] if section else "", flags=re.M)
    found: dict[str, str] = {}
    for names, text in entries:
        text = " ".join(text.split())
        elsewhere = re.match(r"see :class:`~([\w.]+)\.(\w+)`", text)
        there = arguments_of(getattr(importlib.import_module(elsewhere[1]), elsewhere[2])) if elsewhere else {}
        found |= {name: there.get(name, plain(text)) for name in names.split(", ") if name != "others"}
    return found


def plain(text: str) -> str:
    """A docstring's words without its markup."""
    text = re.sub(r":(?:class|func):`~?(?:\w+\.)*(\w+)`", r"\1", " ".join(text.split())).replace("``", "")
    text = re.sub(r"\\([a-z]+|,)", lambda sign: SIGNS.get(sign[1], sign[1]), text)
    text = re.sub(r":math:`([^`]*)`", lambda found: re.sub("[{}]", "", found[1]).replace("^2", "²"), text)
    return re.sub(r" +", " ", text)


def tables(methods: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, str]:
    """The tables of the pages, by their marks."""
    header = ["method", "what it is", "network", f"{SLICES} slices of {SIDE}×{SIDE}, one core of a CPU"]
    rows = []
    for label, (name, options) in TIMED.items():
        what = (
            f"… with {', '.join(options)} {', '.join(map(str, options.values()))}" if options else methods[name]["what"]
        )
        rows.append([f"`{label}`", what, methods[name]["network"], duration(seconds[label])])
    gpu = json.loads((publish.RESULTS / "gpu.json").read_text(encoding="utf-8"))
    on_gpu = {row["label"]: row["seconds"] / row["slices"] for row in gpu["volume"] if row["batch"] == row["slices"]}
    times = [
        [f"`{label}`", duration(seconds[label]), duration(on_gpu[ON_GPU[label]]) if label in ON_GPU else ""]
        for label in IN_README
    ]
    return {
        "methods": markdown_table(header, rows),
        "times": markdown_table(
            [f"{SLICES} slices of {SIDE}×{SIDE}", "one core of a CPU", gpu["machine"]["gpu"]], times
        ),
        "options": markdown_table(["option", "type", "meaning", "default"], option_rows(methods)),
    }


def option_rows(methods: Mapping[str, Any]) -> list[list[str]]:
    """A row for every option of one meaning, with the methods that have it by their default."""
    shared: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for method, row in methods.items():
        for name, (kind, default, meaning) in row["options"].items():
            shared[name, kind, meaning][default].append(f"`{method}`")
    return [
        [
            f"`{name}`",
            kind.replace("|", "or"),
            meaning,
            "; ".join(f"{default}: {', '.join(names)}" for default, names in defaults.items()),
        ]
        for (name, kind, meaning), defaults in shared.items()
    ]


def duration(seconds_a_slice: float) -> str:
    """The time of all slices, to two digits."""
    seconds = SLICES * seconds_a_slice
    unit, length = next((unit, length) for unit, length in UNITS if seconds >= length or length == 1)
    return f"{float(f'{seconds / length:.2g}'):g} {unit}"


if __name__ == "__main__":
    main()
