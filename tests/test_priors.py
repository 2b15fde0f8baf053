"""DNA-Prior: its presets, its equation, what it leaves alone, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import GUARDED, SHORT
from torch import Tensor

from monai_dnaprior import create_denoiser
from monai_dnaprior.denoisers import dnaprior as priors
from monai_dnaprior.denoisers import per_image, skip_prior
from monai_dnaprior.denoisers.dip import DeepImagePrior, DeepSpectralPrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.nonlocal_bayes import refine
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.denoisers.skip_prior import sigmoid_range
from monai_dnaprior.denoisers.wire import WIRE
from monai_dnaprior.fitting import fit
from monai_dnaprior.fitting.batch import FitRequest
from monai_dnaprior.fitting.fit import FitResult
from monai_dnaprior.fitting.losses import (
    penalised_error,
    spectral_fidelity,
    squared_error,
    total_variation,
    variation,
    whiten,
)
from monai_dnaprior.fitting.networks import SkipNet, fixed_input
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel

pytestmark = GUARDED


def as_seen(pixels: Tensor, sigma: float) -> NoisyImage:
    """An image with noise everywhere."""
    return NoisyImage(pixels, torch.ones_like(pixels, dtype=torch.bool), NoiseModel(sigma))


def test_paper_preset_is_as_printed() -> None:
    paper = DNAPrior.from_preset("paper")
    assert (paper.fidelity_weight, paper.tv_weight, paper.steps, paper.stopping) == (1, 1e-4, 3000, "steps")
    assert sum(parameter.numel() for parameter in paper.network(1).parameters()) == 2_217_573
    assert (paper.input_noise, paper.learning_rate, paper.averaging) == (1 / 30, 0.01, 0.99)


def test_short_fit_of_a_real_slice_gains_five_decibels(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    result = create_denoiser("dna-prior", steps=300)(noisy_slice)
    assert psnr(result.image, clean_slice) > psnr(noisy_slice, clean_slice) + 5
    record = result.records[0]
    assert record.sigma == pytest.approx(25 / 255, rel=0.1)
    assert record.residual == pytest.approx(record.sigma, rel=0.25)
    share = 1 - record.sigma**2 / noisy_slice.square().mean().item()
    assert record.tv_weight == pytest.approx(priors.TV_WEIGHT_PER_SIGMA * record.sigma * share, rel=0.01)


def test_short_fit_of_the_real_collection(shared_data: Any) -> None:
    imread = pytest.importorskip("skimage.io").imread
    clean = torch.tensor(imread(shared_data / "images/mri/pgbm002_t2_a.png")[64:160, 64:160] / 1.0).float()[None, None]
    clean = (clean / torch.quantile(clean, 0.999)).clamp(0, 1)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(DNAPrior(steps=300)(noisy).image, clean) > psnr(noisy, clean) + 5


def test_objective_is_equation_6_without_the_noise_on_the_input() -> None:
    prior = DNAPrior(**SHORT, fidelity_weight=2.0, input_noise=0.0, tv_weight=0.3)
    noisy = torch.rand(1, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    network = prior.network(1)
    request = next(prior.fit_small(as_seen(noisy, 0.5), network, 7, 2))
    loss, estimate = request.objective(noisy, network)
    expected = 2 * spectral_fidelity(estimate, noisy) + 0.3 * total_variation(estimate)
    torch.testing.assert_close(loss, expected)
    assert estimate.shape == noisy.shape


def test_stops_by_itself_at_the_noise_level(noisy_slice: Tensor) -> None:
    record = DNAPrior(steps=600)(noisy_slice).records[0]
    assert record.stop_reason == "discrepancy"
    assert record.trace[-1][2] <= record.sigma
    assert record.residual == pytest.approx(record.sigma, rel=0.05)
    assert record.trace[-1][0] == record.steps < 600


@pytest.mark.parametrize(
    ("options", "sigma", "least"),
    [({}, 0.05, 150), ({}, 0.1, 150), ({}, 0.2, 80), ({"least_steps": 30}, 0.05, 30), ({"least_steps": 0}, 0.05, 10)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_fit_ends_before_its_least_steps_and_strong_noise_lets_it_end_sooner(
    options: dict[str, int], sigma: float, least: int, channels: int
) -> None:
    image = torch.zeros(1, channels, 2, 2)
    prior = DNAPrior(**options)
    (rule,) = prior.rules(as_seen(image, sigma), prior.least_steps)
    asked = [10 * check for check in range(1, 60) if rule(0.0, image, image)]
    least = {(80, 3): 230, (10, 3): 10}.get((least, channels), least * channels)  # 75 a channel, in tens
    assert asked[0] == least


def test_a_fit_in_bfloat16_is_as_good(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    fits = [DNAPrior(precision=precision, refinements=0)(noisy_slice) for precision in ("float32", "bfloat16")]
    exact, rounded = (psnr(fit.image, clean_slice) for fit in fits)
    assert rounded == pytest.approx(exact, abs=0.3)
    assert not torch.equal(fits[0].image, fits[1].image)
    assert fits[0].records[0].stop_reason == fits[1].records[0].stop_reason == "discrepancy"


def test_an_empty_background_comes_out_as_it_is(noisy_slice: Tensor) -> None:
    image = torch.nn.functional.pad(noisy_slice, (30, 10, 20, 40), value=0.25)
    image[..., 50:60, 60:70] = -1
    result = DNAPrior(**SHORT)(image)
    untouched = torch.ones_like(image, dtype=torch.bool)
    untouched[..., 20 : 20 + 96, 30 : 30 + 80] = False
    untouched[..., 51:59, 61:69] = True
    assert torch.equal(result.image[untouched], image[untouched])
    assert (result.image[~untouched] != image[~untouched]).float().mean() > 0.99
    assert result.records[0].sigma == pytest.approx(25 / 255, rel=0.15)


def test_a_fit_cut_short_says_so(noisy_slice: Tensor) -> None:
    record = DNAPrior(**SHORT)(noisy_slice).records[0]
    assert record.stop_reason == "steps"
    assert record.trace[-1][2] > 1.1 * record.sigma
    assert "under-fitted" in record.warnings[0]


def test_a_preset_that_ends_as_it_is_meant_to_is_no_fit_cut_short(clean_slice: Tensor) -> None:
    noisy = clean_slice + 10 / 255 * torch.randn(clean_slice.shape, generator=torch.Generator().manual_seed(0))
    for steps, warned in ((None, False), (20, True)):
        record = DNAPrior.from_preset("fast", steps=steps, refinements=0)(noisy).records[0]
        assert record.stop_reason == "steps"
        assert record.trace[-1][2] > 1.1 * record.sigma
        assert any("under-fitted" in text for text in record.warnings) == warned


def test_never_more_than_the_noise_is_removed_unless_steps_alone_are_asked_for(noisy_slice: Tensor) -> None:
    removed = {}
    for stopping in ("discrepancy", "steps"):
        result = DNAPrior(**SHORT, skip_channels=0, stopping=stopping)(noisy_slice)
        removed[stopping] = noisy_slice - result.image
    sigma = result.records[0].sigma
    assert removed["discrepancy"].square().mean().sqrt().item() == pytest.approx(sigma, rel=0.01)
    scale = sigma / result.records[0].residual
    torch.testing.assert_close(removed["discrepancy"], scale * removed["steps"], rtol=1e-3, atol=1e-5)


def test_images_without_noise_are_given_back() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    result = DNAPrior()(ramp)
    assert (result.records[0].stop_reason, result.records[0].steps) == ("clean", 0)
    assert torch.equal(result.image, ramp)


@pytest.mark.parametrize(("failures", "reason"), [(1, "steps"), (2, "non-finite")])
def test_a_fit_that_fails_is_tried_once_more_and_then_gives_the_input_back(
    monkeypatch: pytest.MonkeyPatch, failures: int, reason: str
) -> None:
    noisy = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    prior = DNAPrior(**SHORT, stopping="steps")
    expected = prior(noisy)
    draws: list[int] = []

    def draw(*, seed: int, **sizes: int) -> Tensor:
        draws.append(seed)
        return fixed_input(seed=seed, **sizes)

    loss_of = priors.penalised_fidelity

    def broken_on_the_first_image(estimate: Tensor, target: Tensor, *weights: Tensor, **options: float) -> Tensor:
        broken = torch.equal(target, noisy[:1]) and len(draws) <= failures
        return loss_of(estimate, target, *weights, **options) * (float("nan") if broken else 1)

    monkeypatch.setattr(skip_prior, "fixed_input", draw)
    monkeypatch.setattr(priors, "penalised_fidelity", broken_on_the_first_image)
    result = prior(noisy[:1])
    assert len(draws) == len(set(draws)) == 2
    assert result.records[0].stop_reason == reason
    assert torch.equal(result.image, noisy[:1]) is (reason == "non-finite")
    assert bool(result.records[0].warnings) is (reason == "non-finite")
    assert torch.equal(prior(noisy).image[1], expected.image[1])


@pytest.mark.parametrize("height", [40, 20])
def test_large_images_are_fitted_in_tiles(height: int, seen: list[Tensor]) -> None:
    noisy = torch.rand(1, 1, height, 70, generator=torch.Generator().manual_seed(0))
    result = DNAPrior(**SHORT, tile=32)(noisy)
    windows = [tuple(image.shape) for image in seen]
    assert set(windows) == {(1, 1, min(height, 32), 32)}  # no more than there is of the image
    assert len(windows) == (6 if height > 32 else 3)
    assert result.image.shape == noisy.shape
    assert (noisy - result.image).std() > 0.05


@pytest.mark.parametrize("restarts", [2, 3])
def test_restarts_are_averaged_and_spread(restarts: int, noisy_slice: Tensor) -> None:
    several, once = DNAPrior(**SHORT, restarts=restarts)(noisy_slice), DNAPrior(**SHORT)(noisy_slice)
    assert once.spread is None
    assert several.spread is not None
    assert several.spread.shape == noisy_slice.shape
    assert several.spread.mean() > 1e-4
    if restarts == 2:  # of two numbers, mean and deviation give back both
        first = several.image + several.spread * torch.sign(once.image - several.image) / 2**0.5
        torch.testing.assert_close(first, once.image, atol=1e-5, rtol=0)


def test_the_noise_of_an_image_is_measured_once_for_all_restarts(
    noisy_slice: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Tensor] = []
    original = per_image.measure_noise

    def counted(noisy: Tensor, *arguments: Any, **options: Any) -> NoiseModel:
        measured.append(noisy)
        return original(noisy, *arguments, **options)

    monkeypatch.setattr(per_image, "measure_noise", counted)
    DNAPrior(**SHORT, restarts=3)(torch.cat((noisy_slice, noisy_slice.flip(-1))))
    assert len(measured) == 2


def test_a_batch_with_restarts_equals_its_images_alone(noisy_slice: Tensor) -> None:
    prior, images = DNAPrior(**SHORT, restarts=2), torch.cat((noisy_slice, noisy_slice.flip(-1)))
    together = prior(images)
    for index in range(2):
        alone = prior(images[index : index + 1], slice_indices=[index])
        assert torch.equal(together.image[index], alone.image[0])
        assert torch.equal(together.spread[index], alone.spread[0])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What networks are fitted to from here on."""
    images: list[Tensor] = []

    original = fit.fit

    def watched(requests: Sequence[FitRequest]) -> list[FitResult]:
        images.extend(request.noisy for request in requests)
        return original(requests)

    monkeypatch.setattr(fit, "fit", watched)
    return images


