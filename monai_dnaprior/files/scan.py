"""A scan as a file holds it: stored numbers, what they mean, which of them may change, and how it is written back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..checks import check_positive

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
LARGEST_INTEGER = 2**53  # up to which float64 holds every one
SPARSE = 2**30  # decoded bytes below which a file may be as small as it likes
Place = tuple[slice, ...]
AnyScan = TypeVar("AnyScan", bound="Scan")


class ScanError(ValueError):
    """Why a scan is not denoised, in one line, with its file's name. It quotes nothing that the file holds."""

    exit_code, status = 2, "refused"

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason


class UnsupportedScan(ScanError):
    """A sound file of a kind that is not treated, or that asks for more than the caps allow."""


class NoScan(ScanError):
    """A file among scans that is none; it is named and left out."""

    exit_code, status = 0, "left out"


class LabelMap(ScanError):
    """A label map or mask among scans; it is named and left out."""

    exit_code, status = 0, "label map"


class CorruptScan(ScanError):
    """A file that is damaged."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What a file may ask for; it is refused before memory is taken for it.

    Args:
        size: bytes of the decoded voxels.
        ratio: decoded bytes for each byte of the file, of scans that decode to 1 GiB or more.
        pixels: rows times columns.

    >>> Caps(size=9).admit("a.nii", decoded=20, encoded=5, pixels=1)
    Traceback (most recent call last):
    monai_dnaprior.files.scan.UnsupportedScan: a.nii: 20 bytes of voxels are more than the cap of 9; raise --max-bytes
    """

    size: int = 4 * 2**30
    ratio: float = 200.0
    pixels: int = 2**26

    def __post_init__(self) -> None:
        check_positive(size=self.size, ratio=self.ratio, pixels=self.pixels)

    def admit(self, path: object, *, decoded: int, encoded: int, pixels: int) -> None:
        """Refuse a file whose voxels would take so much."""
        ratio, reason = decoded / max(encoded, 1), ""
        if decoded > self.size:
            reason = f"{decoded} bytes of voxels are more than the cap of {self.size}; raise --max-bytes"
        elif pixels > self.pixels:
            reason = f"a slice of {pixels} pixels is more than the cap of {self.pixels}; raise --max-pixels"
        elif decoded >= SPARSE and ratio > self.ratio:
            reason = f"decodes to {ratio:.0f} times its size, cap {self.ratio:g}; raise --max-ratio"
        if reason:
            raise UnsupportedScan(path, reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan(ABC):
    r"""Stored numbers s whose values are :math:`v = m s + b`, and the file that they came in.

    Attributes:
        name: of the file or folder, for messages.
        stored: (C, W, H) or (C, W, H, D), of the file's type.
        slope, intercept: m and b, numbers or arrays that broadcast to ``stored`` (one a slice, say).
        limits: the lowest and highest number that the file can store, or arrays of them, as of the slope.
        valid: which voxels are values, like ``stored``; None for all. The others are padding.
        wanted: which voxels may change, (W, H[, D]); None for all. The others are seen all the same.
        padding: the first and last stored number that mean padding, or arrays of them; none where last < first.
        colours: the channels are colours of one image; otherwise each is a volume of its own.
        affine: from voxel to millimetre (RAS), 4x4, where the file says.
        warnings: what is unusual about it, in words.
    """

    name: str
    stored: np.ndarray
    slope: Any = 1.0
    intercept: Any = 0.0
    limits: tuple[Any, Any]
    valid: np.ndarray | None = None
    wanted: np.ndarray | None = None
    padding: tuple[Any, Any] | None = None
    colours: bool = False
    affine: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        """Write these stored numbers in place of the scan's own, everything else as it was."""

    @abstractmethod
    def write_values(self, path: Path, values: np.ndarray) -> None:
        """Write float32 values of the scan's shape with its geometry."""

    @property
    def values_suffix(self) -> str:
        """Of a file of values."""
        return ".nii.gz"

    @property
    def spacing(self) -> Sequence[float] | None:
        """Millimetres from voxel to voxel along the three axes, where the file says."""
        return None if self.affine is None else np.linalg.norm(self.affine[:3, :3], axis=0).tolist()

    @property
    def marked_as_labels(self) -> bool:
        """Whether the file says that its numbers are names."""
        return False

    @property
    def inverted(self) -> bool:
        """Whether small values are to be shown bright."""
        return False

    def values(self) -> np.ndarray:
        """v = m s + b: float32, or float64 where float32 could not hold s.

        NaN where the voxels are not valid, and where float64 could not hold s either.
        """
        kind = np.result_type(self.stored.dtype.newbyteorder("="), np.float32)
        if np.all(self.slope == 1) and np.all(self.intercept == 0):
            values = self.stored.astype(kind)
        else:
            values = (self.stored.astype(np.float64) * self.slope + self.intercept).astype(kind)
        if self.valid is not None:
            values[~self.valid] = np.nan
        if self.stored.dtype.kind in "iu" and self.stored.dtype.itemsize == 8:
            values[(self.stored > LARGEST_INTEGER) | (self.stored < -LARGEST_INTEGER)] = np.nan
        return values

    def with_mask(self: AnyScan, mask: np.ndarray) -> AnyScan:
        """The same, whose voxels outside the mask (W, H[, D]) are to stay as they are."""
        if mask.shape != self.stored.shape[1:]:
            raise ValueError(f"mask has shape {mask.shape}, {self.name} {self.stored.shape[1:]}; they must agree.")
        return replace(self, wanted=mask)

    def subtract(self, residual: np.ndarray, place: Place) -> tuple[np.ndarray, int]:
        r"""The stored numbers at a place from whose values a residual r is subtracted, and how many were clipped.

        .. math:: s' = \mathrm{clip}(\mathrm{round}(s - r / m))

        A voxel where the residual is 0 or that is outside the mask keeps its bits, and no other becomes padding.
        """
        native = self.stored[place]
        residual = residual if self.wanted is None else np.where(self.wanted[place[1:]], residual, 0)
        exact = native.astype(np.float64) - residual / part_of(self.slope, native.ndim, place)
        low, high = (part_of(limit, native.ndim, place) for limit in self.limits)
        rounded = exact if native.dtype.kind == "f" else np.rint(exact)
        bounded = rounded.clip(low, high)
        if self.padding is not None:
            first, last = (part_of(end, native.ndim, place) for end in self.padding)
            below, above = first - 1, last + 1
            nearest = np.where((exact - below <= above - exact) & (below >= low) | (above > high), below, above)
            bounded = np.where((bounded >= first) & (bounded <= last), nearest, bounded)
        changed = residual != 0
        clipped = int(np.count_nonzero(changed & ((rounded < low) | (rounded > high))))
        new = np.where(changed, bounded.astype(native.dtype), native)
        return new.astype(native.dtype, copy=False), clipped  # where() gives the machine's byte order

    def residual(self, stored: np.ndarray) -> np.ndarray:
        """The values minus those of other stored numbers, float32; 0 where not finite."""
        with np.errstate(invalid="ignore"):
            change = (self.stored.astype(np.float64) - stored) * self.slope
        return np.where(np.isfinite(change), change, 0).astype(np.float32)


def part_of(values: Any, ndim: int, place: Place) -> Any:
    """The part of an array that broadcasts to a volume which belongs to a place in it."""
    if np.ndim(values) == 0:
        return values
    fitted = np.reshape(values, (1,) * (ndim - np.ndim(values)) + np.shape(values))
    return fitted[tuple(part if side > 1 else slice(None) for part, side in zip(place, fitted.shape, strict=True))]


def limits_of(dtype: np.dtype) -> tuple[float, float]:
    """The lowest and highest number of a type, or the highest below it that float64 can hold.

    >>> int(limits_of(np.dtype("i8"))[1]) < 2**63 - 1
    True
    """
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return low, high if int(float(high)) <= high else float(np.nextafter(float(high), 0))


def largest_slice(shape: Sequence[int]) -> int:
    """The pixels of the largest slice of a volume, however it is cut.

    >>> largest_slice((2, 5, 3, 100))
    15
    """
    sides = sorted(shape[:3])
    return sides[-1] * sides[-2]


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have one shape, type and content, NaN included."""
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one.view("V"), other.view("V"))


def ras_affine(columns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """From voxel to millimetre (RAS), of steps along the axes (the columns) and an origin that are LPS."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return LPS_TO_RAS @ affine
