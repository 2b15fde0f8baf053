"""Groups of similar patches: how much their cosine coefficients vary, which is noise above all, and their means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

SIDE = 8  # of a patch
SIMILAR = 48  # patches in a group
REACH = 10  # rows and columns searched on every side of a patch
SMOOTHING = 1.5  # pixels: patches are alike in the image so smoothed, whose noise says little of theirs
CHUNK = 256  # groups whose pixels are gathered at once
BAND = 4096  # groups that are searched at once
SPARSE, DENSE = 8, 4  # rows and columns between the patches that gather a group, for measuring and for the means
OF_LARGE = 12, 8  # the same in a large image
LARGE = 2**17  # pixels of an image that holds groups to spare
FEWEST = 24  # groups, in each direction, that small images are to have


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of similar patches of an image.

    Attributes:
        rows, columns: places of the patches that gathered the groups, a grid.
        found: (rows, columns), which of them found a group; others have constant pixels in or around them.
        members: (groups, similar), flat indices of the first pixels of each group's patches.
    """

    rows: Tensor
    columns: Tensor
    found: Tensor
    members: Tensor

    @classmethod
    def of(cls, image: Tensor, usable: Tensor, *, step: int) -> Groups:
        """Search an image (H, W) for them, in which patches at ``usable`` places (H - 7, W - 7) may take part."""
        height, width = usable.shape
        looks = smoothed(image)
        looks = torch.stack([looks[i : i + height, j : j + width] for i in LOOKED_AT for j in LOOKED_AT])
        rows, columns = torch.arange(0, height, step), torch.arange(0, width, step)
        reach = range(2 * REACH + 1)
        moves = [(i, j) for i in reach for j in reach if (i + j) % 2 == 0]  # others overlap these all but wholly
        moved = torch.tensor([(i - REACH) * image.shape[1] + j - REACH for i, j in moves])
        around = pad(torch.where(usable, looks, torch.inf), [REACH] * 4, value=torch.inf)
        found, members = [], []
        for band in rows.split(max(1, BAND // len(columns))):
            first, end = int(band[0]), int(band[-1]) + 1
            references = looks[:, first:end:step, ::step].contiguous()
            distances = torch.stack(
                [
                    (around[:, first + i : end + i : step, j : j + width : step] - references).square_().sum(0)
                    for i, j in moves
                ],
                -1,
            ).flatten(0, 1)
            nearest = distances.topk(SIMILAR, largest=False)
            enough = usable[first:end:step, ::step].flatten() & nearest.values[:, -1].isfinite()
            places = (band[:, None] * image.shape[1] + columns).flatten()[:, None] + moved[nearest.indices]
            found.append(enough.view(len(band), -1))
            members.append(places[enough])
        return cls(rows, columns, torch.cat(found), torch.cat(members))

    def patches(self, image: Tensor, chunk: slice) -> Tensor:
        """Pixels of some groups, (groups, similar, 64), of an image (H, W)."""
        axis = torch.arange(SIDE)
        inside = (axis[:, None] * image.shape[1] + axis).flatten()
        return image.flatten()[self.members[chunk][..., None] + inside]

    def chunks(self) -> list[slice]:
        return [slice(start, start + CHUNK) for start in range(0, len(self.members), CHUNK)]

    def variances(self, image: Tensor) -> Tensor:
        """Variance of every cosine coefficient within every group, (groups, 64)."""
        transform = COSINES.mT.to(image)
        variances = image.new_empty(len(self.members), SIDE * SIDE)
        for chunk in self.chunks():
            coefficients = self.patches(image, chunk) @ transform
            coefficients -= coefficients.mean(1, keepdim=True)
            variances[chunk] = coefficients.square_().sum(1) / (SIMILAR - 1)
        return variances

    def means(self, image: Tensor) -> Tensor:
        """The image with every patch replaced by the mean of its group; overlapping patches are averaged."""
        sums, counts = (torch.zeros(image.numel(), dtype=torch.float64) for _ in range(2))
        axis = torch.arange(SIDE)
        inside = (axis[:, None] * image.shape[1] + axis).flatten()
        for chunk in self.chunks():
            means = self.patches(image, chunk).mean(1, keepdim=True).double()
            places = (self.members[chunk][..., None] + inside).flatten()
            sums.index_add_(0, places, means.expand(-1, SIMILAR, -1).flatten())
            counts.index_add_(0, places, torch.ones(len(places), dtype=torch.float64))
        return torch.where(counts > 0, sums / counts.clamp(min=1), image.flatten().double()).to(image).view_as(image)


def steps(height: int, width: int) -> tuple[int, int]:
    """Rows and columns between the patches that gather groups for measuring, and for the means; by an image's size."""
    if height * width > LARGE:
        return OF_LARGE
    return max(2, min(SPARSE, math.isqrt(height * width) // FEWEST)), DENSE


def smoothed(image: Tensor) -> Tensor:
    """A Gaussian filter of an image (H, W)."""
    reach = math.ceil(3 * SMOOTHING)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / SMOOTHING) ** 2) / 2).to(image)
    kernel = kernel / kernel.sum()
    planes = pad(image[None, None], [reach] * 4, "replicate")
    return conv2d(conv2d(planes, kernel[None, None, None]), kernel[None, None, :, None])[0, 0]


def cosines(size: int) -> Tensor:
    """The orthonormal basis of the discrete cosine transform, a row each, in double precision; the first is the mean.

    >>> basis = cosines(3)
    >>> torch.allclose(basis @ basis.mT, torch.eye(3, dtype=torch.float64))
    True
    """
    index = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


LOOKED_AT = range(1, SIDE, 2)  # every other row and column of a smoothed patch
COSINES = torch.kron(cosines(SIDE), cosines(SIDE))  # (64, 64)
