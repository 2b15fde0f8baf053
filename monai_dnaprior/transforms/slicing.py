"""How a volume is cut into 2D slices: along which axis, how many at once, and with how many of their neighbours."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..checks import check_flag, check_whole, is_whole
from ..fitting.devices import images_at_once

SPATIAL_AXES = 3
MOST_NEIGHBOURS = 3
AUTO = "auto"
THICK = 1.25  # times as far apart as voxels along the other axes are those of thick slices


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """How a volume is cut into 2D slices, and how these are handed to a denoiser.

    Args:
        slice_dim: the spatial axis, from -3 to 2, along which a volume is cut; "auto" is the one of thick slices where
            the spacing of the voxels tells, see :meth:`along`, and else the last. A 2D image is one slice.
        channel_wise: treat every channel as a volume of its own, with its own range of intensities (modalities, time
            points); otherwise the channels of a slice are denoised together (RGB).
        batch_size: how many slices the denoiser is handed at once; None for what suits the device, see
            :func:`~monai_dnaprior.fitting.devices.images_at_once`. The result does not depend on it, on an accelerator
            but for rounding, about a thousandth of the range of intensities.
        neighbours: how many slices on each side help to denoise one, 0 to 3: each slice is filtered once more after
            all together with them, in blocks of several slices. None for the method's own choice, see
            :func:`~monai_dnaprior.transforms.volumes.used_neighbours`.
        rician: the volume holds magnitudes (MR): take away what Rician noise adds to their mean, see
            :func:`~monai_dnaprior.noise.rician.without_rician_bias`.
        progress: show a progress bar.

    >>> Slicing(slice_dim=3)
    Traceback (most recent call last):
    ValueError: slice_dim=3 is no spatial axis; choose one of -3 to 2 (-1 is the last), or "auto".
    """

    slice_dim: int | str = AUTO
    channel_wise: bool = False
    batch_size: int | None = None
    neighbours: int | None = None
    rician: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        known = is_whole(self.slice_dim) and -SPATIAL_AXES <= int(self.slice_dim) < SPATIAL_AXES
        if not known and self.slice_dim != AUTO:
            raise ValueError(
                f'slice_dim={self.slice_dim} is no spatial axis; choose one of -3 to 2 (-1 is the last), or "auto".'
            )
        check_whole(1, batch_size=1 if self.batch_size is None else self.batch_size)
        check_whole(0, neighbours=self.neighbours or 0)
        if (self.neighbours or 0) > MOST_NEIGHBOURS:
            raise ValueError(f"neighbours={self.neighbours} is too many; give at most {MOST_NEIGHBOURS} on each side.")
        check_flag(channel_wise=self.channel_wise, rician=self.rician, progress=self.progress)

    @property
    def axis(self) -> int:
        """The axis of a volume with channels in front, 1 to 3."""
        return (-1 if isinstance(self.slice_dim, str) else self.slice_dim) % SPATIAL_AXES + 1

    def along(self, sides: Sequence[int], spacing: Sequence[float] | None) -> Slicing:
        """The same with the axis that "auto" stands for, of a volume whose voxels lie so far apart.

        >>> Slicing().along((96, 16, 96), (1.0, 5.0, 1.0)).slice_dim
        1
        """
        if self.slice_dim != AUTO:
            return self
        thick = thick_axis(sides, spacing)
        return replace(self, slice_dim=-1 if thick in (None, SPATIAL_AXES - 1) else thick)

    def doubts(self, sides: Sequence[int], spacing: Sequence[float] | None) -> list[str]:
        """That slices are cut across thick ones, if they are."""
        thick = thick_axis(sides, spacing)
        if spacing is None or thick is None or thick == self.axis - 1:
            return []
        return [
            f"slice_dim={self.slice_dim} cuts across thick slices, which lie {spacing[thick]:.3g} mm apart along axis "
            f'{thick}: set slice_dim="auto"'
        ]

    def at_once(self, volume: Tensor) -> int:
        """How many slices of a volume are denoised at once."""
        return self.batch_size or images_at_once(volume.device, self.cut(volume)[0].numel())

    def depth(self, shape: Sequence[int]) -> int:
        """How many slices lie behind each other in a volume (C, H, W, D), or an image (C, H, W)."""
        return 1 if len(shape) == SPATIAL_AXES else shape[self.axis]

    def count(self, shape: Sequence[int]) -> int:
        """How many slices are denoised, channel after channel where each is a volume of its own."""
        return self.depth(shape) * (shape[0] if self.channel_wise else 1)

    def place(self, ndim: int, channels: slice, slices: slice) -> tuple[slice, ...]:
        """The index of some slices of some channels in a volume of ``ndim`` axes; an image is one slice."""
        place = [channels, *[slice(None)] * (ndim - 1)]
        if ndim > SPATIAL_AXES:
            place[self.axis] = slices
        return tuple(place)

    def cut(self, volume: Tensor) -> Tensor:
        """The slices of a volume (C, H, W, D), or of an image (C, H, W), as (B, C, H, W), sharing its memory."""
        return volume[None] if volume.ndim == SPATIAL_AXES else volume.movedim(self.axis, 0)

    def join(self, slices: Tensor, ndim: int) -> Tensor:
        """The volume or image of ``ndim`` axes that was cut into these slices."""
        return slices[0] if ndim == SPATIAL_AXES else slices.movedim(0, self.axis)


def batches(indices: range, batch_size: int, done: Container[int]) -> Iterator[range]:
    """Runs of neighbouring slices that are not done, each of ``batch_size`` at most.

    >>> list(batches(range(6), 2, done={1}))
    [range(0, 1), range(2, 4), range(4, 6)]
    """
    start = indices.start
    for index in indices:
        if index in done:
            if index > start:
                yield range(start, index)
            start = index + 1
        elif index + 1 - start == batch_size or index == indices[-1]:
            yield range(start, index + 1)
            start = index + 1


def thick_axis(sides: Sequence[int], spacing: Sequence[float] | None) -> int | None:
    """The axis of a volume along which voxels lie much farther apart than along both others; None if there is none.

    Nor is it one whose slices would be mere lines.

    >>> thick_axis((96, 16, 96), (1.0, 5.0, 1.0)), thick_axis((96, 16, 96), (1.0, 1.0, 1.0))
    (1, None)
    """
    if spacing is None or min(len(sides), len(spacing)) < SPATIAL_AXES or not all(distance > 0 for distance in spacing):
        return None
    *others, thick = sorted(range(SPATIAL_AXES), key=lambda axis: spacing[axis])
    far = spacing[thick] > THICK * spacing[others[-1]] and min(sides[axis] for axis in others) > 1
    return thick if far else None