def test_several_sizes_take_turns_over_the_restarts(seen: list[Tensor]) -> None:
    noisy = torch.rand(1, 1, 128, 130, generator=torch.Generator().manual_seed(0))
    both = DNAPrior(**SHORT, shrink=(1, 2), restarts=3)(noisy)
    assert sorted(image.shape[-1] for image in seen) == [65, 130, 130]
    assert both.image.shape == noisy.shape


def test_a_shrunk_fit_is_of_the_averaged_image_and_has_the_size_of_the_other(seen: list[Tensor]) -> None:
    noisy = torch.rand(1, 1, 131, 134, generator=torch.Generator().manual_seed(0))
    assert DNAPrior(**SHORT, shrink=2)(noisy).image.shape == noisy.shape
    torch.testing.assert_close(seen[0][..., :65, :], torch.nn.functional.avg_pool2d(noisy, 2))
    assert seen[0].shape[-2:] == (66, 67)
    small = torch.nn.functional.avg_pool2d(noisy[..., :130, :], 2)
    record = DNAPrior(**SHORT, shrink=2, stabilise=False)(noisy[..., :130, :]).records[0]
    assert record.tv_weight == pytest.approx(
        DNAPrior().balanced_tv_weight(as_seen(small, record.sigma / 2))
    )  # the one that was used
    seen.pop()
    DNAPrior(**SHORT, shrink=2)(noisy[..., :127, :])  # half of it is too small to fit
    DNAPrior(**SHORT, shrink=1)(noisy)
    assert [image.shape[-2:] for image in seen[1:]] == [(127, 134), (131, 134)]


