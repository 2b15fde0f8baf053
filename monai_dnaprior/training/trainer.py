"""Training a network on noisy images, with MONAI's engine and handlers."""

from __future__ import annotations

import copy
import csv
import os
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.utils import CommonKeys
from torch import Tensor, nn

from ..fitting.devices import check_precision, convolving
from ..noise.metrics import psnr
from .data import SEED_OF_NUMBER
from .objectives import Objective
from .unet import DenoisingUNet
from .weights import TrainedNetwork, load_weights, save_weights

MOST_ROWS = 4  # of the picture


class DenoisingTrainer(SupervisedTrainer):
    """MONAI's trainer for an objective that calls the network itself.

    The randomness of a step depends on the seed, the step and the process alone; the objective is told what part of all
    steps lies behind. Batches hold ``image`` and, if the objective needs one, ``label``.

    Args:
        objective: what is minimised.
        seed: of the objective's randomness. The global random state is neither read nor changed.
        precision: of the convolutions, ``"float32"`` or ``"bfloat16"``; weights and losses stay float32.
        others: see ``monai.engines.SupervisedTrainer``.
    """

    def __init__(
        self,
        *,
        device: str | torch.device,
        objective: Objective,
        seed: int = 0,
        precision: str = "float32",
        **others: Any,
    ) -> None:
        check_precision(precision)
        super().__init__(device=torch.device(device), loss_function=objective, decollate=False, **others)
        self.seed, self.precision = seed, precision

    def apply_network(self, images: Tensor) -> Tensor:
        """What the network makes of images."""
        with convolving(self.precision, images.device):
            return self.inferer(images, network=self.network)

    def _iteration(self, engine: Any, batchdata: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy, target = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking)
        step, process = engine.state.iteration - 1, int(os.environ.get("RANK", 0))
        generator = torch.Generator(noisy.device)
        generator.manual_seed(((self.seed * SEED_OF_NUMBER + step) * SEED_OF_NUMBER + process) % 2**63)
        self.network.train()
        self.optimizer.zero_grad()
        loss = self.loss_function(
            noisy,
            self.apply_network,
            target=target,
            progress=step / (engine.state.max_epochs * engine.state.epoch_length),
            generator=generator,
        )
        loss.backward()
        self.optimizer.step()
        return {CommonKeys.LOSS: loss.detach()}


def initial_network(
    *,
    weights: PathLike | None = None,
    heads: int = 1,
    **options: Any,
) -> DenoisingUNet:
    """The network that a training starts from: a copy of the one that these weights hold, or a new one.

    Args:
        weights: a file that :func:`~monai_dnaprior.training.weights.save_weights` wrote, or None.
        heads, options: of a new :class:`~monai_dnaprior.training.unet.DenoisingUNet`.

    Raises:
        ValueError: the weights are of a network for another objective.

    >>> initial_network(features=(4, 8)).configuration["features"]
    [4, 8]
    """
    if weights is None:
        return DenoisingUNet(heads=heads, **options)
    network = copy.deepcopy(load_weights(weights).network)
    if network.configuration["heads"] != heads:
        raise ValueError(f"weights={str(weights)!r} output {network.configuration['heads']} images, not {heads}.")
    return network.train().requires_grad_(True)


def plateau_then_linear(step: int, *, steps: int, plateau: float = 0.5) -> float:
    """What the learning rate is multiplied with: 1 for the first part of all steps, then falling linearly to 0.

    >>> [plateau_then_linear(step, steps=100) for step in (0, 50, 75, 100)]
    [1.0, 1.0, 0.5, 0.0]
    """
    return float(min(1.0, max(0.0, (1 - step / steps) / (1 - plateau))))


