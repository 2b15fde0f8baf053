"""The tables of IDDP's paper, measured: seven objectives, one U-Net, one budget, one set of images.

Each objective trains a network on the same crops, with three kinds of noise; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from monai.handlers import LrScheduleHandler
from publish import RESULTS, publish
from torch import Tensor

from monai_dnaprior.compare.cases import Case, load_cases
from monai_dnaprior.compare.run import compare
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.training.budget import Budget, plateau_then_linear
from monai_dnaprior.training.data import EpochSampler, NoisyCrops, clean_middle, held_back, load_images
from monai_dnaprior.training.objectives import OBJECTIVES, create_objective
from monai_dnaprior.training.trainer import (
    Checkpoints,
    DenoisingTrainer,
    TrainingLog,
    WeightAverage,
    WeightsSaver,
)
from monai_dnaprior.training.unet import DenoisingUNet
from monai_dnaprior.training.weights import SHIPPED

NOISE = ["gaussian:0:50", "speckle:0:0.2", "poisson:5:50"]
ROWS = ("gaussian:25:25", "gaussian:0:50", "speckle:0.1:0.1", "speckle:0:0.2", "poisson:30:30", "poisson:5:50")
REAL = "fluorescence"
SIDE = 128
TRAINED = tuple(name for name in OBJECTIVES if name != "iddp-phases")  # which needs crops of its own
UNTRAINED = ("bm3d", "dna-prior", "iddp-shipped")
STEPS_AN_EPOCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with train and natural")
    parser.add_argument("--output", type=Path, default=Path("demo/table_iddp"), help="folder for weights and images")
    parser.add_argument("--methods", default=",".join((*TRAINED, *UNTRAINED)), help="columns, with commas")
    parser.add_argument("--steps", type=int, default=6000, help="of every training")
    parser.add_argument("--every", type=int, default=2, help="measure on every n-th image")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    training, unseen = held_back(load_images(options.data / "train"), 20)
    natural = load_images(options.data / "natural")
    cases = {row: make_cases([*unseen, *natural][:: options.every], row) for row in ROWS}
    cases[REAL] = real_cases(options.data / "pairs" / "fluorescence")
    for method in options.methods.split(","):
        if method in TRAINED:
            weights = options.output / f"{method}-{options.steps}" / "weights.safetensors"
            if not weights.exists():
                train(method, training, weights.parent, steps=options.steps, device=options.device)
            denoiser: tuple[str, dict[str, Any]] = ("iddp", {"weights": str(weights), "limited": False})
        else:
            alone = {"weights": str(SHIPPED), "limited": False}  # the other network has seen most of these images
            denoiser = ("iddp", alone) if method == "iddp-shipped" else (method, {})
        for row, images in cases.items():
            folder = options.output / row.replace(":", "-") / method
            measured = compare(images, {method: denoiser}, folder, device=options.device)
            if any(one.error for one in measured):
                raise RuntimeError(next(one.error for one in measured if one.error))
            quality = [[one.psnr, one.ssim] for one in measured]
            write(
                method, row, *np.mean(np.array(quality, dtype=float), axis=0), steps=options.steps, images=len(images)
            )


def train(name: str, images: list[Tensor], folder: Path, *, steps: int, device: str) -> None:
    """The same for every objective: network, crops, optimiser, steps."""
    objective = create_objective(name)
    network = DenoisingUNet(heads=objective.heads).to(device)
    crops = NoisyCrops(images, noise=NOISE, needs=objective.needs, length=4 * STEPS_AN_EPOCH)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    budget = Budget(steps=steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(plateau_then_linear, budget=budget))
    averaging = WeightAverage(network, share=0.005)
    averaged = averaging.average
    handlers = [
        averaging,
        LrScheduleHandler(schedule, print_lr=False, epoch_level=False),  # type: ignore[arg-type]
        Checkpoints(folder, network=network, averaged=averaged, optimizer=optimizer, schedule=schedule),
        TrainingLog(folder, network=averaged, objective=objective),
        WeightsSaver(folder / "weights.safetensors", network=averaged, objective=objective, training={"noise": NOISE}),
    ]
    DenoisingTrainer(
        device=device,
        max_epochs=steps // STEPS_AN_EPOCH,
        train_data_loader=DataLoader(crops, batch_size=4, sampler=EpochSampler(crops)),
        network=network,
        optimizer=optimizer,
        objective=objective,
        budget=budget,
        train_handlers=handlers,
    ).run()


def make_cases(images: list[Tensor], row: str) -> list[Case]:
    """The images' middles in [0, 1], with noise whose strength is drawn from the row's range."""
    name, *ends = row.split(":")
    least, greatest = (float(end) for end in ends)
    cases = []
    for number, image in enumerate(images):
        clean = clean_middle(image, SIDE)
        part = 1 - torch.rand((), generator=torch.Generator().manual_seed(number)).item()
        strength = least + (greatest - least) * part
        cases.append(Case(f"image-{number}", add_noise(clean, f"{name}:{strength}", seed=number), clean))
    return cases


def real_cases(folder: Path) -> list[Case]:
    """Photographs through a microscope, and what many of them average to."""
    noisy = sorted(folder.glob("fmd_*_noisy.png"))
    return load_cases(noisy, references=[str(path).replace("_noisy", "_clean") for path in noisy])


def write(method: str, row: str, psnr: float, ssim: float, *, steps: int, images: int) -> None:
    """Add one mean to the results, and publish the table."""
    path = RESULTS / "table_iddp.json"
    cells: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else {}
    cells[f"{row} {method}"] = {
        "psnr": round(float(psnr), 3), "ssim": round(float(ssim), 4), "steps": steps, "images": images
    }  # fmt: skip
    columns = [name for name in (*OBJECTIVES, *UNTRAINED, "dip") if any(key.endswith(f" {name}") for key in cells)]
    found = {key: f"{cell['psnr']:.2f} {cell['ssim']:.3f}" for key, cell in cells.items()}
    lines = [[spoken(noise), *(found.get(f"{noise} {name}", "") for name in columns)] for noise in (*ROWS, REAL)]
    publish("table_iddp", {"cells": cells}, markdown_table(["noise (PSNR, SSIM)", *columns], lines))


def spoken(row: str) -> str:
    """A row's name: the strength, or the range it was drawn from."""
    if row == REAL:
        return "real, fluorescence"
    name, least, greatest = row.split(":")
    return f"{name} {least}" if least == greatest else f"{name} {least} to {greatest}"


if __name__ == "__main__":
    main()
