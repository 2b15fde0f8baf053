"""What stopping by itself costs: DNA-Prior's default against the best step, which only the clean image knows."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CROPS, SIGMAS, make_case
from publish import publish
from torch import Tensor

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.fitting.fit import CHECK_EVERY, FitResult, Procedure
from monai_dnaprior.noise.metrics import psnr

EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for sigma in SIGMAS:
        for modality in CROPS:
            rows.append(measure(options.data, modality, sigma))
            write(rows)


def measure(data: Path, modality: str, sigma: int) -> dict[str, Any]:
    """PSNR at the default's own step, at the best of every fiftieth, and at the last."""
    case = make_case(data, modality, sigma)
    assert case.clean is not None
    own = DNAPrior()(case.noisy)
    kept: dict[int, Tensor] = {}
    checks = itertools.count(1)

    def keep(residual: float, estimate: Tensor, average: Tensor) -> None:
        if (step := CHECK_EVERY * next(checks)) % EVERY == 0:
            kept[step] = average.clone()

    DNAPrior(stopping=lambda: keep)(case.noisy)
    quality = {step: psnr(finish(average, case.noisy), case.clean) for step, average in kept.items()}
    best = max(quality, key=lambda steps: quality[steps])
    return {
        "image": case.name,
        "own step": own.records[0].steps,
        "stop_reason": own.records[0].stop_reason,
        "own": round(psnr(own.image, case.clean), 2),
        "best step (oracle)": best,
        "best (oracle)": round(quality[best], 2),
        "last step": max(quality),
        "last": round(quality[max(quality)], 2),
    }


def finish(average: Tensor, noisy: Tensor) -> Tensor:
    """What the default makes of the averaged output of a fit that was ended early."""

    class Resumed(DNAPrior):
        def fit_small(self, *arguments: Any) -> Procedure[FitResult]:
            yield from ()
            return FitResult(average, 0, "discrepancy", ())

    return Resumed()(noisy).image


def write(rows: list[dict[str, Any]]) -> None:
    """The rows, and what they lose on the whole."""
    losses = [row["best (oracle)"] - row["own"] for row in rows]
    beyond = [row["own"] - row["last"] for row in rows]
    summary = {
        "mean loss against the best step": round(float(np.mean(losses)), 3),
        "worst loss": round(max(losses), 2),
        "mean loss of running on to the last step": round(float(np.mean(beyond)), 3),
        "worst loss of running on": round(max(beyond), 2),
    }
    lines = markdown_table(list(rows[0]), [[*row.values()] for row in rows])
    text = "\n".join([lines, "", *(f"- {name}: {value} dB" for name, value in summary.items())])
    publish("stopping", {**summary, "rows": rows}, text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
