"""A first estimate of an image without a network: groups of similar patches are of low rank, but for their noise."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ..noise.model import NoiseModel
from .nonlocal_bayes import LEAST, in_planes, one_round

FINE = 4096  # steps of the integral over a density


def estimate_low_rank(noisy: Tensor, noise: NoiseModel) -> Tensor:
    r"""Denoise an image by shrinking the singular values of groups of similar patches.

    .. math:: \hat X = \mu + U \,\mathrm{diag}(\eta(s))\, V^T, \qquad
              \eta(s) = \frac{1}{s} \sqrt{(s^2 - \beta - 1)^2 - 4 \beta}\ \text{ where } s > 1 + \sqrt{\beta},
              \text{ else } 0

    with the singular value decomposition of :math:`X - \mu = U\,\mathrm{diag}(s)\,V^T`, the k noisy patches of a
    group, whitened, less their mean, in units of :math:`\sigma \sqrt{n}` where each has n pixels, and
    :math:`\beta = (k - 1) / n`. Where the median of a group's :math:`s^2` is more than noise alone would give, its
    noise is taken to be as much stronger: a map of the noise may be too flat.

    Args:
        noisy: (1, C, H, W).
        noise: its standard deviation, correlation and deviation from place to place.

    Returns:
        the same shape.

    Groups are those of :func:`~monai_dnaprior.denoisers.nonlocal_bayes.refine` in a round before the last, found in the
    noisy image after a binomial filter of 3×3 pixels.

    Source: Gavish, Donoho, "Optimal shrinkage of singular values", IEEE Transactions on Information Theory 63, 2017,
    doi:10.1109/TIT.2017.2653801, its optimum for the Frobenius norm; and "The optimal hard threshold for singular
    values is 4/sqrt(3)", the same 60, 2014, doi:10.1109/TIT.2014.2323359, for the median.

    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> noisy = clean + 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> estimate = estimate_low_rank(noisy, NoiseModel(0.1))
    >>> bool((estimate - clean).square().mean() < 0.2 * (noisy - clean).square().mean())
    True
    """

    def estimate(planes: Tensor, even: NoiseModel) -> Tensor:
        return one_round(planes, blur(planes), even, middle=0, rounds_left=1, rule=shrink_singular_values)

    return in_planes(estimate, noise, noisy)


def blur(image: Tensor) -> Tensor:
    """The binomial filter of 3×3 pixels."""
    return avg_pool2d(avg_pool2d(pad(image, [1] * 4, "replicate"), 2, stride=1), 2, stride=1)


def shrink_singular_values(noisy: Tensor, guide: Tensor, sigma: float) -> Tensor:
    """The rule of :func:`estimate_low_rank` for groups (groups, similar, values); it needs no guide."""
    similar, size = noisy.shape[1:]
    few, many = sorted((max(1, similar - 1), size))
    mean = noisy.mean(1, keepdim=True)
    spread = noisy - mean
    products = spread @ spread.mT
    energy = products.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None]
    noise = (LEAST * energy).clamp(min=max(many * sigma**2, torch.finfo(energy.dtype).tiny))
    squares, vectors = torch.linalg.eigh(products / noise)
    median = squares[:, -few:].median(-1, keepdim=True).values
    squares = squares / (median / median_of_noise(few / many)).clamp(min=1)
    beta = few / many
    kept = ((squares - beta - 1).square() - 4 * beta).clamp(min=0).sqrt() / squares.clamp(min=1)
    kept = kept.where(squares > (1 + beta**0.5) ** 2, 0)
    return vectors @ (kept[..., None] * (vectors.mT @ spread)) + mean


@lru_cache(maxsize=16)
def median_of_noise(beta: float) -> float:
    r"""The median of :math:`s^2` of noise alone, by the density of Marchenko and Pastur.

    >>> round(median_of_noise(47 / 64), 2)
    0.75
    """
    low, high = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2
    middle = (torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE
    squares = low + (high - low) * middle
    density = ((high - squares) * (squares - low)).sqrt() / squares
    share = density.cumsum(0) / density.sum()
    return squares[torch.searchsorted(share, 0.5)].item()
