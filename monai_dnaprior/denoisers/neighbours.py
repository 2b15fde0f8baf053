"""The slices of a volume once more: each filtered with what its neighbours show."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..fitting.stopping import root_mean_square
from ..noise.background import exact_background, fill_background
from ..noise.estimate import varying_pixels
from .nonlocal_bayes import refine
from .outcome import FALLBACK
from .result import Known, Record
from .safeguards import Safeguards

ROUNDS = 2  # of the filter


class Measuring(Protocol):
    """A method that measures the noise of an image (1, C, H, W) before a filter."""

    def safeguards(self, noisy: Tensor, known: Known | None) -> Safeguards: ...


def refine_slice(
    method: Measuring, noisy: Tensor, known: Known | None, estimate: Tensor, around: Tensor, record: Record
) -> tuple[Tensor, Record]:
    """Filter a slice (1, C, H, W) that a method has denoised, guided by it and by its neighbours.

    No more is removed than the noise, or what the method has removed.

    Args:
        method: that measures the noise of the slice.
        noisy: the slice as it came.
        known: what is known of its noise, if anything.
        estimate: the slice, denoised.
        around: the neighbours, denoised, (slices, C, H, W).
        record: of the slice.

    Returns:
        the slice, and its record with residual and time; both as they were where the filter fails.
    """
    with torch.no_grad():
        guard = method.safeguards(noisy, known)
        guide, others = as_seen(guard, estimate), [as_seen(guard, image) for image in around.split(1)]
        refined = refine(guard.noisy, guide, guard.noise, rounds=ROUNDS, around=torch.cat([guide[:0], *others]))
        seen = varying_pixels(guard.noisy)
        removed = torch.where(seen, guard.noisy - refined, 0)
        before, after = (root_mean_square(values[seen]) for values in (guard.noisy - guide, removed))
        part = min(1.0, max(guard.noise.sigma, before) / after) if after else 1.0
        image, finished = guard.finish(guard.noisy - part * removed, record)
    if finished.stop_reason == FALLBACK:
        return estimate, record
    return image, replace(record, residual=after, seconds=record.seconds + finished.seconds)


def as_seen(guard: Safeguards, image: Tensor) -> Tensor:
    """An image (1, C, H, W) mirrored into its background, on the grey scale of another that is guarded."""
    filled = fill_background(image, exact_background(image))
    return filled if guard.stabiliser is None else guard.stabiliser(filled)
