"""The loop: what it minimises, averages, and why it stops."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_dnaprior.fitting.batch import FitRequest, Objective
from monai_dnaprior.fitting.fit import FitResult, fit
from monai_dnaprior.fitting.stopping import Discrepancy, MovingVariance
from monai_dnaprior.fitting.threads import convolution_choice, gradients_enabled, repeatable, side_by_side


class Pixels(nn.Module):
    """The simplest network: an image of free pixels."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.image * 1


def fit_pixels(noisy: Tensor, objective: Objective, *, learning_rate: float, **options: Any) -> FitResult:
    """The fit of free pixels to one image."""
    network = Pixels(noisy.shape)
    made = {"network": network, "noisy": noisy, "objective": objective, "learning_rate": learning_rate}
    return fit([FitRequest(**made, **options)])[0]


def squared_error(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
    estimate = network()
    return (estimate - noisy).square().sum(), estimate


@pytest.fixture
def noisy() -> Tensor:
    return torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(0))


def test_descends_to_the_image_and_traces_the_way(noisy: Tensor) -> None:
    result = fit_pixels(noisy, squared_error, steps=400, learning_rate=0.02)
    torch.testing.assert_close(result.image, noisy, atol=1e-3, rtol=0)
    assert (result.steps, result.stop_reason) == (400, "steps")
    steps, losses, residuals = zip(*result.trace, strict=True)
    assert steps == tuple(range(50, 401, 50))
    assert list(losses) == sorted(losses, reverse=True)
    assert residuals[-1] == pytest.approx((noisy - result.image).square().mean().sqrt().item())


@pytest.mark.parametrize(("averaging", "steps"), [(0.9, 7), (0.9, 150), (0.0, 30)])
def test_average_is_the_stated_recursion(noisy: Tensor, averaging: float, steps: int) -> None:
    outputs: list[Tensor] = []

    def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        loss, estimate = squared_error(noisy, network)
        outputs.append(estimate.detach())
        return loss, estimate

    result = fit_pixels(noisy, objective, steps=steps, learning_rate=0.1, averaging=averaging)
    average = outputs[0]
    for step, output in enumerate(outputs[1:], 2):
        weight = max(1 - averaging, 10 / (step + 9))
        average = average + weight * (output - average)
    torch.testing.assert_close(result.image, average)


def test_discrepancy_stops_at_the_noise_level_where_it_is_looked_for(noisy: Tensor) -> None:
    where = torch.zeros(noisy.shape, dtype=torch.bool)
    where[..., 0] = True
    rules = [Discrepancy(sigma=0.1)]
    result = fit_pixels(noisy, squared_error, steps=500, learning_rate=0.005, rules=rules, where=where)
    assert result.stop_reason == "discrepancy"
    assert result.steps < 500
    assert 0.08 < (noisy - result.image)[where].square().mean().sqrt().item() <= 0.1


@pytest.mark.parametrize("warm_up", [-1, 0, 3])
def test_discrepancy_ends_no_fit_before_its_warm_up(warm_up: int) -> None:
    rule, image = Discrepancy(sigma=0.1, warm_up=warm_up), torch.zeros(1, 1, 2, 2)
    reasons = [rule(residual, image, image) for residual in (0.05, 0.05, 0.05, 0.2, 0.1)]
    first = max(warm_up, 0)
    assert reasons == [None] * first + ["discrepancy"] * (3 - first) + [None, "discrepancy"]


def test_variance_stops_once_the_outputs_move_more_again(noisy: Tensor) -> None:
    calls = 0

    def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        loss, estimate = squared_error(noisy, network)
        restless = 0.5 if calls > 200 else 0.0  # as when a network begins to follow the noise
        return loss, estimate + restless * (-1) ** calls

    rules = [MovingVariance(patience=5)]
    result = fit_pixels(noisy, objective, steps=1000, learning_rate=0.02, rules=rules)
    assert result.stop_reason == "variance"
    assert 200 < result.steps < 400


def test_a_loss_that_is_not_finite_ends_the_fit(noisy: Tensor) -> None:
    def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        loss, estimate = squared_error(noisy, network)
        return loss * float("nan"), estimate

    result = fit_pixels(noisy, objective, steps=100, learning_rate=0.02)
    assert (result.stop_reason, result.steps) == ("non-finite", 10)


def test_gradients_are_enabled_in_full_precision_whatever_the_caller_does() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        image = torch.ones(2, 2)
        with gradients_enabled(torch.device("cpu")):
            weight = torch.ones(2, 2, requires_grad=True)
            product = image.clone() @ weight
            product.sum().backward()
    assert product.dtype == torch.float32
    assert weight.grad is not None


def test_fits_run_side_by_side_with_one_thread_each_in_order() -> None:
    device = torch.device("cpu")
    assert side_by_side(lambda _: torch.get_num_threads(), range(3), device=device) == [1, 1, 1]
    assert side_by_side(lambda value: value - 1, [5, 6, 7], device=device) == [4, 5, 6]
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda value: 1 / value, [1, 0], device=device)


def test_convolutions_are_repeatable_on_a_gpu_and_as_they_were_after_the_last_block() -> None:
    assert convolution_choice() == (False, False)
    blocks = [repeatable(torch.device("cuda")) for _ in range(2)]
    for block in blocks:
        block.__enter__()
        assert convolution_choice() == (True, False)
    for block, expected in zip(blocks, [True, False], strict=True):  # the first in is the first out
        block.__exit__(None, None, None)
        assert convolution_choice() == (expected, False)
    with repeatable(torch.device("cpu")):
        assert convolution_choice() == (False, False)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists threads")
def test_no_thread_is_left_that_a_fork_could_meet_while_it_ends() -> None:
    square = torch.eye(40, dtype=torch.float64)

    def thread_after_a_product(_: int) -> int:
        assert (square @ square).sum() == 40
        return threading.get_native_id()

    for _ in range(50):
        used = side_by_side(thread_after_a_product, range(4), device=torch.device("cpu"))
        assert not [thread for thread in used if Path(f"/proc/self/task/{thread}").exists()]
