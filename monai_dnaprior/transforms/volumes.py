"""From a volume in its own units to the slices that a denoiser takes, and back."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_flag, check_whole, is_whole
from ..denoisers.result import UNTREATED, Denoiser, Record, Result
from ..noise.intensity import intensity_range
from ..noise.rician import without_rician_bias
from .out_of_memory import within_memory

SPATIAL_AXES = 3


def denoise_volume(
    volume: Tensor,
    denoiser: Denoiser,
    *,
    slice_dim: int = -1,
    channel_wise: bool = False,
    batch_size: int = 8,
    rician: bool = False,
    progress: bool = False,
) -> Result:
    r"""Denoise every 2D slice of a volume, in the volume's own units.

    .. math:: \text{denoised} = v - s\,(x - D(x)), \qquad x = (v - o) / s

    where D is the denoiser and the 0.5th and 99.5th percentiles of the volume become 0 and 1. Nothing is clipped, and
    a slice that D gives back as it came is bit-identical in the result.

    Args:
        volume: (C, H, W) or (C, H, W, D), real numbers of any type and units. NaN and infinite voxels are hidden
            from the denoiser and come out as they are.
        denoiser: see :class:`~monai_dnaprior.denoisers.result.Denoiser`.
        slice_dim: the spatial axis, from -3 to 2, along which a volume is cut into slices; a 2D image is one slice.
        channel_wise: treat every channel as a volume of its own, with its own range of intensities (modalities, time
            points); otherwise the channels of a slice are denoised together (RGB).
        batch_size: how many slices the denoiser is handed at once. The result does not depend on it, on an
            accelerator but for rounding, about a thousandth of the range of intensities.
        rician: the volume holds magnitudes (MR): take away what Rician noise adds to their mean, see
            :func:`~monai_dnaprior.noise.rician.without_rician_bias`.
        progress: show a progress bar.

    Returns:
        the denoised volume, float32, on the same device; the records in the order of the slices (channel after channel
        if ``channel_wise``); and, in the volume's units and 0 where nothing was seen, the spread that a denoiser gives.
    """
    check_volume(volume)
    image, spread = torch.empty(volume.shape, dtype=torch.float32, device=volume.device), None
    records: list[Record] = []
    options: dict[str, Any] = {
        "slice_dim": slice_dim,
        "channel_wise": channel_wise,
        "batch_size": batch_size,
        "rician": rician,
    }
    with tqdm(total=slice_count(volume, slice_dim, channel_wise), unit="slice", disable=not progress) as bar:
        for part in denoised_parts(volume, denoiser, **options):
            image[part.place] = (volume[part.place].double() - part.removed).float()
            if part.spread is not None:
                spread = torch.zeros_like(image) if spread is None else spread
                spread[part.place] = part.spread
            records += part.records
            bar.update(len(part.indices))
    return Result(image, records, spread)


@dataclass(frozen=True)
class Part:
    """Some neighbouring slices of a volume.

    Attributes:
        indices: their numbers, from 0; channel after channel where each is a volume of its own.
        place: where they are in the volume.
        removed: what the denoiser takes away there, float64, in the volume's units; 0 where nothing is seen.
        spread: that the denoiser gives, in the volume's units, if it does.
        records: one a slice.
        span: what 1 in the records' units is in the volume's.
    """

    indices: range
    place: tuple[slice, ...]
    removed: Tensor
    spread: Tensor | None
    records: list[Record]
    span: float


def denoised_parts(
    volume: Tensor,
    denoiser: Denoiser,
    *,
    slice_dim: int = -1,
    channel_wise: bool = False,
    batch_size: int = 8,
    rician: bool = False,
    done: Container[int] = (),
) -> Iterator[Part]:
    """What :func:`denoise_volume` takes from a volume, part by part, without the slices that are done."""
    check_volume(volume)
    check_slicing(slice_dim=slice_dim, batch_size=batch_size, channel_wise=channel_wise, rician=rician)
    if rician:
        check_magnitudes(volume)
    volume = volume.detach()
    axis = slice_dim + 1 if slice_dim >= 0 else slice_dim
    depth = slice_count(volume, slice_dim)
    for number in range(len(volume) if channel_wise else 1):
        channels = slice(number, number + 1) if channel_wise else slice(None)
        offset, span = intensity_range(volume[channels])
        for indices in batches(range(number * depth, (number + 1) * depth), batch_size, done):
            start, stop = indices.start - number * depth, indices.stop - number * depth
            place = place_of(volume, channels, axis, slice(start, stop))
            batch = cut(volume[place], axis)
            noisy = ((batch.double() - offset) / span).float()
            visible = noisy.isfinite()
            noisy = torch.where(visible, noisy, 0)
            result = within_memory(denoiser, noisy, indices)
            result = unbiased(noisy, result, offset / span) if rician else result
            removed = torch.where(visible, span * (noisy.double() - result.image.double()), 0)
            spread = (
                None
                if result.spread is None
                else joined(torch.where(visible, span * result.spread, 0), axis, volume.ndim)
            )
            yield Part(indices, place, joined(removed, axis, volume.ndim), spread, result.records, span)


def batches(indices: range, batch_size: int, done: Container[int]) -> Iterator[range]:
    """Neighbours among the slices that are not done, so many at most.

    >>> list(batches(range(6), 2, done={1}))
    [range(0, 1), range(2, 4), range(4, 6)]
    """
    start = indices.start
    for index in indices:
        if index in done:
            if index > start:
                yield range(start, index)
            start = index + 1
        elif index + 1 - start == batch_size or index == indices[-1]:
            yield range(start, index + 1)
            start = index + 1


def unbiased(noisy: Tensor, result: Result, zero: float) -> Result:
    """The result without the bias of Rician noise, where a magnitude of 0 has the value -zero in noisy images."""
    image, sigmas = without_rician_bias(noisy + zero, result.image + zero)
    treated = [record.stop_reason not in UNTREATED for record in result.records]
    image = torch.where(noisy.new_tensor(treated, dtype=torch.bool)[:, None, None, None], image - zero, result.image)
    records = [
        replace(record, rician_sigma=sigma) if one else record
        for record, sigma, one in zip(result.records, sigmas, treated, strict=True)
    ]
    return replace(result, image=image, records=records)


def slice_count(volume: Tensor, slice_dim: int, channel_wise: bool = False) -> int:
    """How many slices there are in a volume (C, H, W, D), or an image (C, H, W)."""
    depth = 1 if volume.ndim == 3 else volume.shape[1:][slice_dim]
    return depth * len(volume) if channel_wise else depth


def place_of(volume: Tensor, channels: slice, axis: int, slices: slice) -> tuple[slice, ...]:
    """The index of some slices along an axis of a volume; an image is one slice."""
    place = [channels, *[slice(None)] * (volume.ndim - 1)]
    if volume.ndim > SPATIAL_AXES:
        place[axis] = slices
    return tuple(place)


def joined(slices: Tensor, axis: int, ndim: int) -> Tensor:
    """The way back from :func:`cut`."""
    return slices[0] if ndim == SPATIAL_AXES else slices.movedim(0, axis)


def cut(volume: Tensor, axis: int) -> Tensor:
    """The slices of a volume (C, H, W, D), or of an image (C, H, W), as (B, C, H, W), sharing its memory."""
    return volume[None] if volume.ndim == 3 else volume.movedim(axis, 0)


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


def check_slicing(*, slice_dim: int, batch_size: int, **flags: bool) -> dict[str, Any]:
    """All of them, if a volume can be cut that way; what is wrong is refused by name."""
    if not is_whole(slice_dim) or not -SPATIAL_AXES <= slice_dim < SPATIAL_AXES:
        raise ValueError(f"slice_dim={slice_dim} is no spatial axis; choose one of -3 to 2 (-1 is the last).")
    check_whole(1, batch_size=batch_size)
    check_flag(**flags)
    return {"slice_dim": slice_dim, "batch_size": batch_size, **flags}
