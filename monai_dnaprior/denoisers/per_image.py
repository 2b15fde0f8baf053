"""What every method shares that fits a network to each image by itself."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checks import check_not_negative, check_positive, check_whole, is_number
from ..fitting.batch import FitRequest, Objective
from ..fitting.fit import CHECK_EVERY, FitResult, Procedure, run_fits
from ..fitting.stopping import Discrepancy, MovingVariance, StoppingRule, root_mean_square
from ..fitting.tiles import blend_tiles, place_tiles
from ..noise.estimate import varying_pixels
from ..noise.model import NoiseModel
from .record import Known, Record
from .result import Result, check_noisy
from .safeguards import Safeguards, measure_all, measure_noise, measure_strength

STOPPING = ("discrepancy", "variance", "steps")
STRONG = 0.1  # standard deviation of noise that is taken up in fewer steps
UNDER_FITTED = 1.1  # residual over noise level at which anatomy, too, must be in it


@dataclass(frozen=True, eq=False)
class NoisyImage:
    """An image, or a part of one, as a fit sees it.

    Attributes:
        pixels: (1, C, H, W).
        seen: where noise can be seen, of the same shape: pixels that differ from a neighbour.
        noise: what is known of the noise.
    """

    pixels: Tensor
    seen: Tensor
    noise: NoiseModel

    def crop(self, place: tuple[Any, ...]) -> NoisyImage:
        return NoisyImage(self.pixels[place], self.seen[place], self.noise.crop(place))

    def scale(self, offset: float, span: float) -> NoisyImage:
        """The image in units in which the offset is 0 and the span is 1."""
        return replace(self, pixels=(self.pixels - offset) / span, noise=self.noise.scale(1 / span))


@dataclass(frozen=True, kw_only=True)
class PerImageFit:
    r"""Denoise each image by a fit of its own; a method adds its network and its fit.

    The result of an image does not depend on the batch it came in. Images without noise and constant images are given
    back as they came; so is the input of a fit that fails twice. Pixels that equal all their neighbours (an empty
    background) hold no visible noise: they come out as they are, and the fit is cropped to the others.

    Args:
        steps: at most this many optimisation steps.
        learning_rate: of Adam, or of the optimiser that the method names.
        averaging: the output is the running average of the network's outputs with this memory; 0 takes the last.
        stopping: when a fit ends: ``"discrepancy"`` when the residual has fallen to the noise level, to which what was
            removed is scaled down where it is more; ``"variance"`` when the outputs' moving variance rises; ``"steps"``
            at the last step only. Or a function without arguments that makes a rule for a fit.
        discrepancy: the residual over the noise level at which a fit ends; at 1 it is still a little too smooth.
        least_steps: the noise level ends no fit before so many steps a channel, because smooth and colour images fall
            to it before they are sharp. Where noise is stronger than 0.1 they are fewer, by the factor
            :math:`0.1 / \hat\sigma`: strong noise is fitted sooner.
        enough_steps: a fit that ends after so many steps is not called under-fitted, whatever is left over: a preset's
            own end. None goes by what is left over.
        clean_sigma: images with less estimated noise than this are given back as they came, unless it is measured to be
            correlated: that is noise however weak it is.
        stabilise: where noise depends on brightness (Poisson, multiplicative), fit on a grey scale on which it does
            not, see :class:`~monai_dnaprior.noise.stabilisation.Stabiliser`.
        restarts: fits of each image, from inputs of their own; their mean is the result, and from two on their standard
            deviation is its spread.
        tile: images with a longer side are fitted in overlapping tiles of this side, each a fit of its own, so that the
            memory needed does not grow with the image.
        seed: the network's initial weights depend on it alone, the other random numbers of a fit on a hash of it, the
            image, the slice index and the restart. The global random state is neither read nor changed.
    """

    whitened: ClassVar[bool] = False  # whether the fit takes the correlation of the noise into account

    steps: int
    learning_rate: float
    averaging: float
    stopping: str | Callable[[], StoppingRule] = "steps"
    discrepancy: float = 0.985
    least_steps: int = 150
    enough_steps: int | None = None
    clean_sigma: float = 0.0
    stabilise: bool = False
    restarts: int = 1
    tile: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(1, steps=self.steps, restarts=self.restarts)
        check_whole(0, seed=self.seed, least_steps=self.least_steps, enough_steps=self.enough_steps or 0)
        check_whole(16, tile=self.tile)
        if self.stopping not in STOPPING and not callable(self.stopping):
            raise ValueError(f"stopping={self.stopping!r} is unknown; choose one of {', '.join(STOPPING)}.")
        if not (is_number(self.averaging) and 0 <= self.averaging < 1):
            raise ValueError(f"averaging={self.averaging} must lie in [0, 1); use 0 for the last output alone.")
        check_positive(learning_rate=self.learning_rate, discrepancy=self.discrepancy)
        check_not_negative(clean_sigma=self.clean_sigma)

    def network(self, channels: int = 1) -> nn.Module:
        """The network that every fit of such images starts from: the same weights for the same seed."""
        raise TypeError(f"{type(self).__name__} names no network.")

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        """One fit, of an image that is no larger than a tile, with randomness from this seed alone."""
        raise TypeError(f"{type(self).__name__} names no fit.")

    def fit_image(self, image: NoisyImage, network: nn.Module, seed: int, restart: int) -> Procedure[FitResult]:
        """The fit of an image of any size."""
        return (yield from fit_tiles(lambda tile, own: self.fit_tile(tile, own, seed), image, network, self.tile))

    def used_tv_weight(self, image: NoisyImage, restart: int) -> float | None:
        """The weight of the total variation that goes into the record; None for a method without."""
        return getattr(self, "tv_weight", None)

    def __call__(
        self,
        noisy: Tensor,
        *,
        slice_indices: Sequence[int] | None = None,
        noise: Sequence[Known] | None = None,
        network: nn.Module | None = None,
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` gives the initial weights in place of :meth:`network`."""
        check_noisy(noisy)
        indices = range(len(noisy)) if slice_indices is None else slice_indices
        if len(indices) != len(noisy):
            raise ValueError(f"slice_indices has {len(indices)} entries; give one for each of the {len(noisy)} images.")
        initial = self.place_network(self.network(noisy.shape[1]) if network is None else network, noisy.device)
        guards = [guard.to(noisy.device) for guard in measure_all(self.safeguards, noisy, noise)]
        procedures = [
            count_seconds(self.denoise_image(guard, initial, index, restart), 0 if restart else guard.measured)
            for guard, index in zip(guards, indices, strict=True)
            for restart in range(self.restarts)
        ]
        outcomes = run_fits(procedures, device=noisy.device)
        restarts = [outcomes[i : i + self.restarts] for i in range(0, len(outcomes), self.restarts)]
        return replace(average_restarts(restarts), guards=guards)

    def place_network(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A copy of a network on a device, laid out for the fits that begin with its weights."""
        return copy.deepcopy(network).to(device, memory_format=self.layout(device))  # type: ignore[call-overload]

    def safeguards(self, noisy: Tensor, known: Known | None) -> Safeguards:
        """One image (1, C, H, W) with what is known or measured of its noise."""
        measure = measure_noise if self.whitened else measure_strength
        return Safeguards.of(noisy, known, stabilise=self.stabilise, measure=measure)

    def denoise_image(
        self, guard: Safeguards, network: nn.Module, index: int, restart: int
    ) -> Procedure[tuple[Tensor, Record]]:
        """One measured image: leave it alone, or fit it where its pixels vary, once more if that fails."""
        if reason := guard.reason_to_leave(self.clean_sigma):
            return guard.leave(reason)
        seen = varying_pixels(guard.noisy)
        box = bounding_box(seen)
        image = NoisyImage(guard.noisy, seen, guard.noise).crop(box)
        for attempt in (2 * restart, 2 * restart + 1):
            seed = slice_seed(self.seed, index, attempt, guard.noisy)
            result = yield from self.fit_image(image, network, seed, restart)
            if not result.failed:
                break
        removed = torch.zeros_like(guard.noisy)
        if not result.failed:
            removed[box] = torch.where(image.seen, image.pixels - result.image, 0)
        residual = root_mean_square(removed[seen])
        sigma, tv_weight = guard.noise.sigma, self.used_tv_weight(image, restart)
        record = Record(sigma=sigma, tv_weight=tv_weight, seed=seed, residual=residual)
        record = record_fit(record, result, enough_steps=self.enough_steps)
        excess = residual / sigma if self.stopping == "discrepancy" and residual > sigma else 1
        return guard.finish(guard.noisy - removed / excess, record, whitened=self.whitened)

    def request(
        self,
        image: NoisyImage,
        network: nn.Module,
        objective: Objective,
        *,
        least_steps: int | None = None,
        **others: Any,
    ) -> FitRequest:
        """The fit of a network to an image under an objective; others are fields in place of the configuration's."""
        return FitRequest(
            network=network,
            noisy=image.pixels,
            objective=objective,
            steps=self.steps,
            averaging=self.averaging,
            rules=self.rules(image, self.least_steps if least_steps is None else least_steps),
            where=image.seen,
            **{"learning_rate": self.learning_rate, **others},
        )

    def layout(self, device: torch.device) -> torch.memory_format:
        """How weights and features lie in memory."""
        return torch.contiguous_format if device.type == "cpu" else torch.channels_last

    def rules(self, image: NoisyImage, least_steps: int) -> list[StoppingRule]:
        """When to stop the fit of an image."""
        if callable(self.stopping):
            return [self.stopping()]
        if self.stopping == "discrepancy":
            least = least_steps * image.pixels.shape[1] * min(1, STRONG / image.noise.sigma)
            return [Discrepancy(self.discrepancy * image.noise.sigma, warm_up=math.ceil(least / CHECK_EVERY) - 1)]
        return [MovingVariance()] if self.stopping == "variance" else []


def fit_tiles(
    fit_one: Callable[[NoisyImage, nn.Module], Procedure[FitResult]], image: NoisyImage, network: nn.Module, side: int
) -> Procedure[FitResult]:
    """The fit of an image; of one larger than a tile in tiles, each a fit that begins with the network as given."""
    size = image.pixels.shape[-2:]
    if max(size) <= side:
        return (yield from fit_one(image, network))
    places, tiles, results = place_tiles(size, side), list[Tensor](), list[FitResult]()
    for place in places:
        tile = image.crop(place)
        if tile.seen.any():
            results.append((yield from fit_one(tile, network)))
        tiles.append(results[-1].image if tile.seen.any() else tile.pixels)
    whole = next((result for result in results if result.failed), results[0])
    return replace(whole, image=blend_tiles(tiles, places, size), steps=max(result.steps for result in results))


def count_seconds(procedure: Procedure[tuple[Tensor, Record]], seconds: float) -> Procedure[tuple[Tensor, Record]]:
    """The same procedure; its record has the seconds of its own work and fits, without those of waiting for others."""
    result: Any = None
    while True:
        started = time.perf_counter()
        try:
            request = procedure.send(result)
        except StopIteration as end:
            image, record = end.value
            return image, replace(record, seconds=seconds + time.perf_counter() - started)
        seconds += time.perf_counter() - started
        result = yield request
        seconds += result.seconds


def average_restarts(outcomes: Sequence[Sequence[tuple[Tensor, Record]]]) -> Result:
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


def record_fit(record: Record, result: FitResult, *, enough_steps: int | None) -> Record:
    """The record of a slice that was fitted, with a warning where the fit fell short."""
    warnings, short = [], enough_steps is None or result.steps < enough_steps
    if result.failed:
        warnings.append("the fit failed twice; the input is given back")
    elif short and result.stop_reason == "steps" and result.trace[-1][2] > UNDER_FITTED * record.sigma:
        warnings.append(f"under-fitted: after {result.steps} steps more than the noise was left over; allow more steps")
    return replace(
        record, steps=result.steps, stop_reason=result.stop_reason, trace=result.trace, warnings=tuple(warnings)
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
