"""From a volume in its own units to the slices that a denoiser takes, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoisers.neighbours import refine_slice
from ..denoisers.outcome import UNTREATED
from ..denoisers.record import Known, Record
from ..denoisers.result import Denoiser, Result
from ..denoisers.safeguards import measure_all, measure_slices
from ..fitting.threads import side_by_side
from ..noise.intensity import intensity_range
from ..noise.model import NoiseModel, measured_slices
from ..noise.rician import without_rician_bias
from ..progress import Progress
from .out_of_memory import attempt, attribute, join_results, within_memory
from .slicing import Slicing, batches

WITHOUT_NEIGHBOURS = "out of memory with the neighbouring slices: denoised without them"
NOISIER = 1.5  # times the noise of a slice is the most that a neighbour may have to be filtered together with it

Noise = float | np.ndarray | Tensor | NoiseModel  # what is known of it, in the units of a volume


def denoise_volume(
    volume: Tensor, denoiser: Denoiser, slicing: Slicing | None = None, *, noise: Noise | None = None
) -> Result:
    r"""Denoise every 2D slice of a volume, in the volume's own units.

    Intensities are scaled so that the 0.5th and 99.5th percentiles of the volume become 0 and 1, and what the
    denoiser D takes away is scaled back and subtracted:

    .. math:: \text{denoised} = v - s\,(x - D(x)), \qquad x = (v - o) / s

    Nothing is clipped, and a slice that D gives back as it came is bit-identical in the result. Where neighbouring
    voxels are alike, the correlation of the noise is measured in several slices together.

    Args:
        volume: (C, H, W) or (C, H, W, D), real numbers of any type and units. NaN and infinite voxels are hidden
            from the denoiser and come out as they are.
        denoiser: see :class:`~monai_dnaprior.denoisers.result.Denoiser`.
        slicing: how the volume is cut; None for the defaults of :class:`Slicing`.
        noise: what is known of the noise, in the volume's units, in place of what is measured in each slice: its
            standard deviation, one number or a map of the volume's shape, (C, H, W[, D]) or (H, W[, D]); or a
            :class:`~monai_dnaprior.noise.model.NoiseModel`, which says its correlation as well.

    Returns:
        the denoised volume, float32, on the same device; the records in the order of the slices (channel after channel
        if ``channel_wise``); and, in the volume's units and 0 where nothing was seen, the spread that a denoiser gives.
    """
    slicing = slicing or Slicing()
    check_volume(volume)
    image, spread = torch.empty(volume.shape, dtype=torch.float32, device=volume.device), None
    records: list[Record] = []
    with Progress(slicing.count(volume.shape), unit="slice", name=f"on {volume.device}", shown=slicing.progress) as bar:
        for part in denoise_parts(volume, denoiser, slicing, noise=noise):
            image[part.place] = (volume[part.place].double() - part.residual).float()
            if part.spread is not None:
                spread = torch.zeros_like(image) if spread is None else spread
                spread[part.place] = part.spread
            records += part.records
            bar.advance(len(part.indices))
    return Result(image, records, spread)


@dataclass(frozen=True)
class Part:
    """Some neighbouring slices of a volume.

    Attributes:
        indices: their numbers, from 0; channel after channel where each is a volume of its own.
        place: where they are in the volume.
        residual: input minus output there, float64, in the volume's units; 0 where nothing is seen.
        spread: that the denoiser gives, in the volume's units, if it does.
        records: one a slice.
        span: what 1 in the records' units is in the volume's.
    """

    indices: range
    place: tuple[slice, ...]
    residual: Tensor
    spread: Tensor | None
    records: list[Record]
    span: float


def denoise_parts(
    volume: Tensor, denoiser: Denoiser, slicing: Slicing, *, done: Container[int] = (), noise: Noise | None = None
) -> Iterator[Part]:
    """What :func:`denoise_volume` takes from a volume, part by part, without the slices that are done."""
    check_volume(volume)
    if slicing.rician:
        check_magnitudes(volume)
    volume, depth = volume.detach(), slicing.depth(volume.shape)
    at_once = slicing.at_once(volume[:1] if slicing.channel_wise else volume)
    slicing = replace(slicing, batch_size=at_once, neighbours=used_neighbours(denoiser, slicing.neighbours))
    strength = None if noise is None or isinstance(noise, NoiseModel) else strength_of(noise, volume)
    for number in range(len(volume) if slicing.channel_wise else 1):
        channels = slice(number, number + 1) if slicing.channel_wise else slice(None)
        offset, span = intensity_range(volume[channels])
        stack = Stack(volume, slicing, channels, range(number * depth, (number + 1) * depth), offset, span)
        if strength is not None:
            stack = replace(stack, strength=strength)
        elif isinstance(noise, NoiseModel):
            stack = replace(stack, model=noise.to(volume.device).scale(1 / span))
        elif getattr(method_of(denoiser), "whitened", False):
            stack = replace(stack, model=stack.shared_noise())
        for some, seen, result in denoise_slices(stack.look, denoiser, slicing, stack.indices, done):
            result = remove_rician_bias(seen.noisy, result, offset / span) if slicing.rician else result
            residual = torch.where(seen.visible, span * (seen.noisy.double() - result.image.double()), 0)
            spread = None if result.spread is None else torch.where(seen.visible, span * result.spread, 0)
            yield Part(
                some,
                stack.place(some),
                slicing.join(residual, volume.ndim),
                None if spread is None else slicing.join(spread, volume.ndim),
                result.records,
                span,
            )


@dataclass(frozen=True)
class Look:
    """Some slices as a denoiser sees them: (B, C, H, W), 0 where they are not visible, and what is known of noise."""

    noisy: Tensor
    visible: Tensor
    known: list[Known] | None


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of a volume, or of a channel that is a volume of its own.

    Attributes:
        volume: (C, H, W[, D]), in its own units.
        slicing: how it is cut.
        channels: those of the volume that the slices have.
        indices: the numbers of the slices.
        offset, span: of the map of their intensities to about [0, 1].
        strength: standard deviation of the noise in every voxel, if it is known.
        model: of the noise, in units in which the span is 1, if it is known.
    """

    volume: Tensor
    slicing: Slicing
    channels: slice
    indices: range
    offset: float
    span: float
    strength: Tensor | None = None
    model: NoiseModel | None = None

    def place(self, some: range) -> tuple[slice, ...]:
        """Where some of the slices are in the volume."""
        first = self.indices.start
        return self.slicing.place(self.volume.ndim, self.channels, slice(some.start - first, some.stop - first))

    def look(self, some: range) -> Look:
        """Some of the slices as a denoiser sees them."""
        place = self.place(some)
        noisy = ((self.slicing.cut(self.volume[place]).double() - self.offset) / self.span).float()
        visible = noisy.isfinite()
        known: list[Known] | None = None if self.model is None else [self.model] * len(noisy)
        if self.strength is not None:
            strength = (self.slicing.cut(self.strength[place]) / self.span).float()
            known = list(strength.mean(1, keepdim=True).split(1))
        return Look(torch.where(visible, noisy, 0), visible, known)

    def shared_noise(self) -> NoiseModel | None:
        """Measure the noise that the slices share.

        None where it is white or cannot be told from anatomy, and of a single slice.
        """
        if len(self.indices) == 1:
            return None
        size = self.look(self.indices[:1]).noisy.shape[-2:]
        chosen = measured_slices(len(self.indices) - 1, *size)
        return measure_slices(torch.stack([self.look(self.indices[number : number + 2]).noisy for number in chosen]))


