"""The noise that is measured in an image, against noise that is known, and the closed forms of its model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_dnaprior import IDDPDenoise, create_denoiser
from monai_dnaprior.denoisers.safeguards import measure_noise
from monai_dnaprior.files.reader import read_volume
from monai_dnaprior.noise.blind import parts_of
from monai_dnaprior.noise.estimate import NoiseKind, estimate_sigma
from monai_dnaprior.noise.model import NoiseModel, spaced

BOX = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])  # the correlation of means over 2 × 2


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scene(side: int = 128) -> Tensor:
    """An image with edges, a ramp and a disc, in [0, 1]."""
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    disc = (rows**2 + columns**2 < 0.4).float()
    return (0.2 + 0.1 * rows + 0.4 * disc + 0.2 * ((rows.abs() < 0.3) & (columns.abs() < 0.2)))[None, None]


def correlated(side: int, seed: int = 0) -> Tensor:
    """Noise of unit variance with the correlation BOX."""
    return 2 * avg_pool2d(white(1, 1, side + 1, side + 1, seed=seed), 2, 1)


def uneven(side: int) -> Tensor:
    """A smooth map whose mean square is 1, from about 0.3 to 1.6."""
    level = torch.exp(math.log(5) * torch.linspace(-0.5, 0.5, side)).expand(1, 1, side, side)
    return level / level.square().mean().sqrt()


def test_white_noise_has_an_even_spectrum_and_no_covariance() -> None:
    model = NoiseModel(0.1)
    assert model.is_white
    assert torch.equal(model.spectrum(6, 5), torch.ones(6, 5, dtype=torch.float64))
    assert torch.equal(model.covariance(3), torch.eye(9, dtype=torch.float64))


def test_a_few_numbers_say_how_alike_and_how_even_noise_is() -> None:
    assert NoiseModel(0.1).neighbours == (0, 0)
    assert NoiseModel(0.1).sigma_range == (0.1, 0.1)
    correlation = torch.tensor([[0.0, 0.5, 0.0], [0.25, 1.0, 0.25], [0.0, 0.5, 0.0]])
    model = NoiseModel(0.5, correlation, torch.linspace(0, 2, 21).view(1, 1, 3, 7))
    assert model.neighbours == (0.5, 0.25)
    assert model.sigma_range == pytest.approx((0.1, 0.9))


def test_covariance_is_the_correlation_at_each_pair_s_lag() -> None:
    covariance = NoiseModel(0.1, BOX).covariance(8)
    places = [(i, j) for i in range(8) for j in range(8)]
    expected = [[max(0, 1 - abs(a - c) / 2) * max(0, 1 - abs(b - d) / 2) for c, d in places] for a, b in places]
    assert covariance.tolist() == expected


def test_spectrum_is_that_of_the_filter_that_made_the_noise() -> None:
    height, width = 12, 10
    kernel = torch.zeros(height, width, dtype=torch.float64)
    kernel[:2, :2] = 0.5
    expected = torch.fft.fft2(kernel).abs().square()
    spectrum = NoiseModel(0.1, BOX).spectrum(height, width)
    seen = expected > 0.01
    assert torch.allclose(spectrum[seen], expected[seen], rtol=0.01)
    assert spectrum.mean().item() == pytest.approx(1)
    assert spectrum.min() > 1e-3


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_means_of_white_noise_are_white_and_weaker(factor: int) -> None:
    coarse = NoiseModel(0.6).shrink(factor)
    assert coarse.is_white
    assert coarse.sigma == pytest.approx(0.6 / factor)
    delta = torch.zeros(5, 5)
    delta[2, 2] = 1
    coarse = NoiseModel(0.6, delta).shrink(factor)
    assert coarse.sigma == pytest.approx(0.6 / factor)
    assert coarse.correlation is not None
    centre = len(coarse.correlation) // 2
    assert coarse.correlation[centre, centre] == pytest.approx(1)
    assert coarse.correlation.abs().sum() == pytest.approx(1)


def test_means_of_correlated_noise_are_as_strong_and_alike_as_theirs() -> None:
    coarse = NoiseModel(1.0, BOX).shrink(2)
    means = avg_pool2d(correlated(2048), 2)[0, 0]
    assert coarse.sigma == pytest.approx(means.std().item(), rel=0.01)
    assert coarse.correlation is not None
    centre = len(coarse.correlation) // 2
    together = (means[1:] * means[:-1]).mean() / means.square().mean()
    assert coarse.correlation[centre + 1, centre].item() == pytest.approx(together.item(), abs=0.01)


def test_a_map_is_averaged_in_power() -> None:
    deviation = uneven(16)
    coarse = NoiseModel(0.5, None, deviation).shrink(2)
    assert coarse.deviation is not None
    assert coarse.deviation.shape[-2:] == (8, 8)
    assert torch.allclose(coarse.sigma * coarse.deviation, 0.25 * avg_pool2d(deviation.square(), 2).sqrt())


def test_known_correlation_is_found() -> None:
    model = NoiseModel.of(scene() + 0.06 * correlated(128))
    assert model.deviation is None
    assert model.sigma == pytest.approx(0.06, rel=0.1)
    rho = model.correlation
    assert rho is not None
    centre = len(rho) // 2
    assert rho[centre, centre] == 1
    assert torch.allclose(rho, rho.flip(0, 1), atol=1e-6)
    assert torch.allclose(rho[centre - 1 : centre + 2, centre - 1 : centre + 2], BOX, atol=0.1)
    assert rho[:, centre + 4 :].abs().max() < 0.15


def head(noise: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth brain in a skull of rough bone, in half a grey level of this noise of unit variance; where it is."""
    axis = torch.linspace(-1, 1, noise.shape[-1])
    radius = torch.hypot(axis[:, None], axis)
    bone = 0.8 + 0.5 * avg_pool2d(white(1, 1, len(axis) + 2, len(axis) + 2, seed=5), 3, 1)
    soft = 0.4 + 0.01 * torch.cos(6 * axis)[:, None] * torch.cos(5 * axis)
    return torch.where(radius < 0.8, soft, torch.where(radius < 0.95, bone, 0)) + 0.5 / 255 * noise, radius < 0.7


