"""Where the slices of a DICOM series lie: orientation, order, affine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom import Dataset

from .scan import CorruptScan, ras_affine

SPACING_TOLERANCE = 0.01  # of the mean distance between slices
TILT_TOLERANCE = 1e-3  # sine of the angle between the way from slice to slice and their normal
Name = TypeVar("Name")
FLAT = np.array([1.0, 0, 0, 0, 1, 0])  # orientation where none is given


def orientation_of(header: Dataset) -> np.ndarray:
    """The directions of rows and columns (LPS), six numbers."""
    return FLAT if (numbers := numbers_of(header, "ImageOrientationPatient", 6)) is None else numbers


def normal_of(header: Dataset) -> np.ndarray:
    rows, columns = np.split(orientation_of(header), 2)
    return np.cross(rows, columns)


def numbers_of(header: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """So many finite numbers; None if there are none at all."""
    values = header.get(keyword)
    if values is None or values == "":
        return None
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        numbers = np.array([])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise CorruptScan(header.filename, f"has an {keyword} that is not {count} numbers")
    return numbers


def sorted_along_normal(
    place: Path, headers: dict[Name, Dataset]
) -> tuple[list[Name], np.ndarray | None, tuple[str, ...]]:
    """The slices in order, the vector from each to the next (LPS, mm), and what is unusual about it.

    They go by the names of their files, or by numbers. Those without a position, and several at one position (echoes,
    time points), are told apart by their instance number.
    """
    keys = dict(zip(headers, slice_keys(list(headers.values())), strict=True))
    if len(set(keys.values())) < len(keys):
        raise CorruptScan(
            place, "has two slices of one position and instance number; keep one, or give a folder for each"
        )
    names = sorted(headers, key=lambda name: keys[name])
    positions = [position_of(headers[name]) for name in names]
    if len(names) == 1 or any(position is None for position in positions):
        return names, None, ()
    places, normal = np.array(positions), normal_of(headers[names[0]])
    step = (places[-1] - places[0]) / (len(names) - 1)
    distances = np.diff(places @ normal)
    cautions = []
    if np.ptp(distances) > SPACING_TOLERANCE * np.abs(distances).mean():
        cautions.append(f"slices are {distances.min():.3f} to {distances.max():.3f} mm apart")
    length = float(np.linalg.norm(step))
    if length > 0 and np.linalg.norm(np.cross(step, normal)) > TILT_TOLERANCE * length:
        cautions.append("slices are not stacked along their normal (gantry tilt)")
    return names, step if length > 0 else None, tuple(cautions)


def slice_keys(headers: Sequence[Dataset]) -> list[tuple[float, int]]:
    """What slices are sorted by: their distance along the normal, if all have one, and their instance number."""
    positions, normal = [position_of(header) for header in headers], normal_of(headers[0])
    distances = [None if position is None else round(float(position @ normal), 3) for position in positions]
    numbers = [int(header.get("InstanceNumber") or 0) for header in headers]
    known = [0.0 if None in distances else distance for distance in distances]
    return list(zip(known, numbers, strict=True))  # type: ignore[arg-type]


def position_of(header: Dataset) -> np.ndarray | None:
    """The centre of the first voxel (LPS, mm)."""
    return numbers_of(header, "ImagePositionPatient", 3)


def affine_of(header: Dataset, step: np.ndarray | None) -> np.ndarray | None:
    """From voxel (column, row, slice) to millimetres, RAS; None without position or spacing."""
    origin, spacing = position_of(header), numbers_of(header, "PixelSpacing", 2)
    if origin is None or spacing is None:
        return None
    rows, columns = np.split(orientation_of(header), 2)
    across = normal_of(header) * float(header.get("SliceThickness") or 1) if step is None else step
    return ras_affine(np.stack([rows * spacing[1], columns * spacing[0], across], 1), origin)
