"""PSNR of the default preset on the real MR slice that nibabel ships, with noise of known strength."""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
import torch
from publish import publish

from monai_dnaprior import create_denoiser
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.models import add_noise

VOLUME = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
SIGMAS = (15, 25, 50)
CAPTION = (
    "PSNR on that slice, one of those the defaults were chosen on, with Gaussian noise added "
    "(`python benchmarks/quality.py`, one CPU core):"
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = [measure(sigma) for sigma in SIGMAS]
    publish("quality", {"rows": rows}, f"{CAPTION}\n\n{table(rows)}")


def clean_slice() -> torch.Tensor:
    """The slice in the middle, (1, 1, 128, 96) in [0, 1]."""
    volume = nibabel.Nifti1Image.from_filename(VOLUME).get_fdata()[..., 0]
    image = np.clip(volume[..., volume.shape[-1] // 2] / np.percentile(volume, 99.9), 0, 1)
    return torch.tensor(image, dtype=torch.float32)[None, None]


def measure(sigma: int) -> dict[str, float | int | str]:
    clean = clean_slice()
    noisy = add_noise(clean, f"gaussian:{sigma}")
    result = create_denoiser("dna-prior")(noisy)
    record = result.records[0]
    return {
        "sigma": sigma,
        "estimated_sigma": round(255 * record.sigma, 1),
        "noisy": round(psnr(noisy, clean), 2),
        "denoised": round(psnr(result.image, clean), 2),
        "steps": record.steps,
        "stop_reason": record.stop_reason,
        "seconds": round(record.seconds, 1),
    }


def table(rows: list[dict[str, float | int | str]]) -> str:
    header = ["σ (of 255)", "σ estimated", "noisy, dB", "denoised, dB", "steps", "stopped by", "seconds"]
    return markdown_table(header, [[*row.values()] for row in rows])


if __name__ == "__main__":
    main()