def test_parts_of_an_image_agree_on_noise_that_the_whole_does_not_show() -> None:
    image, _ = head(correlated(256))
    whole, parts = NoiseModel.of(image), NoiseModel.of_parts(image)
    assert whole.is_white
    assert parts is not None
    assert parts.sigma == pytest.approx(0.5 / 255, rel=0.05)
    assert parts.neighbours == pytest.approx((0.5, 0.5), abs=0.05)
    assert measure_noise(image, NoiseKind.of(image)).sigma == parts.sigma


@pytest.mark.parametrize(("side", "parts"), [(256, 2), (512, 4), (768, 6), (1100, 5), (4096, 6)])
def test_a_large_image_has_few_parts(side: int, parts: int) -> None:
    sides = [part.shape[0] for part in parts_of(torch.zeros(side, 1), 0)]
    assert len(sides) == parts
    assert all(100 < length < 160 for length in sides)


def test_parts_do_not_agree_on_what_is_no_noise() -> None:
    strength = torch.where(torch.arange(256) < 128, 0.01, 0.02)
    coarse = 0.1 * avg_pool2d(avg_pool2d(white(1, 1, 262, 262), 4, 1), 4, 1)
    for noise in (strength * correlated(256), coarse, 0.01 * white(1, 1, 256, 256), 0.01 * correlated(255)):
        assert NoiseModel.of_parts(0.5 + noise) is None


def test_weak_noise_is_removed_where_neighbouring_pixels_share_it_and_left_where_it_may_be_rounding() -> None:
    denoiser = create_denoiser("dna-prior", preset="instant")
    (image, brain), (clean, _) = head(correlated(256)), head(torch.zeros(1, 1, 256, 256))
    result = denoiser(image)
    before, after = ((one - clean)[0, 0, brain].square().mean().sqrt() for one in (image, result.image))
    assert after < 0.5 * before
    assert not torch.equal(create_denoiser("iddp", refinements=1)(image).image, image)
    assert torch.equal(create_denoiser("iddp")(image).image, image)  # in training there was no noise so weak
    image, _ = head(white(1, 1, 256, 256))
    assert torch.equal(denoiser(image).image, image)


def test_a_map_is_believed_up_to_a_width_that_noise_has() -> None:
    for ratio, believed in ((30, True), (1000, False)):
        model = NoiseModel.of(0.1 * white(1, 1, 128, 128) * torch.logspace(0, -math.log10(ratio), 128))
        assert (model.deviation is not None) is believed


def test_a_map_of_perfusion_without_noise_comes_back_as_it_was(shared_data: Path) -> None:
    volume = read_volume(shared_data / "dicom" / "enhanced_CT" / "eCT_Supplemental.dcm").as_tensor()
    image = volume[..., 1].float()
    assert torch.equal(IDDPDenoise()(image), image)


def test_texture_is_not_noise_beside_the_image_itself() -> None:
    """Rings whose width changes: patches of a group differ by more than their noise."""
    axis = torch.linspace(-1, 1, 128).square()
    rings = (0.5 + 0.2 * torch.cos(40 * (axis[:, None] + axis)))[None, None]
    noisy = rings + 0.05 * correlated(128)
    model = NoiseModel.of(noisy)
    assert model.sigma > 1.1 * 0.05
    found = model.beside(lambda *_: rings, noisy)
    assert found.sigma == pytest.approx(0.05, rel=0.05)
    assert found.correlation is model.correlation
    assert replace(model, limit=0.04).beside(lambda *_: rings, noisy).sigma == 0.04


