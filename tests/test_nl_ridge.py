"""Linear combinations of similar patches: their weights in closed form, and what they are worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import GUARDED
from torch import Tensor

from monai_dnaprior import create_denoiser
from monai_dnaprior.denoisers.nl_ridge import combinations, first_step, partial_step, products, second_step
from monai_dnaprior.noise.metrics import psnr

pytestmark = GUARDED
METHODS = ("nl-ridge", "lichi")
SIGMA = 25 / 255


def groups(count: int = 3, similar: int = 5, size: int = 16, *, seed: int = 0) -> Tensor:
    """Patches that vary about one of their own, (groups, similar, pixels)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, similar, size)
    common = torch.rand(count, 1, size, generator=generator, dtype=torch.float64)
    return common + 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def least(risk: Any, similar: int) -> Tensor:
    """The weights of least risk of all whose rows sum to 1, by descent."""
    free = torch.eye(similar, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.LBFGS([free], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def weights() -> Tensor:
        return free - free.mean(1, keepdim=True) + 1 / similar

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = risk(weights())
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights().detach()


def test_the_first_step_has_the_least_unbiased_estimate_of_the_risk() -> None:
    noisy = groups(1)
    size, similar = noisy.shape[2], noisy.shape[1]

    def risk(weights: Tensor) -> Tensor:
        return (weights @ noisy[0] - noisy[0]).square().sum() + 2 * size * SIGMA**2 * weights.trace()

    expected = least(risk, similar) @ noisy[0]
    torch.testing.assert_close(first_step(noisy, SIGMA, 0)[0][0, 0], expected, rtol=0, atol=1e-4)


def test_the_second_step_has_the_least_risk_for_the_patches_of_the_estimate() -> None:
    guides, noisy = groups(1), groups(1, seed=1)
    size, similar = noisy.shape[2], noisy.shape[1]

    def risk(weights: Tensor) -> Tensor:
        return (weights @ guides[0] - guides[0]).square().sum() + size * SIGMA**2 * weights.square().sum()

    expected = least(risk, similar) @ noisy[0]
    torch.testing.assert_close(second_step(noisy, guides, SIGMA)[0][0, 0], expected, rtol=0, atol=1e-6)


def test_weights_sum_to_one_and_are_the_mean_where_patches_are_the_same() -> None:
    noise = torch.full((3,), 0.1, dtype=torch.float64)
    weights = combinations(products(groups()), noise)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not torch.allclose(weights, torch.full_like(weights, 1 / 5))
    same = combinations(products(groups()[:, :1].expand(-1, 5, -1)), noise)
    torch.testing.assert_close(same, torch.full_like(same, 1 / 5))


def test_a_patch_counts_by_how_little_noise_its_combination_keeps() -> None:
    noisy, same = groups(), groups()[:, :1].expand(-1, 5, -1)
    ones = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(second_step(noisy, same, SIGMA)[1], 5 * ones)
    torch.testing.assert_close(second_step(noisy, 1e4 * noisy, SIGMA)[1], ones, rtol=0, atol=1e-4)


def test_a_round_leaves_as_much_noise_as_it_is_told() -> None:
    noisy, guides = groups(), groups(seed=1)
    (estimate, cleaner), _ = partial_step(noisy, noisy, guides, sigma=SIGMA, left=0.25)
    torch.testing.assert_close(estimate, second_step(noisy, guides, SIGMA)[0][0])
    torch.testing.assert_close(cleaner, 0.75 * estimate + 0.25 * noisy)
    half = guides + (noisy - guides) / 2
    deviation = ((noisy - half).flatten(1).std(1, correction=0)).max().item()
    (estimate, cleaner), _ = partial_step(noisy, half, guides, sigma=2 * deviation, left=0.5)
    assert (cleaner - half).abs().max() < (estimate - half).abs().max() / 2


@pytest.mark.parametrize("name", METHODS)
def test_without_noise_next_to_nothing_is_removed(name: str, clean_slice: Tensor) -> None:
    part = clean_slice[..., 16:64, 16:64]
    denoised = create_denoiser(name, sigma=1e-6)(part).image
    assert (denoised - part).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "lead"), [("nl-ridge", -0.15), ("lichi", 0.2)])
def test_white_noise_is_removed_as_by_bm3d_or_better(
    name: str, lead: float, noisy_slice: Tensor, clean_slice: Tensor
) -> None:
    pytest.importorskip("bm3d")
    ours, theirs = (
        psnr(create_denoiser(method, sigma=SIGMA)(noisy_slice).image, clean_slice) for method in (name, "bm3d")
    )
    assert ours - theirs > lead


@pytest.mark.parametrize("name", METHODS)
def test_channels_that_are_alike_help_each_other(name: str, clean_slice: Tensor) -> None:
    clean = clean_slice[..., 16:64, 16:64] * torch.tensor([1, 0.8, 0.6]).view(3, 1, 1)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoiser = create_denoiser(name, sigma=0.1)
    alone = torch.cat([denoiser(noisy[:, [channel]]).image for channel in range(3)], 1)
    together, alone = ((image - clean).square().mean() for image in (denoiser(noisy).image, alone))
    assert together < 0.75 * alone


@pytest.mark.parametrize("name", METHODS)
def test_options_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="stride=0 must be a positive number"):
        create_denoiser(name, stride=0)
    with pytest.raises(ValueError, match="reach=1.5 must be a whole number"):
        create_denoiser(name, reach=1.5)
