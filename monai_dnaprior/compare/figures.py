"""Pictures of images side by side, and plots, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

CROP = 64


@dataclass(frozen=True)
class Panel:
    """One column of a strip: an image (C, H, W) in [0, 1], a crop of it, and what was removed, grey for nothing."""

    title: str
    image: Tensor
    crop: Tensor
    removed: Tensor | None


def draw_grid(strips: Sequence[Sequence[Panel]], path: Path) -> None:
    """For every strip three rows: the images, the crops, and what was removed."""
    width = max(len(panels) for panels in strips)
    figure = matplotlib_figure()(figsize=(2.2 * width, 6.6 * len(strips)), layout="constrained")
    axes = figure.subplots(3 * len(strips), width, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, panels in enumerate(strips):
        for column, panel in enumerate(panels):
            whole, crop, rest = axes[3 * number : 3 * number + 3, column]
            whole.set_title(panel.title, fontsize=8)
            show(whole, panel.image)
            show(crop, panel.crop)
            if panel.removed is not None:
                show(rest, panel.removed)
                rest.set_title("removed", fontsize=7)
    figure.savefig(path, dpi=110)


def draw_points(points: Mapping[str, Sequence[tuple[float, float]]], path: Path, *, label: str) -> None:
    """A value over seconds, on a logarithmic axis; a colour for every name."""
    figure = matplotlib_figure()(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, values in points.items():
        if values:
            axis.plot(*zip(*values, strict=True), "o", label=name)
    axis.set(xscale="log", xlabel="seconds", ylabel=label)
    if any(points.values()):
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def show(axis: Any, image: Tensor) -> None:
    pixels = image.clamp(0, 1).movedim(0, -1).numpy()
    axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)


def busiest_window(image: Tensor) -> tuple[Any, ...]:
    """The window of 64×64 pixels, or the whole of a smaller image, in which intensities vary most."""
    height, width = image.shape[-2:]
    rows, columns = (range(0, max(1, side - CROP + 1), CROP // 2) for side in (height, width))
    windows = [(..., slice(row, row + CROP), slice(column, column + CROP)) for row in rows for column in columns]
    return max(windows, key=lambda window: image[window].std().item())


def matplotlib_figure() -> type:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "the pictures are left out; they need matplotlib: pip install 'monai-dnaprior[report]'."
        ) from error
    return Figure
