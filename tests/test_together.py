"""Fits that are made together: each is what it would be alone."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.fitting import batch as together
from monai_dnaprior.fitting.batch import Ask, Request, fit_together, in_step
from monai_dnaprior.fitting.devices import convolving
from monai_dnaprior.fitting.fit import Discrepancy, FitResult
from monai_dnaprior.fitting.networks import SkipNet
from monai_dnaprior.fitting.stack import Stack
from monai_dnaprior.transforms.volumes import denoise_volume

CPU = torch.device("cpu")
SMALL = {"width": 4, "scales": 2, "input_channels": 4, "skip_channels": 2}
CLOSE = {"atol": 1e-6, "rtol": 0}  # of images about [0, 1]


def networks(count: int) -> list[SkipNet]:
    return [SkipNet(**SMALL, padding="zeros", sigmoid=False, seed=seed) for seed in range(count)]


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(0))


def constant(progress: float) -> float:
    return 1.0


def request(image: Tensor, *, seed: int = 0, level: float = 0.0, steps: int = 40, **options: Any) -> Request:
    """In double precision: a fit amplifies what rounding differs by, tenfold every few steps."""
    prior = DNAPrior(**SMALL, input_noise=0.02, **options)
    objective = prior.objective(prior.network(), image, 0.1, seed)
    return Request(
        prior.network().double(),
        image.double(),
        dataclasses.replace(objective, z=objective.z.double()),
        [Discrepancy(level)],
        torch.ones_like(image, dtype=torch.bool),
        {"steps": steps, "learning_rate": 0.01, "decay": constant, "optimizer": torch.optim.Adam, "averaging": 0.9},
    )


def assert_same(result: FitResult, other: FitResult) -> None:
    assert (result.steps, result.stop_reason) == (other.steps, other.stop_reason)
    torch.testing.assert_close(result.image, other.image, **CLOSE)
    torch.testing.assert_close(torch.tensor(result.trace), torch.tensor(other.trace), atol=1e-6, rtol=1e-6)


def test_a_stack_is_its_networks() -> None:
    inputs = torch.rand(3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    each = torch.cat([network(inputs[number : number + 1]) for number, network in enumerate(networks(3))])
    torch.testing.assert_close(Stack(networks(3))(inputs), each)
    with convolving("bfloat16", CPU):
        rounded = Stack(networks(3))(inputs)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, each, atol=0.02, rtol=0)
    assert (rounded != each).any()


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_no_gradient_passes_from_one_network_to_another(padding: str) -> None:
    stack = Stack([SkipNet(**SMALL, padding=padding, seed=seed) for seed in range(2)])
    stack(torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)))[1].sum().backward()
    assert all((weight.grad[0] == 0).all() for weight in stack.weights)
    assert any((weight.grad[1] != 0).any() for weight in stack.weights)


def test_networks_that_are_kept_descend_as_if_the_others_had_never_been() -> None:
    inputs = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        optimizer.zero_grad()
        network(inputs).square().sum().backward()
        optimizer.step()

    stack, (_, alone, _) = Stack(networks(3)), networks(3)
    optimizer, other = (torch.optim.Adam(network.parameters(), lr=0.01) for network in (stack, alone))
    for _ in range(3):
        step(stack, optimizer, inputs)
        step(alone, other, inputs[1:2])
    stack.keep([1], optimizer)
    for _ in range(3):
        step(stack, optimizer, inputs[1:2])
        step(alone, other, inputs[1:2])
    torch.testing.assert_close(stack(inputs[1:2]), alone(inputs[1:2]), **CLOSE)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_step_on_another_device_takes_nothing_from_the_cpu(preset: str) -> None:
    """On PyTorch's device without numbers, where operations that mix devices fail as on an accelerator."""
    prior, noisy = DNAPrior.from_preset(preset, width=8, tv_weight=0.1), images(3, 32, 32).to("meta")
    stack = Stack([prior.network().to("meta") for _ in noisy])
    first, *others = (prior.objective(prior.network(), image, 0.1, 0) for image in noisy.split(1))
    objective, descent = first.joined(others), torch.optim.Adam(stack.parameters())
    for kept in ([0, 2], [1]):
        losses, estimate = objective(noisy, stack)
        losses.sum().backward()
        descent.step()
        assert (losses.shape, losses.device) == (noisy.shape[:1], noisy.device)
        assert (estimate.shape, estimate.device) == (noisy.shape, noisy.device)
        stack.keep(kept, descent)
        objective, noisy = objective.kept(kept), noisy[kept]


def test_fits_end_each_at_its_own_step() -> None:
    made = [request(image, seed=seed, level=level) for seed, (image, level) in
            enumerate(zip(images(4, 24, 20).split(1), (0.0, 0.36, 0.31, 10.0), strict=True))]  # fmt: skip
    results = fit_together(copy.deepcopy(made))
    for result, one in zip(results, made, strict=True):
        assert_same(result, one.alone())
    assert [result.steps for result in results] == [40, 20, 30, 10]


