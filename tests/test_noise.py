"""The noise estimate on noise that is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_dnaprior.noise import estimate_sigma, varying_pixels


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


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (64, 64)])
def test_nothing_to_see_is_zero(shape: tuple[int, int]) -> None:
    assert estimate_sigma(torch.full((2, 1, *shape), 7.0)).tolist() == [0, 0]


def test_varying_pixels_touch_a_difference() -> None:
    image = torch.zeros(1, 1, 5, 6)
    image[..., 2, 3] = 1
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2, 2:5] = expected[1:4, 3] = True
    assert torch.equal(varying_pixels(image)[0, 0], expected)
