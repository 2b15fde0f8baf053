"""The table of DNA-Prior's paper, measured: 7 modalities, 3 noise levels, every per-image system.

Runs into a folder, and goes on where it stopped; the table is written to benchmarks/results/ after every cell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import RESULTS, publish
from skimage.io import imread

from monai_dnaprior.compare.cases import Case
from monai_dnaprior.compare.run import compare
from monai_dnaprior.compare.table import Row, markdown_table
from monai_dnaprior.fitting.devices import PRECISIONS
from monai_dnaprior.noise.models import add_noise

SIDE = 128
SIGMAS = (15, 25, 50)
MIDDLE = None
Crops = Mapping[str, tuple[str, tuple[int, int] | None]]
CROPS: Crops = {  # modality: image, first row and column of the 128×128 crop
    "microscopy": ("microscopy/dsb_29780b28.png", (100, 0)),
    "mri": ("mri/pgbm002_t2_a.png", (192, 192)),
    "pet": ("pet/qinhn0024_cor056.png", (0, 0)),
    "ct": ("ct/tcga_0026.png", (200, 100)),
    "endoscopy": ("endoscopy/kvasir_test_028.png", (100, 100)),
    "histopathology": ("histopathology/breakhis_B_TA_14_16184CD_400_024.png", (100, 200)),
    "ultrasound": ("ultrasound/busi_benign_026.png", (40, 200)),
}
HELD_OUT: Crops = {  # the last file of each folder: nothing was chosen on them, and they were not looked at
    "microscopy": ("microscopy/dsb_e2d22d3d.png", MIDDLE),
    "mri": ("mri/pgbm003_t2_a.png", MIDDLE),
    "pet": ("pet/sts001_cor060.png", MIDDLE),
    "ct": ("ct/tcga_0088.png", MIDDLE),
    "endoscopy": ("endoscopy/kvasir_test_081.png", MIDDLE),
    "histopathology": ("histopathology/monuseg_HC_7209_01A_01_TS1.png", MIDDLE),
    "ultrasound": ("ultrasound/busi_normal_109.png", MIDDLE),
}
FURTHER: Crops = {  # the first four others of each folder, on which choices were made too
    f"{modality} {name}": (f"{modality}/{name}.png", MIDDLE)
    for modality, names in {
        "microscopy": "dsb_3bfa8b3b dsb_708eb41a dsb_a7a581e6 dsb_b24ea5c2",
        "mri": "pgbm002_flair_a pgbm002_t1post_a pgbm002_t2_b pgbm003_flair_a",
        "pet": "qinhn0024_ax120 qinhn0024_ax168 qinhn0024_ax216 qinhn0024_ax290",
        "ct": "tcga_0000 tcga_0002 tcga_0004 tcga_0040",
        "endoscopy": "kvasir_native_dewei2 kvasir_native_n5cjze kvasir_test_029 kvasir_test_031",
        "histopathology": "breakhis_B_A_14_22549CD_400_006 breakhis_B_TA_14_16184CD_400_026 "
        "breakhis_M_PC_14_19440_400_034 monuseg_2Z_A9J9_01A_01_TS1",
        "ultrasound": "busi_benign_053 busi_benign_425 busi_malignant_087 busi_malignant_154",
    }.items()
    for name in names.split()
}
WIDE = ("dip", "dip-tv", "dsp", "dna-prior-paper")  # the network of 128 channels
CROP_TABLES = {"table1": CROPS, "table1_held_out": HELD_OUT, "table1_further": FURTHER}
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
    parser.add_argument("--images", help="those of the table to measure, with commas; all by default")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for what is denoised")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--held-out", action="store_true", help="crops of other images, on which nothing was chosen")
    others.add_argument("--further", action="store_true", help="crops of 28 other images, on which choices were made")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help=f"of {', '.join(WIDE)}")
    parser.add_argument("--full", action="store_true", help="whole images in place of crops (for GPU machines)")
    options = parser.parse_args()
    name = "table1" + "_held_out" * options.held_out + "_further" * options.further
    crops, name = CROP_TABLES[name], name + "_full" * options.full
    rows: list[Row] = []
    for label in options.methods.split(","):
        for sigma in map(int, options.sigmas.split(",")):
            for image in options.images.split(",") if options.images else crops:
                case = make_case(options.data, image, sigma, crops=crops, full=options.full)
                folder = options.output / name / f"{case.name}-{label}"
                methods = {label: method(label, sigma, options.precision)}
                rows += compare([case], methods, folder, device=options.device)
                cells = merged(rows, name, options.precision)
                publish(name, {"rows": list(cells.values())}, table(cells, crops))
                quality = means(cells)
                publish(f"{name}_means", {"means": quality}, means_table(quality))


def method(label: str, sigma: int, precision: str = "float32") -> tuple[str, dict[str, Any]]:
    """A column: a denoiser and its options."""
    if precision_of(label, precision) != "float32":
        name, options = method(label, sigma)
        return name, {**options, "precision": precision}
    if label == "bm3d-given":
        return "bm3d", {"sigma": sigma / 255}
    if label.startswith("iddp-"):
        return "iddp", {"ensemble": True} if label == "iddp-ensemble" else {"refinements": 2}
    if label.startswith("dna-prior-"):
        return "dna-prior", {"preset": label.removeprefix("dna-prior-")}
    return label, {}


def precision_of(label: str, asked: str) -> str:
    """That of a column's convolutions: what was asked for, where the network is wide."""
    return asked if label in WIDE else "float32"


def make_case(data: Path, name: str, sigma: int, *, crops: Crops = CROPS, full: bool = False) -> Case:
    """The clean image in [0, 1] and the same with seeded noise."""
    file, corner = crops[name]
    modality = Path(file).parent.name
    image = np.atleast_3d(imread(data / file))[..., :3].astype(np.float64)
    if modality == "ct":
        image = (image - 1024 + 1000) / 1400  # Hounsfield units from -1000 to 400
    elif modality in ("mri", "pet"):
        image = image / np.percentile(image, 99.9)
    else:
        image = image / 255
    if modality not in COLOUR:
        image = image.mean(-1, keepdims=True)
    if not full:
        room = [max(0, side - SIDE) for side in image.shape[:2]]
        row, column = (min(*ends) for ends in zip(corner or [side // 2 for side in room], room, strict=True))
        image = image[row : row + SIDE, column : column + SIDE]
    clean = torch.tensor(np.moveaxis(image.clip(0, 1), -1, 0), dtype=torch.float32)[None]
    return Case(f"{name}-{sigma}", add_noise(clean, f"gaussian:{sigma}", seed=sigma), clean)


def merged(rows: list[Row], name: str, precision: str = "float32") -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by image and method, joined to what was measured before, maybe elsewhere."""
    here = {"instructions": torch.backends.cpu.get_cpu_capability()}
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    cells = {(row["image"], row["method"]): row for row in before}
    for row in rows:
        how = {**here, "precision": precision_of(row.method, precision)}
        cells[row.image, row.method] = {key: value for key, value in asdict(row).items() if key != "key"} | how
    return cells


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
