r"""Noise to train on, made where the images are: its law is known, because it is ours.

A clean image x gives a noisy one y = x + n, and that is recorrupted with fresh noise n' of the same law,

    y₊ = y + n',   y₋ = y − n',

whose noises are independent of each other where n is Gaussian. Half of the noise is white; the other has one of the
spectra that scanners and their software leave: blurs, interpolation, filtered back-projection, zero filling. A third of
it is uneven. Some goes by the brightness: counts and speckle.

Everything is drawn from PyTorch's global random state on the device of the images, without branches on what is drawn:
it can be part of a CUDA graph.
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
    """Two noisy images (B, 1, H, W), the map of the first one's standard deviation, and its level (B, 1, 1, 1)."""

    first: Tensor
    second: Tensor
    deviation: Tensor
    level: Tensor


def recorrupted(clean: Tensor) -> NoisyPair:
    """y₊ and y₋ of clean images (B, 1, H, W), square.

    Where noise depends on brightness, n' goes by the blurred noisy image, never by the clean one.
    """
    count, side = len(clean), clean.shape[-1]

    def drawn(low: float = 0.0, high: float = 1.0) -> Tensor:
        return uniform(clean, low, high)

    level = torch.where(drawn() < 0.65, LEVELS[0] * (LEVELS[1] / LEVELS[0]) ** drawn(), drawn(*USUAL))
    sigma = level / 2**0.5
    one, other = two_fields(count, side, clean.device)
    rough = torch.randn(count, 1, 5, 5, device=clean.device) * 0.45 * (drawn() < 1 / 3)  # p90/p10 up to about 4
    uneven = interpolate(rough, size=(side, side), mode="bicubic", align_corners=True).exp()
    uneven = sigma * uneven / uneven.square().mean((1, 2, 3), keepdim=True).sqrt()
    kind = drawn()
    peak = 0.3 / sigma.square()
    counted = torch.poisson(peak * clean.clamp(min=0)) / peak + clean.clamp(max=0)
    strength = 2 * sigma  # of speckle: about sigma where the image is 0.5
    speckled = clean * (1 + strength * 3**0.5 * (2 * torch.rand_like(clean) - 1))
    noisy = by_kind(kind, counted, speckled, clean + uneven * one)
    brightness = avg_pool2d(noisy, 5, 1, 2, count_include_pad=False).clamp(min=0)
    deviation = by_kind(kind, (brightness / peak).sqrt(), strength * brightness, uneven)
    again = deviation * torch.where(kind < SPECKLE, torch.randn_like(clean), other)
    return NoisyPair(noisy + again, noisy - again, 2**0.5 * deviation.clamp(min=0.1 * sigma), level)


def by_kind(kind: Tensor, counted: Tensor, speckled: Tensor, gaussian: Tensor) -> Tensor:
    return torch.where(kind < COUNTS, counted, torch.where(kind < SPECKLE, speckled, gaussian))


def uniform(like: Tensor, low: float, high: float, *, logarithmic: bool = False) -> Tensor:
    """A number for each image, even in [low, high), or its logarithm; it spreads over whatever the images are."""
    part = torch.rand(len(like), *[1] * (like.ndim - 1), device=like.device)
    return low * (high / low) ** part if logarithmic else low + (high - low) * part


