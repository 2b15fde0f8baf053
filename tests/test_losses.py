"""The losses against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_dnaprior.fitting.losses import GAMMA, spectral_fidelity, total_variation


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["ortho", "backward", "forward"])
def test_plancherel_identity_of_value_and_gradient(norm: str) -> None:
    estimate, noisy = random_images(2, 3, 5, 7).requires_grad_(), random_images(2, 3, 5, 7, seed=1)
    spectra = [torch.fft.fft2(image, norm=norm) for image in (estimate, noisy)]
    scale = {"ortho": 1.0, "backward": 5 * 7, "forward": 1 / (5 * 7)}[norm]  # of the spectrum's energy, so of gamma
    distance = (spectra[0] - spectra[1]).abs().square().sum((1, 2, 3))
    literal = distance / (spectra[1].abs().square().sum((1, 2, 3)) + scale * GAMMA)
    ours = spectral_fidelity(estimate, noisy)
    torch.testing.assert_close(ours, literal)
    torch.testing.assert_close(
        *(torch.autograd.grad(value.sum(), estimate, retain_graph=True)[0] for value in (ours, literal))
    )


def test_unit_weights_change_nothing_and_a_band_sees_only_its_frequency() -> None:
    estimate, noisy = random_images(2, 1, 6, 8), random_images(2, 1, 6, 8, seed=1)
    torch.testing.assert_close(
        spectral_fidelity(estimate, noisy, weight=torch.ones(6, 8)), spectral_fidelity(estimate, noisy)
    )
    mean_only = torch.zeros(6, 8)
    mean_only[0, 0] = 1
    means = [image.mean((1, 2, 3)) for image in (estimate, noisy)]
    expected = (means[0] - means[1]) ** 2 * 48 / (means[1] ** 2 * 48 + GAMMA)
    torch.testing.assert_close(spectral_fidelity(estimate, noisy, weight=mean_only), expected)


def test_fidelity_of_equal_images_is_zero_and_of_nothing_is_one() -> None:
    noisy = random_images(1, 1, 4, 4)
    assert spectral_fidelity(noisy, noisy).item() == 0
    energy = noisy.square().sum().reshape(1)
    torch.testing.assert_close(spectral_fidelity(0 * noisy, noisy), energy / (energy + GAMMA))


@pytest.mark.parametrize(
    ("name", "image", "variation"),
    [
        ("constant", torch.full((1, 4, 5), 0.5), 4 * 5 * GAMMA),
        ("ramp", 0.25 * torch.arange(5.0).expand(1, 4, 5), 4 * (4 * (0.25**2 + GAMMA**2) ** 0.5 + GAMMA)),
        ("step", torch.tensor([[[0.0, 0, 2, 2]] * 3]), 3 * ((4 + GAMMA**2) ** 0.5 + 3 * GAMMA)),
        ("corner", torch.tensor([[[1.0, 0], [0, 0]]]), (2 + GAMMA**2) ** 0.5 + 3 * GAMMA),
    ],
)
def test_total_variation_closed_forms(name: str, image: Tensor, variation: float) -> None:
    image = image.double()
    expected = variation / (image.square().sum().item() + GAMMA)
    assert total_variation(image).item() == pytest.approx(expected, rel=1e-12)


def test_total_variation_scales_inversely_and_ignores_transposition() -> None:
    image = 1e4 * random_images(1, 6, 7)  # so that gamma is nothing
    torch.testing.assert_close(total_variation(3 * image), total_variation(image) / 3)
    torch.testing.assert_close(total_variation(image.mT), total_variation(image))


@pytest.mark.parametrize("weight", [None, random_images(4, 5, seed=2)], ids=["unweighted", "weighted"])
def test_gradcheck_of_the_fidelity(weight: Tensor | None) -> None:
    estimate, noisy = random_images(2, 1, 4, 5).requires_grad_(), random_images(2, 1, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda image: spectral_fidelity(image, noisy, weight=weight), estimate)


def test_gradcheck_of_the_total_variation() -> None:
    assert torch.autograd.gradcheck(total_variation, random_images(2, 2, 4, 5).requires_grad_())


def test_each_image_of_a_batch_has_its_own_value() -> None:
    estimate, noisy = random_images(3, 2, 4, 4), random_images(3, 2, 4, 4, seed=1)
    for loss in (
        lambda index: spectral_fidelity(estimate[index], noisy[index]),
        lambda index: total_variation(estimate[index]),
    ):
        torch.testing.assert_close(loss(slice(None)), torch.stack([loss(index) for index in range(3)]))