def test_white_and_uneven_noise_and_small_images_stay_as_they_were_measured() -> None:
    estimated = []

    def estimate(image: Tensor, noise: NoiseModel) -> Tensor:
        estimated.append(noise)
        return image

    for model in (NoiseModel(0.1), NoiseModel(0.1, BOX, torch.ones(1, 1, 32, 32)), NoiseModel(0.0, BOX)):
        assert model.beside(estimate, scene(32)) is model
    assert not estimated
    small = NoiseModel(0.1, BOX)
    assert small.beside(estimate, scene(20)) is small
    assert estimated == [small]


def test_known_map_is_found() -> None:
    deviation = uneven(128)
    model = NoiseModel.of(scene() + 0.06 * deviation * white(1, 1, 128, 128))
    assert model.is_white
    assert model.sigma == pytest.approx(0.06, rel=0.1)
    assert model.deviation is not None
    assert model.deviation.square().mean() == pytest.approx(1, abs=1e-4)
    assert (model.deviation / deviation).log().std() < 0.15


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_white_noise_is_called_white_with_the_plain_estimate(sigma: float, seed: int) -> None:
    noisy = scene() + sigma * white(1, 1, 128, 128, seed=seed)
    model = NoiseModel.of(noisy)
    assert model.is_white
    assert model.deviation is None
    assert model.sigma == estimate_sigma(noisy).item()


@pytest.mark.parametrize("size", [(5, 7), (24, 24), (24, 100), (33, 47)])
def test_images_of_any_size_have_a_model(size: tuple[int, int]) -> None:
    noisy = 0.5 + 0.1 * white(1, 1, *size)
    model = NoiseModel.of(noisy)
    assert model.sigma == pytest.approx(estimate_sigma(noisy).item(), rel=0.25)
    if min(size) < 24:
        assert model.is_white
        assert model.deviation is None


def test_without_noise_there_is_none() -> None:
    for image in (torch.full((1, 1, 64, 64), 0.4), torch.zeros(1, 3, 64, 64)):
        model = NoiseModel.of(image)
        assert model.sigma == 0
        assert model.is_white


def test_an_empty_background_does_not_count() -> None:
    noisy = torch.zeros(1, 1, 160, 160)
    noisy[..., 32:, 16:144] = 0.5 + 0.05 * correlated(128)
    model = NoiseModel.of(noisy)
    assert not model.is_white
    assert model.sigma == pytest.approx(0.05, rel=0.12)


def test_channels_are_measured_together() -> None:
    noise = torch.cat([correlated(96, seed) for seed in range(3)], 1)
    model = NoiseModel.of(0.5 + 0.05 * noise)
    assert not model.is_white
    assert model.sigma == pytest.approx(0.05, rel=0.1)


def test_depends_on_the_values_alone() -> None:
    noisy = scene(96) + 0.05 * correlated(96)
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = NoiseModel.of(noisy)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    try:
        torch.set_num_threads(2)
        second = NoiseModel.of(noisy.clone())
    finally:
        torch.set_num_threads(threads)
    assert first.correlation is not None
    assert second.correlation is not None
    assert second.sigma == pytest.approx(first.sigma, rel=1e-5)
    assert torch.allclose(first.correlation, second.correlation, atol=1e-5)


def test_scale_and_offset_change_sigma_alone() -> None:
    noisy = scene(96) + 0.05 * correlated(96)
    one, other = NoiseModel.of(noisy), NoiseModel.of(500 * noisy - 1000)
    assert other.sigma == pytest.approx(500 * one.sigma, rel=0.02)
    assert one.correlation is not None
    assert other.correlation is not None
    assert torch.allclose(one.correlation, other.correlation, atol=0.02)


def test_slices_share_their_correlation_and_keep_their_strength() -> None:
    slices = torch.cat([scene(96) + sigma * correlated(96, seed) for seed, sigma in enumerate((0.04, 0.08))])
    shared = NoiseModel.of(slices)
    assert not shared.is_white
    assert shared.sigma == pytest.approx(math.hypot(0.04, 0.08) / math.sqrt(2), rel=0.1)
    for image, sigma in zip(slices.split(1), (0.04, 0.08), strict=True):
        own = shared.at(image)
        assert own.correlation is shared.correlation
        assert own.sigma == pytest.approx(sigma, rel=0.12)


def test_slices_that_are_measured_are_spread() -> None:
    assert spaced(3, 8) == [0, 1, 2]
    assert spaced(1, 8) == [0]
    assert spaced(100, 2) == [25, 75]
