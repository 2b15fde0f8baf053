"""Large images in overlapping tiles, so that the memory needed does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

OVERLAP = 0.25
Place = tuple[Any, ...]  # an index


def place_tiles(size: Sequence[int], side: int) -> list[Place]:
    """Where the tiles of this side lie in an image (…, height, width): they overlap by a quarter.

    No tile is larger than the image along either axis: what is beyond its edge would be padded, and taken for image.

    >>> [(int(columns.start), int(columns.stop)) for _, _, columns in place_tiles((5, 20), 16)]
    [(0, 16), (4, 20)]
    """
    from monai.data.utils import dense_patch_slices  # takes seconds, for which smaller images need not wait

    window = [min(side, length) for length in size]
    steps = [part if part == length else int(part * (1 - OVERLAP)) for part, length in zip(window, size, strict=True)]
    return [(..., *place) for place in dense_patch_slices(size, window, steps)]


def blend_tiles(tiles: Sequence[Tensor], places: Sequence[Place], size: Sequence[int]) -> Tensor:
    """The image of this height and width that tiles (1, C, h, w) make, weighted by a Gaussian about their middles.

    >>> import torch
    >>> image = torch.rand(1, 1, 5, 40, generator=torch.Generator().manual_seed(0))
    >>> places = place_tiles((5, 40), 16)
    >>> torch.allclose(blend_tiles([image[place] for place in places], places, (5, 40)), image)
    True
    """
    from monai.data.utils import compute_importance_map

    first: Any = tiles[0]
    weight = compute_importance_map(first.shape[-2:], "gaussian", sigma_scale=0.125, device=first.device)
    total, weights = (first.new_zeros(1, channels, *size) for channels in (first.shape[1], 1))
    for tile, place in zip(tiles, places, strict=True):
        total[place] += tile * weight
        weights[place] += weight
    return total / weights


def map_tiles(function: Callable[[Tensor], Tensor], image: Tensor, side: int) -> Tensor:
    """Apply a function to an image (1, C, H, W), tile by tile if it is larger than a tile.

    >>> import torch
    >>> image = torch.rand(1, 1, 5, 40, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(map_tiles(lambda tile: 2 * tile, image, 16), 2 * image)
    True
    """
    size = image.shape[-2:]
    if max(size) <= side:
        return function(image)
    places = place_tiles(size, side)
    return blend_tiles([function(image[place]) for place in places], places, size)
