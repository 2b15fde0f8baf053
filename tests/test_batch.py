"""Fits that are made together: each is what it would be alone."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import SHORT
from torch import Tensor, nn

from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.fitting import batch as batches
from monai_dnaprior.fitting import fit as fits
from monai_dnaprior.fitting.batch import FitRequest, Stack
from monai_dnaprior.fitting.devices import convolving
from monai_dnaprior.fitting.fit import FitResult, Procedure, fit, fit_groups, run_fits, run_together
from monai_dnaprior.fitting.losses import penalised_fidelity
from monai_dnaprior.fitting.networks import ShiftedNoise, SkipNet
from monai_dnaprior.fitting.stopping import Discrepancy
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

CPU = torch.device("cpu")
SMALL = {"width": 4, "scales": 2, "input_channels": 4, "skip_channels": 2}
CLOSE = {"atol": 1e-6, "rtol": 0}  # of images about [0, 1]


def networks(count: int) -> list[SkipNet]:
    return [SkipNet(**SMALL, padding="zeros", sigmoid=False, seed=seed) for seed in range(count)]


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(0))


def request(image: Tensor, *, seed: int = 0, level: float = 0.0, steps: int = 40) -> FitRequest:
    """In double precision: a fit amplifies what rounding differs by, tenfold every few steps."""
    prior = DNAPrior(**SMALL, input_noise=0.02)
    seen = torch.ones_like(image, dtype=torch.bool)
    made = next(prior.fit_small(NoisyImage(image, seen, NoiseModel(0.1)), prior.network(), seed, 2))
    return dataclasses.replace(
        made,
        network=made.network.double(),
        noisy=image.double(),
        objective=dataclasses.replace(made.objective, z=made.objective.z.double()),
        rules=[Discrepancy(level)],
        steps=steps,
        learning_rate=0.01,
        optimizer=torch.optim.Adam,
        averaging=0.9,
    )


def fit_alone(one: FitRequest) -> FitResult:
    return fit([one])[0]


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
    seen = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    loss, options = penalised_fidelity, {"tv_weight": 0.1, "draw": ShiftedNoise}
    first, *others = (
        prior.objective(NoisyImage(image, seen, NoiseModel(0.1)), prior.network(), 0, loss, **options)
        for image in noisy.split(1)
    )
    objective, descent = first.join(others), torch.optim.Adam(stack.parameters())
    for kept in ([0, 2], [1]):
        losses, estimate = objective(noisy, stack)
        losses.sum().backward()
        descent.step()
        assert (losses.shape, losses.device) == (noisy.shape[:1], noisy.device)
        assert (estimate.shape, estimate.device) == (noisy.shape, noisy.device)
        stack.keep(kept, descent)
        objective, noisy = objective.keep(kept), noisy[kept]


def test_fits_end_each_at_its_own_step() -> None:
    made = [request(image, seed=seed, level=level) for seed, (image, level) in
            enumerate(zip(images(4, 24, 20).split(1), (0.0, 0.36, 0.31, 10.0), strict=True))]  # fmt: skip
    results = fit_groups(copy.deepcopy(made))
    for result, one in zip(results, made, strict=True):
        assert_same(result, fit_alone(one))
    assert [result.steps for result in results] == [40, 20, 30, 10]


def test_a_fit_that_fails_harms_no_other() -> None:
    good, bad, other = images(3, 16, 16).split(1)
    made = [request(good), request(bad * torch.inf), request(other)]
    results = fit_groups(copy.deepcopy(made))
    assert [result.stop_reason for result in results] == ["steps", "non-finite", "steps"]
    for number in (0, 2):
        assert_same(results[number], fit_alone(made[number]))


def sizes_of_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    original = fits.fit

    def counted(requests: Sequence[FitRequest]) -> list[FitResult]:
        sizes.append(len(requests))
        return original(requests)

    monkeypatch.setattr(fits, "fit", counted)
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

    monkeypatch.setattr(fits, "BATCHED_ON", ("cpu",))
    monkeypatch.setattr(batches, "Stack", Full)
    volume = torch.rand(1, 40, 36, 4, generator=torch.Generator().manual_seed(0))
    denoise_volume(volume, DeepImagePrior(steps=1, width=4, scales=2), Slicing(batch_size=4))
    assert {size for size, _ in made} == {4, 2}


def test_only_what_suits_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = sizes_of_groups(monkeypatch)
    plain = request(images(1, 16, 16))
    closure = dataclasses.replace(plain, objective=lambda noisy, network: plain.objective(noisy, network), rules=[])
    made = [plain, request(images(1, 16, 20)), closure, copy.deepcopy(closure), request(images(1, 16, 16), steps=30)]
    results = fit_groups([*copy.deepcopy(made), copy.deepcopy(plain)])
    assert sorted(sizes) == [1, 1, 1, 1, 2]
    assert [result.image.shape[-1] for result in results] == [16, 20, 16, 16, 16, 16]
    assert [result.steps for result in results] == [40, 40, 40, 40, 30, 40]


def test_what_asks_is_answered_when_all_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[list[int]] = []

    def answers(requests: list[int]) -> list[int]:
        served.append(requests)
        return [10 * request for request in requests]

    monkeypatch.setattr(fits, "fit_groups", answers)

    def procedure(times: int) -> Any:
        answered = []
        for number in range(times):
            answered.append((yield 100 * times + number))
        return answered

    made = [procedure(times) for times in (1, 0, 3, 2)]
    assert run_together(made) == [[1000], [], [3000, 3010, 3020], [2000, 2010]]
    assert served == [[100, 300, 200], [301, 201], [302]]


@pytest.mark.parametrize("error", [ValueError("bad"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("batched_on", [(), ("cpu",)], ids=["in threads", "batched"])
def test_errors_reach_who_called(
    monkeypatch: pytest.MonkeyPatch, batched_on: tuple[str, ...], error: BaseException
) -> None:
    monkeypatch.setattr(fits, "BATCHED_ON", batched_on)

    def procedure(fails: bool) -> Procedure[FitResult]:
        if fails:
            raise error
        return (yield request(images(1, 16, 16), steps=1))

    with pytest.raises(type(error)):
        run_fits([procedure(False), procedure(True), procedure(False)], device=CPU)

    def failing(requests: Any) -> Any:
        raise error

    monkeypatch.setattr(fits, "fit", failing)
    with pytest.raises(type(error)):
        run_fits([procedure(False), procedure(False)], device=CPU)


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
    monkeypatch.setattr(fits, "BATCHED_ON", ("cpu",))
    results = prior(noisy)
    assert sizes == [2 * prior.restarts]
    torch.testing.assert_close(results.image, alone.image, atol=1e-3, rtol=0)
    for record, other in zip(results.records, alone.records, strict=True):
        assert (record.steps, record.stop_reason, record.seed) == (other.steps, other.stop_reason, other.seed)
    if alone.spread is not None:
        torch.testing.assert_close(results.spread, alone.spread, atol=1e-3, rtol=0)
    again = prior(noisy)
    assert torch.equal(again.image, results.image)


@pytest.mark.parametrize("restarts", [1, 2])
def test_images_that_are_fitted_together_share_the_seconds(
    monkeypatch: pytest.MonkeyPatch, noisy_slice: Tensor, restarts: int
) -> None:
    monkeypatch.setattr(fits, "BATCHED_ON", ("cpu",))
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    records = DNAPrior(**SHORT, restarts=restarts, refinements=1)(noisy_slice[..., :40, :40].repeat(8, 1, 1, 1)).records
    assert 0 < sum(record.seconds for record in records) < 2 * next(clock)  # some are measured side by side, in threads
