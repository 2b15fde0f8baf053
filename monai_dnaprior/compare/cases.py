"""The images that methods are compared on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Orientation
from torch import Tensor

from ..files.names import PICTURE_SUFFIXES, scan_stem
from ..files.reader import read_picture, read_volume
from ..noise.models import add_noise


@dataclass(frozen=True)
class Case:
    """One noisy image (1, C, H, W), about [0, 1], and the clean one if it is known."""

    name: str
    noisy: Tensor
    clean: Tensor | None


def load_cases(
    images: Sequence[str | Path],
    *,
    references: Sequence[str | Path] | None = None,
    noise: str | None = None,
    slice_index: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """Read images: clean ones to which noise is added, noisy ones with references, or noisy ones alone.

    Args:
        images: pictures (PNG, TIFF, …), NIfTI files, DICOM files or folders; of a volume one axial slice is taken.
        references: clean images of the same scale, one for each.
        noise: added to clean images, see :func:`~monai_dnaprior.noise.models.add_noise`.
        slice_index: of volumes; the middle by default.
        seed: of the noise.
    """
    if references is not None and len(references) != len(images):
        raise ValueError(f"reference has {len(references)} images; give one for each of the {len(images)} noisy ones.")
    if references is not None and noise is not None:
        raise ValueError(f"noise={noise!r} is for clean images; leave it out where references are given.")
    cases: list[Case] = []
    for index, path in enumerate(images):
        name = unused_name(case_name(path), [case.name for case in cases])
        values = read_slice(path, slice_index)
        if references is not None:
            clean = read_slice(references[index], slice_index)
            if clean.shape != values.shape:
                raise ValueError(f"{references[index]} is {clean.shape}, {path} is {values.shape}; they must agree.")
            cases.append(Case(name, to_unit(values, like=clean), to_unit(clean, like=clean)))
        elif noise is not None:
            clean_unit = to_unit(values, like=values).clamp(0, 1)
            cases.append(Case(name, add_noise(clean_unit, noise, seed=seed), clean_unit))
        else:
            cases.append(Case(name, to_unit(values, like=values), None))
    return cases


def case_name(path: str | Path) -> str:
    """The name of a picture or a scan without its suffix."""
    name = Path(path).name.encode(errors="backslashreplace").decode()  # a file's name may be no text
    return Path(name).stem if name.lower().endswith(PICTURE_SUFFIXES) else scan_stem(name)


def unused_name(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number behind it where images in several folders have it.

    >>> unused_name("scan", ["scan", "scan-2"])
    'scan-3'
    """
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)


def read_slice(path: str | Path, slice_index: int | None) -> np.ndarray:
    """One image (C, H, W) as it is stored: a picture, or a slice of a scan turned as radiologists look at it."""
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        return read_picture(path)
    scan = Orientation("LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(read_volume(path))
    volume = scan[0].numpy()  # of a series in time the first
    index = volume.shape[-1] // 2 if slice_index is None else slice_index
    if not 0 <= index < volume.shape[-1]:
        raise ValueError(f"slice={index} is not in {path}; it has slices 0 to {volume.shape[-1] - 1}.")
    return volume[None, ..., index].swapaxes(-1, -2)


def to_unit(values: np.ndarray, *, like: np.ndarray) -> Tensor:
    """Bring an image to about [0, 1]: 8-bit by 255, others from the minimum to the 99.9th percentile of ``like``.

    What is not finite becomes 0.
    """
    known = like[np.isfinite(like)] if np.isfinite(like).any() else np.zeros(1)
    low, high = (0, 255) if like.dtype == np.uint8 else (float(known.min()), float(np.percentile(known, 99.9)))
    scaled = (values.astype(np.float64) - low) / ((high - low) or 1)
    return torch.tensor(np.where(np.isfinite(scaled), scaled, 0), dtype=torch.float32)[None]
