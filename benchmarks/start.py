"""Does a fit that starts from IDDP's network gain: DNA-Prior's loss on one slice, from the trained weights."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from cases import make_case
from publish import publish

from monai_dnaprior import load_weights
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.nonlocal_bayes import refine
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.fitting.losses import spectral_fidelity, total_variation
from monai_dnaprior.noise.estimate import estimate_sigma, varying_pixels
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel

MODALITIES = ("microscopy", "mri", "pet", "ct", "ultrasound")
SIGMAS = (25, 50)
RATE = 1e-4
STEPS = (0, 5, 10, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    options = parser.parse_args()
    cells = [measure(options.data, modality, sigma) for modality in MODALITIES for sigma in SIGMAS]
    plain, refined = np.mean(cells, axis=0).round(2).tolist()
    header = ["steps from IDDP's weights", *map(str, STEPS)]
    lines = [["the network's output", *plain], ["refined twice", *refined]]
    publish("start", {"steps": STEPS, "plain": plain, "refined": refined}, markdown_table(header, lines))


def measure(data: Path, modality: str, sigma: int) -> list[list[float]]:
    """PSNR after so many steps, of the output and of what it guides the non-local filter to."""
    case = make_case(data, modality, sigma)
    assert case.clean is not None
    level = estimate_sigma(case.noisy).item()
    weight = DNAPrior().balanced_tv_weight(NoisyImage(case.noisy, varying_pixels(case.noisy), NoiseModel(level)))
    network = copy.deepcopy(load_weights().network).requires_grad_()
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    plain, refined = [], []
    for step in range(max(STEPS) + 1):
        estimate = network(case.noisy)
        if step in STEPS:
            output = estimate.detach()
            plain.append(psnr(output, case.clean))
            refined.append(psnr(refine(case.noisy, output, NoiseModel(level), rounds=2), case.clean))
        loss = spectral_fidelity(estimate, case.noisy) + weight * total_variation(estimate)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return [plain, refined]


if __name__ == "__main__":
    main()
