"""The noise of an image, measured from the noisy image alone."""

from __future__ import annotations

import torch
from torch import Tensor

DB2_HIGH_PASS = (-0.12940952255126037, -0.2241438680420134, 0.8365163037378079, -0.48296291314453416)
MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817
FLAT = 1e-6


def estimate_sigma(noisy: Tensor) -> Tensor:
    r"""Standard deviation of white Gaussian noise in each image.

    .. math:: \hat\sigma = \mathrm{median}(|d|) \,/\, 0.6745

    over the finest diagonal Daubechies-2 wavelet coefficients d, those of flat patches left out: an empty background
    or a masked region holds no noise and would pull the median to zero. The channels' estimates are averaged.

    Args:
        noisy: (B, C, H, W), finite.

    Returns:
        (B,), in the units of ``noisy``; 0 where no patch of 4×4 pixels is other than flat.

    Source: Donoho, Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994,
    doi:10.1093/biomet/81.3.425, section 4.2.

    >>> noise = 0.1 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    >>> round(float(estimate_sigma(noise)), 2)
    0.1
    """
    batch, channels, height, width = noisy.shape
    if min(height, width) < len(DB2_HIGH_PASS):
        return noisy.new_zeros(batch)
    high_pass = noisy.new_tensor(DB2_HIGH_PASS, dtype=torch.float64)
    planes = noisy.double().reshape(batch * channels, 1, height, width)
    details = torch.nn.functional.conv2d(planes, torch.outer(high_pass, high_pass)[None, None], stride=2)
    estimates = [median_deviation(plane[plane > FLAT * planes.abs().max()]) for plane in details.abs()]
    return torch.stack(estimates).reshape(batch, channels).mean(1).to(noisy.dtype)


def median_deviation(magnitudes: Tensor) -> Tensor:
    if magnitudes.numel() == 0:
        return magnitudes.new_zeros(())
    return magnitudes.median() / MEDIAN_OF_ABSOLUTE_NORMAL


def varying_pixels(noisy: Tensor) -> Tensor:
    """Where noise can be seen: pixels that differ from a neighbour above, below, left or right.

    An empty background or a masked region is exact, so what a fit leaves there says nothing of the noise.

    >>> image = torch.tensor([[[[0.0, 0.0, 0.0, 5.0]]]])
    >>> varying_pixels(image).int().tolist()
    [[[[0, 0, 1, 1]]]]
    """
    varying = torch.zeros_like(noisy, dtype=torch.bool)
    for dim in (-2, -1):
        size = noisy.shape[dim]
        differs = noisy.narrow(dim, 1, size - 1) != noisy.narrow(dim, 0, size - 1)
        varying.narrow(dim, 0, size - 1).logical_or_(differs)
        varying.narrow(dim, 1, size - 1).logical_or_(differs)
    return varying
