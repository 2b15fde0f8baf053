"""Command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, list_denoisers
from .compare import compare, load_cases
from .transforms import computing_device, device_name

DESCRIPTION = """Self-supervised denoising of medical images.
Not a medical device; keep the original.

To denoise a folder of NIfTI files or DICOM series, run the bundle:
  python -m monai.bundle run --config_file bundles/dnaprior_denoise/configs/inference.json \\
    --bundle_root bundles/dnaprior_denoise --dataset_dir INPUT --output_dir OUTPUT
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script ``monai-dnaprior``: 0 if all went well, 2 with one line if nothing could be done.

    >>> main(["compare", "absent.png", "--methods", "tv", "--output", "out"])
    2
    """
    parser = argparse.ArgumentParser(
        prog="monai-dnaprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("methods", help="list the denoisers")
    add_compare(commands.add_parser("compare", help="run several methods on the same noisy images"))
    options = parser.parse_args(arguments)
    if options.command == "methods":
        print("\n".join(list_denoisers()))
        return 0
    try:
        return run_compare(options)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"monai-dnaprior: {error}".splitlines()[0], file=sys.stderr)
        return 2


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, TIFF, NIfTI, DICOM file or folder")
    parser.add_argument("--methods", required=True, help="names, with commas: " + ",".join(list_denoisers()))
    parser.add_argument("--output", required=True, type=Path, help="folder for table.csv, table.md, grid.png, plot.png")
    parser.add_argument("--noise", help="the images are clean: add gaussian:25, poisson:30, speckle:0.1 or rician:25")
    parser.add_argument("--reference", nargs="+", metavar="IMAGE", help="the images are noisy: these are clean")
    parser.add_argument("--slice", type=int, help="slice of volumes (the middle)")
    parser.add_argument("--steps", type=int, help="at most this many steps a fit (each method's own)")
    parser.add_argument("--device", default="cpu", help="where to compute, cpu or cuda (cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of every fit (0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no table")


def run_compare(options: argparse.Namespace) -> int:
    budget = {} if options.steps is None else {"steps": options.steps}
    names = [name for name in options.methods.split(",") if name]
    unknown = [name for name in names if name not in list_denoisers()]
    if unknown or not names:
        raise ValueError(f"methods={options.methods!r} must be names of {', '.join(list_denoisers())}, with commas.")
    absent = [path for path in [*options.images, *(options.reference or [])] if not Path(path).exists()]
    if absent:
        raise ValueError(f"{absent[0]} does not exist.")
    cases = load_cases(
        options.images,
        references=options.reference,
        noise=options.noise,
        slice_index=options.slice,
        seed=options.seed,
    )
    methods = {name: (name, {"seed": options.seed, **budget}) for name in names}
    device = str(computing_device(device_name(options.device)))
    compare(cases, methods, options.output, device=device, progress=not options.quiet)
    if not options.quiet:
        print((options.output / "table.md").read_text(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
