"""The exact background of an image: where it is, and what stands in for it while the image is denoised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

SIDE = 15  # of the smallest square of equal pixels that is background: where few photons are counted, many are 0
SPECK, AROUND, MOST_SPECKS = 15, 33, 4  # pixels of the smallest part of an image; of those so many in so wide a square
MARGIN = 24  # pixels of background in which the image is mirrored


def exact_background(image: Tensor) -> Tensor:
    """Where an image (1, C, H, W) holds no noise at all, (1, 1, H, W): padding, fill, what a mask has cut off.

    Squares of 15×15 equal pixels, and what equals them and touches them; but not where four specks or more of fewer
    than 15 pixels each lie within 33×33 pixels: there photons are counted, one here and one there, and 0 is no less
    noisy than they are.

    >>> image = torch.ones(1, 1, 18, 18)
    >>> image[..., 15:, :] = torch.arange(54.0).view(3, 18)
    >>> exact_background(image)[0, 0].sum(1).tolist()[13:]
    [18, 18, 1, 0, 0]
    """
    if min(image.shape[-2:]) < SIDE:
        return torch.zeros_like(image[:, :1], dtype=torch.bool)
    constant = (largest_in_squares(image) == -largest_in_squares(-image)).all(1, keepdim=True).float()
    found = largest_in_squares(pad(constant, [SIDE - 1] * 4)).bool()
    while found.any():
        grown = found.clone()
        for dim in (-2, -1):
            size = image.shape[dim]
            first, last = (slice(0, size - 1), slice(1, size))
            equal = (image.narrow(dim, 0, size - 1) == image.narrow(dim, 1, size - 1)).all(1, keepdim=True)
            for start, end in ((first, last), (last, first)):
                seen = found.narrow(dim, start.start, size - 1)
                grown.narrow(dim, end.start, size - 1).logical_or_(seen & equal)
        if torch.equal(grown, found):
            break
        found = grown
    return found & (specks_around(found) < MOST_SPECKS) if found.any() else found


def specks_around(background: Tensor) -> Tensor:
    """How many parts of fewer than 15 pixels are not background in the 33×33 pixels around each, (1, 1, H, W).

    >>> background = torch.ones(1, 1, 40, 40, dtype=torch.bool)
    >>> background[..., 20, (10, 20, 30)] = False
    >>> [round(number) for number in specks_around(background)[0, 0, 20, (0, 20)].tolist()]
    [1, 3]
    """
    from scipy.ndimage import label

    parts = label(~background[0, 0].cpu().numpy())[0]
    sizes = np.bincount(parts.ravel())
    share = np.where(sizes < SPECK, 1 / sizes.clip(min=1), 0)
    share[0] = 0  # the background's
    specks = torch.from_numpy(share[parts]).float()[None, None].to(background.device)
    return (avg_pool2d(specks, AROUND, stride=1, padding=AROUND // 2) * AROUND**2).round()


def largest_in_squares(image: Tensor) -> Tensor:
    """The largest value of each square of 15×15 pixels, along one axis after the other."""
    return max_pool2d(max_pool2d(image, (SIDE, 1), 1), (1, SIDE), 1)


def fill_background(image: Tensor, background: Tensor) -> Tensor:
    """The image (1, C, H, W) mirrored at the edge of its background, as if it were continued there.

    Farther than 24 pixels away, and where there is nothing to mirror, the background has the image's mean.

    >>> image = torch.tensor([[[[0.0, 0.0, 0.0, 2.0, 4.0, 6.0]]]])
    >>> fill_background(image, image == 0)
    tensor([[[[4., 6., 4., 2., 4., 6.]]]])
    """
    from scipy.ndimage import distance_transform_edt

    if background.all() or not background.any():
        return image
    where = background[0, 0].cpu().numpy()
    distance, nearest = distance_transform_edt(where, return_indices=True)
    places = torch.arange(where.size, device=image.device).view(where.shape)
    rows, columns = (torch.from_numpy(axis).to(image.device).long() for axis in nearest)
    height, width = where.shape
    mirrored_rows = 2 * rows - places // width
    mirrored_columns = 2 * columns - places % width
    inside = (mirrored_rows >= 0) & (mirrored_rows < height) & (mirrored_columns >= 0) & (mirrored_columns < width)
    source = (mirrored_rows.clamp(0, height - 1) * width + mirrored_columns.clamp(0, width - 1)).flatten()
    near = torch.from_numpy(distance <= MARGIN).to(image.device)
    known = inside & near & ~background[0, 0].flatten()[source].view(height, width)
    mean = image.flatten(2)[..., ~background.flatten()].mean(-1)[..., None, None]
    mirrored = image.flatten(2)[..., source].view_as(image)
    return torch.where(background, torch.where(known, mirrored, mean), image)
