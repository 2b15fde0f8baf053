"""What it is worth to take away what Rician noise adds to the mean of MR magnitudes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cases import CROPS, HELD_OUT, SIGMAS, Crops, make_case
from publish import publish

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

METHODS = ("bm3d", "iddp", "dna-prior")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    options = parser.parse_args()
    rows = [
        {"image": name, **measure(options.data, crops, sigma, method)}
        for name, crops in {"development": CROPS, "held-out": HELD_OUT}.items()
        for sigma in SIGMAS
        for method in METHODS
    ]
    publish("rician", {"rows": rows}, markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


def measure(data: Path, crops: Crops, sigma: int, method: str) -> dict[str, Any]:
    """PSNR on the MR crop of the tables, as a volume of one slice, without and with the correction."""
    clean = make_case(data, "mri", sigma, crops=crops).clean
    assert clean is not None
    noisy = add_noise(clean, f"rician:{sigma}", seed=sigma)
    plain, corrected = (
        denoise_volume(noisy[0], create_denoiser(method), Slicing(rician=rician)) for rician in (False, True)
    )
    return {
        "σ": sigma,
        "method": method,
        "noisy": round(psnr(noisy, clean), 2),
        "denoised": round(psnr(plain.image[None], clean), 2),
        "rician=True": round(psnr(corrected.image[None], clean), 2),
    }


if __name__ == "__main__":
    main()
