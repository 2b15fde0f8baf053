"""Noise that depends on brightness: told from noise that does not, made even, and taken back."""

from __future__ import annotations

import pytest
import torch
from conftest import GUARDED, SHORT

from monai_dnaprior import create_denoiser
from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.record import Record
from monai_dnaprior.denoisers.safeguards import Safeguards, measure_strength
from monai_dnaprior.noise.estimate import (
    CORRELATED_NOISE,
    DEPENDENT,
    DEPENDENT_NOISE,
    NoiseKind,
    brightness_dependence,
    noise_levels,
)
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.noise.stabilisation import Stabiliser

pytestmark = GUARDED

SEEDED = torch.Generator()
RAMP = torch.linspace(0.1, 1, 160).expand(1, 1, 160, 160)


@pytest.mark.parametrize("noise", ["gaussian:3", "gaussian:15", "gaussian:50"])
def test_even_noise_is_left_on_its_scale(noise: str) -> None:
    assert brightness_dependence(add_noise(RAMP, noise)) < DEPENDENT
    assert not NoiseKind.of(add_noise(RAMP, noise)).can_be_stabilised


@pytest.mark.parametrize(
    ("noise", "variance"),
    [("poisson:30", lambda brightness: brightness / 30), ("speckle:0.1", lambda brightness: 0.1 * brightness**2)],
)
def test_the_variance_is_found_and_made_even(noise: str, variance: object) -> None:
    noisy = add_noise(RAMP, noise, seed=2)
    assert NoiseKind.of(noisy).can_be_stabilised
    stabiliser = Stabiliser.of(noisy)
    a, b, c = stabiliser.variance
    for brightness in (0.3, 0.6, 0.9):
        found = a + b * brightness + c * brightness**2
        assert found == pytest.approx(variance(brightness), rel=0.35)  # type: ignore[operator]
    assert brightness_dependence(stabiliser(noisy)) == pytest.approx(1, abs=0.12)


def test_there_and_back_is_the_same_image() -> None:
    noisy = add_noise(RAMP, "poisson:30")
    stabiliser = Stabiliser.of(noisy)
    torch.testing.assert_close(stabiliser.inverse(stabiliser(noisy), 0.0), noisy, atol=1e-4, rtol=0)


def test_the_bias_of_a_mean_is_taken_out() -> None:
    """The mean of many stabilised counts lies below the stabilised mean; the inverse makes up for it."""
    noisy = add_noise(torch.linspace(0.1, 1, 200).expand(1, 1, 4000, 200), "poisson:20")
    stabiliser = Stabiliser.of(noisy)
    even = stabiliser(noisy)
    mean, truth = even.mean(-2, keepdim=True), torch.linspace(0.1, 1, 200)
    sigma = even.std(-2).mean().item()
    errors = [(stabiliser.inverse(mean, s) - truth).mean().abs().item() for s in (0.0, sigma)]
    assert errors[1] < 0.4 * errors[0]


def test_noise_levels_are_those_of_the_noise_not_of_the_ramp() -> None:
    means, levels = noise_levels(add_noise(RAMP, "gaussian:25"), groups=5)
    assert means.diff().min() > 0
    torch.testing.assert_close(levels, torch.full_like(levels, 25 / 255), rtol=0.2, atol=0)


def test_too_small_an_image_is_taken_to_be_even() -> None:
    assert brightness_dependence(torch.rand(2, 1, 9, 9, generator=SEEDED)).tolist() == [1, 1]
    assert not NoiseKind.of(torch.rand(1, 3, 20, 20, generator=SEEDED)).can_be_stabilised


def test_a_fit_gains_from_it_and_says_so() -> None:
    clean = RAMP.clone()
    clean[..., 40:100, 60:120] *= 0.3
    noisy = add_noise(clean, "speckle:0.2", seed=1)
    plain, even = (DNAPrior(steps=100, stabilise=stabilise)(noisy) for stabilise in (False, True))
    assert plain.records[0].noise_variance is None
    assert even.records[0].noise_variance is not None
    assert psnr(even.image, clean) > psnr(plain.image, clean) + 1
    blind = DeepImagePrior(**SHORT, stabilise=False)(noisy).records[0]
    assert DEPENDENT_NOISE in blind.warnings
    assert DEPENDENT_NOISE not in plain.records[0].warnings  # it has a map of it


def test_correlated_noise_is_mapped_and_not_stabilised() -> None:
    noise = torch.nn.functional.avg_pool2d(
        torch.randn(1, 1, 162, 162, generator=torch.Generator().manual_seed(0)), 3, 1
    )
    noisy = RAMP + 0.3 * RAMP * noise
    assert not NoiseKind.of(noisy).can_be_stabilised
    assert ["correlated" in text for text in NoiseKind.of(noisy).warnings] == [True, False]
    record = DNAPrior(**SHORT)(noisy).records[0]
    assert record.noise_variance is None
    assert not set(record.warnings) & {CORRELATED_NOISE, DEPENDENT_NOISE}
    assert record.sigma == pytest.approx((noisy - RAMP).square().mean().sqrt().item(), rel=0.15)


def test_an_empty_background_comes_out_as_it_is_on_another_scale_too() -> None:
    noisy = torch.nn.functional.pad(add_noise(RAMP, "speckle:0.2"), (20, 0, 0, 20), value=0.5)
    result = DNAPrior(**SHORT)(noisy)
    assert result.records[0].noise_variance is not None
    assert torch.equal(result.image[..., 162:, :], noisy[..., 162:, :])
    assert torch.equal(result.image[..., :18], noisy[..., :18])


@pytest.mark.parametrize("side", range(18, 60, 4))
@pytest.mark.parametrize("method", ["dna-prior", "iddp"])
def test_small_images_with_such_noise_stay_finite(method: str, side: int) -> None:
    noisy = add_noise(torch.linspace(0.1, 1, 50).expand(1, 1, side, 50), "poisson:20")
    options = SHORT if method == "dna-prior" else {"refinements": 2}
    result = create_denoiser(method, **options)(noisy)
    assert result.image.isfinite().all()
    assert result.records[0].stop_reason in ("steps", "discrepancy", "network")


def test_what_is_made_not_finite_is_given_back() -> None:
    noisy = add_noise(RAMP, "gaussian:25")
    guard = Safeguards.of(noisy, stabilise=False, measure=measure_strength)
    image, record = guard.finish(guard.noisy / 0, Record(sigma=guard.noise.sigma, stop_reason="filter"))
    assert torch.equal(image, noisy)
    assert record.stop_reason == "non-finite"
    assert "not finite" in record.warnings[-1]
