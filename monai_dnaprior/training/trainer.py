"""Training a network on noisy images, with MONAI's engine and handlers."""

from __future__ import annotations

import copy
import csv
import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
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

from .. import __version__
from ..checks import check_part, check_positive
from ..fitting.devices import check_precision, convolving
from ..noise.metrics import psnr
from .budget import Budget
from .data import SEED_OF_NUMBER
from .objectives import Objective
from .unet import DenoisingUNet
from .weights import TrainedNetwork, load_weights, save_weights

MOST_ROWS = 4  # of the picture
FOLLOWED = 0.02  # share of a step's gradient in the running mean of their norms


class DenoisingTrainer(SupervisedTrainer):
    """MONAI's trainer for an objective that calls the network itself.

    The randomness of a step depends on the seed, the step and the process alone; the objective is told what part of all
    steps lies behind. Batches hold ``image`` and, if the objective needs one, ``label``.

    Args:
        objective: what is minimised.
        seed: of the objective's randomness. The global random state is neither read nor changed.
        precision: of the convolutions, ``"float32"`` or ``"bfloat16"``; weights and losses stay float32.
        budget: says what part of the training lies behind, and ends it; that of the epochs if there is none.
        gradient_limit: what is done about gradients that are too large, if anything.
        others: see ``monai.engines.SupervisedTrainer``.
    """

    def __init__(
        self,
        *,
        device: str | torch.device,
        objective: Objective,
        seed: int = 0,
        precision: str = "float32",
        budget: Budget | None = None,
        gradient_limit: GradientLimit | None = None,
        train_handlers: Sequence[Any] = (),
        **others: Any,
    ) -> None:
        check_precision(precision)
        self.budget = budget or Budget(steps=others["max_epochs"] * len(others["train_data_loader"]))
        super().__init__(
            device=torch.device(device),
            loss_function=objective,
            decollate=False,
            train_handlers=[self.budget, *train_handlers],  # first: others ask it
            **others,
        )
        self.seed, self.precision, self.gradient_limit = seed, precision, gradient_limit

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
            progress=self.budget.now,
            generator=generator,
        )
        loss.backward()
        if self.gradient_limit is not None:
            self.gradient_limit(self.network.parameters())
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


class GradientLimit(nn.Module):
    """Scale gradients down whose norm is more than so many times its running mean; NaN and infinity become 0.

    >>> limit, weight = GradientLimit(), nn.Parameter(torch.zeros(1))
    >>> for gradient in (1.0, 1.0, 100.0):
    ...     weight.grad = torch.full((1,), gradient)
    ...     limit([weight])
    >>> weight.grad
    tensor([2.])
    """

    norm: Tensor

    def __init__(self, *, times: float = 2.0) -> None:
        super().__init__()
        check_positive(times=times)
        self.times = times
        self.register_buffer("norm", torch.tensor(math.inf))

    @torch.no_grad()
    def forward(self, parameters: Iterable[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        mean = self.norm.to(norm.device)
        limit = self.times * mean
        factor = (limit / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor)
        self.norm = torch.where(mean.isfinite(), mean.lerp(torch.minimum(norm, limit), FOLLOWED), norm)


class WeightAverage:
    """A MONAI handler that averages a network's weights over the last steps, at first over all of them.

    Args:
        network: whose weights.
        share: of a step's weights in the average, once there have been enough steps.

    Attributes:
        average: the network with averaged weights.
    """

    def __init__(self, network: DenoisingUNet, *, share: float = 0.002) -> None:
        check_part(share=share)
        self.network, self.share = network, share
        self.average = copy.deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.follow)

    @torch.no_grad()
    def follow(self, engine: Any) -> None:
        share = max(self.share, 1 / engine.state.iteration)
        for weight, average in zip(self.network.parameters(), self.average.parameters(), strict=True):
            average.lerp_(weight, share)


class TrainingLog:
    """A MONAI handler that writes, after every epoch and at the end, a line of ``log.csv`` and, with pairs, a picture.

    Args:
        folder: where ``log.csv`` and ``validation.png`` go; a training that goes on adds to the log.
        network: what denoises the pairs, for instance with averaged weights.
        objective: says what the network's output means.
        pairs: noisy and clean images (1, C, H, W): their mean PSNR goes into the log, the first four into the picture.
    """

    COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss", "psnr")

    def __init__(
        self,
        folder: PathLike,
        *,
        network: nn.Module,
        objective: Objective,
        pairs: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.folder, self.network, self.objective, self.pairs = Path(folder), network, objective, pairs
        self.losses: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def collect(self, engine: Any) -> None:
        self.losses.append(engine.state.output[CommonKeys.LOSS])  # not looked at: a GPU would be waited for

    def write(self, engine: Any) -> None:
        """A line and a picture, unless there was no step since the last."""
        if not self.losses:
            return
        denoised = self.denoise_pairs(engine.state.device)
        qualities = [psnr(image, clean) for image, (_, clean) in zip(denoised, self.pairs, strict=True)]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(self.COLUMNS)
            rate, loss = engine.optimizer.param_groups[0]["lr"], torch.stack(self.losses).mean().item()
            quality = f"{sum(qualities) / len(qualities):.3f}" if qualities else ""
            done = [engine.state.epoch, engine.state.iteration, f"{engine.budget.elapsed:.1f}"]
            writer.writerow([*done, f"{rate:.3g}", f"{loss:.5g}", quality])
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
        training: what the file says of the training; steps, seconds, device and versions are added.
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
        device = engine.state.device
        done = {
            "steps": engine.state.iteration,
            "seconds": round(engine.budget.elapsed, 3),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "versions": {"monai-dnaprior": __version__, "torch": torch.__version__},
        }
        save_weights(self.path, self.trained({**self.training, **done}))


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
