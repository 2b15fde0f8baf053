"""Which pixels of an image a network is shown, and which it is not: blind spots, subimages, windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, pixel_unshuffle

NEIGHBOUR_PAIRS = ((0, 1), (0, 2), (1, 3), (2, 3), (1, 0), (2, 0), (3, 1), (3, 2))  # of a 2×2 cell, row by row
CROSS = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))
CELL = 4  # side of a cell of which Blind2Unblind hides one pixel at a time


def neighbours(noisy: Tensor, radius: int, generator: torch.Generator) -> Tensor:
    """Every pixel's value replaced by that of another one, drawn from the window of this radius around it."""
    height, width = noisy.shape[-2:]
    side = 2 * radius + 1
    draw = torch.randint(side**2 - 1, (len(noisy), height, width), generator=generator, device=noisy.device)
    draw = draw + (draw >= side**2 // 2)  # the middle is the pixel itself
    rows = torch.arange(height, device=noisy.device)[:, None] + draw // side - radius
    columns = torch.arange(width, device=noisy.device) + draw % side - radius
    places = mirror_places(rows, height) * width + mirror_places(columns, width)
    return noisy.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, noisy.shape[1], -1)).view_as(noisy)


def mirror_places(places: Tensor, size: int) -> Tensor:
    """Places from -size + 1 to 2 size - 2 brought into an axis of this size by mirroring at its ends."""
    return ((size - 1) - ((size - 1) - places.abs()).abs()).clamp(min=0)


def neighbour_pairs(noisy: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each 2×2 cell of (B, C, H, W) images the places, 0 to 3, of two adjacent pixels, (B, 1, H/2, W/2) each."""
    size = (len(noisy), 1, noisy.shape[-2] // 2, noisy.shape[-1] // 2)
    draw = torch.randint(len(NEIGHBOUR_PAIRS), size, generator=generator, device=noisy.device)
    first, second = torch.tensor(NEIGHBOUR_PAIRS, device=noisy.device).unbind(1)
    return first[draw], second[draw]


def subimage(image: Tensor, places: Tensor) -> Tensor:
    """The pixel at the given place of every 2×2 cell: (B, C, H, W) to (B, C, H/2, W/2); an odd last line is left out.

    >>> subimage(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[2]]]])).item()
    3.0
    """
    height, width = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    cells = pixel_unshuffle(image[..., :height, :width], 2).unflatten(1, (image.shape[1], 4))
    return cells.gather(2, places[:, :, None].expand(-1, image.shape[1], -1, -1, -1)).squeeze(2)


def blind(noisy: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
    """What the network makes of every pixel of (B, C, H, W) images without seeing it, a sixteenth at a time."""
    height, width = noisy.shape[-2:]
    rows, columns = torch.arange(height, device=noisy.device)[:, None], torch.arange(width, device=noisy.device)
    places = rows % CELL * CELL + columns % CELL
    around = cross_average(noisy)
    hidden = [places == place for place in range(CELL**2)]
    estimates = network(torch.cat([torch.where(mask, around, noisy) for mask in hidden])).chunk(len(hidden))
    return sum((mask * estimate for mask, estimate in zip(hidden, estimates, strict=True)), torch.zeros_like(noisy))


def cross_average(image: Tensor) -> Tensor:
    """The mean of each pixel's eight neighbours, those beside it with twice the weight of those across."""
    kernel = image.new_tensor(CROSS)[None, None] / 6
    planes = pad(image.flatten(0, 1)[:, None], (1, 1, 1, 1), "replicate")
    return conv2d(planes, kernel).view_as(image)


class Windows:
    """Squares of images, turned and mirrored at random, by indices on the device: the host waits for nothing.

    Args:
        number: of the image that each square is cut from, (B,).
        corner: the first row and column of each, (B, 2).
        side: of a square.
        generator: draws the orientations.

    >>> windows = Windows(torch.tensor([1, 0]), torch.tensor([[0, 1], [2, 0]]), 3, torch.Generator().manual_seed(0))
    >>> windows(torch.rand(2, 1, 8, 9)).shape
    torch.Size([2, 1, 3, 3])
    """

    def __init__(self, number: Tensor, corner: Tensor, side: int, generator: torch.Generator) -> None:
        places = torch.arange(side, device=corner.device)
        flipped = torch.rand(len(corner), 3, 1, generator=generator, device=corner.device) < 0.5
        rows, columns = (corner[:, i : i + 1] + torch.where(flipped[:, i], side - 1 - places, places) for i in (0, 1))
        self.indices = number[:, None, None], rows[:, :, None], columns[:, None, :]
        self.turned = flipped[:, 2:, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Of (N, C, H, W) to (B, C, side, side), always the same places."""
        number, rows, columns = self.indices
        part = images[number, :, rows, columns].movedim(-1, 1)
        return torch.where(self.turned, part.mT, part)
