"""The noise of magnitude images: what it adds to their brightness, and how that is taken away."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .estimate import estimate_sigma, varying_pixels

HIGHEST = 50.0  # signal in units of sigma, up to which the mean is in a table
ENTRIES = 5001
QUANTILES = 1001  # by which the pixels' means stand
BISECTIONS = 30
MEDIAN = 0.6745  # of the absolute values of standard normal noise


def without_rician_bias(noisy: Tensor, denoised: Tensor) -> tuple[Tensor, list[float]]:
    r"""The signal whose magnitude, with noise in both of its parts, has the mean that a denoiser found.

    .. math:: y = |x + n_1 + i n_2|, \qquad
              E[y] = \sigma \sqrt{\pi/2}\; e^{-t} \left[(1 + 2t) I_0(t) + 2t I_1(t)\right], \quad t = x^2 / 4\sigma^2

    is solved for x at every pixel. Air, where x is 0, has the mean :math:`1.25\,\sigma`, and a standard deviation of
    :math:`0.66\,\sigma` only; so :math:`\sigma` is what explains the noise level that is estimated in the whole image.

    Args:
        noisy: magnitudes (B, C, H, W), 0 where there is neither signal nor noise.
        denoised: their estimated mean, of the same shape.

    Returns:
        the signal, not negative, and :math:`\sigma` of each image. Pixels that equal all their neighbours come out as
        they are.

    Source: Koay, Basser, "Analytically exact correction scheme for signal extraction from noisy magnitude MR signals",
    J. Magnetic Resonance 179, 2006, doi:10.1016/j.jmr.2006.01.016.

    Departures: sigma is from one image, where the source has it from the deviation at every pixel.

    >>> from monai_dnaprior.noise.models import add_noise
    >>> noisy = add_noise(torch.full((1, 1, 256, 256), 0.3), "rician:51", seed=0)
    >>> signal, sigmas = without_rician_bias(noisy, noisy.mean().expand(noisy.shape))
    >>> round(noisy.mean().item(), 2), round(signal.mean().item(), 2), round(sigmas[0], 2)
    (0.37, 0.3, 0.2)
    """
    seen = varying_pixels(noisy)
    images, sigmas = [], []
    for image, where, level in zip(denoised, seen, estimate_sigma(noisy).tolist(), strict=True):
        means = image.double().cpu().numpy()
        sigma = complex_sigma(means[where.cpu().numpy()], level)
        images.append(torch.from_numpy(signal_of(means, sigma)).to(image) if sigma > 0 else image)
        sigmas.append(sigma)
    return torch.where(seen, torch.stack(images), denoised), sigmas


def complex_sigma(means: np.ndarray, level: float) -> float:
    """Sigma of each part, for pixels with these means, where the magnitudes' noise is estimated to be so strong.

    The estimate is the median of differences; so half of all differences must be smaller, when each pixel's have the
    deviation that belongs to its mean. Between no pixel in air and all of them there is one such sigma.
    """
    from scipy.special import erf

    if not (level > 0 and means.size):
        return level
    _, magnitudes, deviations = table()
    means = np.quantile(means, np.linspace(0, 1, QUANTILES))
    low, high = level, level / deviations[0]
    for _ in range(BISECTIONS):
        sigma = (low + high) / 2
        smaller = erf(MEDIAN / math.sqrt(2) * level / (sigma * np.interp(means / sigma, magnitudes, deviations)))
        low, high = (sigma, high) if smaller.mean() > 0.5 else (low, sigma)
    return float(sigma)


def signal_of(means: np.ndarray, sigma: float) -> np.ndarray:
    """The signal of magnitudes with these means."""
    signals, magnitudes, _ = table()
    ratios = means / sigma
    high = ratios - 0.5 / np.maximum(ratios, 1)
    return sigma * np.where(ratios > magnitudes[-1], high, np.interp(ratios, magnitudes, signals))


@cache
def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals, and the mean and standard deviation of their magnitudes, for a sigma of 1."""
    from scipy.special import ive

    signals = np.linspace(0, HIGHEST, ENTRIES)
    part = signals**2 / 4
    means = np.sqrt(np.pi / 2) * ((1 + 2 * part) * ive(0, part) + 2 * part * ive(1, part))
    return signals, means, np.sqrt(2 + signals**2 - means**2)
