"""One value for the noise of an image: how strong it is, how alike in neighbouring pixels, and how even."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from .blind import OF_SMALL, TEXTURE, join_slices, measure, measure_parts, strength_beside
from .estimate import estimate_sigma
from .spectrum import neighbours_of, spectrum_of

FLOOR = 2e-3  # of the mean power is the least that a spectrum has
SLICES, PIXELS = 8, 2**19  # in which what slices share is measured: eight of 256×256, two of 512×512
LEAST_PIXELS = 2**14  # or as many more as this takes
LEAST_SIDE = 96  # of slices in which noise may be measured to be uneven


@dataclass(frozen=True, eq=False)
class NoiseModel:
    r"""Gaussian noise :math:`n = \sigma\, d(p)\, e`, where e has unit variance and is stationary.

    Attributes:
        sigma: standard deviation, the root of its mean square over the image.
        correlation: :math:`\rho`, of e over lags, (2L+1, 2L+1), 1 at the centre; None where e is white within the error
            of what was measured.
        deviation: d, (1, 1, H, W), of mean square 1; None where the noise is even within that error.
        assumed: whether that it is white and even was not measured.
        pooled: whether it was measured in several slices together, each of which has a strength and a map of its own,
            see :meth:`at`.
        limit: of the standard deviation that one of those slices is believed to have.

    >>> noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    >>> model = NoiseModel.of(torch.nn.functional.avg_pool2d(noise, 2, 1))
    >>> model.is_white, bool(abs(model.sigma - 0.5) < 0.05), bool(abs(model.correlation[15, 16] - 0.5) < 0.1)
    (False, True, True)
    """

    sigma: float
    correlation: Tensor | None = None
    deviation: Tensor | None = None
    assumed: bool = False
    pooled: bool = False
    limit: float = math.inf

    @classmethod
    def of(cls, noisy: Tensor, *, differences: bool = False) -> NoiseModel:
        """Measure the noise of one image (1, C, H, W), or what several slices or their differences (B, C, H, W) share.

        White and even noise has the sigma of :func:`~monai_dnaprior.noise.estimate.estimate_sigma`. The measurement is
        made on the CPU, and depends on the values alone.
        """
        images = noisy.detach().float().cpu()
        plain = estimate_sigma(images).median().item()
        if len(images) == 1:
            measured = measure(images[0], plain)
        else:
            image, usable = join_slices(images)
            small = min(images.shape[-2:]) < LEAST_SIDE
            doubt = OF_SMALL if small and not differences else TEXTURE
            measured = measure(image, plain, usable=usable, small=small, doubt=doubt)
        if measured is None:
            return cls(plain, pooled=len(images) > 1)
        correlation = None if measured.correlation is None else measured.correlation.float().to(noisy.device)
        if len(images) > 1:
            return cls(measured.sigma, correlation, pooled=True)
        deviation = None if measured.deviation is None else measured.deviation[None, None].to(noisy.device)
        return cls(measured.sigma, correlation, deviation)

    @classmethod
    def of_parts(cls, noisy: Tensor) -> NoiseModel | None:
        """The even, correlated noise that parts of one large image (1, C, H, W) agree on; None where they do not."""
        measured = measure_parts(noisy[0].detach().float().cpu())
        if measured is None or measured.correlation is None:
            return None
        return cls(measured.sigma, measured.correlation.float().to(noisy.device))

    def given(self, known: Tensor | NoiseModel | None) -> NoiseModel:
        """What is known of the noise, in place of what was measured.

        Args:
            known: the standard deviation at every pixel, (1, 1, H, W), whose correlation stays that of this model, as
                does its map if all are equal; or a model that says all; None if nothing is known.
        """
        if known is None or isinstance(known, NoiseModel):
            return known or self
        sigma = known.square().mean().sqrt()
        deviation = self.deviation if known.min() == known.max() else known / sigma
        return replace(self, sigma=sigma.item(), deviation=deviation)

    @property
    def is_white(self) -> bool:
        """Whether neighbouring pixels are not alike; the noise may be uneven."""
        return self.correlation is None

    @property
    def neighbours(self) -> tuple[float, float]:
        """Correlation of e with the nearest below and to the right."""
        if self.correlation is None:
            return 0.0, 0.0
        below, right = neighbours_of(self.correlation).tolist()
        return below, right

    @property
    def sigma_range(self) -> tuple[float, float]:
        """The 10th and the 90th percentile of the standard deviation over the pixels."""
        if self.deviation is None:
            return self.sigma, self.sigma
        low, high = np.percentile(self.deviation.cpu().numpy(), (10, 90)).tolist()
        return self.sigma * low, self.sigma * high

    def spectrum(self, height: int, width: int) -> Tensor:
        """Power of e, (H, W) in the order of :func:`torch.fft.fft2`, of mean 1 and nowhere near 0."""
        if self.correlation is None:
            return torch.ones(height, width, dtype=torch.float64)
        power = spectrum_of(self.correlation, height, width).clamp(min=0)
        power = power.clamp(min=FLOOR * float(power.mean()))
        return power / power.mean()

    def covariance(self, side: int) -> Tensor:
        """Covariance of e in a patch, (side², side²) in double precision."""
        if self.correlation is None:
            return torch.eye(side * side, dtype=torch.float64)
        reach = len(self.correlation) // 2
        rho = pad(self.correlation.double(), [max(0, side - 1 - reach)] * 4)
        centre, axis = len(rho) // 2, torch.arange(side, device=rho.device)
        places = torch.cartesian_prod(axis, axis)
        lags = places[:, None] - places + centre
        return rho[lags[..., 0], lags[..., 1]]

    def variance(self, image: Tensor) -> Tensor:
        """The variance of the noise at every pixel of an image (1, C, H, W)."""
        deviation = torch.ones_like(image) if self.deviation is None else self.deviation.expand_as(image)
        return self.sigma**2 * deviation.square()

    def crop(self, place: tuple[Any, ...]) -> NoiseModel:
        """The noise of a part of the image."""
        return self if self.deviation is None else replace(self, deviation=self.deviation[place])

    def beside(self, estimate: Callable[[Tensor, NoiseModel], Tensor], noisy: Tensor) -> NoiseModel:
        """The same, but as strong as it is in an image (1, C, H, W) when its texture is taken from an estimate.

        Noise that is white or uneven stays as it was measured, and nothing is estimated.

        Args:
            estimate: makes it of the image and this noise, in the image's shape.
            noisy: the image.
        """
        if self.correlation is None or self.deviation is not None or self.sigma <= 0:
            return self
        image, clean = (values[0].detach().float().cpu() for values in (noisy, estimate(noisy, self)))
        sigma = strength_beside(image, clean, self.correlation.double().cpu())
        return self if sigma is None else replace(self, sigma=min(sigma, self.limit))

    def to(self, device: torch.device) -> NoiseModel:
        """The same on a device."""
        correlation, deviation = (
            part if part is None else part.to(device) for part in (self.correlation, self.deviation)
        )
        return replace(self, correlation=correlation, deviation=deviation)

    def scale(self, factor: float) -> NoiseModel:
        """The noise of the image times a factor."""
        return replace(self, sigma=factor * self.sigma, limit=factor * self.limit)

    def shrink(self, factor: int) -> NoiseModel:
        """The noise of means over blocks of factor × factor pixels."""
        if factor == 1:
            return self
        deviation, share = self.deviation, 1.0
        if deviation is not None:
            lacking = [0, -deviation.shape[-1] % factor, 0, -deviation.shape[-2] % factor]
            power = avg_pool2d(pad(deviation.square(), lacking, "replicate"), factor)
            share = power.mean().sqrt().item()
            deviation = power.sqrt() / share
        if self.correlation is None:
            return NoiseModel(share * self.sigma / factor, None, deviation)
        triangle = factor - torch.arange(1 - factor, factor, dtype=torch.float64).abs()
        kernel = torch.outer(triangle, triangle)[None, None].to(self.correlation.device) / factor**4
        reach = len(self.correlation) // 2
        coarse = -(-(reach + factor - 1) // factor)
        room = pad(self.correlation.double()[None, None], [coarse * factor + factor - 1 - reach] * 4)
        rho = conv2d(room, kernel)[0, 0, ::factor, ::factor]
        variance = rho[coarse, coarse].item()
        return NoiseModel(share * self.sigma * variance**0.5, (rho / variance).to(self.correlation), deviation)

    def at(self, noisy: Tensor) -> NoiseModel:
        """This correlation with the strength and the map that one image (1, C, H, W) has itself.

        This strength where the image shows too little of its own.
        """
        image = noisy.detach().float().cpu()
        plain = estimate_sigma(image).item()
        known = None if self.correlation is None else self.correlation.double().cpu()
        measured = measure(image[0], plain, known=known, white=known is None)
        if measured is None:
            return NoiseModel(plain if known is None else self.sigma if plain else 0.0, self.correlation)
        deviation = None if measured.deviation is None else measured.deviation[None, None].to(noisy.device)
        return NoiseModel(min(measured.sigma, self.limit), self.correlation, deviation, limit=self.limit)


def spaced(count: int, most: int) -> list[int]:
    """Indices of so many of ``count`` slices, at equal distances.

    >>> spaced(10, 4)
    [1, 3, 6, 8]
    """
    number = min(count, most)
    return [(2 * index + 1) * count // (2 * number) for index in range(number)]


def measured_slices(count: int, height: int, width: int) -> list[int]:
    """Of so many slices those in which what they share is measured."""
    area = height * width
    return spaced(count, max(1, -(-LEAST_PIXELS // area), min(SLICES, PIXELS // area)))
