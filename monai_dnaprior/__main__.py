"""Command line."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .files.scan import Caps, ScanError

DESCRIPTION = "Self-supervised denoising of medical images.\nNot a medical device; keep the original."
DEVICE = "where to compute: auto (CUDA where there is a GPU, else the CPU), cpu or cuda (auto)"
INTERRUPTED, TERMINATED = 130, 143
COMPARED = "median,tv,nl-means,iddp,dna-prior"
MOST_NAMED = 5  # files in one line
SETTINGS = (
    "method",
    "device",
    "slice_dim",
    "batch_size",
    "neighbours",
    "rician",
    "mask",
    "noise",
    "residual",
    "spread",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script ``monai-dnaprior``: 0 if all went well, otherwise one line on the standard error says why.

    2: nothing valid was given; 4: the input is corrupt; 8: some of it was denoised, some was not.

    >>> main(["compare", "absent.png", "--methods", "tv", "--output", "out"])
    2
    """
    parser = argparse.ArgumentParser(
        prog="monai-dnaprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_text, add_arguments, _) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=help_text, description=f"{help_text}. {DESCRIPTION}"))
    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command][2](options)
    except ScanError as error:
        print(f"monai-dnaprior: {printable(error)}", file=sys.stderr)
        return error.exit_code
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(printable(f"monai-dnaprior: {error}".splitlines()[0]), file=sys.stderr)
        return 2


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    formats = "NIfTI, DICOM, NRRD, MetaImage, PNG or TIFF file, or a folder of them"
    parser.add_argument("input", type=Path, metavar="INPUT", help=formats)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file or folder of the same kind")
    parser.add_argument("--method", default="dna-prior", help="name of a denoiser (dna-prior)")
    parser.add_argument("--preset", help="of dna-prior: instant, fast, default, best or paper")
    parser.add_argument("--steps", type=int, help="at most this many steps a fit")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="same seed and device, same bits (0)")
    parser.add_argument("--device", default="auto", help=DEVICE)
    axis = "axis along which volumes are cut, -3 to 2 (auto: that of thick slices, or else the last)"
    parser.add_argument("--slice-dim", type=axis_or_auto, default="auto", metavar="AXIS", help=axis)
    parser.add_argument("--batch-size", type=int, help="slices at once (8; on a GPU up to 64, as memory allows)")
    beside = "slices on each side that help, 0 to 3 (1 for dna-prior with refinements, else 0)"
    parser.add_argument("--neighbours", type=int, help=beside)
    parser.add_argument("--rician", action="store_true", help="magnitudes (MR): remove what Rician noise adds to them")
    parser.add_argument("--mask", type=Path, help="scan of the same shape; where it is 0 nothing is changed, but seen")
    noise = "its standard deviation in the scan's units, or a scan of the same shape that holds it (measured)"
    parser.add_argument("--noise", type=number_or_path, help=noise)
    parser.add_argument("--residual", action="store_true", help="also write what was removed")
    parser.add_argument("--spread", action="store_true", help="also write the spread over restarts")
    parser.add_argument("--force", action="store_true", help="denoise label maps and masks too")
    add_caps(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no line about what went well")


def add_caps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-bytes", type=int, default=Caps.size, help=f"cap of decoded voxels ({Caps.size})")
    parser.add_argument("--max-ratio", type=float, default=Caps.ratio, help=f"cap of decoded to read ({Caps.ratio:g})")
    parser.add_argument("--max-pixels", type=int, default=Caps.pixels, help=f"cap of a slice's pixels ({Caps.pixels})")


def caps_of(options: argparse.Namespace) -> Caps:
    return Caps(size=options.max_bytes, ratio=options.max_ratio, pixels=options.max_pixels)


def add_denoise(parser: argparse.ArgumentParser) -> None:
    add_scan_options(parser)
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")


def add_cohort(parser: argparse.ArgumentParser) -> None:
    add_scan_options(parser)
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs (one is started here)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the one that is started here")
    parser.add_argument("--dashboard", default=":8787", help="where its dashboard is served (:8787)")


def run_cohort(options: argparse.Namespace) -> int:
    from .cohort.cluster import cluster_runner

    cluster = {"scheduler": options.scheduler, "workers": options.workers, "dashboard": options.dashboard}
    return run_scans(options, progress=False, runner=cluster_runner(**cluster, progress=not options.quiet))


def run_denoise(options: argparse.Namespace) -> int:
    return run_scans(options, progress=not options.quiet, resume=options.resume)


def run_scans(options: argparse.Namespace, **others: Any) -> int:
    from tqdm.auto import tqdm

    from .cohort.all_scans import denoise_all, exit_code_of

    given = {name: getattr(options, name) for name in ("preset", "steps", "seed")}
    method = {name: value for name, value in given.items() if value is not None}
    others |= {name: getattr(options, name) for name in SETTINGS}
    others |= {
        "caps": caps_of(options),
        "force": options.force,
        "options": {**method, **dict(map(parse_option, options.option))},
    }
    rows = []
    for row in denoise_all(options.input, options.output, **others):
        rows.append(row)
        if row.exit_code:
            tqdm.write(f"monai-dnaprior: {printable(row.reason)}", file=sys.stderr)
        elif row.output and not options.quiet:
            warnings = "".join(f"\n  warning: {text}" for text in row.warnings)
            tqdm.write(f"{printable(row.output)}: {row.summary}{warnings}")
    if left_out := [row for row in rows if row.status in ("left out", "label map")]:
        labels = sum(row.status == "label map" for row in left_out)
        more = f"; {labels} of them for label maps or masks, which --force denoises" if labels else ""
        print(f"monai-dnaprior: {printable(count_left_out([row.source for row in left_out]))}{more}", file=sys.stderr)
    return exit_code_of(rows)


def count_left_out(paths: Sequence[str]) -> str:
    """How many files are no scans, and which.

    >>> count_left_out(["in/notes.txt"])
    'left out 1 file that is no scan: in/notes.txt'
    """
    count, more = len(paths), len(paths) - MOST_NAMED
    names = ", ".join(paths[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return (
        f"left out {count} files that are no scans: {names}"
        if count > 1
        else f"left out 1 file that is no scan: {names}"
    )


def printable(text: object) -> str:
    r"""One line that a terminal can show: a file may have any name, and a damaged one may be quoted by a library.

    >>> print(printable("a\nb\x1b[2J"))
    a\nb\x1b[2J
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(text))


def axis_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def number_or_path(text: str) -> float | Path:
    """A number, or the path of what is none.

    >>> number_or_path("2.5"), number_or_path("noise.nii.gz").name
    (2.5, 'noise.nii.gz')
    """
    try:
        return float(text)
    except ValueError:
        return Path(text)


def parse_option(text: str) -> tuple[str, Any]:
    """A method's option, NAME=VALUE; the value as JSON or Python has it, or else text.

    >>> parse_option("restarts=4"), parse_option("preset=fast"), parse_option("ensemble=True")
    (('restarts', 4), ('preset', 'fast'), ('ensemble', True))
    """
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ValueError(f"option={text!r} must be NAME=VALUE, for instance restarts=4.")
    try:
        return name, json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
    except ValueError:
        return name, value


def parse_methods(text: str, **given: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Methods with commas between, each with its preset and options behind colons, and with what is given for all.

    >>> parse_methods("tv,dna-prior:fast:shrink=[1,2]")
    {'tv': ('tv', {}), 'dna-prior:fast:shrink=[1,2]': ('dna-prior', {'preset': 'fast', 'shrink': [1, 2]})}
    """
    methods = {}
    for label in filter(None, re.split(r",(?![^\[]*\])", text)):
        name, *parts = label.split(":")
        options = dict(parse_option(part if "=" in part else f"preset={part}") for part in parts)
        methods[label] = name, {**given, **options}
    if not methods:
        raise ValueError(f"methods={text!r} names none; give for instance {COMPARED}.")
    return methods


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, TIFF, NIfTI, DICOM file or folder")
    methods = f"with commas between; a preset or options behind one: dna-prior:best,iddp:refinements=2 ({COMPARED})"
    parser.add_argument("--methods", default=COMPARED, help=methods)
    parser.add_argument("--output", required=True, type=Path, help="folder for table.csv, table.md, grid.png, plot.png")
    parser.add_argument("--noise", help="the images are clean: add gaussian:25, poisson:30, speckle:0.1 or rician:25")
    parser.add_argument("--reference", nargs="+", metavar="IMAGE", help="the images are noisy: these are clean")
    parser.add_argument("--slice", type=int, help="slice of volumes (the middle)")
    parser.add_argument("--steps", type=int, help="at most this many steps a fit (each method's own)")
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of every fit (0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no table")


def run_compare(options: argparse.Namespace) -> int:
    from .cohort.task import FAILED, SOME_BAD
    from .compare.cases import load_cases
    from .compare.run import compare
    from .denoisers.registry import create_denoiser
    from .fitting.devices import computing_device

    budget = {} if options.steps is None else {"steps": options.steps}
    methods = parse_methods(options.methods, seed=options.seed, **budget)
    for name, chosen in methods.values():
        create_denoiser(name, **chosen)  # which refuses what it does not know
    absent = [path for path in [*options.images, *(options.reference or [])] if not Path(path).exists()]
    if absent:
        raise ValueError(f"{absent[0]} does not exist.")
    chosen = {"noise": options.noise, "slice_index": options.slice, "seed": options.seed}
    cases = load_cases(options.images, references=options.reference, **chosen)
    device = str(computing_device(options.device))
    rows = compare(cases, methods, options.output, device=device, progress=not options.quiet)
    if not options.quiet:
        print((options.output / "table.md").read_text(encoding="utf-8"), end="")
    failed = [row for row in rows if row.error]
    return 0 if not failed else FAILED if len(failed) == len(rows) else SOME_BAD


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="the original, a file or a folder")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="what denoise made of it")
    parser.add_argument("--html", type=Path, metavar="FILE", help="of one report (beside the output)")
    add_caps(parser)
    parser.add_argument("--quiet", action="store_true", help="no line about what was written")


def run_report(options: argparse.Namespace) -> int:
    from .cohort.task import SOME_BAD
    from .report.write import report_all

    codes = set()
    for written in report_all(options.input, options.output, html=options.html, caps=caps_of(options)):
        failed = isinstance(written, ScanError)
        codes.add(SOME_BAD if failed else 0)
        if failed:
            print(f"monai-dnaprior: {printable(written)}", file=sys.stderr)
        elif not options.quiet:
            print(printable(written))
    return max(codes)


def add_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="say all of these methods (a line an option of each)")


def run_methods(options: argparse.Namespace) -> int:
    from .denoisers.options import METHODS, suggest  # and not the methods: torch takes seconds

    methods = json.loads(METHODS.read_text(encoding="utf-8"))
    for name in options.names:
        if name not in methods:
            raise ValueError(f"{name} is no method; there are {', '.join(methods)}.{suggest(name, methods)}")
    for name in options.names or methods:
        method = methods[name]
        print(f"{name}: {method['what']}")
        print(f"  Network: {method['network']}. A slice of 256×256 takes {method['a slice takes']} on a CPU.")
        for option, (kind, default, meaning) in method["options"].items():
            shown = meaning if options.names else meaning.partition(". ")[0].removesuffix(".")
            print(f"  {option} ({kind}, {default}): {shown}")
        print()
    if not options.names:
        print("Give an option as NAME=VALUE behind --option; monai-dnaprior methods METHOD says more of them.")
    return 0


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "denoise": ("Denoise scans into files of the same kind", add_denoise, run_denoise),
    "cohort": ("Denoise many scans on a Dask cluster", add_cohort, run_cohort),
    "compare": ("Run several methods on the same noisy images", add_compare, run_compare),
    "report": ("Write an HTML report of what denoise made", add_report, run_report),
    "methods": ("Show the methods and their options", add_methods, run_methods),
}


def terminate(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def console() -> NoReturn:
    """:func:`main` as a process: ended at once by Ctrl-C and SIGTERM, with what is finished kept for ``--resume``."""
    signal.signal(signal.SIGTERM, terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no Greek still gets its table
    try:
        code: Any = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code or 0
    if code in (INTERRUPTED, TERMINATED):
        print("\nmonai-dnaprior: interrupted; it goes on from here, denoise with --resume", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that still compute are not waited for


if __name__ == "__main__":
    console()
