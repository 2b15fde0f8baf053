"""Noisy crops of many images, to train on: every crop is drawn by its number alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from monai.config import PathLike
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset, DistributedSampler

from ..checks import check_whole
from ..files.names import PICTURE_SUFFIXES
from ..files.reader import all_scans, read_picture, read_volume
from ..noise.intensity import intensity_range
from ..noise.models import NOISES, add_noise
from ..progress import follow

SEED_OF_NUMBER = 1_000_003  # a prime: the seeds of two trainings' crops do not follow each other


def load_images(
    folder: PathLike, *, without: Sequence[str] = (), only: Sequence[str] | None = None, progress: bool = False
) -> list[Tensor]:
    """Every slice of the pictures (PNG, TIFF, …), NIfTI files and DICOM series below a folder, in the order of names.

    Args:
        folder: see above.
        without: beginnings of the names of files, or of folders of a series, that are left out, for instance those of
            a scanner.
        only: beginnings of those that are taken alone; there may be none then. None for all.
        progress: show a bar.

    Returns:
        one-channel images (1, H, W), float32, each scan's or picture's 0.5th and 99.5th percentiles made 0 and 1 as the
        transforms do; colours and the channels of a picture are averaged, volumes cut along their last axis, constant
        slices left out.

    Raises:
        ValueError: there is no image in the folder.
    """
    pictures = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(os.fspath(folder))
        for name in names
        if name.lower().endswith(PICTURE_SUFFIXES)
    )
    images = []
    paths = [
        path
        for path in (*pictures, *all_scans(folder))
        if not (name := os.path.basename(path)).startswith(tuple(without))
        and (only is None or name.startswith(tuple(only)))
    ]
    for path in follow(paths, unit="image", name="read", shown=progress):
        if path in pictures:
            volume = torch.tensor(read_picture(path).mean(0, dtype=np.float64))[..., None]
        else:
            volume = torch.cat(list(read_volume(path).as_tensor().double()), -1)
        offset, span = intensity_range(volume)
        slices = torch.where(volume.isfinite(), (volume - offset) / span, 0).float().movedim(-1, 0)
        images += [image[None] for image in slices.contiguous() if image.min() < image.max()]
    if not images and only is None:
        raise ValueError(f"dataset_dir={str(folder)!r} holds no picture, NIfTI file or DICOM image series.")
    return images


def held_back(images: Sequence[Tensor], every: int) -> tuple[list[Tensor], list[Tensor]]:
    """Images to train on, and every n-th for validation; 0 holds none back.

    >>> [len(part) for part in held_back([torch.zeros(1, 4, 4)] * 45, 20)]
    [43, 2]
    """
    check_whole(0, every=every)
    back = set(range(every // 2, len(images), every)) if every else set()
    return (
        [image for number, image in enumerate(images) if number not in back],
        [image for number, image in enumerate(images) if number in back],
    )


def at_half_size(images: Sequence[Tensor]) -> list[Tensor]:
    """Images averaged over blocks of 2×2 pixels: twice the detail, from the same images.

    >>> at_half_size([torch.tensor([[[0.0, 2.0, 9.0], [4.0, 6.0, 9.0]]])])
    [tensor([[[3.]]])]
    """
    return [avg_pool2d(image, 2) for image in images if min(image.shape[1:]) > 1]


def noisy_pairs(images: Sequence[Tensor], noise: str, *, side: int = 128) -> list[tuple[Tensor, Tensor]]:
    """The middles of images with seeded noise, and without, (1, C, H, W) each, to look at while training."""
    middles = (clean_middle(image, side) for image in images)
    return [(add_noise(clean, noise, seed=number), clean) for number, clean in enumerate(middles)]


def clean_middle(image: Tensor, side: int) -> Tensor:
    """The middle of an image (C, H, W), at most side × side pixels, clipped to [0, 1]: (1, C, side, side).

    >>> clean_middle(torch.arange(5.0).expand(1, 2, 5) / 4, 3).tolist()
    [[[[0.25, 0.5, 0.75], [0.25, 0.5, 0.75]]]]
    """
    top, left = (max(0, (size - side) // 2) for size in image.shape[1:])
    return image[None, :, top : top + side, left : left + side].clamp(0, 1)


class NoisyCrops(Dataset):
    """Crops of random images at random places, turned and mirrored, with noise of random strength.

    Item i is drawn from the seed and i alone: a training that was interrupted goes on with the same crops, with any
    number of workers. Any i from 0 is allowed; the length is that of an epoch.

    Args:
        images: (C, H, W), about [0, 1]; smaller ones than a crop are mirrored at their ends.
        noise: kinds of noise, one drawn for each crop: a name of :func:`~monai_dnaprior.noise.models.add_noise`, the
            least and the greatest strength, for instance ``"gaussian:0:50"``. None: the images are noisy themselves.
        needs: what an objective needs besides: ``"none"``, a ``"second"`` noisy image, or the ``"clean"`` one.
        side: of a crop in pixels.
        length: crops in an epoch.
        seed: see above. The global random state is neither read nor changed.

    An item is a dictionary with ``image`` and, if one is needed, ``label``, both (C, side, side).

    >>> crops = NoisyCrops([torch.zeros(1, 20, 30)], noise=["gaussian:0:50"], needs="clean", side=16, length=4)
    >>> [tuple(crops[7][key].shape) for key in ("image", "label")]
    [(1, 16, 16), (1, 16, 16)]
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        *,
        noise: Sequence[str] | None,
        needs: str = "none",
        side: int = 64,
        length: int = 1000,
        seed: int = 0,
    ) -> None:
        check_whole(1, side=side, length=length)
        check_whole(0, seed=seed)
        if not images:
            raise ValueError("images is empty; give at least one to train on.")
        if noise is None and needs != "none":
            raise ValueError(f"needs={needs!r} with noise=None: of an image's own noise there is no {needs} image.")
        self.images, self.needs, self.side, self.length, self.seed = images, needs, side, length, seed
        self.noise = None if noise is None else [noise_range(text) for text in noise]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * SEED_OF_NUMBER + number)
        crop = self.crop(generator)
        if self.noise is None:
            return {CommonKeys.IMAGE: crop}
        name, least, greatest = self.noise[draw_number(len(self.noise), generator)]
        strength = greatest - (greatest - least) * torch.rand((), generator=generator).item()  # in (least, greatest]
        noisy, second = (
            partial(add_noise, crop, f"{name}:{strength}", seed=seed)
            for seed in torch.randint(2**62, (2,), generator=generator).tolist()
        )
        if self.needs == "none":
            return {CommonKeys.IMAGE: noisy()}
        return {CommonKeys.IMAGE: noisy(), CommonKeys.LABEL: second() if self.needs == "second" else crop}

    def crop(self, generator: torch.Generator) -> Tensor:
        """A square of an image in one of its eight orientations."""
        image = self.images[draw_number(len(self.images), generator)]
        lacking = [(0, 0), *((0, max(0, self.side - size)) for size in image.shape[1:])]
        if any(more for _, more in lacking):
            image = torch.from_numpy(np.pad(image.numpy(), lacking, mode="symmetric"))
        row, column = (draw_number(size - self.side + 1, generator) for size in image.shape[1:])
        crop = image[:, row : row + self.side, column : column + self.side]
        turns, mirrored = draw_number(4, generator), draw_number(2, generator)
        return torch.rot90(crop.flip(-1) if mirrored else crop, turns, (1, 2)).contiguous()


