"""Noise that depends on brightness, measured in the noisy image and stabilised by a change of the grey scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .estimate import QUARTERS, noise_levels

GROUPS = (6, QUARTERS)  # of blocks by brightness, through whose noise levels the variance is fitted; fewer if small
GRID = 4096
FLOOR = 0.02  # of the mean variance is the least that is reckoned with


@dataclass(frozen=True)
class Stabiliser:
    r"""A grey scale on which the noise of one image is even.

    .. math:: t(y) = y_0 + k \int_{y_0}^{y} \frac{du}{\sqrt{a + b u + c u^2}}

    where the variance of the noise at brightness u is taken to be :math:`a + b u + c u^2` (Gaussian, Poisson and
    multiplicative noise and their sums), :math:`y_0` is the least value of the image and k keeps its range. Poisson
    noise gives Anscombe's square root, multiplicative noise the logarithm.

    Attributes:
        variance: a, b, c, none negative.
        grey, stabilised: the two scales, value for value.

    Source: Bartlett, "The use of transformations", Biometrics 3, 1947, doi:10.2307/3001536; the inverse with the bias
    of the mean taken out to second order follows Makitalo, Foi, IEEE Trans. Image Processing 20, 2011,
    doi:10.1109/TIP.2010.2056693, in place of their exact tables, which hold for Poisson noise alone.

    >>> from monai_dnaprior.noise.estimate import NoiseKind
    >>> counts = torch.poisson(torch.linspace(1, 40, 128).expand(1, 1, 128, 128), torch.Generator().manual_seed(0))
    >>> stabiliser = Stabiliser.of(counts)
    >>> [NoiseKind.of(image).can_be_stabilised for image in (counts, stabiliser(counts))]
    [True, False]
    """

    variance: tuple[float, float, float]
    grey: np.ndarray
    stabilised: np.ndarray

    @classmethod
    def of(cls, noisy: Tensor) -> Stabiliser:
        """Fit the variance to the noise levels of an image (1, C, H, W) in blocks of like brightness."""
        from scipy.optimize import nnls

        measured = (noise_levels(noisy, groups=groups) for groups in GROUPS)
        means, levels = next((part.cpu().numpy() for part in pair) for pair in measured if len(pair[0]))
        powers = np.stack((np.ones_like(means), means, means**2), axis=1)
        seen = levels > 0
        weights = 1 / levels[seen] ** 2  # so that every level counts by its relative error
        coefficients, _ = nnls(powers[seen] * weights[:, None], np.ones(seen.sum()))
        grey = np.linspace(noisy.min().item(), noisy.max().item(), GRID)
        variance = np.polynomial.Polynomial(coefficients)(grey.clip(min=0)).clip(min=FLOOR * np.mean(levels**2))
        slope = variance**-0.5
        rise = np.concatenate(([0], np.cumsum((slope[1:] + slope[:-1]) / 2)))
        stabilised = grey[0] + (grey[-1] - grey[0]) * rise / rise[-1]
        return cls(tuple(coefficients.tolist()), grey, stabilised)

    def __call__(self, noisy: Tensor) -> Tensor:
        """The image on the scale where its noise is even."""
        return map_values(noisy, self.grey, self.stabilised)

    def inverse(self, denoised: Tensor, sigma: float) -> Tensor:
        """Back to the image's own scale, less the bias of a mean that was taken where noise had this sigma."""
        slope = np.gradient(self.grey, self.stabilised)
        bias = sigma**2 / 2 * np.gradient(slope, self.stabilised)
        return map_values(denoised, self.stabilised, self.grey + bias)


def map_values(image: Tensor, start: np.ndarray, end: np.ndarray) -> Tensor:
    """The image with every value changed as ``start`` becomes ``end``, linearly in between."""
    values = np.interp(image.double().cpu().numpy(), start, end)
    return torch.from_numpy(values).to(image)
