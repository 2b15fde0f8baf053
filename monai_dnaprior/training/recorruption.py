r"""Noise to train on whose law is known, because it is made: y₊ and y₋ of clean images, with independent noises.

A clean image x gives a noisy one y = x + n, and that is recorrupted with fresh noise n' of the same law,

    y₊ = y + n',   y₋ = y − n',

whose noises are independent of each other where n is Gaussian. Half of the noise is white; the other has one of the
spectra that scanners and their software leave: blurs, interpolation, filtered back-projection, zero filling. A third of
it is uneven. Some goes by the brightness: counts and speckle.

Source: Pang, Zheng, Quan, Ji, "Recorrupted-to-Recorrupted: unsupervised deep learning for image denoising", CVPR
2021, doi:10.1109/CVPR46437.2021.00208.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

MARGIN = 16  # pixels cut off all round a periodic field of noise
LEVELS = 1.4 / 255, 64 / 255  # of y₊, whose deviation is √2 times that of y
USUAL = 7 / 255, 60 / 255  # a third is drawn evenly from these
COUNTS, SPECKLE = 0.08, 0.16  # up to here a number from [0, 1) means counts, then speckle, then Gaussian noise


class NoisyPair(NamedTuple):
    """Two noisy images (B, 1, H, W), and the map of the first one's standard deviation."""

    first: Tensor
    second: Tensor
    deviation: Tensor


def recorrupted(clean: Tensor, generator: torch.Generator) -> NoisyPair:
    """y₊ and y₋ of clean images (B, 1, H, W), square, with noise that a generator on their device draws.

    Where noise depends on brightness, n' goes by the blurred noisy image, never by the clean one.
    """
    count, side = len(clean), clean.shape[-1]
    draw = Draws(count, generator)
    level = torch.where(
        draw.even() < 0.65, LEVELS[0] * (LEVELS[1] / LEVELS[0]) ** draw.even(), draw.even(*USUAL)
    )  # even in its logarithm, mostly
    sigma = level / 2**0.5
    one, other = two_fields(side, draw)
    rough = draw.normal(1, 5, 5) * 0.45 * (draw.even() < 1 / 3)  # p90/p10 up to about 4
    uneven = interpolate(rough, size=(side, side), mode="bicubic", align_corners=True).exp()
    uneven = sigma * uneven / uneven.square().mean((1, 2, 3), keepdim=True).sqrt()
    kind = draw.even()
    peak = 0.3 / sigma.square()
    counted = torch.poisson(peak * clean.clamp(min=0), generator=generator) / peak + clean.clamp(max=0)
    strength = 2 * sigma  # of speckle: about sigma where the image is 0.5
    spread = torch.rand(clean.shape, generator=generator, device=clean.device)
    speckled = clean * (1 + strength * 3**0.5 * (2 * spread - 1))
    noisy = by_kind(kind, counted, speckled, clean + uneven * one)
    brightness = avg_pool2d(noisy, 5, 1, 2, count_include_pad=False).clamp(min=0)
    deviation = by_kind(kind, (brightness / peak).sqrt(), strength * brightness, uneven)
    again = deviation * torch.where(kind < SPECKLE, draw.normal(*clean.shape[1:]), other)
    return NoisyPair(noisy + again, noisy - again, 2**0.5 * deviation.clamp(min=0.1 * sigma))


def by_kind(kind: Tensor, counted: Tensor, speckled: Tensor, gaussian: Tensor) -> Tensor:
    return torch.where(kind < COUNTS, counted, torch.where(kind < SPECKLE, speckled, gaussian))


class Draws(NamedTuple):
    """Numbers for each of some images, from one generator."""

    number: int
    generator: torch.Generator

    def even(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, 1, 1, 1), even in [low, high)."""
        part = torch.rand(self.number, 1, 1, 1, generator=self.generator, device=self.generator.device)
        return low + (high - low) * part

    def logarithmic(self, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1), even in their logarithms."""
        return low * (high / low) ** self.even()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.number, *shape, generator=self.generator, device=self.generator.device)


def two_fields(side: int, draw: Draws) -> tuple[Tensor, Tensor]:
    """Two independent fields (B, 1, side, side) of unit power and one spectrum: a real and an imaginary part."""
    tile = side + 2 * MARGIN
    white = torch.complex(draw.normal(1, tile, tile), draw.normal(1, tile, tile))
    whole = torch.fft.ifft2(torch.fft.fft2(white) * spectra(tile, draw))
    cut = whole[..., MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    return cut.real, cut.imag


def spectra(side: int, draw: Draws) -> Tensor:
    """Amplitudes (B, 1, side, side) of noise of unit power, even in the frequency; half of them are white."""
    even, logarithmic = draw.even, draw.logarithmic
    f = torch.fft.fftfreq(side, device=draw.generator.device)
    fy, fx = f[:, None].expand(1, 1, side, side), f.expand(1, 1, side, side)
    angle = torch.where(even() < 0.3, even(0, math.pi), math.pi / 2 * (even() < 0.5))
    a, b = angle.cos() * fy + angle.sin() * fx, angle.cos() * fx - angle.sin() * fy
    r = (a.square() + b.square()).sqrt()
    isotropic = gaussian(r, logarithmic(0.4, 2.0))
    one_axis = gaussian(a, logarithmic(0.4, 2.2)) * gaussian(b, even(0, 0.3))
    triangular = torch.sinc(even(1.0, 2.5) * a).square()
    resampled = ((2 + (2 * math.pi * a).cos()) * (2 + (2 * math.pi * b).cos())).sqrt() / 3
    # filtered back-projection: √|f| is the noise of a ramp over white projections, times its window
    cut = logarithmic(0.2, 0.8)
    hann = (0.5 + 0.5 * (math.pi * r / cut).cos()) * (r < cut)
    shepp_logan = torch.sinc(r * even(1.0, 1.6)).abs()
    projected = (r + 1e-4) ** even(0.3, 0.7) * torch.where(even() < 0.7, hann, shepp_logan)
    projected = projected * torch.sinc(r) ** (2 * (even() < 0.5).float())  # interpolated when projected back
    # zero filling along one axis or both, sometimes apodised: to the power 0 or 1
    first, second = even(0.5, 0.9), even(0.5, 1.1)
    first, second = (torch.where(even() < 0.5, one, other) for one, other in ((first, second), (second, first)))
    band = ((fy.abs() < first / 2) & (fx.abs() < second / 2)).float()
    apodised = (0.55 + 0.45 * (2 * math.pi * fy / first).cos()) * (0.55 + 0.45 * (2 * math.pi * fx / second).cos())
    band = band * apodised ** (even() < 0.3).float()
    kind, amplitude = even(), torch.ones_like(r)
    shares = (0.5, isotropic), (0.6, one_axis), (0.65, triangular), (0.7, resampled), (0.75, projected), (0.89, band)
    for least, one in shares:
        amplitude = torch.where(kind >= least, one, amplitude)
    amplitude = (amplitude.square() + 1e-5).sqrt()
    return amplitude / amplitude.square().mean((-2, -1), keepdim=True).sqrt()


def gaussian(frequency: Tensor, width: Tensor) -> Tensor:
    """The spectrum of a Gaussian blur of this width in pixels."""
    return (-2 * (math.pi * width * frequency).square()).exp()
