"""What the fit of a network with a random input minimises: the noise that its input gets at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from monai_dnaprior.fitting.fit import GeneratorObjective
from monai_dnaprior.fitting.losses import squared_error
from monai_dnaprior.fitting.networks import SHIFTS, FreshNoise, ShiftedNoise, SkipNet, fixed_input

DRAWS = [FreshNoise, ShiftedNoise]
Draws = type[FreshNoise] | type[ShiftedNoise]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("draws", DRAWS)
def test_the_noise_of_every_step_is_standard_normal_and_another(draws: Draws, layout: torch.memory_format) -> None:
    z = fixed_input(channels=8, height=48, width=64).contiguous(memory_format=layout)
    draw = draws(z, 1)
    first, second = draw().clone(), draw().clone()
    assert first.shape == second.shape == z.shape[1:]
    for noise in (first, second):
        assert noise.mean().abs() < 0.02
        assert noise.std() == pytest.approx(1, abs=0.02)
    assert (
        torch.corrcoef(torch.stack([first.flatten(), second.flatten(), z.flatten()])).fill_diagonal_(0).abs().max()
        < 0.05
    )


@pytest.mark.parametrize("draws", DRAWS)
def test_noise_comes_from_its_seed_alone(draws: Draws) -> None:
    z = fixed_input(channels=2, height=16, width=16)
    state = torch.get_rng_state()
    one, same, other = (draws(z, seed)() for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_shifted_noise_is_a_window_of_what_was_drawn_once() -> None:
    draw = ShiftedNoise(fixed_input(channels=2, height=16, width=24), 0)
    windows = draw.noise.unfold(1, 16, 1).unfold(2, 24, 1)
    places = {
        tuple(place)
        for _ in range(50)
        for place in (windows == draw()[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
    }
    assert len(places) > 40
    assert windows.shape[1:3] == (SHIFTS, SHIFTS)


@pytest.mark.parametrize("draws", DRAWS)
def test_input_noise_is_added_to_the_input(draws: Draws) -> None:
    z = fixed_input(channels=2, height=16, width=16)
    seen: list[Tensor] = []

    class Watched(SkipNet):
        def forward(self, z: Tensor) -> Tensor:
            seen.append(z)
            return super().forward(z)

    network = Watched(input_channels=2, width=2, scales=1)
    objective = GeneratorObjective(
        loss=lambda estimate, noisy: estimate.mean().reshape(1),
        z=z,
        input_noise=torch.tensor([0.5]),
        tv_weight=None,
        draws=[draws(z, 3)],
    )
    objective(torch.zeros(1, 1, 16, 16), network)
    torch.testing.assert_close(seen[0] - z, 0.5 * draws(z, 3)()[None])


def test_bfloat16_rounds_the_convolutions_of_every_step_and_not_the_image() -> None:
    z, network = fixed_input(channels=4, height=16, width=16), SkipNet(input_channels=4, width=8, scales=1)
    exact = GeneratorObjective(
        loss=squared_error, z=z, input_noise=torch.zeros(1), tv_weight=None, draws=[ShiftedNoise(z, 0)]
    )
    noisy, outputs = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), []
    with torch.autocast("cpu", enabled=False):  # as the fit has it, in which PyTorch keeps what it has rounded
        for _ in range(2):
            rounded, expected = (
                replace(exact, precision=precision)(noisy, network)[1] for precision in ("bfloat16", "float32")
            )
            torch.testing.assert_close(rounded, expected, atol=0.03, rtol=0)
            assert (rounded != expected).any()
            assert rounded.dtype == torch.float32
            assert (rounded.bfloat16() != rounded).any()
            outputs.append(rounded.detach())
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    assert (outputs[1] - outputs[0]).abs().max() > 0.1
    loss, _ = replace(exact, precision="bfloat16")(noisy, network)
    loss.sum().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in network.parameters())
