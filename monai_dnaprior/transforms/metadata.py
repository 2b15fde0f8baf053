"""What an image's metadata say of it: its name, how it lies, and whether its axes are as a transform takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data import MetaTensor
from monai.data.utils import is_no_channel
from monai.utils import MetaKeys

from .volumes import SPATIAL_AXES, Slicing

COLOURS = 4  # channels of an image at most
NARROW = 4  # pixels; what is no wider is hardly a slice


def name_of(image: Any) -> str:
    """The file that an image came from, if that is known."""
    meta = image.meta if isinstance(image, MetaTensor) else {}
    return str(meta.get("filename_or_obj", "image"))


def slicing_of(image: Any, slicing: Slicing) -> tuple[Slicing, list[str]]:
    """How an image (C, H, W) or (C, H, W, D) is to be cut, and what is doubtful about it.

    Raises:
        ValueError: it is a batch, or has no channel axis.
    """
    check_layout(image)
    shape = tuple(image.shape)
    if len(shape) <= SPATIAL_AXES:
        return slicing, doubts_about_channels(shape, slicing)
    spacing = image.pixdim.tolist() if isinstance(image, MetaTensor) else None
    chosen = slicing.along(shape[1:], spacing)
    sides = [side for axis, side in enumerate(shape[1:]) if axis != chosen.axis - 1]
    size = "×".join(map(str, sides))
    batch = "if this is a batch (B, C, H, W), denoise its images one by one, or by an inferer"
    if 1 in sides:
        axis = shape[1:].index(1)
        raise ValueError(f"image.shape={shape} has slices of {size} pixels; {batch}; else set slice_dim={axis}.")
    doubts = [f"slices of {size} pixels: {batch}"] if min(sides) <= NARROW < max(sides) else []
    return chosen, doubts + chosen.doubts(shape[1:], spacing) + doubts_about_channels(shape, slicing)


def doubts_about_channels(shape: Sequence[int], slicing: Slicing) -> list[str]:
    if slicing.channel_wise or shape[0] <= COLOURS:
        return []
    return [
        f"{shape[0]} channels are denoised together, as colours are: put EnsureChannelFirst before if they are slices, "
        "or set channel_wise=True if they are modalities or time points"
    ]


def check_layout(image: Any) -> None:
    """Refuse a batch, and an image without channel axis, as far as metadata tell."""
    if not isinstance(image, MetaTensor):
        return
    shape = tuple(image.shape)
    if image.is_batch:
        raise ValueError(
            f"image.shape={shape} is a batch; put the transform before the DataLoader, or call it with each image of "
            "decollate_batch(image)."
        )
    loaded = tuple(int(side) for side in image.meta.get(MetaKeys.SPATIAL_SHAPE, ()))
    if shape == loaded and is_no_channel(image.meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)):
        raise ValueError(f"image.shape={shape} has no channel axis, its metadata say; put EnsureChannelFirstd before.")