def noise_range(text: str) -> tuple[str, float, float]:
    """The name and the least and greatest strength of ``"gaussian:0:50"``."""
    name, *strengths = text.split(":")
    try:
        least, greatest = (float(strength) for strength in strengths)
    except ValueError:
        least, greatest = 1.0, 0.0
    if name not in NOISES or not 0 <= least <= greatest or greatest == 0:
        names = ", ".join(NOISES)
        raise ValueError(f"noise={text!r} must be one of {names}, and its least and greatest strength: gaussian:0:50.")
    return name, least, greatest


def draw_number(size: int, generator: torch.Generator) -> int:
    """A number from 0 to size - 1."""
    return int(torch.randint(size, (), generator=generator))


class EpochSampler(DistributedSampler):
    """Numbers of items that never come twice: epoch e of n items has those from (e - 1) n on.

    They are dealt out over the processes. MONAI's trainer tells the epoch, also when it goes on where it stopped.

    >>> sampler = EpochSampler(range(4), num_replicas=2, rank=1)
    >>> sampler.set_epoch(3)
    >>> list(sampler)
    [9, 11]
    """

    def __init__(self, dataset: Dataset, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank)
        if len(dataset) % num_replicas:  # type: ignore[arg-type]
            raise ValueError(f"an epoch of {len(dataset)} items cannot be dealt out to {num_replicas} processes.")  # type: ignore[arg-type]

    def __iter__(self):  # type: ignore[no-untyped-def]
        size = len(self.dataset)  # type: ignore[arg-type]
        first = max(0, self.epoch - 1) * size
        return iter(range(first + self.rank, first + size, self.num_replicas))
