"""Images to train on that stay on the device, and batches of their crops with noise made there: no step waits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from ..checks import check_not_negative, check_whole
from .budget import Budget
from .data import SEED_OF_NUMBER
from .masking import Windows
from .recorruption import recorrupted

LARGER = 2, 4  # towards the end of a training crops have so many times the side, and there are so many times fewer


class RecorruptedCrops(Dataset):
    """Batches of crops of random images, recorrupted with noise of many kinds (``recorruption.py``).

    Item i is a whole batch, drawn from the seed, i and nothing else but how far the training is: one that was
    interrupted goes on with the same batches. Any i from 0 is allowed; the length is that of an epoch.

    Args:
        images: (1, H, W), about [0, 1]; smaller ones than a crop are mirrored at their ends. They stay on the device,
            with their halves.
        needs: what an objective needs besides the noisy image, see
            :class:`~monai_dnaprior.training.objectives.Objective`.
        side, batch_size: of crops, in pixels and in number.
        length: batches in an epoch.
        seed: see above. The global random state is neither read nor changed.
        device: where images, crops and noise are.
        cut: largest side of an image; its middle is taken.
        budget: says what part of the training lies behind. From the part ``last`` on crops have twice the side, and a
            batch a quarter of them.

    An item is a dictionary with ``image`` (B, 1, side, side) and, if one is needed, ``label``.

    >>> crops = RecorruptedCrops([torch.rand(1, 20, 30)], needs="recorrupted", side=16, batch_size=3)
    >>> [tuple(crops[7][key].shape) for key in ("image", "label")]
    [(3, 1, 16, 16), (3, 2, 16, 16)]
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        *,
        needs: str,
        side: int = 96,
        batch_size: int = 64,
        length: int = 1000,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cut: int = 384,
        budget: Budget | None = None,
        last: float = 0.9,
    ) -> None:
        check_whole(1, side=side, batch_size=batch_size, length=length, cut=cut)
        check_whole(0, seed=seed)
        check_not_negative(last=last)
        if not images:
            raise ValueError("images is empty; give at least one to train on.")
        self.pool = Pool([middle(image, cut) for image in images], LARGER[0] * side, torch.device(device))
        self.needs, self.side, self.batch_size, self.length, self.seed = needs, side, batch_size, length, seed
        self.budget, self.last = budget, last

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator(self.pool.pixels.device)
        generator.manual_seed(self.seed * SEED_OF_NUMBER + number)
        times, fewer = LARGER if self.budget is not None and self.budget.now >= self.last else (1, 1)
        clean = self.pool.crops(max(1, self.batch_size // fewer), times * self.side, generator)
        pair = recorrupted(clean, generator)
        labels = {
            "none": [],
            "clean": [clean],
            "second": [pair.second],
            "recorrupted": [pair.second, pair.deviation],
        }[self.needs]
        return {CommonKeys.IMAGE: pair.first, **({CommonKeys.LABEL: torch.cat(labels, 1)} if labels else {})}


def middle(image: Tensor, side: int) -> Tensor:
    """The middle (H, W) of an image (1, H, W), with no longer side than that."""
    top, left = (max(0, (size - side) // 2) for size in image.shape[1:])
    return image[0, top : top + side, left : left + side]


class Pool:
    """All images and their halves on the device, in one tensor; those smaller than a crop go on mirrored."""

    def __init__(self, images: Sequence[Tensor], least: int, device: torch.device) -> None:
        halves = [avg_pool2d(image[None], 2)[0] for image in images if min(image.shape) > 1]
        weights = np.array([*(image.numel() ** 0.5 for image in images), *(half.numel() ** 0.5 for half in halves)])
        padded = [mirrored(image.numpy(), least) for image in (*images, *halves)]
        whole = np.zeros((len(padded), *np.max([image.shape for image in padded], 0)), np.float32)
        for place, image in zip(whole, padded, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        self.pixels = torch.from_numpy(whole)[:, None].to(device)
        self.sizes = torch.tensor([image.shape for image in padded], dtype=torch.float32).to(device)
        self.shares = torch.from_numpy((weights / weights.sum()).cumsum()).float().to(device)

    def crops(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """(count, 1, side, side), in eight orientations."""
        device = self.pixels.device
        drawn = torch.rand(count, generator=generator, device=device)
        number = torch.searchsorted(self.shares, drawn).clamp(max=len(self.shares) - 1)
        place = torch.rand(count, 2, generator=generator, device=device)
        corner = (place * (self.sizes[number] - side + 1)).floor().long()
        return Windows(number, corner, side, generator)(self.pixels)


def mirrored(image: np.ndarray, least: int) -> np.ndarray:
    return np.pad(image, [(0, max(0, least - size)) for size in image.shape], mode="symmetric")
