"""The noise estimate on noise that is known."""

from __future__ import annotations

from pathlib import Path

import nibabel
import pytest
import torch
from torch import Tensor

from monai_dnaprior.noise.background import exact_background, fill_background
from monai_dnaprior.noise.estimate import (
    ANATOMY,
    CORRELATED,
    calm_deviation,
    estimate_sigma,
    fine_kurtosis,
    noise_correlation,
    varying_pixels,
)
from monai_dnaprior.noise.models import add_noise


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 50.0])
def test_sigma_of_white_noise_on_a_ramp(sigma: float) -> None:
    ramp = torch.linspace(0, 5, 128).expand(2, 3, 128, 128)
    assert estimate_sigma(ramp + sigma * gaussian(2, 3, 128, 128)).tolist() == pytest.approx([sigma] * 2, rel=0.05)


def test_an_empty_background_does_not_pull_the_estimate_down() -> None:
    image = torch.full((1, 1, 128, 128), 0.3)
    image[..., 40:80, 40:80] += 0.1 * gaussian(40, 40)
    assert estimate_sigma(image).item() == pytest.approx(0.1, rel=0.15)


def test_equals_scikit_image(noisy_slice: Tensor) -> None:
    restoration = pytest.importorskip("skimage.restoration")
    assert estimate_sigma(noisy_slice).item() == pytest.approx(
        restoration.estimate_sigma(noisy_slice[0, 0].numpy()), rel=0.03
    )


def rods(side: int = 128) -> Tensor:
    """Fine detail everywhere but in a few places: thin bright rods, (1, 1, side, side)."""
    image = torch.zeros(1, 1, side, side)
    places = torch.randint(0, side - 12, (140, 2), generator=torch.Generator().manual_seed(1)).tolist()
    for number, (row, column) in enumerate(places):
        down, across = ((12, 2), (2, 12))[number % 2]
        image[..., row : row + down, column : column + across] = 1 - number / 200
    return image


@pytest.mark.parametrize("level", [0.005, 0.01, 0.02])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_fine_anatomy_is_no_noise(level: float, unit: float) -> None:
    noisy = unit * (rods() + level * gaussian(1, 1, 128, 128))
    assert fine_kurtosis(noisy[0].double()) > ANATOMY
    assert estimate_sigma(noisy).item() == pytest.approx(unit * level, rel=0.2)


def test_uneven_noise_is_no_anatomy() -> None:
    deviation = torch.linspace(-1, 1, 128).exp()
    assert fine_kurtosis((deviation * gaussian(1, 128, 128)).double()) < 3


def test_strong_noise_is_measured_in_all_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = rods() + 0.2 * gaussian(1, 1, 128, 128)
    expected = estimate_sigma(noisy)
    monkeypatch.setattr("monai_dnaprior.noise.estimate.calm_deviation", lambda plane: torch.zeros(()))
    assert estimate_sigma(noisy) == expected


def test_too_few_calm_patches_say_nothing() -> None:
    assert calm_deviation(gaussian(1, 8, 8).double()) is None
    assert fine_kurtosis(gaussian(1, 8, 8).double()) == 0


def test_two_volumes_of_a_series_show_how_strong_their_noise_is() -> None:
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    first, second = torch.from_numpy(nibabel.Nifti1Image.from_filename(path).get_fdata()[..., 12, :]).permute(2, 0, 1)
    brain = first > 60
    level = (first - second)[brain].std() / 2**0.5
    image = first[None, None]
    estimate = estimate_sigma(fill_background(image, exact_background(image)))
    assert 0.5 * level < estimate < 1.2 * level


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (64, 64)])
def test_nothing_to_see_is_zero(shape: tuple[int, int]) -> None:
    assert estimate_sigma(torch.full((2, 1, *shape), 7.0)).tolist() == [0, 0]


def test_varying_pixels_touch_a_difference() -> None:
    image = torch.zeros(1, 1, 5, 6)
    image[..., 2, 3] = 1
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2, 2:5] = expected[1:4, 3] = True
    assert torch.equal(varying_pixels(image)[0, 0], expected)


@pytest.mark.parametrize("noise", ["gaussian:25", "poisson:30", "speckle:0.1", "rician:25"])
def test_noise_has_the_moments_of_its_definition_and_a_seed(noise: str) -> None:
    value, image = 0.5, torch.full((1, 1, 400, 400), 0.5)
    noisy = add_noise(image, noise, seed=3)
    variances = {
        "gaussian": (25 / 255) ** 2,
        "poisson": value / 30,
        "speckle": value**2 * 0.1,
        "rician": (25 / 255) ** 2,
    }
    name = noise.split(":")[0]
    second_moment = value**2 + variances[name] * (2 if name == "rician" else 1)  # of a magnitude: both parts count
    assert noisy.square().mean().item() == pytest.approx(second_moment, rel=0.01)
    assert noisy.var().item() == pytest.approx(variances[name], rel=0.03)
    assert torch.equal(noisy, add_noise(image, noise, seed=3))
    assert not torch.equal(noisy, add_noise(image, noise, seed=4))


def test_noise_keeps_to_its_support() -> None:
    ramp = torch.linspace(0, 1, 100).expand(1, 1, 100, 100)
    counts = add_noise(ramp, "poisson:8") * 8
    assert torch.equal(counts, counts.round())
    assert add_noise(ramp, "rician:50").min() >= 0
    speckle = add_noise(ramp, "speckle:0.2") - ramp
    assert (speckle.abs() <= ramp * 0.6**0.5 + 1e-6).all()
    assert speckle[..., 0].abs().max() == 0


@pytest.mark.parametrize("noise", ["gaussian", "gaussian:x", "gaussian:-1", "salt:3", "gaussian:inf"])
def test_bad_noise_names_itself(noise: str) -> None:
    with pytest.raises(ValueError, match=f"noise='{noise}' must be one of gaussian, poisson, speckle, rician"):
        add_noise(torch.zeros(1, 1, 4, 4), noise)


@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_correlation_tells_white_noise_from_resampled(clean_slice: Tensor, sigma: float) -> None:
    white = clean_slice + sigma * gaussian(*clean_slice.shape)
    assert abs(noise_correlation(white).item()) < CORRELATED
    resampled = torch.nn.functional.interpolate(white, scale_factor=1.5, mode="bilinear")
    assert noise_correlation(resampled).item() > 2 * CORRELATED


@pytest.mark.parametrize("image", [torch.full((2, 1, 16, 16), 3.0), torch.zeros(2, 1, 5, 40)], ids=["flat", "small"])
def test_correlation_of_nothing_is_zero(image: Tensor) -> None:
    assert noise_correlation(image).tolist() == [0, 0]
