"""What each part of the treatment of measured noise is worth: one part left out at a time, on simulated noise.

A cell is one image, one kind of noise and one change; a run skips those that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from clinical_noise import MODALITIES, simulated
from publish import RESULTS, publish

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers import dnaprior, per_image
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.denoisers.safeguards import measure_noise, measure_strength

KINDS = ("fbp-hann", "map", "map-hann")
SIGMA = 15


def even_noise(*arguments: Any) -> Any:
    return replace(measure_noise(*arguments), deviation=None)


def white_noise(*arguments: Any) -> Any:
    return replace(measure_noise(*arguments), correlation=None)


CHANGES: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "default": [],
    "plain fidelity, filter whitened": [(dnaprior, "whitening_of", lambda image: {})],
    "no map": [(per_image, "measure_noise", even_noise)],
    "no correlation": [(per_image, "measure_noise", white_noise)],
    "as if white and even": [(per_image, "measure_noise", measure_strength)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of images")
    data = parser.parse_args().data
    path = RESULTS / "noise_ablation.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for pair in simulated(data, "development", list(KINDS), list(MODALITIES), [SIGMA]):
        noisy = torch.from_numpy(pair.noisy).float()[None, None]
        for change, patches in CHANGES.items():
            if any((row["image"], row["change"]) == (pair.name, change) for row in rows):
                continue
            with ExitStack() as stack:
                for module, name, other in patches:
                    stack.enter_context(patch.object(module, name, other))
                image = create_denoiser("dna-prior")(noisy).image[0, 0].double().numpy()
            rows.append({"image": pair.name, "change": change, "psnr": round(pair.decibels(image), 2)})
            publish("noise_ablation", {"rows": rows}, table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean PSNR in dB over the images: a row a change, a column a kind of noise."""
    lines = []
    for change in CHANGES:
        values = [
            [row["psnr"] for row in rows if row["change"] == change and row["image"].startswith(f"{kind} ")]
            for kind in KINDS
        ]
        lines.append([change, *(f"{np.mean(column):.2f}" if column else "" for column in values)])
    return markdown_table(["change", *KINDS], lines)


if __name__ == "__main__":
    main()
