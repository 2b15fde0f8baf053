"""DS-N2N's sampling and Self2Self's hiding, against their definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, mse_loss

from monai_dnaprior.denoisers.ds_n2n import Doubled, DualSamplingNoise2Noise, bicubic, diagonal_halves
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.denoisers.self2self import PartialConvolution, Self2Self


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_diagonal_halves_are_the_means_of_the_diagonals_of_each_cell() -> None:
    image = images(2, 3, 6, 8)
    first, second = diagonal_halves(image)
    torch.testing.assert_close(first, (image[..., ::2, ::2] + image[..., 1::2, 1::2]) / 2)
    torch.testing.assert_close(second, (image[..., ::2, 1::2] + image[..., 1::2, ::2]) / 2)


def test_the_noise_of_the_halves_is_independent_and_half_as_strong() -> None:
    noise = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0))
    first, second = diagonal_halves(noise)
    assert first.var().item() == pytest.approx(0.5, rel=0.03)
    assert (first * second).mean().abs().item() < 0.01


def test_the_gradient_of_doubling_on_other_devices_is_pytorchs() -> None:
    image, weights = images(2, 3, 4, 5).double().requires_grad_(), images(2, 3, 8, 10)
    made = [function(image) for function in (Doubled.apply, bicubic)]
    torch.testing.assert_close(*made)
    torch.testing.assert_close(*(torch.autograd.grad((output * weights).sum(), image) for output in made))


def test_the_network_of_ds_n2n_is_the_residual_form() -> None:
    network, image = DualSamplingNoise2Noise(width=8).network(2), images(1, 2, 6, 6)
    torch.testing.assert_close(network(image), -network.convolutions(image))
    assert [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)] == [(3, 3)] * 3


def test_the_loss_of_ds_n2n_is_its_four_terms() -> None:
    prior, noisy = DualSamplingNoise2Noise(width=8), images(1, 1, 8, 10)
    h = prior.network(1)
    d, n = diagonal_halves(noisy), diagonal_halves(h(noisy))
    up: Callable[[Tensor], Tensor] = lambda image: interpolate(image, scale_factor=2, mode="bicubic")  # noqa: E731
    expected = mse_loss(h(d[0]), d[1]) + mse_loss(h(up(d[0])), up(d[1]))
    for half, target in zip(d, n, strict=True):
        expected += mse_loss(h(half), target) / 2 + mse_loss(up(target), h(up(half))) / 2
    loss, estimate = prior.objective(noisy, h)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(estimate, h(noisy))


@pytest.mark.parametrize("known_channels", [1, 3])
def test_a_partial_convolution_of_known_values_alone_is_a_convolution(known_channels: int) -> None:
    layer, features = PartialConvolution(3, 4), images(1, 3, 6, 6)
    output, reached = layer(features, torch.ones(1, known_channels, 6, 6))
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(output[inside], layer.convolution(features)[inside])
    assert reached.min() == 1


def test_a_partial_convolution_is_the_mean_over_known_values_and_knows_its_reach() -> None:
    layer, features = PartialConvolution(1, 1), images(1, 1, 7, 7)
    nn.init.ones_(layer.convolution.weight)
    nn.init.zeros_(layer.convolution.get_parameter("bias"))
    known = torch.zeros(1, 1, 7, 7)
    known[..., 1, 1] = known[..., 2, 2] = 1
    output, reached = layer(features, known)
    window = torch.ones(1, 1, 3, 3)
    count = conv2d(known, window, padding=1)
    assert torch.equal(reached, (count > 0).float())
    expected = conv2d(features * known, window, padding=1) * 9 / count.clamp(min=1)
    torch.testing.assert_close(output, expected * reached)


class Painted(nn.Module):
    """Stands in for Self2Self's network: puts out free pixels, and remembers what it was shown."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(shape))

    def forward(self, image: Tensor, known: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        self.image, self.known = image, known
        return self.pixels * 1


@pytest.mark.parametrize("seed", range(4))
def test_self2selfs_loss_is_the_mean_squared_error_of_hidden_pixels_alone(seed: int) -> None:
    prior, noisy = Self2Self(width=4, scales=2), images(1, 1, 8, 8)
    painted = Painted(noisy.shape)
    loss, _ = prior.objective(noisy, painted, generator=torch.Generator().manual_seed(seed))
    loss.backward()
    hidden = painted.known == 0
    assert 0 < hidden.float().mean() < 0.7
    torch.testing.assert_close(loss, painted.image[hidden].square().mean())
    assert painted.pixels.grad is not None
    assert torch.equal(painted.pixels.grad != 0, hidden)


def test_self2selfs_network_sees_kept_pixels_alone() -> None:
    network, image = Self2Self(width=4, scales=2).network(1), images(1, 1, 8, 8)
    known = (images(1, 1, 8, 8, seed=1) < 0.7).float()
    outputs = [
        network(values, known, 0.3, torch.Generator().manual_seed(0)) for values in (image, image + 9 * (1 - known))
    ]
    torch.testing.assert_close(*outputs)


def test_masks_are_drawn_anew_each_step_and_from_the_seed() -> None:
    prior, noisy = Self2Self(width=4, scales=2), images(1, 1, 16, 16)
    network = prior.network(1)
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    losses = [[prior.objective(noisy, network, generator=draw)[0].item() for _ in range(3)] for draw in draws]
    assert len(set(losses[0])) == 3
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("options", [{"keep": 1.0}, {"dropout": 0.0}])
def test_probabilities_must_lie_between_zero_and_one(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        create_denoiser("self2self", **options)