class TrainingLog:
    """A MONAI handler that writes, after every epoch, a line of ``log.csv`` and, with pairs to look at, a picture.

    Args:
        folder: where ``log.csv`` and ``validation.png`` go; a training that goes on adds to the log.
        network: what denoises the pairs, for instance with averaged weights.
        objective: says what the network's output means.
        pairs: noisy and clean images (1, C, H, W): their mean PSNR goes into the log, the first four into the picture.
    """

    COLUMNS = ("epoch", "step", "learning_rate", "loss", "psnr")

    def __init__(
        self,
        folder: PathLike,
        *,
        network: nn.Module,
        objective: Objective,
        pairs: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.folder, self.network, self.objective, self.pairs = Path(folder), network, objective, pairs
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def collect(self, engine: Any) -> None:
        self.losses.append(engine.state.output[CommonKeys.LOSS].item())

    def write(self, engine: Any) -> None:
        denoised = self.denoise_pairs(engine.state.device)
        qualities = [psnr(image, clean) for image, (_, clean) in zip(denoised, self.pairs, strict=True)]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(self.COLUMNS)
            rate, loss = engine.optimizer.param_groups[0]["lr"], sum(self.losses) / len(self.losses)
            quality = f"{sum(qualities) / len(qualities):.3f}" if qualities else ""
            writer.writerow([engine.state.epoch, engine.state.iteration, f"{rate:.3g}", f"{loss:.5g}", quality])
        self.losses.clear()
        if denoised:
            self.draw(denoised)

    def denoise_pairs(self, device: torch.device) -> list[Tensor]:
        """What the network makes of the noisy images, with its mode as before."""
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            images = [self.objective.denoise(noisy.to(device), self.network).cpu() for noisy, _ in self.pairs]
        self.network.train(training)
        return images

    def draw(self, denoised: Sequence[Tensor]) -> None:
        """Write the first pairs, one below the other: noisy, denoised, clean, and what was removed on mid-grey."""
        from skimage.io import imsave

        rows = [
            torch.cat([noisy, image, clean, 0.5 + noisy - image], -1)[0]
            for image, (noisy, clean) in list(zip(denoised, self.pairs, strict=True))[:MOST_ROWS]
        ]
        width = max(row.shape[-1] for row in rows)
        picture = torch.cat([nn.functional.pad(row, (0, width - row.shape[-1])).expand(3, -1, -1) for row in rows], -2)
        pixels = (255 * picture.clamp(0, 1)).round().byte().movedim(0, -1).numpy()
        imsave(self.folder / "validation.png", pixels, check_contrast=False)


class WeightsSaver:
    """A MONAI handler that writes the weights as safetensors when the training is complete.

    Args:
        path: of the file.
        network: whose weights are kept, for instance the averaged ones.
        objective: what it was trained for.
        training: what the file says of the training; the number of steps is added.
    """

    def __init__(
        self, path: PathLike, *, network: DenoisingUNet, objective: Objective, training: Mapping[str, Any]
    ) -> None:
        self.path, self.trained = Path(path), partial(TrainedNetwork, network, objective)
        self.training = dict(training)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self, engine: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(self.path, self.trained({**self.training, "steps": engine.state.iteration}))


class Checkpoints:
    """A MONAI handler that keeps the last two epochs' checkpoints, and goes on from the newest when a training starts.

    Args:
        folder: where they are; empty for a training that starts at its beginning.
        state: by name what has a state: network, averaged weights, optimiser, scheduler. The trainer is added.
    """

    def __init__(self, folder: PathLike, **state: Any) -> None:
        self.folder, self.state = folder, state

    def attach(self, engine: Any) -> None:
        state = {**self.state, "trainer": engine}
        newest = latest_checkpoint(self.folder)
        if newest is not None:
            CheckpointLoader(newest, state, map_location=engine.state.device).attach(engine)
        CheckpointSaver(str(self.folder), state, save_interval=1, n_saved=2).attach(engine)


def latest_checkpoint(folder: PathLike) -> str | None:
    """The newest checkpoint of a training in a folder that can be read to its end, or None.

    A training that is killed while it writes one leaves a file that is cut off.
    """
    whole = filter(zipfile.is_zipfile, Path(folder).glob("checkpoint_epoch=*.pt"))
    newest = max(whole, key=lambda path: int(path.stem.partition("=")[2]), default=None)
    return None if newest is None else str(newest)
