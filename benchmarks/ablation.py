"""One change at a time to DNA-Prior's default preset: what each part is worth on the crops of the table, sigma 25."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import CROPS, make_case
from publish import publish

from monai_dnaprior.compare.cases import Case
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dnaprior import TV_WEIGHT_PER_SIGMA, DNAPrior
from monai_dnaprior.denoisers.nonlocal_bayes import refine
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.noise.estimate import estimate_sigma
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel

SIGMA = 25
VARIANTS = {
    "default": {},
    "no refinement": {"refinements": 0},
    "one round of refinement": {"refinements": 1},
    "two rounds": {"refinements": 2},
    "five rounds": {"refinements": 5},
    "fitted at full size": {"shrink": 1},
    "fitted at full size, no refinement": {"shrink": 1, "refinements": 0},
    "no total variation": {"tv_weight": 0.0},
    "total variation as printed, 1e-4": {"tv_weight": 1e-4},
    "input noise 0": {"input_noise": 0.0},
    "input noise 1/30, as Deep Image Prior": {"input_noise": 1 / 30},
    "last output in place of the average": {"averaging": 0.0},
    "always 800 steps": {"stopping": "steps"},
    "stopped at the noise level itself": {"discrepancy": 1.0},
    "stopped at 0.97 of it": {"discrepancy": 0.97},
    "no least number of steps": {"least_steps": 0},
    "at least 300 steps": {"least_steps": 300},
    "2 restarts": {"restarts": 2},
    "4 restarts": {"restarts": 4},
    "8 channels in the skip branches": {"skip_channels": 8},
    "learning rate 0.01, as Deep Image Prior": {"learning_rate": 0.01},
    "32 channels": {"width": 32},
    "3 scales": {"scales": 3},
    "reflection padding": {"padding": "reflect"},
}


def weight_without_the_share(case: Case) -> DNAPrior:
    return DNAPrior(tv_weight=TV_WEIGHT_PER_SIGMA * estimate_sigma(case.noisy).item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    options = parser.parse_args()
    cases = {name: make_case(options.data, name, SIGMA) for name in CROPS}
    rows = {}
    for label, fields in VARIANTS.items():
        rows[label] = measure(cases, lambda case, fields=fields: DNAPrior(**fields)(case.noisy).image)  # type: ignore[misc]
        write(rows)
    rows["weight not lessened in dark images"] = measure(
        cases, lambda case: weight_without_the_share(case)(case.noisy).image
    )
    for guide in ("tv", "nl-means"):
        rows[f"{guide} in place of the fit, refined"] = measure(cases, lambda case, guide=guide: guided(case, guide))  # type: ignore[misc]
    write(rows)


def guided(case: Case, guide: str) -> object:
    """The refinement led by a classical filter: what it does without any fit."""
    noise = NoiseModel(estimate_sigma(case.noisy).item())
    return refine(case.noisy, create_denoiser(guide)(case.noisy).image, noise, rounds=DNAPrior().refinements)


def measure(cases: dict[str, Case], denoise: Callable[[Case], object]) -> dict[str, float]:
    """PSNR on every image, and their mean."""
    quality = {name: psnr(denoise(case), case.clean) for name, case in cases.items()}  # type: ignore[arg-type]
    quality["mean"] = float(np.mean([*quality.values()]))
    return {name: round(value, 2) for name, value in quality.items()}


def write(rows: dict[str, dict[str, float]]) -> None:
    names = list(rows["default"])
    lines = [[label, *(f"{row[name]:.2f}" for name in names)] for label, row in rows.items()]
    publish("ablation", {"sigma": SIGMA, "rows": rows}, markdown_table(["change", *names], lines))


if __name__ == "__main__":
    main()
