"""Options: what a method does not have, or cannot be, is refused in one line, and what it has is shown."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from test_readme import ROOT, blocks

from monai_dnaprior import Denoise, Denoised, create_denoiser, list_denoisers
from monai_dnaprior.__main__ import main
from monai_dnaprior.denoisers.options import METHODS, check_options, options_of
from monai_dnaprior.denoisers.registry import DENOISERS, find_method

PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
WRONG: tuple[Any, ...] = ("abc", "False", [1], {"a": 1}, -1, float("nan"), float("inf"))
FITS = {("shrink", "[1]"), ("sha256", "'abc'"), ("sha256", "'False'")}


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("methods")


@pytest.mark.parametrize("name", list_denoisers())
def test_what_a_method_does_not_have_is_refused_with_what_it_has(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        create_denoiser(name, colour="red")
    names = ", ".join(options_of(find_method(name)))
    assert str(caught.value) == f"colour is no option of {name}; it has {names}."


@pytest.mark.parametrize("name", list_denoisers())
def test_every_option_refuses_values_of_another_kind_and_names_itself(name: str) -> None:
    for option in options_of(find_method(name)):
        for value in WRONG:
            if (option, repr(value)) in FITS:
                continue
            named = option.removeprefix("correlated_")  # of a file that is missing only "weights" is said, and its name
            with pytest.raises((ValueError, TypeError, FileNotFoundError), match=named) as caught:
                create_denoiser(name, **{option: value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("iddp", {"refinement": 2}, r"refinement is no option of iddp; it has weights, .* Did you mean refinements\?"),
        ("dna-prior", {"stepz": 9}, r"stepz is no option of dna-prior; it has preset, steps, .* Did you mean steps\?"),
        ("iddp", {"preset": "fast"}, "preset is no option of iddp; it has weights, "),
        ("iddp", {"ensemble": "False"}, "ensemble='False' must be True or False."),
        ("tv", {"sigma": "some"}, "sigma='some' must be a finite number or None."),
        ("self2self", {"width": 0}, "width=0 must be a whole number, at least 1."),
        ("median", {"size": 0}, "size=0 must be a positive number."),
    ],
)
def test_the_nearest_option_or_the_remedy_is_named(method: str, options: dict[str, Any], message: str) -> None:
    for refuse in (create_denoiser, Denoise, lambda name, **given: Denoised("image", name, **given)):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            refuse(method, **options)


def test_the_nearest_method_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"name='NLMeans' is no known denoiser; choose one of .* Did you mean nl-means\?"
    ):
        create_denoiser("NLMeans")


def test_a_preset_leaves_to_itself_what_is_none() -> None:
    assert create_denoiser("dna-prior", preset="fast", steps=None, seed=None) == create_denoiser(
        "dna-prior", preset="fast"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "iddp", "--preset", "fast"], "preset is no option of iddp; it has weights"),
        (["--method", "iddp", "--option", "sigma=5"], "sigma is no option of iddp; it has weights"),
        (["--method", "iddp", "--option", "ensemble=maybe"], "ensemble='maybe' must be True or False"),
    ],
)
def test_the_command_says_so_in_one_line(
    words: list[str], message: str, nifti_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["denoise", str(nifti_path), str(tmp_path / "out.nii.gz"), *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_command_shows_every_method_and_option(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    for name in DENOISERS:
        assert f"\n{name}: " in f"\n{shown}"
    assert "  steps (int, 800): at most this many optimisation steps\n" in shown
    assert main(["methods", "iddp"]) == 0
    assert "two gain about as much as a fit" in capsys.readouterr().out
    assert main(["methods", "idp"]) == 2
    assert "Did you mean iddp?" in capsys.readouterr().err


def test_the_methods_are_shown_without_torch() -> None:
    code = "import sys; from monai_dnaprior.__main__ import main; main(['methods']); print('loaded', *sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    loaded = shown.splitlines()[-1].split()
    assert loaded[0] == "loaded"
    assert not {"torch", "pydicom", "nibabel", "SimpleITK"} & set(loaded)


def test_the_tables_are_those_of_the_code(methods: ModuleType) -> None:
    """If not: ``python benchmarks/methods.py`` writes them."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    assert list(stored["seconds a slice"]) == list(methods.TIMED)
    described = methods.described(stored["seconds a slice"])
    assert json.loads(METHODS.read_text(encoding="utf-8")) == described
    for name, table in methods.tables(described, stored["seconds a slice"]).items():
        assert (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8") == table + "\n"


def test_times_are_those_of_a_slice_and_of_all_steps(methods: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "SIDE", 32)
    monkeypatch.setattr(methods, "time", SimpleNamespace(perf_counter=itertools.count(step=0.25).__next__))
    assert methods.seconds_of("median", {}) == 0.25
    monkeypatch.setattr(methods, "timed", lambda denoiser, noisy: 1 + 0.5 * denoiser.steps)
    assert methods.seconds_of("dip", {"width": 4, "steps": 3000}) == 1501
    assert [methods.duration(seconds) for seconds in (0.01, 4.5, 1501)] == ["1 s", "7.5 min", "1.7 days"]


def test_the_page_runs_as_shown(nifti_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nifti_path.rename(tmp_path / "scan.nii.gz")
    with torch.random.fork_rng():
        for block in blocks(PAGE, "python"):
            exec(block, {})
    for line in commands("".join(blocks(PAGE, "bash"))):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*line, *(["--quiet"] if "denoise" in line else [])]) == 0


def commands(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["monai-dnaprior"]:
            yield words[1:]


def test_a_new_methods_options_are_checked_without_more() -> None:
    def blur(*, width: float = 1.0) -> None: ...

    check_options("blur", blur, {"width": 2})
    with pytest.raises(ValueError, match="width='2' must be a finite number"):
        check_options("blur", blur, {"width": "2"})
