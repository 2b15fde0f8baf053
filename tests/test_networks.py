"""The skip network: its size, its parts against PyTorch's own, its seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import GUARDED
from torch import Tensor, nn

from monai_dnaprior.denoisers.wire import WIRE, coordinate_grid, gabor
from monai_dnaprior.fitting.networks import (
    BilinearDouble,
    Doubled,
    Mirrored,
    Normalised,
    ReflectionPad,
    SkipNet,
    fixed_input,
)

pytestmark = GUARDED


@pytest.mark.parametrize(("channels", "parameters"), [(1, 2_217_573), (3, 2_217_831)])
def test_defaults_are_the_network_of_deep_image_prior(channels: int, parameters: int) -> None:
    network = SkipNet(channels=channels)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (ReflectionPad(), nn.ReflectionPad2d(1)),
        (Mirrored.apply, nn.ReflectionPad2d(1)),
        (BilinearDouble(), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)),
        (Doubled.apply, nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)),
    ],
    ids=["pad", "pad on other devices", "upsample", "upsample on other devices"],
)
def test_parts_equal_pytorchs_in_value_and_gradient(ours: Callable[[Tensor], Tensor], torchs: nn.Module) -> None:
    features = fixed_input(channels=3, height=5, width=7).double().requires_grad_()
    torch.testing.assert_close(ours(features), torchs(features))
    weights = fixed_input(channels=3, height=ours(features).shape[2], width=ours(features).shape[3], seed=1)
    gradients = [torch.autograd.grad((part(features) * weights).sum(), features)[0] for part in (ours, torchs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("function", [Mirrored.apply, Doubled.apply])
def test_parts_on_other_devices_are_the_same_for_many_networks(function: Callable[[Tensor], Tensor]) -> None:
    features = torch.rand(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    together, each = torch.vmap(function)(features), torch.stack([function(one) for one in features])
    assert torch.equal(together, each)
    weights = fixed_input(channels=3, height=each.shape[-2], width=each.shape[-1])
    gradients = [torch.autograd.grad((made * weights).sum(), features)[0] for made in (together, each)]
    torch.testing.assert_close(*gradients)


def test_a_normalisation_on_other_devices_is_pytorchs_alone_and_for_many_networks() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = (3, 1, 4, 5, 6), (3, 4), (3, 4)
    inputs = [torch.rand(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes]

    def pytorchs(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.batch_norm(features, None, None, weight, bias, training=True)

    expected, alone = (torch.stack(list(map(one, *inputs))) for one in (pytorchs, Normalised.apply))
    gradients = torch.autograd.grad(expected.pow(3).sum(), inputs)
    for output in (alone, torch.vmap(Normalised.apply)(*inputs)):
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(torch.autograd.grad(output.pow(3).sum(), inputs), gradients)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_same_seed_same_weights_and_same_output_in_evaluation(padding: str) -> None:
    z = fixed_input(channels=32, height=16, width=24, seed=3)
    networks = [SkipNet(width=8, scales=3, padding=padding, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(networks[0](z), networks[1](z))
    assert not torch.equal(networks[0](z), networks[2](z))
    assert torch.equal(networks[0](z), networks[1].eval()(z))


def test_initial_weights_have_the_spread_of_pytorchs() -> None:
    weight, torchs = SkipNet(width=64, scales=1).body[2][1].weight, 1 / (68 * 9) ** 0.5
    assert weight.shape == (64, 68, 3, 3)
    assert weight.std().item() == pytest.approx(torchs / 3**0.5, rel=0.02)


def test_sigmoid_bounds_the_output_and_its_absence_does_not() -> None:
    z = fixed_input(channels=32, height=16, width=16)
    for sigmoid in (True, False):
        network = SkipNet(width=4, scales=2, skip_channels=0, sigmoid=sigmoid)
        nn.init.constant_(network.head.bias, 5.0)
        assert (network(z).max().item() < 1) is sigmoid


def test_padded_size_is_the_smallest_that_fits() -> None:
    network = SkipNet(width=4, scales=3)
    assert network.padded_size(1, 64) == (16, 64)
    assert network.padded_size(17, 65) == (24, 72)
    for height, width in ((20, 16), (8, 16)):
        with pytest.raises(ValueError, match=rf"z of {height}×{width} .* multiple of 8 and at least 16"):
            network(fixed_input(channels=32, height=height, width=width))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0 must be a whole number, at least 1"),
        ({"skip_channels": -1}, "skip_channels=-1 must be a whole number, at least 0"),
        ({"padding": "mirror"}, "padding='mirror' is unknown; choose one of reflect, zeros"),
    ],
)
def test_bad_parameters_name_themselves(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipNet(**options)


def test_gabor_activation_is_a_wave_under_a_gaussian() -> None:
    values = torch.tensor([0.0, 0.5, -1.0])
    expected = torch.exp(torch.tensor([0j, 1j * 2 - 9 * 0.25, -1j * 4 - 9]))
    torch.testing.assert_close(gabor(values, omega=4.0, scale=3.0), expected)
    complex_value = torch.tensor([0.3 + 0.4j])
    expected = torch.exp(1j * 2 * complex_value) * torch.exp(torch.tensor(-(0.5**2)))
    torch.testing.assert_close(gabor(complex_value, omega=2.0, scale=1.0), expected)


def test_gabor_net_has_complex_layers_from_its_seed() -> None:
    networks = [WIRE(seed=seed).network() for seed in (0, 0, 1)]
    shapes = [tuple(parameter.shape) for parameter in networks[0].parameters() if parameter.ndim == 2]
    assert shapes == [(181, 2), (181, 181), (181, 181), (1, 181)]
    assert [parameter.is_complex() for parameter in networks[0].parameters()] == [False] * 2 + [True] * 6
    outputs = [network(coordinate_grid(4, 4)) for network in networks]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert outputs[0].dtype == torch.float32
