"""Slices for the screen: oriented as radiologists hang them, windowed, as PNG in text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np

from ..files.scan import Scan

LARGEST_SIDE = 512
MOST = 12  # slices of one scan
BUDGET = 4_200_000  # characters that the pictures may take
MARGIN = 1.2  # how much larger than the middle slice's the others' pictures may be
WHITE = 99  # per cent of what was removed is below white and above black
FEW_LEVELS = 16  # of grey, for maps of noise: more would take much place and show nothing
ENDS = (("R", "L"), ("A", "P"), ("S", "I"))  # what lies at both ends of the axes of RAS, the usual first


@dataclass(frozen=True)
class Layout:
    """How the slices of a scan lie on a screen: as radiologists hang them, where the scan says how it lies.

    Attributes:
        axis: of the array (C, W, H[, D]), along which it is cut; None for an image.
        rows, columns: axes of the array that run down and to the right.
        flipped: which of these two run the other way.
        letters: at the top, the right, the bottom and the left; empty if that is not known.
        aspect: width of the picture over its height, in millimetres where known.
    """

    axis: int | None
    rows: int
    columns: int
    flipped: tuple[bool, bool]
    letters: str
    aspect: float

    @classmethod
    def of(cls, scan: Scan, slice_dim: int) -> Layout:
        shape = scan.stored.shape
        if len(shape) == 3:
            return cls(None, 2, 1, (False, False), "", shape[1] / shape[2])
        cut = slice_dim % 3
        columns, rows = (axis for axis in range(3) if axis != cut)
        spacing = np.ones(3) if scan.affine is None else np.linalg.norm(scan.affine[:3, :3], axis=0)
        flipped, letters = (False, False), ""
        known = None if scan.affine is None else nibabel.orientations.io_orientation(scan.affine)
        if known is not None and np.isfinite(known).all():
            towards = known[:, 0].astype(int)
            if towards[columns] > towards[rows]:
                columns, rows = rows, columns
            flipped = bool(known[rows, 1] > 0), bool(known[columns, 1] > 0)
            (top, bottom), (left, right) = ENDS[towards[rows]], ENDS[towards[columns]]
            letters = top + right + bottom + left
        width, height = (shape[1 + axis] * spacing[axis] for axis in (columns, rows))
        return cls(cut + 1, rows + 1, columns + 1, flipped, letters, float(width / height))

    def plane(self, volume: np.ndarray, channels: slice, index: int) -> np.ndarray:
        """One slice of some channels, (C, rows, columns)."""
        order = (0, self.rows, self.columns) if self.axis is None else (0, self.axis, self.rows, self.columns)
        plane = volume[channels].transpose(order)
        plane = plane if self.axis is None else plane[:, index]
        down, right = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        return plane[:, down, right]


@dataclass(frozen=True)
class Shown:
    """One slice: its number from 0 over all channels, its name, and its values (C, rows, columns) before and after."""

    number: int
    label: str
    before: np.ndarray
    after: np.ndarray
    removed: np.ndarray
    spread: np.ndarray | None


@dataclass(frozen=True)
class View:
    """One slice as pictures: ``before``, ``after``, ``removed``, and ``spread`` where there is one."""

    number: int
    label: str
    pictures: dict[str, str]

    @property
    def size(self) -> int:
        return sum(map(len, self.pictures.values()))


@dataclass(frozen=True)
class Scales:
    """How values become grey: a window of intensities, and the largest values of what was removed and of the spread.

    Attributes:
        windows: the lowest and highest intensity for each channel.
        removed, spread: what is white; for what was removed, minus it is black.
        inverted: small values are bright (MONOCHROME1).
    """

    windows: Sequence[tuple[float, float]]
    removed: float
    spread: float
    inverted: bool = False

    @classmethod
    def of(cls, windows: Sequence[tuple[float, float]], slices: Sequence[Shown], inverted: bool) -> Scales:
        """Scales on which nearly all that was removed, and all of the spread, can be told apart."""
        changes = [np.abs(one.removed[one.removed != 0]) for one in slices if one.removed.any()]
        largest = max((float(one.spread.max()) for one in slices if one.spread is not None), default=0.0)
        removed = float(np.percentile(np.concatenate(changes), WHITE)) if changes else 1.0
        return cls(windows, removed, largest or 1.0, inverted)

    def view(self, shown: Shown, channel: int) -> View:
        """The slice of a channel as pictures."""
        low, high = self.windows[channel]
        bounds = (high, low) if self.inverted else (low, high)
        pictures = {"before": picture(shown.before, *bounds), "after": picture(shown.after, *bounds)}
        removed = shown.removed.mean(0, keepdims=True)
        pictures["removed"] = picture(removed, -self.removed, self.removed, FEW_LEVELS)
        if shown.spread is not None:
            pictures["spread"] = picture(shown.spread.mean(0, keepdims=True), 0, self.spread, FEW_LEVELS)
        return View(shown.number, shown.label, pictures)


def stride(plane: np.ndarray) -> int:
    """Every how many-th pixel of a slice is shown."""
    return -(-max(plane.shape[-2:]) // LARGEST_SIDE)


def picture(plane: np.ndarray, low: float, high: float, levels: int = 256) -> str:
    """A slice (C, rows, columns) as the text of a PNG; ``low`` is black, ``high`` white, what is not finite black.

    Of a large slice pixels are left out, not averaged: the mean of neighbours would denoise what is shown as noisy.

    >>> picture(np.zeros((1, 4, 4)), 0, 1)[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    step = stride(plane)
    share = (plane[:, ::step, ::step].astype(np.float64) - low) / ((high - low) or 1.0)
    grey = np.rint(np.nan_to_num(share.clip(0, 1)) * (levels - 1)).astype(np.uint8)
    image = Image.fromarray(np.moveaxis(grey, 0, -1) if len(grey) == 3 else grey[0])
    options = {}
    if levels < 256:
        image.putpalette([round(255 * level / (levels - 1)) for level in range(levels) for _ in "RGB"])
        options = {"bits": 4}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def space_evenly(total: int, count: int) -> list[int]:
    """So many numbers below a total, evenly spaced.

    >>> space_evenly(28, 4), space_evenly(3, 12)
    ([3, 10, 17, 24], [0, 1, 2])
    """
    count = min(total, count)
    return [int((index + 0.5) * total / count) for index in range(count)]


def within_budget(views: Sequence[View]) -> list[View]:
    """The views, those farthest from the middle left out until the others are small enough together."""
    kept, middle = list(views), views[len(views) // 2].number
    while len(kept) > 1 and sum(view.size for view in kept) > BUDGET:
        kept.remove(max(kept, key=lambda view: abs(view.number - middle)))
    return kept
