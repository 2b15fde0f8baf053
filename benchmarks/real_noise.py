"""Real noise: pairs of noisy and averaged images, quality where noise is strong and harm where there is hardly any."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cases import METHODS, merged, method
from publish import publish

from monai_dnaprior.compare.cases import load_cases
from monai_dnaprior.compare.run import compare, psnr
from monai_dnaprior.compare.table import Row, markdown_table

GROUPS = {"fluorescence": "fmd_*_noisy.png", "mri": "*_noisy.png", "ct": "*_noisy.png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pairs"), help="folder of the pairs")
    parser.add_argument("--groups", default=",".join(GROUPS), help="with commas")
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name != "bm3d-given"))
    parser.add_argument("--output", type=Path, default=Path("demo/real_noise"), help="folder for what is denoised")
    options = parser.parse_args()
    rows: list[Row] = []
    for group in options.groups.split(","):
        for noisy in sorted((options.data / group).glob(GROUPS[group])):
            (case,) = load_cases([noisy], references=[str(noisy).replace("_noisy", "_clean")])
            assert case.clean is not None
            rows.append(Row(case.name, "noisy", psnr=round(psnr(case.noisy, case.clean), 2)))
            methods = {label: method(label, 0) for label in options.methods.split(",")}
            rows += compare([case], methods, options.output / case.name)
            cells = merged(rows, "real_noise")
            publish("real_noise", {"rows": list(cells.values())}, table(cells))


def table(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """PSNR in dB: a row an image, a column a method; as it came first."""
    columns = ["noisy", *(label for label in METHODS if any(label == method for _, method in cells))]
    lines = []
    for image in dict.fromkeys(image for image, _ in cells):
        values = [cells.get((image, label), {}).get("psnr") for label in columns]
        lines.append([image, *("" if value is None else f"{value:.2f}" for value in values)])
    return markdown_table(["image", *columns], lines)


if __name__ == "__main__":
    main()