def denoise_slices(
    look: Callable[[range], Look], denoiser: Denoiser, slicing: Slicing, indices: range, done: Container[int]
) -> Iterator[tuple[range, Look, Result]]:
    """Those of a volume's slices that are not done, some at a time: their numbers, as they were seen, and denoised.

    A slice waits until its neighbours are denoised, even those that are done: the results of a batch and of the
    neighbours before it are held.
    """
    reach = (slicing.neighbours or 0) if len(indices) > 1 else 0
    for run in batches(indices, len(indices), done):
        needed = range(max(indices.start, run.start - reach), min(indices.stop, run.stop + reach))
        start, held = run.start, list[Result]()
        for batch in batches(needed, slicing.batch_size, ()):  # type: ignore[arg-type]
            seen = look(batch)
            held.append(attribute(within_memory(denoiser, seen.noisy, batch, seen.known)))
            stop = run.stop if batch.stop == needed.stop else min(run.stop, batch.stop - reach)
            if stop <= start:
                continue
            results = functools.reduce(join_results, held)
            first, ready = batch.stop - len(results.records), range(start, stop)
            seen = seen if ready == batch else look(ready)
            among = range(start - first, stop - first)
            whole = look(range(first, batch.stop)) if reach else seen
            yield ready, seen, refine_among(denoiser, whole, results, among, reach) if reach else results
            start = stop
            held = [take(results, range(max(0, start - reach - first), len(results.records)))] if reach else []


