"""Filter each denoised slice of a volume once more, together with its neighbours."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from ..fitting.stopping import root_mean_square
from ..noise.background import exact_background, fill_background
from ..noise.estimate import varying_pixels
from .nonlocal_bayes import refine
from .outcome import FALLBACK
from .record import Record
from .safeguards import Safeguards

ROUNDS = 3  # of the filter


def refine_slice(
    guard: Safeguards, noisy: Tensor, estimates: Tensor, middle: int, record: Record
) -> tuple[Tensor, Record]:
    """Filter a slice that a method has denoised together with its neighbours.

    The root mean square of what is removed is at most sigma, or what the method has removed if that is more.

    Args:
        guard: the safeguards of the slice, with what is known or measured of its noise.
        noisy: the slice and its neighbours as they came, (slices, C, H, W).
        estimates: the same slices, denoised.
        middle: the slice's number among them.
        record: of the slice.

    Returns:
        the slice, (1, C, H, W), and its record with neighbours, residual and time; both as they were where the filter
        fails.
    """
    wanted = slice(middle, middle + 1)
    with torch.no_grad():
        guard = replace(guard.to(noisy.device), started=time.perf_counter())
        seen, guides = (
            torch.cat([as_seen(guard, image) for image in images.split(1)]) for images in (noisy, estimates)
        )
        refined = refine(seen, guides, guard.noise, rounds=ROUNDS, middle=middle)
        varying = varying_pixels(guard.noisy)
        removed = torch.where(varying, guard.noisy - refined, 0)
        before, after = (root_mean_square(values[varying]) for values in (guard.noisy - guides[wanted], removed))
        part = min(1.0, max(guard.noise.sigma, before) / after) if after else 1.0
        image, finished = guard.finish(guard.noisy - part * removed, record)
    if finished.stop_reason == FALLBACK:
        return estimates[wanted], record
    seconds = record.seconds + finished.seconds
    return image, replace(record, neighbours=len(noisy) - 1, residual=after, seconds=seconds)


def as_seen(guard: Safeguards, image: Tensor) -> Tensor:
    """An image (1, C, H, W) as a method sees it: mirrored into its background, on the grey scale of the guard."""
    filled = fill_background(image, exact_background(image))
    return filled if guard.stabiliser is None else guard.stabiliser(filled)