def test_the_weight_falls_where_noise_is_most_of_the_energy() -> None:
    noise = 0.2 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    bright, dark = (DNAPrior().balanced_tv_weight(as_seen(level + noise, 0.2)) for level in (1.0, 0.1))
    assert bright == pytest.approx(0.3 * 0.2 / 1.04, rel=0.02)
    assert dark == pytest.approx(0.3 * 0.2 * 0.2, rel=0.2)


def test_sigmoid_does_not_cut_what_lies_outside_zero_to_one() -> None:
    image = torch.tensor([[[[-0.5, 0.2], [0.7, 2.5]]]])
    assert sigmoid_range(image) == (-0.5, 3.0)
    assert sigmoid_range(image.clamp(0, 1)) == (0.0, 1.0)
    bright = 0.1 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    bright[..., 8:24, 8:24] += 3
    denoised = DNAPrior(steps=200, width=8, scales=2, sigmoid=True, learning_rate=0.02)(bright).image
    assert denoised[..., 12:20, 12:20].mean() > 2.5


def test_a_given_network_is_the_start_and_is_left_as_it_is() -> None:
    noisy = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    prior, other = DNAPrior(**SHORT), DNAPrior(**SHORT, seed=5)
    network = prior.network(1)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert torch.equal(prior(noisy, network=network).image, prior(noisy).image)
    assert not torch.equal(prior(noisy, network=other.network(1)).image, prior(noisy).image)
    assert all(torch.equal(weights[name], weight) for name, weight in network.state_dict().items())


