"""The estimate of low rank: what it leaves and takes, its threshold, its invariants, and the guide that it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_dnaprior import create_denoiser
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.low_rank import estimate_low_rank, median_of_noise, shrink_singular_values
from monai_dnaprior.denoisers.safeguards import Safeguards, measure_noise
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noise_alone_becomes_the_mean_of_its_group() -> None:
    groups = normal(20, 48, 64)
    kept = shrink_singular_values(groups, groups, 1.0)
    assert (kept - groups.mean(1, keepdim=True)).square().mean() < 0.01 * groups.square().mean()


def test_a_strong_component_is_shrunk_as_its_closed_form_says() -> None:
    """One direction of singular value s over noise: what is seen is y, what is kept of it the optimum for y."""
    left, right = (normal(1, 1, count, seed=seed).mT for count, seed in ((48, 1), (64, 2)))
    left = left - left.mean(1, keepdim=True)
    signal = 5 * 64**0.5 * (left / left.norm()) @ (right / right.norm()).mT
    noisy = signal + normal(1, 48, 64, seed=3)
    spread = noisy - noisy.mean(1, keepdim=True)
    vectors, values, others = torch.linalg.svd(spread, full_matrices=False)
    beta, y = 47 / 64, values[0, 0] / 8
    expected = ((y**2 - beta - 1) ** 2 - 4 * beta).sqrt() / y * 8 * vectors[..., :1] @ others[:, :1]
    kept = shrink_singular_values(noisy, noisy, 1.0) - noisy.mean(1, keepdim=True)
    assert (kept - expected).norm() < 0.02 * expected.norm()  # the median of so little noise is not that of much
    assert (kept - signal).norm() < 0.5 * (spread - signal).norm()


@pytest.mark.parametrize(("similar", "size"), [(48, 64), (48, 9), (20, 64), (2, 64), (1, 1)])
def test_every_size_of_group_is_finite_and_stronger_noise_is_no_signal(similar: int, size: int) -> None:
    groups = 3 * normal(50, similar, size)
    kept = shrink_singular_values(groups, groups, 1.0) - groups.mean(1, keepdim=True)
    assert kept.isfinite().all()
    if min(similar, size) > 8:
        assert kept.square().mean() < 0.05 * groups.square().mean()


def test_the_median_of_noise_is_that_of_its_matrices() -> None:
    for similar, size in ((48, 64), (33, 256)):
        groups = normal(100, similar, size)
        spread = groups - groups.mean(1, keepdim=True)
        squares = torch.linalg.eigvalsh(spread @ spread.mT / size)[:, 1:]
        assert squares.median(-1).values.mean().item() == pytest.approx(median_of_noise((similar - 1) / size), rel=0.03)


def test_constants_and_other_units_are_carried_along() -> None:
    noisy = torch.linspace(0, 1, 40).expand(1, 2, 30, 40) + 0.1 * normal(1, 2, 30, 40)
    estimate = estimate_low_rank(noisy, NoiseModel(0.1))
    torch.testing.assert_close(
        estimate_low_rank(100 * noisy + 7, NoiseModel(10.0)), 100 * estimate + 7, rtol=1e-3, atol=1e-2
    )
    flat = torch.full((1, 1, 20, 20), 0.3)
    torch.testing.assert_close(estimate_low_rank(flat, NoiseModel(0.1)), flat)


def test_a_map_and_a_correlation_are_taken_into_account(clean_slice: Tensor) -> None:
    """Noise that is as given is taken away better than with a model of the same strength, white and even."""
    size = clean_slice.shape[-2:]
    deviation = torch.linspace(0.2, 1.4, size[1]).expand(1, 1, *size)
    deviation = deviation / deviation.square().mean().sqrt()
    coloured = avg_pool2d(normal(1, 1, size[0] + 1, size[1] + 1), 2, 1) * 2
    axis = 1 - torch.arange(-15, 16).abs().clamp(max=2) / 2
    model = NoiseModel(0.1, torch.outer(axis, axis), deviation)
    noisy = clean_slice + 0.1 * deviation * coloured
    told, untold = (psnr(estimate_low_rank(noisy, noise), clean_slice) for noise in (model, NoiseModel(0.1)))
    assert told > psnr(noisy, clean_slice) + 3
    assert told > untold + 0.5


def test_the_instant_preset_fits_no_network_and_is_as_good(
    clean_slice: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = clean_slice + 25 / 255 * normal(*clean_slice.shape)
    fitted = create_denoiser("dna-prior", preset="fast")(noisy)
    monkeypatch.setattr(DNAPrior, "fit_network", None)
    result = create_denoiser("dna-prior", preset="instant")(noisy)
    record = result.records[0]
    assert (record.steps, record.stop_reason, record.tv_weight, record.warnings) == (0, "filter", None, ())
    assert psnr(result.image, clean_slice) > psnr(fitted.image, clean_slice) - 0.5
    colours = create_denoiser("dna-prior", preset="instant")(noisy.expand(2, 3, -1, -1) + 0.05 * normal(2, 3, 1, 1))
    assert colours.image.isfinite().all()


def test_the_strength_of_correlated_noise_is_measured_beside_it() -> None:
    """Rings, whose texture counts as noise beside the means of groups; in a volume as in an image."""
    axis = torch.linspace(-1, 1, 128).square()
    rings = (0.5 + 0.2 * torch.cos(40 * (axis[:, None] + axis)))[None, None]
    noisy = rings + 0.1 * avg_pool2d(normal(1, 1, 129, 129), 2, 1)
    noise = NoiseModel.of(noisy)
    assert noise.sigma > 1.1 * 0.05
    for known in (None, replace(noise, pooled=True)):
        guard = Safeguards.of(noisy, known, stabilise=False, measure=measure_noise)
        assert guard.noise.sigma == pytest.approx(0.05, rel=0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "lowrank"}, "guide='lowrank' is unknown; choose one of fit, low-rank."),
        ({"preset": "instant", "restarts": 2}, "restarts=2 are for a fit; leave it out, or take another guide."),
    ],
)
def test_bad_parameters_name_themselves(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_denoiser("dna-prior", **options)
