"""Images to train on that stay on the device, and squares of them by indices: a step waits for no file and no host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_dnaprior.files.names import PICTURE_SUFFIXES
from monai_dnaprior.files.reader import read_picture
from monai_dnaprior.noise.intensity import intensity_range


def load_named(folder: Path, cut: int, *, every: int = 1) -> dict[str, Tensor]:
    """The middles of a folder's pictures by name, (H, W), each with the range that load_images would give it."""
    images = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)[::every]:
        whole = torch.tensor(read_picture(path).mean(0, dtype=np.float64))
        top, left = (max(0, (size - cut) // 2) for size in whole.shape)
        image = whole[top : top + cut, left : left + cut]
        offset, span = intensity_range(image)
        if image.min() < image.max():
            images[path.relative_to(folder).as_posix()] = ((image - offset) / span).float()
    return images


class Pool:
    """All images and their halves on the device, in one tensor; those smaller than a crop go on mirrored."""

    def __init__(self, images: Sequence[Tensor], least: int, device: torch.device) -> None:
        halves = [avg_pool2d(image[None], 2)[0] for image in images]
        weights = np.array([image.numel() ** 0.5 for image in images] * 2)
        weights[len(images) :] *= 0.5
        padded = [mirrored(image.numpy(), least) for image in (*images, *halves)]
        whole = np.zeros((len(padded), *np.max([image.shape for image in padded], 0)), np.float32)
        for place, image in zip(whole, padded, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        self.pixels = torch.from_numpy(whole)[:, None].to(device)
        self.sizes = torch.tensor([image.shape for image in padded], dtype=torch.float32).to(device)
        self.shares = torch.from_numpy((weights / weights.sum()).cumsum()).float().to(device)

    def crops(self, count: int, side: int) -> Tensor:
        """(count, 1, side, side), in eight orientations."""
        device = self.pixels.device
        number = torch.searchsorted(self.shares, torch.rand(count, device=device)).clamp(max=len(self.shares) - 1)
        corner = (torch.rand(count, 2, device=device) * (self.sizes[number] - side + 1)).floor().long()
        return Windows(number, corner, side)(self.pixels)


def mirrored(image: np.ndarray, least: int) -> np.ndarray:
    return np.pad(image, [(0, max(0, least - size)) for size in image.shape], mode="symmetric")


class Windows:
    """Squares of images, turned and mirrored at random, by indices on the device: the host waits for nothing."""

    def __init__(self, number: Tensor, corner: Tensor, side: int) -> None:
        places = torch.arange(side, device=corner.device)
        flipped = torch.rand(len(corner), 3, 1, device=corner.device) < 0.5
        rows, columns = (corner[:, i : i + 1] + torch.where(flipped[:, i], side - 1 - places, places) for i in (0, 1))
        self.indices = number[:, None, None], rows[:, :, None], columns[:, None, :]
        self.turned = flipped[:, 2:]

    def __call__(self, images: Tensor) -> Tensor:
        """Of (N, 1, H, W) to (B, 1, side, side), always the same places."""
        number, rows, columns = self.indices
        part = images[number, 0, rows, columns]
        return torch.where(self.turned, part.mT, part)[:, None]