def two_fields(count: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two independent fields (B, 1, side, side) of unit power and one spectrum: a real and an imaginary part."""
    tile = side + 2 * MARGIN
    white = torch.complex(*torch.randn(2, count, tile, tile, device=device))
    whole = torch.fft.ifft2(torch.fft.fft2(white) * spectra(count, tile, device))
    cut = whole[:, None, MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    return cut.real, cut.imag


def spectra(count: int, side: int, device: torch.device) -> Tensor:
    """Amplitudes (B, side, side) of noise of unit power, even in the frequency; half of them are white."""
    flat = torch.ones(count, side, side, device=device)

    def drawn(low: float = 0.0, high: float = 1.0, *, logarithmic: bool = False) -> Tensor:
        return uniform(flat, low, high, logarithmic=logarithmic)

    f = torch.fft.fftfreq(side, device=device)
    fy, fx = f[:, None].expand(side, side)[None], f.expand(side, side)[None]
    angle = torch.where(drawn() < 0.3, drawn(0, math.pi), math.pi / 2 * (drawn() < 0.5))
    a, b = angle.cos() * fy + angle.sin() * fx, angle.cos() * fx - angle.sin() * fy
    r = (a.square() + b.square()).sqrt()
    isotropic = gaussian(r, drawn(0.4, 2.0, logarithmic=True))
    one_axis = gaussian(a, drawn(0.4, 2.2, logarithmic=True)) * gaussian(b, drawn(0, 0.3))
    triangular = torch.sinc(drawn(1.0, 2.5) * a).square()
    resampled = ((2 + (2 * math.pi * a).cos()) * (2 + (2 * math.pi * b).cos())).sqrt() / 3
    # filtered back-projection: √|f| is the noise of a ramp over white projections, times its window
    cut = drawn(0.2, 0.8, logarithmic=True)
    hann = (0.5 + 0.5 * (math.pi * r / cut).cos()) * (r < cut)
    shepp_logan = torch.sinc(r * drawn(1.0, 1.6)).abs()
    projected = (r + 1e-4) ** drawn(0.3, 0.7) * torch.where(drawn() < 0.7, hann, shepp_logan)
    projected = projected * torch.sinc(r) ** (2 * (drawn() < 0.5).float())  # interpolated when projected back
    # zero filling along one axis or both, sometimes apodised: to the power 0 or 1
    first, second = drawn(0.5, 0.9), drawn(0.5, 1.1)
    first, second = (torch.where(drawn() < 0.5, one, other) for one, other in ((first, second), (second, first)))
    band = ((fy.abs() < first / 2) & (fx.abs() < second / 2)).float()
    apodised = (0.55 + 0.45 * (2 * math.pi * fy / first).cos()) * (0.55 + 0.45 * (2 * math.pi * fx / second).cos())
    band = band * apodised ** (drawn() < 0.3).float()
    kind, amplitude = drawn(), flat
    shares = (0.5, isotropic), (0.6, one_axis), (0.65, triangular), (0.7, resampled), (0.75, projected), (0.89, band)
    for least, one in shares:
        amplitude = torch.where(kind >= least, one, amplitude)
    amplitude = (amplitude.square() + 1e-5).sqrt()
    return amplitude / amplitude.square().mean((1, 2), keepdim=True).sqrt()


def gaussian(frequency: Tensor, width: Tensor) -> Tensor:
    """The spectrum of a Gaussian blur of this width in pixels."""
    return (-2 * (math.pi * width * frequency).square()).exp()


def renoised_by_phases(residual: Tensor, deviation: Tensor) -> Tensor:
    r"""The residual with random phases: its spectrum, its map and its mean are kept, all else is drawn anew.

    .. math:: n_2 = \sigma(p) \, F^{-1}[\, |F(n / \sigma(p))| \, e^{i \varphi} \,]
    """
    even = residual / deviation
    mean = even.mean((-2, -1), keepdim=True)
    spectrum = torch.fft.fft2((even - mean) * taper(even.shape[-1], even.device))
    phases = torch.fft.fft2(torch.randn_like(even))  # antisymmetric, as those of any real image
    turned = torch.fft.ifft2(spectrum.abs() * phases / phases.abs().clamp(min=1e-12)).real
    return (turned - turned.mean((-2, -1), keepdim=True) + mean) * deviation


def renoised_by_signs(residual: Tensor, deviation: Tensor) -> Tensor:
    """The residual with random signs, as the source has it: white, whatever it was."""
    return residual * torch.randint(2, residual.shape, device=residual.device).mul(2).sub(1)


def taper(side: int, device: torch.device, width: int = 8) -> Tensor:
    """1 inside, falling to 0 at the borders, of mean square 1: else a cut's jump leaks into empty frequencies."""
    places = torch.arange(side, device=device) + 0.5
    edge = (torch.minimum(places, side - places) / width).clamp(max=1)
    edge = (edge * math.pi / 2).sin().square()
    whole = edge[:, None] * edge
    return whole / whole.square().mean().sqrt()
