"""How near two images are, and how much they have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(image: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio for a peak of 1, the image clipped to [0, 1]."""
    return -10 * torch.log10((image.clamp(0, 1) - clean).square().mean()).item()


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of the values of two tensors, in double precision; 0 where one is constant."""
    one, other = (values - values.mean() for values in (one.double(), other.double()))
    scale = one.norm() * other.norm()
    return ((one * other).sum() / scale).item() if scale > 0 else 0.0


def ssim(image: Tensor, clean: Tensor) -> float:
    """Structural similarity, as scikit-image has it for a range of 1, the image clipped to [0, 1]."""
    from skimage.metrics import structural_similarity

    window = min(7, *(side - 1 + side % 2 for side in clean.shape[-2:]))
    if window < 3:
        return float("nan")
    pair = (values[0].numpy() for values in (image.clamp(0, 1), clean))
    return float(structural_similarity(*pair, data_range=1, channel_axis=0, win_size=window))
