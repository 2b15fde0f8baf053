"""The table of DNA-Prior's paper, measured: 7 modalities, 3 noise levels, every per-image system.

Runs into a folder, and goes on where it stopped; the table is written to benchmarks/results/ after every cell.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import RESULTS, publish
from skimage.io import imread

from monai_dnaprior.compare import Case, Row, compare, markdown_table
from monai_dnaprior.noise import add_noise

SIDE = 128
SIGMAS = (15, 25, 50)
CROPS = {  # modality: image, first row, first column of the 128×128 crop
    "microscopy": ("microscopy/dsb_29780b28.png", 100, 0),
    "mri": ("mri/pgbm002_t2_a.png", 192, 192),
    "pet": ("pet/qinhn0024_cor056.png", 0, 0),
    "ct": ("ct/tcga_0026.png", 200, 100),
    "endoscopy": ("endoscopy/kvasir_test_028.png", 100, 100),
    "histopathology": ("histopathology/breakhis_B_TA_14_16184CD_400_024.png", 100, 200),
    "ultrasound": ("ultrasound/busi_benign_026.png", 40, 200),
}
HELD_OUT = {  # the last file of each folder, in the middle: nothing was chosen on them, and they were not looked at
    "microscopy": ("microscopy/dsb_e2d22d3d.png", 64, 64),
    "mri": ("mri/pgbm003_t2_a.png", 96, 76),
    "pet": ("pet/sts001_cor060.png", 69, 0),
    "ct": ("ct/tcga_0088.png", 192, 192),
    "endoscopy": ("endoscopy/kvasir_test_081.png", 112, 112),
    "histopathology": ("histopathology/monuseg_HC_7209_01A_01_TS1.png", 96, 96),
    "ultrasound": ("ultrasound/busi_normal_109.png", 173, 214),
}
COLOUR = ("endoscopy", "histopathology")
METHODS = (
    "wavelet tv bm3d bm3d-given nl-means gaussian median dip dip-tv wire ds-n2n dsp self2self "
    "dna-prior-paper dna-prior-fast dna-prior dna-prior-best iddp iddp-ensemble iddp-refined"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    parser.add_argument("--methods", default=",".join(METHODS), help="columns to measure, with commas")
    parser.add_argument("--sigmas", default=",".join(map(str, SIGMAS)), help="noise levels to measure, with commas")
    parser.add_argument("--images", default=",".join(CROPS), help="modalities to measure, with commas")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for what is denoised")
    parser.add_argument("--held-out", action="store_true", help="crops of other images, on which nothing was chosen")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--full", action="store_true", help="whole images in place of crops (for GPU machines)")
    options = parser.parse_args()
    name = "table1" + "_held_out" * options.held_out + "_full" * options.full
    rows: list[Row] = []
    for label in options.methods.split(","):
        for sigma in map(int, options.sigmas.split(",")):
            for modality in options.images.split(","):
                case = make_case(options.data, modality, sigma, held_out=options.held_out, full=options.full)
                folder = options.output / name / f"{case.name}-{label}"
                rows += compare([case], {label: method(label, sigma)}, folder, device=options.device)
                cells = merged(rows, name)
                publish(name, {"rows": list(cells.values())}, table(cells))
                quality = means(cells)
                publish(f"{name}_means", {"means": quality}, means_table(quality))


def method(label: str, sigma: int) -> tuple[str, dict[str, Any]]:
    """A column: a denoiser and its options."""
    if label == "bm3d-given":
        return "bm3d", {"sigma": sigma / 255}
    if label.startswith("iddp-"):
        return "iddp", {"ensemble": True} if label == "iddp-ensemble" else {"refinements": 2}
    if label.startswith("dna-prior-"):
        return "dna-prior", {"preset": label.removeprefix("dna-prior-")}
    return label, {}


def make_case(data: Path, modality: str, sigma: int, *, held_out: bool = False, full: bool = False) -> Case:
    """The clean image in [0, 1] and the same with seeded noise."""
    name, row, column = (HELD_OUT if held_out else CROPS)[modality]
    image = np.atleast_3d(imread(data / name))[..., :3].astype(np.float64)
    if modality == "ct":
        image = (image - 1024 + 1000) / 1400  # Hounsfield units from -1000 to 400
    elif modality in ("mri", "pet"):
        image = image / np.percentile(image, 99.9)
    else:
        image = image / 255
    if modality not in COLOUR:
        image = image.mean(-1, keepdims=True)
    if not full:
        row, column = (max(0, min(first, side - SIDE)) for first, side in zip((row, column), image.shape, strict=False))
        image = image[row : row + SIDE, column : column + SIDE]
    clean = torch.tensor(np.moveaxis(image.clip(0, 1), -1, 0), dtype=torch.float32)[None]
    return Case(f"{modality}-{sigma}", add_noise(clean, f"gaussian:{sigma}", seed=sigma), clean)


def merged(rows: list[Row], name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by image and method, joined to what was measured before."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    cells = {(row["image"], row["method"]): row for row in before}
    for row in rows:
        cells[row.image, row.method] = {key: value for key, value in asdict(row).items() if key != "key"}
    return cells


def table(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """PSNR in dB: a row an image and noise level, a column a method, and the means over what was measured."""
    columns = [label for label in METHODS if any(label == method for _, method in cells)]
    lines = []
    for modality in CROPS:
        for sigma in SIGMAS:
            values = [cells.get((f"{modality}-{sigma}", label), {}).get("psnr") for label in columns]
            best = max((value for value in values if value is not None), default=None)
            texts = ["" if value is None else f"{value:.2f}" for value in values]
            texts = [f"**{text}**" if value == best else text for text, value in zip(texts, values, strict=True)]
            lines.append([modality, sigma, *texts])
    whole = means(cells)
    last = [f"{whole[label]:.2f}" if label in whole else "" for label in columns]
    return markdown_table(["image", "σ", *columns], [*lines, ["mean", "", *last]])


def means(cells: dict[tuple[str, str], dict[str, Any]]) -> dict[str, float]:
    """The mean PSNR of every method that has been measured on all images and noise levels."""
    quality = {
        label: [row["psnr"] for (_, method), row in cells.items() if method == label and row["psnr"] is not None]
        for label in METHODS
    }
    count = len(CROPS) * len(SIGMAS)
    return {label: round(float(np.mean(values)), 2) for label, values in quality.items() if len(values) == count}


def means_table(quality: dict[str, float]) -> str:
    ordered = sorted(quality, key=lambda label: quality[label])
    return markdown_table(["method", *ordered], [["mean PSNR, dB", *(f"{quality[label]:.2f}" for label in ordered)]])


if __name__ == "__main__":
    main()
