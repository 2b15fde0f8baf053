"""What the fit of a network with a random input minimises: the noise that its input gets at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_dnaprior.networks import SkipNet, fixed_input
from monai_dnaprior.skip_objective import SHIFTS, FreshNoise, ShiftedNoise, SkipNetObjective

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
    objective = SkipNetObjective(
        lambda estimate, noisy, weight: estimate.mean().reshape(1),
        z,
        torch.tensor([0.5]),
        torch.zeros(1),
        [draws(z, 3)],
    )
    objective(torch.zeros(1, 1, 16, 16), network)
    torch.testing.assert_close(seen[0] - z, 0.5 * draws(z, 3)()[None])