@pytest.mark.parametrize(
    "network", [torch.nn.Identity(), SkipNet(channels=3, width=4, scales=1)], ids=["kind", "channels"]
)
def test_a_network_that_does_not_fit_is_refused(network: torch.nn.Module) -> None:
    with pytest.raises((TypeError, ValueError), match="network"):
        DNAPrior(**SHORT)(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), network=network)


@pytest.mark.parametrize("stopping", ["discrepancy", "variance", "steps"])
def test_stopping_rules_run(stopping: str, noisy_slice: Tensor) -> None:
    record = DNAPrior(**SHORT, stopping=stopping)(noisy_slice).records[0]
    assert record.stop_reason in (stopping, "steps")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps=-1 must be a whole number, at least 1"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"tv_weight": -0.1}, "tv_weight=-0.1 must be a finite number, 0 or more"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a finite number"),
        ({"tv_weight": "little"}, "tv_weight='little' must be a finite number or None"),
        ({"averaging": "long"}, "averaging='long' must be a finite number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be a positive number"),
        ({"averaging": 1.0}, r"averaging=1.0 must lie in \[0, 1\)"),
        ({"stopping": "never"}, "stopping='never' is unknown; choose one of discrepancy, variance, steps"),
        ({"seed": -1}, "seed=-1 must be a whole number, at least 0"),
        ({"restarts": 0}, "restarts=0 must be a whole number, at least 1"),
        ({"least_steps": -5}, "least_steps=-5 must be a whole number, at least 0"),
        ({"shrink": 0}, "shrink=0 must be a whole number, at least 1"),
        ({"shrink": (1, 0)}, "shrink=0 must be a whole number, at least 1"),
        ({"shrink": ()}, r"shrink=\(\) names no size; give at least one"),
        ({"refinements": -1}, "refinements=-1 must be a whole number, at least 0"),
        ({"discrepancy": 0.0}, "discrepancy=0.0 must be a positive number"),
        ({"width": 0}, "width=0 must be a whole number, at least 1"),
        ({"padding": "wrap"}, "padding='wrap' is unknown"),
        ({"precision": "half"}, "precision='half' is unknown; choose one of float32, bfloat16"),
        ({"preset": "papers"}, "preset='papers' is unknown; choose one of default, fast, instant, best, paper"),
    ],
)
def test_bad_parameters_name_themselves(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_denoiser("dna-prior", **options)


def test_slice_indices_must_match() -> None:
    with pytest.raises(ValueError, match="slice_indices has 1 entries; give one for each of the 2 images"):
        DNAPrior(**SHORT)(torch.zeros(2, 1, 8, 8), slice_indices=[0])


def test_deep_image_prior_has_the_set_up_of_its_paper() -> None:
    dip = DeepImagePrior()
    assert (dip.steps, dip.learning_rate, dip.input_noise, dip.averaging) == (3000, 0.01, 1 / 30, 0.99)
    assert sum(parameter.numel() for parameter in dip.network(1).parameters()) == 2_217_573


def test_dip_tv_is_dip_at_weight_zero_and_adds_the_variation_otherwise() -> None:
    noisy = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {**SHORT, "sigmoid": False}
    dip, zero, some = (
        DeepImagePrior(**options),
        *(create_denoiser("dip-tv", tv_weight=w, **options) for w in (0.0, 0.5)),
    )
    assert torch.equal(dip(noisy).image, zero(noisy).image)
    assert not torch.equal(dip(noisy).image, some(noisy).image)
    estimate = noisy / 2
    expected = squared_error(estimate, noisy) + 0.5 * variation(estimate) / 256
    torch.testing.assert_close(penalised_error(estimate, noisy, torch.tensor([0.5])), expected)


def loss_of(prior: DeepSpectralPrior) -> Any:
    """What the fit of an image minimises."""
    return next(prior.fit_tile(as_seen(torch.zeros(1, 1, 8, 8), 0.1), prior.network(), 0)).objective.loss


def test_deep_spectral_prior_sees_amplitude_and_phase_apart() -> None:
    noisy = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    both, amplitude, phase = (
        loss_of(DeepSpectralPrior(**SHORT, amplitude_weight=a, phase_weight=p)) for a, p in ((1, 1), (1, 0), (0, 1))
    )
    estimate = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(both(estimate, noisy), squared_error(estimate, noisy))
    torch.testing.assert_close(both(estimate, noisy), amplitude(estimate, noisy) + phase(estimate, noisy))
    brighter, shifted = 1.5 * noisy, noisy.roll((2, 3), (-2, -1))  # another amplitude alone, another phase alone
    torch.testing.assert_close(phase(brighter, noisy), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(amplitude(shifted, noisy), torch.zeros(2), atol=1e-6, rtol=0)
    angles = [torch.fft.fft2(image, norm="ortho").angle() for image in (estimate, noisy)]
    sizes = [torch.fft.fft2(image, norm="ortho").abs() for image in (estimate, noisy)]
    definition = (2 * sizes[0] * sizes[1] * (1 - torch.cos(angles[0] - angles[1]))).mean((1, 2, 3))
    torch.testing.assert_close(phase(estimate, noisy), definition)


def test_wires_learning_rate_is_its_papers() -> None:
    prior = WIRE(hidden=1)
    requests = [
        next(prior.fit_tile(as_seen(torch.zeros(1, 1, side, side), 0.1), prior.network(), 0)) for side in (256, 512)
    ]
    assert [request.learning_rate for request in requests] == [5e-3, 5e-3 / 4]
    assert [requests[0].decay(progress) for progress in (0, 1)] == [1, 0.1]


@pytest.mark.parametrize(("side", "least"), [(32, 40), (64, 80), (100, 120)])
def test_small_images_end_sooner_when_they_are_fitted_as_they_are(side: int, least: int) -> None:
    noisy = 0.5 + 0.09 * torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    result = DNAPrior(width=4, scales=1, input_channels=2, skip_channels=2, discrepancy=9, refinements=0)(noisy)
    assert (result.records[0].steps, result.records[0].stop_reason) == (least, "discrepancy")


def test_correlated_noise_is_measured_and_removed(clean_slice: Tensor) -> None:
    clean = torch.nn.functional.interpolate(clean_slice, scale_factor=2, mode="bicubic")
    white = torch.randn(1, 1, 193, 161, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.12 * torch.nn.functional.avg_pool2d(white, 2, 1)
    result = create_denoiser("dna-prior", preset="fast")(noisy)
    record = result.records[0]
    assert record.sigma == pytest.approx(0.06, rel=0.15)
    assert not [text for text in record.warnings if "correlated" in text]
    assert psnr(result.image, clean) > psnr(noisy, clean) + 4
    blind = create_denoiser("dip", **SHORT)(noisy).records[0]
    assert [text for text in blind.warnings if "this method cannot tell it from anatomy" in text]


def test_uneven_noise_is_measured_and_removed(clean_slice: Tensor) -> None:
    clean = torch.nn.functional.interpolate(clean_slice, scale_factor=2, mode="bicubic")
    strength = torch.linspace(0.03, 0.15, 160).expand(clean.shape)
    noisy = clean + strength * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoiser = DNAPrior(**SHORT)
    image, even = denoiser(noisy).image, (noisy - clean).square().mean().sqrt().item()
    assert psnr(image, clean) > psnr(refine(noisy, image, NoiseModel(even)), clean) + 0.1
    sides = zip((image - clean).chunk(2, -1), (noisy - clean).chunk(2, -1), strict=True)
    assert all(after.square().mean() < 0.3 * before.square().mean() for after, before in sides)


def test_the_whitened_residual_of_noise_is_its_level() -> None:
    white = torch.randn(1, 1, 97, 97, generator=torch.Generator().manual_seed(0))
    correlation = torch.zeros(15, 15, dtype=torch.float64)
    correlation[6:9, 6:9] = torch.outer(torch.tensor([0.5, 1, 0.5]), torch.tensor([0.5, 1, 0.5]))
    noise = 0.1 * 2 * torch.nn.functional.avg_pool2d(white, 2, 1)
    image = NoisyImage(noise, torch.ones_like(noise, dtype=torch.bool), NoiseModel(0.1, correlation))
    factors = priors.whitening_of(image)
    assert whiten(noise, **factors).square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)
    assert priors.whitening_of(as_seen(noise, 0.1)) == {}
    loss = spectral_fidelity(0 * noise, noise, **factors)
    assert loss.item() == pytest.approx(1, abs=1e-3)