def refine_among(denoiser: Denoiser, seen: Look, results: Result, among: range, reach: int) -> Result:
    """Some of the results, each after a filter of the slice together with its neighbours.

    Slices that were left alone stay so, and lend nothing; nor do those whose noise is much stronger.
    """
    method, records = method_of(denoiser), results.records
    treated = [record.stop_reason not in UNTREATED for record in records]

    def refined(number: int) -> tuple[Tensor, Record]:
        image, record = results.image[number : number + 1], records[number]
        near = range(max(0, number - reach), min(len(records), number + reach + 1))
        window = [index for index in near if treated[index] and records[index].sigma <= NOISIER * record.sigma]
        if not treated[number] or window == [number]:
            return image, record

        def filter_window() -> tuple[Tensor, Record]:
            one = slice(number, number + 1)
            guard = None if results.guards is None else results.guards[number]
            if guard is None:
                (guard,) = measure_all(method.safeguards, seen.noisy[one], seen.known and seen.known[one])
            return refine_slice(guard, seen.noisy[window], results.image[window], window.index(number), record)

        filtered = attempt(filter_window)
        return filtered or (image, replace(record, warnings=(*record.warnings, WITHOUT_NEIGHBOURS)))

    pairs = side_by_side(refined, among, device=seen.noisy.device)
    return replace(
        take(results, among), image=torch.cat([image for image, _ in pairs]), records=[record for _, record in pairs]
    )


def take(result: Result, numbers: range) -> Result:
    """Some images of a result that lie behind each other."""
    place = slice(numbers.start, numbers.stop)
    spread = None if result.spread is None else result.spread[place]
    guards = None if result.guards is None else result.guards[place]
    return Result(result.image[place], result.records[place], spread, guards)


def remove_rician_bias(noisy: Tensor, result: Result, zero: float) -> Result:
    """The result without the bias of Rician noise, where a magnitude of 0 has the value -zero in noisy images."""
    image, sigmas = without_rician_bias(noisy + zero, result.image + zero)
    treated = [record.stop_reason not in UNTREATED for record in result.records]
    image = torch.where(noisy.new_tensor(treated, dtype=torch.bool)[:, None, None, None], image - zero, result.image)
    records = [
        replace(record, rician_sigma=sigma) if one else record
        for record, sigma, one in zip(result.records, sigmas, treated, strict=True)
    ]
    return replace(result, image=image, records=records)


def strength_of(noise: float | np.ndarray | Tensor, volume: Tensor) -> Tensor:
    """The standard deviation of the noise in every voxel of a volume (C, H, W[, D])."""
    strength = torch.as_tensor(noise).detach().to(volume.device, torch.float64)
    if strength.ndim and tuple(strength.shape) not in (tuple(volume.shape), tuple(volume.shape[1:])):
        raise ValueError(
            f"noise.shape={tuple(strength.shape)} is not that of the image, {tuple(volume.shape[1:])}; give one number "
            "or a map of this shape."
        )
    if not (strength.isfinite().all() and (strength > 0).all()):
        raise ValueError(f"noise from {strength.min():g} to {strength.max():g} must be positive and finite everywhere.")
    return strength.expand(volume.shape)


def check_volume(volume: Tensor) -> None:
    """Refuse what has no intensities to denoise, naming what to do."""
    if volume.is_complex():
        raise TypeError(f"image.dtype={volume.dtype} is complex; denoise its magnitude, image.abs().")
    if volume.dtype == torch.bool:
        raise TypeError("image.dtype=torch.bool is a mask, not an image; pass the image's key instead.")
    if volume.ndim not in (3, 4):
        raise ValueError(
            f"image.shape={tuple(volume.shape)} must be (C, H, W) or (C, H, W, D); put EnsureChannelFirst before."
        )
    if volume.numel() == 0:
        raise ValueError(f"image.shape={tuple(volume.shape)} is empty; every axis must be at least 1.")


def check_magnitudes(volume: Tensor) -> None:
    """Refuse a volume that holds no magnitudes."""
    values = volume[volume.isfinite()]
    if (values < 0).any():
        raise ValueError(f"rician=True is for magnitudes (MR), but the least value is {values.min():g}; leave it out.")


def check_spread(denoiser: Denoiser, wanted: bool) -> None:
    """Refuse to give the spread over restarts of what is not restarted."""
    if wanted and getattr(denoiser, "restarts", 1) < 2:
        raise ValueError("spread=True needs a fit that is restarted; set the option restarts to at least 2.")


def used_neighbours(denoiser: Denoiser, wanted: int | None) -> int:
    """How many slices on each side help to denoise one: what is wanted, or if that is None what the method chooses.

    A method's choice is its attribute ``neighbours``; without it there are none.

    Raises:
        ValueError: some are wanted of a method that measures no noise for a filter.
    """
    method = method_of(denoiser)
    if wanted and not hasattr(method, "safeguards"):
        raise ValueError(f"neighbours={wanted} is for methods with a network, as dna-prior or iddp; leave it out.")
    return getattr(method, "neighbours", 0) if wanted is None else wanted


def method_of(denoiser: Any) -> Any:
    """The method of a denoiser: itself, or what a :func:`functools.partial` hands a network."""
    return denoiser.func if isinstance(denoiser, functools.partial) else denoiser
