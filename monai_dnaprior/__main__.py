"""Command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import __version__, list_denoisers

DESCRIPTION = """Self-supervised denoising of medical images.
Not a medical device; keep the original.

To denoise a folder of NIfTI files or DICOM series, run the bundle:
  python -m monai.bundle run --config_file bundles/dnaprior_denoise/configs/inference.json \\
    --bundle_root bundles/dnaprior_denoise --dataset_dir INPUT --output_dir OUTPUT
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script ``monai-dnaprior``.

    >>> main(["methods"])
    dna-prior
    identity
    0
    """
    parser = argparse.ArgumentParser(
        prog="monai-dnaprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("methods", help="list the denoisers")
    parser.parse_args(arguments)
    print("\n".join(list_denoisers()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
