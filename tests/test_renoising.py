"""What noise a residual becomes under random signs and random phases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_dnaprior.noise.metrics import correlation
from monai_dnaprior.training.renoising import random_phases, random_signs, taper

COUNT, SIDE = 400, 64


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def residual() -> tuple[Tensor, Tensor]:
    """Blurred noise times a map of deviations that doubles from left to right, and the map."""
    frequency = torch.fft.fftfreq(SIDE)
    blur = (-20 * 0.8**2 * (frequency[:, None] ** 2 + frequency**2)).exp()
    white = torch.randn(COUNT, 1, SIDE, SIDE, generator=drawn(100))  # no seed of the phases
    deviation = torch.linspace(0.05, 0.1, SIDE).expand(COUNT, 1, SIDE, SIDE)
    coloured = torch.fft.ifft2(torch.fft.fft2(white) * blur).real
    return coloured / coloured.std() * deviation, deviation


def bands(images: Tensor, deviation: Tensor) -> Tensor:
    """Mean power in eight rings of frequencies, of what is even."""
    even = images / deviation
    power = torch.fft.fft2(even * taper(even)).abs().square().mean((0, 1))
    frequency = torch.fft.fftfreq(SIDE)
    ring = (16 * torch.hypot(frequency[:, None], frequency)).long().clamp(max=7)
    return torch.stack([power[ring == number].mean() for number in range(8)])


def test_signs_are_independent_of_mean_zero_and_drawn_anew() -> None:
    draw = drawn()
    first, second = (random_signs(torch.zeros(1000, 100), draw) for _ in range(2))
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert abs(first.mean()) < 5 / math.sqrt(first.numel())
    assert abs((first * second).mean()) < 5 / math.sqrt(first.numel())


def test_random_phases_keep_the_spectrum_where_signs_do_not(residual: tuple[Tensor, Tensor]) -> None:
    signs = random_signs(residual[0], drawn()) * residual[0]
    images = residual[0], random_phases(*residual, drawn()), signs
    before, after, white = (bands(each, residual[1]) for each in images)
    carrying = before > 0.03 * before.max()  # below, what two tapers leak in is seen
    assert 3 < carrying.sum() < 8
    assert (after / before - 1)[carrying].abs().max() < 0.02
    assert (white / before - 1)[carrying].abs().max() > 0.5
    assert white[-1] > 10 * before[-1]


def test_random_phases_keep_power_map_and_mean(residual: tuple[Tensor, Tensor]) -> None:
    again = random_phases(*residual, drawn())
    assert again.square().mean().item() == pytest.approx(residual[0].square().mean().item(), rel=0.02)
    inner = slice(8, -8)  # not in the reach of the taper
    columns = [images[:, 0, inner, inner].square().mean((0, 1)).sqrt() for images in (again, residual[0])]
    columns = [values.unflatten(0, (4, -1)).mean(1) for values in columns]  # over 12 columns: they vary from one to one
    assert (columns[0] / columns[1] - 1).abs().max() < 0.02
    assert again.mean().abs() < 0.01 * again.std()


def test_random_phases_are_drawn_anew_and_tell_nothing_of_the_residual(residual: tuple[Tensor, Tensor]) -> None:
    first, same, other = (random_phases(*residual, drawn(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    for one in (first, other):
        assert abs(correlation(one, residual[0])) < 0.01  # some 100,000 independent places
    assert abs(correlation(first, other)) < 0.01


def test_of_white_noise_phases_make_the_statistics_of_signs() -> None:
    deviation = torch.full((COUNT, 1, SIDE, SIDE), 0.1)
    white = deviation * torch.randn(deviation.shape, generator=drawn(100))
    phases, signs = random_phases(white, deviation, drawn()), random_signs(white, drawn()) * white
    assert phases.std().item() == pytest.approx(signs.std().item(), rel=0.02)
    powers = bands(phases, deviation), bands(signs, deviation)
    torch.testing.assert_close(*(power[1:] for power in powers), rtol=0.02, atol=0)
    torch.testing.assert_close(*(power[:1] for power in powers), rtol=0.06, atol=0)  # the mean is kept
