"""What is done where memory does not suffice: fewer slices at once, then tiles of one, then the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..denoisers.outcome import UNTREATED
from ..denoisers.record import Known
from ..denoisers.result import Denoiser, Result
from ..fitting.tiles import map_tiles
from ..noise.model import NoiseModel

Outcome = TypeVar("Outcome")
SMALLEST_TILE = 128  # side
SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "unable to find an engine")  # in what is said


def within_memory(denoiser: Denoiser, noisy: Tensor, indices: range, noise: Sequence[Known] | None = None) -> Result:
    """Denoise images (B, C, H, W), if memory does not suffice by halves; one image in tiles, at last on the CPU.

    The side of the tiles is half of the image's, and is halved again down to 128 pixels. The records of images that
    took another way say so.

    Raises:
        MemoryError: on a CPU, which is no way out of its own memory.
    """
    result = attempt(partial(denoise, denoiser, noisy, indices, noise))
    if result is not None:
        return result
    if len(noisy) > 1:
        half = len(noisy) // 2
        parts = (slice(0, half), slice(half, None))
        first, last = (within_memory(denoiser, noisy[part], indices[part], noise and noise[part]) for part in parts)
        return add_warning(join_results(first, last), f"out of memory with {len(noisy)} slices at once: halved")
    side = max(noisy.shape[-2:]) // 2
    while side >= SMALLEST_TILE:
        result = attempt(partial(denoise_tiles, denoiser, noisy, indices, noise, side))
        if result is not None:
            return add_warning(result, f"out of memory with the whole slice: denoised in tiles of {side}×{side} pixels")
        side //= 2
    if noisy.device.type == "cpu":
        tried = ", in tiles too" if max(noisy.shape[-2:]) // 2 >= SMALLEST_TILE else ""
        raise MemoryError(f"out of memory with a slice of {noisy.shape[-2]}×{noisy.shape[-1]} pixels{tried}.")
    here = torch.device("cpu")
    known = noise and [each.to(here) for each in noise]
    result = move_result(attribute(denoise(denoiser, noisy.to(here), indices, known)), noisy.device)
    return add_warning(result, f"out of memory on {noisy.device}: denoised on the CPU")


def denoise(denoiser: Denoiser, noisy: Tensor, indices: range, noise: Sequence[Known] | None) -> Result:
    """Call a denoiser, which need not know of ``noise`` if none is known."""
    known: dict[str, Any] = {} if noise is None else {"noise": noise}
    return denoiser(noisy, slice_indices=indices, **known)


def attempt(function: Callable[[], Outcome]) -> Outcome | None:
    """What a function gives, or None if the memory did not suffice; what the attempt took is then freed."""
    try:
        return function()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    gc.collect()  # what failed is held by its own traceback
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether this is why; PyTorch's libraries and its CPU have no class of error for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in SIGNS)


def denoise_tiles(
    denoiser: Denoiser, noisy: Tensor, indices: range, noise: Sequence[Known] | None, side: int
) -> Result:
    """One image (1, C, H, W) in tiles, each with a noise level of its own; the record is that of the first treated."""
    results: list[Result] = []
    whole = noise[0] if noise else None
    strength = whole.deviation if isinstance(whole, NoiseModel) else whole

    def denoised(tile: Tensor) -> Tensor:
        tile, part = tile.tensor_split([noisy.shape[1]], 1)
        known = whole
        if strength is not None:
            known = replace(whole, deviation=part) if isinstance(whole, NoiseModel) else part
        results.append(denoise(denoiser, tile, indices, None if known is None else [known]))
        maps = [map_ for map_ in (results[-1].image, results[-1].spread) if map_ is not None]
        return torch.cat(maps, 1)

    stacked = noisy if strength is None else torch.cat((noisy, strength), 1)
    image, *spread = map_tiles(denoised, stacked, side).split(noisy.shape[1], 1)
    records = [result.records[0] for result in results]
    record = next((record for record in records if record.stop_reason not in UNTREATED), records[0])
    warnings = tuple(dict.fromkeys(text for record in records for text in record.warnings))
    record = replace(record, seconds=sum(record.seconds for record in records), warnings=warnings)
    return Result(image, [record], *spread)


def join_results(first: Result, last: Result) -> Result:
    """The results of two batches as that of one."""
    spreads = [spread for spread in (first.spread, last.spread) if spread is not None]
    records = [*first.records, *last.records]
    guards = None if first.guards is None or last.guards is None else [*first.guards, *last.guards]
    return Result(torch.cat((first.image, last.image)), records, torch.cat(spreads) if spreads else None, guards)


def attribute(result: Result) -> Result:
    """The result, each of whose records names the device that computed, if it does not yet."""
    device = str(result.image.device)
    return replace(result, records=[replace(record, device=record.device or device) for record in result.records])


def move_result(result: Result, device: torch.device) -> Result:
    """The result on this device."""
    spread = None if result.spread is None else result.spread.to(device)
    return replace(result, image=result.image.to(device), spread=spread)


def add_warning(result: Result, text: str) -> Result:
    """The result with one more warning in each of its records."""
    records = [replace(record, warnings=(*record.warnings, text)) for record in result.records]
    return replace(result, records=records)
