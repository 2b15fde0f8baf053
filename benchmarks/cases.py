"""What the benchmarks measure: the crops, the noise levels, the columns, and the cells that were measured before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import RESULTS
from skimage.io import imread

from monai_dnaprior.compare.cases import Case
from monai_dnaprior.compare.table import Row
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
SMALL: Crops = {name: CROPS[name] for name in ("mri", "ct", "pet", "ultrasound")}  # for fits of half an hour
WIDE = ("dip", "dip-tv", "dsp", "dna-prior-paper")  # the network of 128 channels
CROP_TABLES = {"table1": CROPS, "table1_held_out": HELD_OUT, "table1_further": FURTHER, "table1_small": SMALL}
SIDES = {"table1_small": 96}
COLOUR = ("endoscopy", "histopathology")
METHODS = (
    "wavelet tv bm3d bm3d-given nl-ridge lichi nl-means gaussian median dip dip-tv wire ds-n2n dsp self2self "
    "dna-prior-paper dna-prior-fast dna-prior dna-prior-best iddp iddp-ensemble iddp-refined"
).split()


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


def make_case(data: Path, name: str, sigma: int, *, crops: Crops = CROPS, side: int = SIDE, full: bool = False) -> Case:
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
        room = [max(0, size - side) for size in image.shape[:2]]
        row, column = (min(*ends) for ends in zip(corner or [size // 2 for size in room], room, strict=True))
        image = image[row : row + side, column : column + side]
    clean = torch.tensor(np.moveaxis(image.clip(0, 1), -1, 0), dtype=torch.float32)[None]
    return Case(f"{name}-{sigma}", add_noise(clean, f"gaussian:{sigma}", seed=sigma), clean)


def merged(
    rows: list[Row], name: str, precision: str = "float32", device: str = "cpu"
) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by image and method, joined to what was measured before, maybe elsewhere."""
    gpu = torch.device(device).type == "cuda"
    here = {"gpu": torch.cuda.get_device_name()} if gpu else {"instructions": torch.backends.cpu.get_cpu_capability()}
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    cells = {(row["image"], row["method"]): row for row in before}
    for row in rows:
        how = {**here, "precision": precision_of(row.method, precision)}
        cells[row.image, row.method] = {key: value for key, value in asdict(row).items() if key != "key"} | how
    return cells
