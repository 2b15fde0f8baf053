"""What every method shares that fits a network to each image by itself."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checks import check_not_negative, check_positive, check_whole, is_number
from ..fitting.batch import Ask, Request, with_fits
from ..fitting.fit import (
    CHECK_EVERY,
    Discrepancy,
    FitResult,
    JointObjective,
    MovingVariance,
    Objective,
    StoppingRule,
    root_mean_square,
)
from ..fitting.tiles import in_tiles
from ..noise.estimate import NoiseKind, varying_pixels
from .result import Record, Result, check_noisy
from .safeguards import treated

STOPPING = ("discrepancy", "variance", "steps")
TILE = 1024  # larger images are fitted in tiles of this side
STRONG = 0.1  # standard deviation of noise that is taken up in fewer steps
UNDER_FITTED = 1.1  # residual over noise level at which anatomy, too, must be in it


@dataclass(frozen=True, kw_only=True)
class PerImageFit:
    r"""Denoise each image by a fit of its own; a method adds its network and its objective.

    Every image is a fit of its own: its result does not depend on the batch it came in. Images without noise and
    constant images are given back as they came; so is the input of a fit that fails twice. Pixels that equal all their
    neighbours (an empty background) hold no visible noise: they come out as they are, and the fit is cropped to the
    others.

    Args:
        steps: at most this many optimisation steps.
        learning_rate: of Adam, or of the optimiser that the method names.
        averaging: the output is the running average of the network's outputs with this memory; 0 takes the last.
        stopping: ``"discrepancy"`` ends the fit when the residual has fallen to ``discrepancy`` times the estimated
            noise level, and scales what was removed down to the noise level where it is more; ``"variance"`` ends it
            when the outputs' moving variance rises, ``"steps"`` at the last step only.
        discrepancy: see ``stopping``. At the noise level itself a fit is still a little too smooth.
        least_steps: the noise level ends no fit before so many steps a channel, fewer by the factor
            :math:`0.1 / \hat\sigma` where noise is stronger than 0.1, which a network takes up sooner. Smooth images
            fall to the noise level before they are sharp, and those in colour, whose channels show the same, more so.
        clean_sigma: images with less estimated noise than this are given back as they came.
        stabilise: treat an image whose noise depends on brightness (Poisson, multiplicative) on the grey scale where it
            is even, see :class:`~monai_dnaprior.noise.stabilisation.Stabiliser`.
        restarts: fits of each image, from inputs of their own; their mean is the result, and from two on their standard
            deviation is its spread.
        seed: the network's initial weights depend on it alone; the rest of a fit's randomness on a hash of it, the
            image, the slice index and the restart. The global random state is neither read nor changed.
    """

    optimizer: ClassVar[Callable[..., torch.optim.Optimizer]] = torch.optim.Adam

    steps: int
    learning_rate: float
    averaging: float
    stopping: str = "steps"
    discrepancy: float = 0.985
    least_steps: int = 150
    clean_sigma: float = 0.0
    stabilise: bool = False
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(1, steps=self.steps, restarts=self.restarts)
        check_whole(0, seed=self.seed, least_steps=self.least_steps)
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping={self.stopping!r} is unknown; choose one of {', '.join(STOPPING)}.")
        if not (is_number(self.averaging) and 0 <= self.averaging < 1):
            raise ValueError(f"averaging={self.averaging} must lie in [0, 1); use 0 for the last output alone.")
        check_positive(learning_rate=self.learning_rate, discrepancy=self.discrepancy)
        check_not_negative(clean_sigma=self.clean_sigma)

    def network(self, channels: int = 1) -> nn.Module:
        """The network that every fit of such images starts from: the same weights for the same seed."""
        raise TypeError(f"{type(self).__name__} names no network.")

    def objective(self, network: nn.Module, noisy: Tensor, sigma: float, seed: int) -> Objective | JointObjective:
        """What is minimised for one image (1, C, H, W), with randomness from this seed alone."""
        raise TypeError(f"{type(self).__name__} names no objective.")

    def output_range(self, noisy: Tensor) -> tuple[float, float]:
        """Offset and span of what the network can put out; an unbounded one needs no scaling."""
        return 0.0, 1.0

    def layout(self, device: torch.device) -> torch.memory_format:
        """How weights and features lie in memory: in the way that is the faster one."""
        return torch.contiguous_format if device.type == "cpu" else torch.channels_last

    def of_restart(self, number: int) -> PerImageFit:
        """The configuration of one of an image's fits."""
        return self

    def rate(self, noisy: Tensor) -> float:
        """The learning rate at the first step."""
        return self.learning_rate

    @staticmethod
    def decay(progress: float) -> float:
        """What the learning rate is multiplied with as the fit progresses from 0 to 1."""
        return 1.0

    def refined(self, noisy: Tensor, estimate: Tensor, sigma: float) -> Tensor:
        """What a method makes of the fitted image in the end."""
        return estimate

    def estimate(
        self, ask: Ask, network: nn.Module, noisy: Tensor, where: Tensor, sigma: float, seed: int
    ) -> FitResult:
        """The fit of one image (1, C, H, W), looking at the pixels where noise is seen."""
        offset, span = self.output_range(noisy)
        result = ask(
            Request(
                network.to(noisy.device, memory_format=self.layout(noisy.device)),  # type: ignore[call-overload]
                (noisy - offset) / span,
                self.objective(network, noisy, sigma, seed),
                self.rules(noisy, sigma / span),
                where,
                {
                    "steps": self.steps,
                    "learning_rate": self.rate(noisy),
                    "decay": self.decay,
                    "optimizer": self.optimizer,
                    "averaging": self.averaging,
                },
            )
        )
        trace = tuple((step, loss, residual * span) for step, loss, residual in result.trace)
        return replace(result, image=result.image * span + offset, trace=trace)

    def estimate_in_tiles(
        self, ask: Ask, initial: nn.Module, noisy: Tensor, where: Tensor, sigma: float, seed: int
    ) -> FitResult:
        """:meth:`estimate`, of a large image in overlapping tiles, each a fit of its own, in bounded memory."""
        if max(noisy.shape[-2:]) <= TILE:
            return self.estimate(ask, copy.deepcopy(initial), noisy, where, sigma, seed)
        results: list[FitResult] = []

        def estimated(window: Tensor) -> Tensor:
            tile, seen = window.tensor_split((noisy.shape[1],), 1)
            if not seen.any():
                return tile
            results.append(self.estimate(ask, copy.deepcopy(initial), tile, seen > 0, sigma, seed))
            return results[-1].image

        image = in_tiles(estimated, torch.cat((noisy, where.to(noisy)), 1), TILE)
        failed = next((result for result in results if result.stop_reason == "non-finite"), results[0])
        return replace(failed, image=image, steps=max(result.steps for result in results))

    def rules(self, noisy: Tensor, sigma: float) -> list[StoppingRule]:
        """When to stop, for noise of this standard deviation in what the network puts out."""
        if self.stopping == "discrepancy":
            least = self.least_steps * noisy.shape[1] * min(1, STRONG / sigma)
            return [Discrepancy(self.discrepancy * sigma, warm_up=math.ceil(least / CHECK_EVERY) - 1)]
        return [MovingVariance()] if self.stopping == "variance" else []

    def details(self, noisy: Tensor, sigma: float) -> dict[str, Any]:
        """What a method adds to the record of an image (1, C, H, W) with so much noise."""
        return {}

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, network: Callable[..., Any] | None = None
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` gives the initial weights in place of :meth:`network`."""
        check_noisy(noisy)
        indices = range(len(noisy)) if slice_indices is None else slice_indices
        if len(indices) != len(noisy):
            raise ValueError(f"slice_indices has {len(indices)} entries; give one for each of the {len(noisy)} images.")
        initial = self.network(noisy.shape[1]) if network is None else checked_module(network)
        jobs = [(image, index, restart) for image, index in zip(noisy.split(1), indices, strict=True)
                for restart in range(self.restarts)]  # fmt: skip
        outcomes = with_fits(partial(self.denoise_one, initial), *zip(*jobs, strict=True), device=noisy.device)
        groups = [outcomes[start : start + self.restarts] for start in range(0, len(outcomes), self.restarts)]
        return combined(groups)

    def denoise_one(
        self, initial: nn.Module, ask: Ask, noisy: Tensor, index: int, restart: int
    ) -> tuple[Tensor, Record]:
        """One image (1, C, H, W): leave it alone, or fit it, once more if that fails."""

        def fitted(noisy: Tensor, sigma: float, kind: NoiseKind) -> tuple[Tensor, Record]:
            seeds = [slice_seed(self.seed, index, attempt, noisy) for attempt in (2 * restart, 2 * restart + 1)]
            return self.of_restart(restart)._fitted(ask, initial, noisy, sigma, seeds)

        return treated(noisy, fitted, clean_sigma=self.clean_sigma, stabilise=self.stabilise)

    def _fitted(
        self, ask: Ask, initial: nn.Module, noisy: Tensor, sigma: float, seeds: Sequence[int]
    ) -> tuple[Tensor, Record]:
        """A noisy image where its pixels vary, fitted with the first of the seeds that does not fail."""
        where = varying_pixels(noisy)
        box = bounding_box(where)
        part, seen = noisy[box], where[box]
        for seed in seeds:
            result = self.estimate_in_tiles(ask, initial, part, seen, sigma, seed)
            if result.stop_reason != "non-finite":
                part = self.refined(part, result.image, sigma)
                break
        removed = torch.zeros_like(noisy)
        removed[box] = torch.where(seen, noisy[box] - part, 0)
        residual = root_mean_square(removed[where])
        excess = residual / sigma if self.stopping == "discrepancy" and residual > sigma else 1
        record = fitted_record(Record(sigma=sigma, **self.details(noisy[box], sigma)), result, seed, residual)
        return noisy - removed / excess, record


def combined(outcomes: Sequence[Sequence[tuple[Tensor, Record]]]) -> Result:
    """The mean of each image's restarts, their records as one, and their spread where there are several."""
    images = [torch.stack([image for image, _ in restarts]) for restarts in outcomes]
    records = [
        replace(
            restarts[0][1],
            seconds=sum(record.seconds for _, record in restarts),
            warnings=tuple(dict.fromkeys(text for _, record in restarts for text in record.warnings)),
        )
        for restarts in outcomes
    ]
    spread = torch.cat([image.std(0) for image in images]) if len(images[0]) > 1 else None
    return Result(torch.cat([image.mean(0) for image in images]), records, spread)


def checked_module(network: Callable[..., Any]) -> nn.Module:
    """The network, if it is one that can be fitted."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network={type(network).__name__} must be a torch.nn.Module, as network() makes.")
    return network


def fitted_record(record: Record, result: FitResult, seed: int, residual: float) -> Record:
    """The record of a slice that was fitted, with a warning where the fit fell short."""
    warnings = []
    if result.stop_reason == "non-finite":
        warnings.append("the fit failed twice; the input is given back")
    elif result.stop_reason == "steps" and result.trace[-1][2] > UNDER_FITTED * record.sigma:
        warnings.append(f"under-fitted: after {result.steps} steps more than the noise was left over; allow more steps")
    return replace(
        record,
        steps=result.steps,
        stop_reason=result.stop_reason,
        seed=seed,
        residual=residual,
        trace=result.trace,
        warnings=tuple(warnings),
    )


def bounding_box(where: Tensor) -> tuple[slice, ...]:
    """The smallest window of an image (1, C, H, W) that holds every pixel that is marked in any channel.

    >>> where = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    >>> where[0, 0, 1:3, 2:4] = True
    >>> bounding_box(where)[2:]
    (slice(1, 3, None), slice(2, 4, None))
    """
    rows, columns = (where.any(1).any(dim).flatten().nonzero().flatten() for dim in (-1, -2))
    ends = [(int(side[0]), int(side[-1]) + 1) for side in (rows, columns)]
    return (slice(None), slice(None), *(slice(*end) for end in ends))


def slice_seed(seed: int, index: int, attempt: int, noisy: Tensor) -> int:
    """A seed of this slice's own: it depends on its voxels and its place, not on the batch, the order or the worker."""
    digest = hashlib.sha256(f"{seed} {index} {attempt} {tuple(noisy.shape)}".encode())
    digest.update(noisy.cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:6], "big")