def test_a_fit_that_fails_harms_no_other() -> None:
    good, bad, other = images(3, 16, 16).split(1)
    made = [request(good), request(bad * torch.inf), request(other)]
    results = fit_together(copy.deepcopy(made))
    assert [result.stop_reason for result in results] == ["steps", "non-finite", "steps"]
    for number in (0, 2):
        assert_same(results[number], made[number].alone())


def sizes_of_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    fit_group = together.fit_group
    monkeypatch.setattr(together, "fit_group", lambda group: [sizes.append(len(group)), *fit_group(group)][1:])
    return sizes


def test_what_a_failed_pass_held_is_gone_before_its_halves_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error holds, by its traceback, all that the pass had made, and the tasks that raise it hold the error."""
    made: list[tuple[int, weakref.ref[Stack]]] = []

    class Full(Stack):
        def forward(self, inputs: Tensor) -> Tensor:
            held = [size for size, stack in made if stack() is not None and size > len(inputs)]
            assert not held
            made.append((len(inputs), weakref.ref(self)))
            if len(inputs) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(inputs)

    monkeypatch.setattr(together, "MADE_TOGETHER", ("cpu",))
    monkeypatch.setattr(together, "Stack", Full)
    volume = torch.rand(1, 40, 36, 4, generator=torch.Generator().manual_seed(0))
    denoise_volume(volume, DeepImagePrior(steps=1, width=4, scales=2), batch_size=4)
    assert {size for size, _ in made} == {4, 2}


def test_only_what_suits_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = sizes_of_groups(monkeypatch)
    plain = request(images(1, 16, 16))
    closure = Request(
        plain.network,
        plain.noisy,
        lambda noisy, network: plain.objective(noisy, network),
        [],
        plain.where,
        plain.options,
    )
    made = [plain, request(images(1, 16, 20)), closure, copy.deepcopy(closure), request(images(1, 16, 16), steps=30)]
    results = fit_together([*copy.deepcopy(made), copy.deepcopy(plain)])
    assert sorted(sizes) == [1, 1, 1, 1, 2]
    assert [result.image.shape[-1] for result in results] == [16, 20, 16, 16, 16, 16]
    assert [result.steps for result in results] == [40, 40, 40, 40, 30, 40]


def test_what_asks_is_answered_when_all_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[list[int]] = []

    def answers(requests: list[int]) -> list[int]:
        served.append(requests)
        return [10 * request for request in requests]

    monkeypatch.setattr(together, "fit_together", answers)

    def function(ask: Callable[[int], int], times: int) -> list[int]:
        return [ask(100 * times + number) for number in range(times)]

    assert in_step(function, [1, 0, 3, 2], device=CPU) == [[1000], [], [3000, 3010, 3020], [2000, 2010]]
    assert served == [[100, 300, 200], [301, 201], [302]]


@pytest.mark.parametrize("error", [ValueError("bad"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_errors_reach_who_called(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def function(ask: Ask, fails: bool) -> FitResult:
        if fails:
            raise error
        return ask(request(images(1, 16, 16), steps=1))

    with pytest.raises(type(error)):
        in_step(function, [False, True, False], device=CPU)

    def failing(requests: Any) -> Any:
        raise error

    monkeypatch.setattr(together, "fit_together", failing)
    with pytest.raises(type(error)):
        in_step(function, [False, False], device=CPU)


@pytest.mark.parametrize(
    "prior",
    [
        DNAPrior(steps=2, width=4, shrink=1),
        DNAPrior(steps=2, width=4, restarts=2, stopping="steps"),
        DeepImagePrior(steps=6, width=4, scales=2, tv_weight=0.01),
    ],
    ids=["dna-prior", "restarts", "dip-tv"],
)
def test_images_denoised_together_are_what_they_are_alone(prior: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = images(3, 40, 36) * torch.tensor([1.0, 0.0, 0.5])[:, None, None, None]  # the second has no noise
    alone = prior(noisy)
    sizes = sizes_of_groups(monkeypatch)
    monkeypatch.setattr(together, "MADE_TOGETHER", ("cpu",))
    results = prior(noisy)
    assert sizes == [2 * prior.restarts]
    torch.testing.assert_close(results.image, alone.image, atol=1e-3, rtol=0)
    for record, other in zip(results.records, alone.records, strict=True):
        assert (record.steps, record.stop_reason, record.seed) == (other.steps, other.stop_reason, other.seed)
    if alone.spread is not None:
        torch.testing.assert_close(results.spread, alone.spread, atol=1e-3, rtol=0)
    again = prior(noisy)
    assert torch.equal(again.image, results.image)
