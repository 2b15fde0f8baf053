"""What an image's metadata say of it: its name, how it lies, and whether its axes are as a transform takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import is_no_channel
from monai.utils import MetaKeys

from ..files.labels import holds_labels
from .slicing import SPATIAL_AXES, Slicing

COLOURS = 4  # channels of an image at most
NARROW = 4  # pixels; what is no wider is hardly a slice
TOGETHER = (
    "{} channels are denoised together, as colours are; put EnsureChannelFirst before if they are slices, or set "
    "channel_wise=True if they are modalities or time points"
)


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
    sides, spacing = shape[1:], image.pixdim.tolist() if isinstance(image, MetaTensor) else None
    chosen = slicing.along(sides, spacing)
    doubts = chosen.doubts(sides, spacing)
    if not slicing.channel_wise and shape[0] > COLOURS:
        doubts.append(TOGETHER.format(shape[0]))
    if holds_labels(as_array(image)):
        doubts.append("few whole numbers in flat areas, as in a label map or mask: is it an image?")
    if len(sides) == SPATIAL_AXES:
        seen = [side for axis, side in enumerate(sides) if axis != chosen.axis - 1]
        text = "slices of {}×{} pixels; if this is a batch (B, C, H, W), denoise image by image".format(*seen)
        if min(seen) == 1:
            raise ValueError(f"image.shape={shape} has {text}; otherwise set slice_dim={sides.index(1)}.")
        doubts += [text] if min(seen) <= NARROW < max(seen) else []
    return chosen, doubts


def as_array(image: Any) -> np.ndarray:
    if not isinstance(image, torch.Tensor):
        return np.asarray(image)
    plain = torch.Tensor.detach(image.as_tensor() if isinstance(image, MetaTensor) else image).cpu()
    return (plain.float() if plain.is_floating_point() else plain).numpy()


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
