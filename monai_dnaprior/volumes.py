"""From a volume in its own units to the slices that a denoiser takes, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .result import Denoiser, Record, Result

PERCENTILES = (0.5, 99.5)
SAMPLE = 2**20  # voxels whose percentiles are taken for those of a larger volume
SPATIAL_AXES = 3


def denoise_volume(
    volume: Tensor,
    denoiser: Denoiser,
    *,
    slice_dim: int = -1,
    channel_wise: bool = False,
    batch_size: int = 8,
    progress: bool = False,
) -> Result:
    r"""Denoise every 2D slice of a volume, in the volume's own units.

    .. math:: \text{denoised} = v - s\,(x - D(x)), \qquad x = (v - o) / s

    where D is the denoiser and the 0.5th and 99.5th percentiles of the volume become 0 and 1. Nothing is clipped, and
    a slice that D gives back as it came is bit-identical in the result.

    Args:
        volume: (C, H, W) or (C, H, W, D), real numbers of any type and units. NaN and infinite voxels are hidden
            from the denoiser and come out as they are.
        denoiser: see :class:`~monai_dnaprior.result.Denoiser`.
        slice_dim: the spatial axis, from -3 to 2, along which a volume is cut into slices; a 2D image is one slice.
        channel_wise: treat every channel as a volume of its own, with its own range of intensities (modalities, time
            points); otherwise the channels of a slice are denoised together (RGB).
        batch_size: how many slices the denoiser is handed at once. The result does not depend on it.
        progress: show a progress bar.

    Returns:
        the denoised volume, float32, on the same device; the records in the order of the slices (channel after channel
        if ``channel_wise``); and, in the volume's units and 0 where nothing was seen, the spread that a denoiser gives.
    """
    check_volume(volume)
    check_slicing(slice_dim=slice_dim, batch_size=batch_size)
    volume = volume.detach()
    parts = list(volume.split(1)) if channel_wise else [volume]
    depth = 1 if volume.ndim == 3 else volume.shape[1:][slice_dim]
    with tqdm(total=depth * len(parts), unit="slice", disable=not progress) as bar:
        results = [
            denoise_slices(part, denoiser, slice_dim, batch_size, number * depth, bar)
            for number, part in enumerate(parts)
        ]
    if len(results) == 1:
        return results[0]
    spreads = [result.spread for result in results if result.spread is not None]
    return Result(
        torch.cat([result.image for result in results]),
        [record for result in results for record in result.records],
        torch.cat(spreads) if spreads else None,
    )


def denoise_slices(
    volume: Tensor, denoiser: Denoiser, slice_dim: int, batch_size: int, first_index: int, bar: tqdm
) -> Result:
    """One volume whose channels belong together, (C, H, W) or (C, H, W, D); its slices count from first_index."""
    offset, span = intensity_range(volume)
    axis = slice_dim + 1 if slice_dim >= 0 else slice_dim
    image = torch.empty(volume.shape, dtype=torch.float32, device=volume.device)
    spread: Tensor | None = None
    records: list[Record] = []
    slices = cut(volume, axis)
    for start in range(0, len(slices), batch_size):
        part = slice(start, start + batch_size)
        batch = slices[part]
        visible = batch.isfinite()
        noisy = torch.where(visible, (batch.double() - offset) / span, 0).float()
        indices = range(first_index + start, first_index + start + len(batch))
        result = denoiser(noisy, slice_indices=indices)
        removed = span * (noisy.double() - result.image.double())
        cut(image, axis)[part] = torch.where(visible, batch.double() - removed, batch).float()
        if result.spread is not None:
            spread = torch.zeros_like(image) if spread is None else spread
            cut(spread, axis)[part] = torch.where(visible, span * result.spread, 0)
        records += result.records
        bar.update(len(batch))
    return Result(image, records, spread)


def cut(volume: Tensor, axis: int) -> Tensor:
    """The slices of a volume (C, H, W, D), or of an image (C, H, W), as (B, C, H, W), sharing its memory."""
    return volume[None] if volume.ndim == 3 else volume.movedim(axis, 0)


def intensity_range(volume: Tensor) -> tuple[float, float]:
    """Offset and span of the map to about [0, 1]: from robust percentiles, else from the extremes, else the identity.

    Of a large volume the percentiles are those of a million voxels, always the same ones.

    >>> intensity_range(torch.linspace(100, 300, 201))
    (101.0, 198.0)
    """
    values = volume.flatten()
    if len(values) > SAMPLE:
        places = torch.randint(len(values), (SAMPLE,), generator=torch.Generator().manual_seed(0))
        values = values[places.to(values.device)]
    values = values[values.isfinite()].double()
    low, high = np.percentile(values.cpu().numpy(), PERCENTILES) if len(values) else (0.0, 0.0)
    if high <= low:
        values = volume[volume.isfinite()].double()
        low, high = (values.min().item(), values.max().item()) if len(values) else (0.0, 0.0)
    return float(low), float(high - low) if high > low else 1.0


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


def check_slicing(*, slice_dim: int, batch_size: int) -> None:
    """Refuse a way of cutting that no volume has, naming the parameter."""
    if not -SPATIAL_AXES <= slice_dim < SPATIAL_AXES:
        raise ValueError(f"slice_dim={slice_dim} is no spatial axis; choose one of -3 to 2 (-1 is the last).")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
