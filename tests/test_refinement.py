"""Non-local Bayes refinement: its formula on one group, its invariants, and what it gains."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad
from torch.utils._python_dispatch import TorchDispatchMode

from monai_dnaprior.denoisers import nonlocal_bayes as refinement
from monai_dnaprior.denoisers.nonlocal_bayes import Blocks, group_positions, refine, similar_blocks
from monai_dnaprior.noise.groups import cosines
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel


def refine_white(noisy: Tensor, estimate: Tensor, sigma: float, **options: int) -> Tensor:
    return refine(noisy, estimate, NoiseModel(sigma), **options)


def blurred(image: Tensor) -> Tensor:
    return avg_pool2d(pad(image, (1, 1, 1, 1), "reflect"), 3, stride=1)


def test_next_to_no_noise_is_no_reason_to_fail() -> None:
    """Groups of patches on a ramp differ in one direction alone; the system would be singular."""
    ramp = torch.linspace(0, 1, 40).outer(torch.linspace(0, 1, 40))[None, None]
    assert (refine_white(ramp, ramp, 1e-7) - ramp).abs().max() < 1e-3


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_one_group_is_the_wiener_filter_of_its_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of one pixel in an image of six: one group holds them all, and its covariance is their variance."""
    monkeypatch.setattr(Blocks, "within", lambda *_, **__: Blocks(1, 1, 1, 10))
    noisy, estimate = images(1, 1, 2, 3), images(1, 1, 2, 3, seed=1)
    variance, mean, sigma = estimate.var(), estimate.mean(), 0.2
    expected = mean + variance / (variance + 0.85 * sigma**2) * (noisy - mean)
    torch.testing.assert_close(refine_white(noisy, estimate, sigma, rounds=1), expected)


def test_no_rounds_and_no_noise_change_nothing() -> None:
    noisy, estimate = images(1, 3, 20, 31), images(1, 3, 20, 31, seed=1)
    assert torch.equal(refine_white(noisy, estimate, 0.1, rounds=0), estimate)
    torch.testing.assert_close(refine_white(noisy, noisy, 1e-3), noisy, atol=1e-3, rtol=0)


def test_a_flat_estimate_leaves_only_itself() -> None:
    estimate = torch.full((1, 1, 24, 24), 0.4)
    noisy = estimate + 0.1 * (images(1, 1, 24, 24) - 0.5)
    torch.testing.assert_close(refine_white(noisy, estimate, 0.1, rounds=1), estimate)


def test_brightness_is_carried_along() -> None:
    noisy, estimate = images(1, 3, 20, 20), images(1, 3, 20, 20, seed=1)
    torch.testing.assert_close(
        refine_white(noisy + 3, estimate + 3, 0.1), refine_white(noisy, estimate, 0.1) + 3, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        refine_white(7 * noisy, 7 * estimate, 0.7), 7 * refine_white(noisy, estimate, 0.1), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 1, 30), (1, 1, 8, 8), (1, 3, 9, 40), (1, 2, 33, 21)], ids=str)
def test_any_size(shape: tuple[int, ...]) -> None:
    refined = refine_white(images(*shape), images(*shape, seed=1), 0.1)
    assert refined.shape == shape
    assert refined.isfinite().all()


