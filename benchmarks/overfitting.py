"""What networks of a fixed number of steps lose by it: at their last step, at a rule's stop, at the best step (oracle).

One fit gives all three. Cells that were measured before are kept: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases import CROPS, SIGMAS, WIDE, make_case, method
from publish import RESULTS, publish
from torch import Tensor

from monai_dnaprior.compare.cases import Case
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.per_image import PerImageFit
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.denoisers.skip_prior import sigmoid_range
from monai_dnaprior.fitting.devices import PRECISIONS
from monai_dnaprior.fitting.fit import CHECK_EVERY
from monai_dnaprior.fitting.stopping import MovingVariance
from monai_dnaprior.noise.metrics import psnr

PATIENCE = 40  # checks
METHODS = "dip,dip-tv,dna-prior-paper,wire,ds-n2n,self2self"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    parser.add_argument("--methods", default=METHODS, help="with commas")
    parser.add_argument("--images", default=",".join(CROPS), help="modalities, with commas")
    parser.add_argument("--sigmas", default=",".join(map(str, SIGMAS)), help="noise levels, with commas")
    parser.add_argument("--early", action="store_true", help="end a fit once its best step lies well behind it")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help=f"of {', '.join(WIDE)}")
    options = parser.parse_args()
    path = RESULTS / "overfitting.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for label in options.methods.split(","):
        for sigma in map(int, options.sigmas.split(",")):
            for modality in options.images.split(","):
                case = make_case(options.data, modality, sigma)
                if not any(row["image"] == case.name and row["method"] == label for row in rows):
                    denoiser = method(label, sigma, options.precision)
                    rows.append(measure(case, label, *denoiser, early=options.early, device=options.device))
                    lines = [[*row.values()] for row in sorted(rows, key=lambda row: row["image"])]
                    publish("overfitting", {"rows": rows}, markdown_table(list(rows[0]), lines))


def measure(case: Case, label: str, name: str, options: dict[str, Any], *, early: bool, device: str) -> dict[str, Any]:
    """PSNR of the averaged output at the three steps."""
    denoiser, clean, noisy = create_denoiser(name, **options), case.clean, case.noisy
    assert isinstance(denoiser, PerImageFit)
    assert clean is not None
    offset, span = sigmoid_range(noisy) if getattr(denoiser, "sigmoid", False) else (0.0, 1.0)
    rule, qualities, stops = MovingVariance(), list[float](), list[int]()

    def check(residual: float, estimate: Tensor, average: Tensor) -> str | None:
        qualities.append(psnr(average.cpu() * span + offset, clean))
        if not stops and rule(residual, estimate, average):
            stops.append(len(qualities))
        return "behind" if early and stops and len(qualities) - best_check(qualities) >= PATIENCE else None

    result = replace(denoiser, stopping=lambda: check)(noisy.to(device))
    last = f"{psnr(result.image.cpu(), clean):.2f} ({result.records[0].steps})"
    best = best_check(qualities)
    return {
        "image": case.name,
        "method": label,
        "noisy": round(psnr(noisy, clean), 2),
        "last step": "" if result.records[0].stop_reason == "behind" else last,
        "variance": f"{qualities[stops[0] - 1]:.2f} ({stops[0] * CHECK_EVERY})" if stops else "",
        "oracle": f"{qualities[best - 1]:.2f} ({best * CHECK_EVERY})",
    }


def best_check(qualities: list[float]) -> int:
    return max(range(len(qualities)), key=qualities.__getitem__) + 1


if __name__ == "__main__":
    main()
