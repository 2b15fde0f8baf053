"""What the methods share that fit a skip network with a fixed random input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checks import check_not_negative
from ..fitting.devices import check_precision, convolving
from ..fitting.networks import SkipNet, check_architecture, fixed_input
from .per_image import PerImageFit

INPUT_NOISE_PER_SIGMA = 0.1
NARROW = 16  # channels
SHIFTS = 33  # along each axis, of the noise that is drawn once


@dataclass(frozen=True)
class SkipNetObjective:
    """What is minimised for images (B, C, H, W): a loss of the part of ``f(z + noise)`` that was measured.

    Attributes:
        loss: ``loss(estimate, noisy, tv_weight) -> (B,)``.
        z: the fixed inputs (B, input channels, height, width), as large as the network needs them.
        input_noise: standard deviation of what is added to z at every step, (B,).
        tv_weight: weight of the total variation, (B,).
        draws: of each image, what gives the noise of a step for its z, of standard deviation 1.
        precision: of the network's convolutions.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    z: Tensor
    input_noise: Tensor
    tv_weight: Tensor
    draws: Sequence[Callable[[], Tensor]]
    precision: str = "float32"

    def __call__(self, noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        noise = self.draws[0]()[None] if len(self.draws) == 1 else torch.stack([draw() for draw in self.draws])
        z = torch.addcmul(self.z, noise, self.input_noise[:, None, None, None])
        with convolving(self.precision, z.device):
            estimate = network(z)
        estimate = estimate[..., : noisy.shape[-2], : noisy.shape[-1]]
        return self.loss(estimate, noisy, self.tv_weight), estimate

    def joined(self, others: Sequence[SkipNetObjective]) -> SkipNetObjective:
        every = (self, *others)
        return replace(
            self,
            z=torch.cat([one.z for one in every]),
            input_noise=torch.cat([one.input_noise for one in every]),
            tv_weight=torch.cat([one.tv_weight for one in every]),
            draws=[draw for one in every for draw in one.draws],
        )

    def kept(self, places: Sequence[int]) -> SkipNetObjective:
        return replace(
            self,
            z=self.z[places],
            input_noise=self.input_noise[places],
            tv_weight=self.tv_weight[places],
            draws=[self.draws[place] for place in places],
        )


class FreshNoise:
    """Standard normal noise for an input z (1, C, H, W), drawn anew each time, in its shape (C, H, W)."""

    def __init__(self, z: Tensor, seed: int) -> None:
        self.noise = torch.empty_like(z[0], memory_format=torch.contiguous_format)
        self.generator = torch.Generator(z.device).manual_seed(seed)

    def __call__(self) -> Tensor:
        return self.noise.normal_(generator=self.generator)


class ShiftedNoise:
    """Standard normal noise for an input z (1, C, H, W), drawn once and a little larger, of which each time a window.

    The window's place is drawn anew, so that no pixel keeps its noise. It costs next to nothing, where fresh noise
    takes a fifth of a step of a small network; and it is the same on every device.
    """

    def __init__(self, z: Tensor, seed: int) -> None:
        self.size = height, width = z.shape[-2:]
        self.generator = torch.Generator().manual_seed(seed)
        larger = torch.randn(
            height + SHIFTS - 1, width + SHIFTS - 1, z.shape[1], generator=self.generator, device="cpu"
        )
        self.noise = larger.to(z.device).movedim(-1, 0)

    def __call__(self) -> Tensor:
        row, column = torch.randint(SHIFTS, (2,), generator=self.generator, device="cpu").tolist()
        return self.noise[:, row : row + self.size[0], column : column + self.size[1]]


@dataclass(frozen=True, kw_only=True)
class SkipNetPrior(PerImageFit):
    r"""A skip network with a fixed random input; its defaults are those of Deep Image Prior.

    Args:
        input_noise: standard deviation of the noise added to z at every step; None takes a tenth of the estimated
            noise level: more lifts the quality at high noise, and slows down the fit of fine detail at low noise.
        input_channels, width, scales, skip_channels, padding, sigmoid: see
            :class:`~monai_dnaprior.fitting.networks.SkipNet`. With a sigmoid the image is first scaled so that its own
            range, noise included, fits into [0, 1].
        precision: of the convolutions, ``"float32"``, or ``"bfloat16"``, in which processors that compute in it take
            down to half of the time, and others several times as long; weights, losses and the image stay float32.
        steps, learning_rate, averaging, stopping, discrepancy, least_steps, clean_sigma, seed: see
            :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.
    """

    optimizer: ClassVar[Callable[..., torch.optim.Optimizer]] = staticmethod(partial(torch.optim.Adam, fused=True))
    draws: ClassVar[type[FreshNoise] | type[ShiftedNoise]] = FreshNoise

    steps: int = 3000
    learning_rate: float = 0.01
    averaging: float = 0.99
    input_noise: float | None = 1 / 30
    input_channels: int = 32
    width: int = 128
    scales: int = 5
    skip_channels: int = 4
    padding: str = "reflect"
    sigmoid: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_precision(self.precision)
        check_not_negative(input_noise=self.input_noise)
        check_architecture(**self._architecture())

    def loss(self, estimate: Tensor, noisy: Tensor, tv_weight: Tensor) -> Tensor:
        """What is minimised, (B,), for images (B, C, H, W) and weights (B,)."""
        raise TypeError(f"{type(self).__name__} names no loss.")

    def weight(self, noisy: Tensor, sigma: float) -> float:
        """The weight of the total variation for one image with so much noise; 0 for a method without."""
        return 0.0

    def details(self, noisy: Tensor, sigma: float) -> dict[str, Any]:
        return {"tv_weight": self.weight(noisy, sigma)}

    def network(self, channels: int = 1) -> SkipNet:
        return SkipNet(channels=channels, sigmoid=self.sigmoid, seed=self.seed, **self._architecture())

    def _architecture(self) -> dict[str, Any]:
        names = ("input_channels", "width", "scales", "skip_channels", "padding")
        return {name: getattr(self, name) for name in names}

    def output_range(self, noisy: Tensor) -> tuple[float, float]:
        return sigmoid_range(noisy) if self.sigmoid else (0.0, 1.0)

    def layout(self, device: torch.device) -> torch.memory_format:
        """Channels last on a CPU too, where that is no slower: narrow networks, and wide registers."""
        wide_registers = torch.backends.cpu.get_cpu_capability() == "AVX512"
        return torch.channels_last if self.width <= NARROW or wide_registers else super().layout(device)

    def objective(self, network: nn.Module, noisy: Tensor, sigma: float, seed: int) -> SkipNetObjective:
        """The loss on the part of the network's output that was measured."""
        start = checked_start(network, channels=noisy.shape[1])
        height, width = noisy.shape[-2:]
        padded_height, padded_width = start.padded_size(height, width)
        z = fixed_input(channels=start.input_channels, height=padded_height, width=padded_width, seed=seed)
        z = z.to(noisy.device, memory_format=self.layout(noisy.device))
        input_noise = INPUT_NOISE_PER_SIGMA * sigma if self.input_noise is None else self.input_noise
        return SkipNetObjective(
            self.loss,
            z,
            noisy.new_tensor([input_noise]),
            noisy.new_tensor([self.weight(noisy, sigma)]),
            [self.draws(z, seed)],
            self.precision,
        )


def checked_start(network: nn.Module, *, channels: int) -> SkipNet:
    """The network, if a fit to images of so many channels can start from it."""
    if not isinstance(network, SkipNet):
        raise TypeError(f"network={type(network).__name__} must be a SkipNet; take the one that network() makes.")
    if network.head.out_channels != channels:
        raise ValueError(f"network makes {network.head.out_channels} channels, the image has {channels}.")
    return network


def sigmoid_range(noisy: Tensor) -> tuple[float, float]:
    """Offset and span that bring an image into [0, 1], which they leave as it is when it lies there already."""
    low, high = min(0.0, noisy.min().item()), max(1.0, noisy.max().item())
    return low, high - low