def test_groups_hold_their_patch_and_the_most_alike_within_reach() -> None:
    estimate = images(1, 1, 40, 30)
    rows, columns = torch.tensor([0, 16, 32]), torch.tensor([5, 22])
    blocks = Blocks.within(1, 40, 30)
    groups = similar_blocks(estimate, blocks, 0, rows, columns)
    assert groups.shape == (6, refinement.SIMILAR)
    places = torch.stack((groups // 23, groups % 23), -1)
    references = torch.cartesian_prod(rows, columns)[:, None]
    assert torch.equal(places[:, 0], references[:, 0])
    assert (places - references).abs().max() <= blocks.reach
    patches = estimate[0, 0].unfold(0, 8, 1).unfold(1, 8, 1)
    for place, (row, column) in zip(places, references[:, 0], strict=True):
        near = [
            (patches[i, j] - patches[row, column]).square().sum().item()
            for i in range(33)
            for j in range(23)
            if max(abs(i - row), abs(j - column)) <= blocks.reach
        ]
        found = (patches[place[:, 0], place[:, 1]] - patches[row, column]).square().sum((1, 2))
        torch.testing.assert_close(found.sort().values, torch.tensor(sorted(near)[: refinement.SIMILAR]))


def test_every_pixel_is_covered() -> None:
    for count in range(1, 12):
        for side in (1, 3, 8):
            places = group_positions(count, min(4, side)).tolist()
            assert places[0] == 0
            assert places[-1] == count - 1
            assert all(after - before <= min(side, 4) for before, after in itertools.pairwise(places))


@pytest.mark.parametrize(("name", "value"), [("BAND", 3), ("CHUNK", 7)])
def test_memory_bounds_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    noisy = images(1, 1, 60, 40)
    expected = refine_white(noisy, blurred(noisy), 0.2)
    monkeypatch.setattr(refinement, name, value)
    torch.testing.assert_close(refine_white(noisy, blurred(noisy), 0.2), expected, atol=1e-5, rtol=0)


class Counted(TorchDispatchMode):
    """Counts the operations that compute something on a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        view = any(out.alias_info and not out.alias_info.is_write for out in function._schema.returns)
        results = result if isinstance(result, (tuple, list)) else [result]
        self.count += not view and any(isinstance(out, Tensor) and out.device.type == self.device for out in results)
        return result


@pytest.mark.parametrize(("slices", "side", "most"), [(1, 256, 100), (5, 256, 100), (1, 1024, 320)])
def test_an_accelerator_takes_few_large_steps(
    monkeypatch: pytest.MonkeyPatch, slices: int, side: int, most: int
) -> None:
    monkeypatch.setattr(refinement, "side_by_side", lambda function, *items, device: list(map(function, *items)))
    image = torch.empty(slices, 1, side, side, device="meta")
    with Counted("meta") as counted:
        refine_white(image, image, 0.1, rounds=1)
    assert counted.count <= most


def test_large_steps_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = images(4, 2, 30, 40)
    expected = refine_white(noisy, blurred(noisy), 0.2, middle=1)

    monkeypatch.setattr(refinement, "in_small_steps", lambda device: False)
    for room in (2**26, 2**20, 1):
        monkeypatch.setattr(refinement, "ROOM", room)
        large = refine_white(noisy, blurred(noisy), 0.2, middle=1)
        torch.testing.assert_close(large, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cosines_are_orthonormal_and_begin_with_the_mean(size: int) -> None:
    basis = cosines(size).float()
    torch.testing.assert_close(basis @ basis.mT, torch.eye(size))
    torch.testing.assert_close(basis[0], torch.full((size,), size**-0.5))


def test_a_real_slice_gains_on_the_estimate(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    estimate = blurred(blurred(noisy_slice))
    gains = [psnr(refine_white(noisy_slice, estimate, 25 / 255, rounds=n), clean_slice) for n in (0, 1, 2)]
    assert gains[0] + 0.5 < gains[1] < gains[2]


def box_noise(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise of unit variance averaged over 2×2 pixels, and its correlation."""
    white = torch.randn(1, 1, shape[0] + 1, shape[1] + 1, generator=torch.Generator().manual_seed(seed))
    correlation = torch.zeros(15, 15, dtype=torch.float64)
    correlation[6:9, 6:9] = torch.outer(torch.tensor([0.5, 1, 0.5]), torch.tensor([0.5, 1, 0.5]))
    return 2 * torch.nn.functional.avg_pool2d(white, 2, 1), correlation


def test_white_noise_given_as_a_correlation_is_filtered_as_white_noise() -> None:
    noisy, estimate = images(1, 1, 24, 20), images(1, 1, 24, 20, seed=1)
    delta = torch.zeros(15, 15, dtype=torch.float64)
    delta[7, 7] = 1
    coloured = refine(noisy, estimate, NoiseModel(0.1, delta), rounds=2)
    torch.testing.assert_close(coloured, refine_white(noisy, estimate, 0.1, rounds=2), atol=1e-4, rtol=0)


def test_knowing_its_correlation_helps_to_remove_noise(clean_slice: Tensor) -> None:
    noise, correlation = box_noise(96, 80)
    noisy = clean_slice + 0.06 * noise
    guide = blurred(noisy)
    known, unknown = (
        psnr(refine(noisy, guide, NoiseModel(0.06, rho), rounds=3), clean_slice) for rho in (correlation, None)
    )
    assert known > unknown + 0.8
    assert unknown > psnr(noisy, clean_slice) + 1


def test_uneven_noise_is_filtered_as_the_even_noise_that_it_is_divided_to() -> None:
    noisy, estimate = images(1, 1, 24, 20), images(1, 1, 24, 20, seed=1)
    deviation = torch.linspace(0.5, 1.5, 20).expand(1, 1, 24, 20)
    even = refine_white(noisy / deviation, estimate / deviation, 0.1)
    torch.testing.assert_close(refine(noisy, estimate, NoiseModel(0.1, None, deviation)), deviation * even)
