"""The table of DNA-Prior's paper, measured: 7 modalities, 3 noise levels, every per-image system.

Runs into a folder, and goes on where it stopped; the table is written to benchmarks/results/ after every cell.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from cases import CROP_TABLES, CROPS, METHODS, SIDE, SIDES, SIGMAS, WIDE, Crops, make_case, merged, method
from publish import publish

from monai_dnaprior.compare.run import compare
from monai_dnaprior.compare.table import Row, markdown_table
from monai_dnaprior.fitting.devices import PRECISIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    parser.add_argument("--methods", default=",".join(METHODS), help="columns to measure, with commas")
    parser.add_argument("--sigmas", default=",".join(map(str, SIGMAS)), help="noise levels to measure, with commas")
    parser.add_argument("--images", help="those of the table to measure, with commas; all by default")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for what is denoised")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--held-out", action="store_true", help="crops of other images, on which nothing was chosen")
    others.add_argument("--further", action="store_true", help="crops of 28 other images, on which choices were made")
    others.add_argument("--small", action="store_true", help="crops of 96×96 of four modalities, for slow methods")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help=f"of {', '.join(WIDE)}")
    parser.add_argument("--full", action="store_true", help="whole images in place of crops (for GPU machines)")
    options = parser.parse_args()
    name = "table1" + "_held_out" * options.held_out + "_further" * options.further + "_small" * options.small
    crops, side, name = CROP_TABLES[name], SIDES.get(name, SIDE), name + "_full" * options.full
    rows: list[Row] = []
    for label in options.methods.split(","):
        for sigma in map(int, options.sigmas.split(",")):
            for image in options.images.split(",") if options.images else crops:
                case = make_case(options.data, image, sigma, crops=crops, side=side, full=options.full)
                folder = options.output / name / f"{case.name}-{label}"
                methods = {label: method(label, sigma, options.precision)}
                rows += compare([case], methods, folder, device=options.device)
                cells = merged(rows, name, options.precision, options.device)
                publish(name, {"rows": list(cells.values())}, table(cells, crops))
                quality = means(cells)
                publish(f"{name}_means", {"means": quality}, means_table(quality))


def table(cells: dict[tuple[str, str], dict[str, Any]], crops: Crops = CROPS) -> str:
    """PSNR in dB: a row an image and noise level, a column a method, and the means over what was measured."""
    columns = [label for label in METHODS if any(label == method for _, method in cells)]
    images = {image for image, _ in cells}
    lines = []
    for name, sigma in product(crops, SIGMAS):
        if f"{name}-{sigma}" not in images:
            continue
        values = [cells.get((f"{name}-{sigma}", label), {}).get("psnr") for label in columns]
        best = max((value for value in values if value is not None), default=None)
        texts = ["" if value is None else f"{value:.2f}" for value in values]
        texts = [f"**{text}**" if value == best else text for text, value in zip(texts, values, strict=True)]
        lines.append([name, sigma, *texts])
    whole = means(cells)
    last = [f"{whole[label]:.2f}" if label in whole else "" for label in columns]
    return markdown_table(["image", "σ", *columns], [*lines, ["mean", "", *last]])


def means(cells: dict[tuple[str, str], dict[str, Any]]) -> dict[str, float]:
    """The mean PSNR of every method that has been measured on all images and noise levels of the table."""
    quality = {
        label: [row["psnr"] for (_, method), row in cells.items() if method == label and row["psnr"] is not None]
        for label in METHODS
    }
    count = len({image for image, _ in cells})
    return {label: round(float(np.mean(values)), 2) for label, values in quality.items() if len(values) == count}


def means_table(quality: dict[str, float]) -> str:
    ordered = sorted(quality, key=lambda label: quality[label])
    return markdown_table(["method", *ordered], [["mean PSNR, dB", *(f"{quality[label]:.2f}" for label in ordered)]])


if __name__ == "__main__":
    main()
