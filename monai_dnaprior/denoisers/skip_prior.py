"""What the methods share that fit a skip network with a fixed random input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_not_negative
from ..fitting.batch import FitRequest
from ..fitting.devices import check_precision
from ..fitting.fit import FitResult, GeneratorObjective, Procedure
from ..fitting.networks import FreshNoise, ShiftedNoise, SkipNet, fixed_input
from .per_image import NoisyImage

INPUT_NOISE_PER_SIGMA = 0.1
NARROW = 16  # channels
ARCHITECTURE = ("input_channels", "width", "scales", "skip_channels", "padding")
FUSED_ADAM = partial(torch.optim.Adam, fused=True)


@dataclass(frozen=True, kw_only=True)
class SkipNetOptions:
    r"""A skip network with a fixed random input; the defaults are those of Deep Image Prior.

    Args:
        input_noise: standard deviation of the noise added to z at every step; None takes a tenth of the estimated
            noise level. More of it helps against strong noise, and slows down the fit of fine detail.
        input_channels, width, scales, skip_channels, padding, sigmoid: see
            :class:`~monai_dnaprior.fitting.networks.SkipNet`. With a sigmoid the image is first scaled so that its own
            range, noise included, fits into [0, 1].
        precision: of the convolutions, ``"float32"`` or ``"bfloat16"``, which takes half of the time at best, and
            several times as long on processors that do not compute in it; all else stays float32.
        steps, learning_rate, averaging, seed: see :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.
    """

    steps: int = 3000
    learning_rate: float = 0.01
    averaging: float = 0.99
    seed: int = 0
    input_noise: float | None = 1 / 30
    input_channels: int = 32
    width: int = 128
    scales: int = 5
    skip_channels: int = 4
    padding: str = "reflect"
    sigmoid: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the other base, PerImageFit
        check_precision(self.precision)
        check_not_negative(input_noise=self.input_noise)
        SkipNet(**self.architecture(), seed=None)

    def architecture(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ARCHITECTURE}

    def network(self, channels: int = 1) -> SkipNet:
        return SkipNet(channels=channels, sigmoid=self.sigmoid, seed=self.seed, **self.architecture())

    def layout(self, device: torch.device) -> torch.memory_format:
        """How weights and features lie in memory: channels last where that is no slower."""
        wide_registers = torch.backends.cpu.get_cpu_capability() == "AVX512"
        last = device.type != "cpu" or self.width <= NARROW or wide_registers
        return torch.channels_last if last else torch.contiguous_format

    def fit_network(
        self,
        request: Callable[..., FitRequest],
        image: NoisyImage,
        network: nn.Module,
        seed: int,
        loss: Callable[..., Tensor],
        **options: Any,
    ) -> Procedure[FitResult]:
        """One fit under a loss, of the image in the range that the network's output has; see :meth:`objective`."""
        offset, span = sigmoid_range(image.pixels) if self.sigmoid else (0.0, 1.0)
        result = yield request(
            image.scale(offset, span),
            network,
            self.objective(image, network, seed, loss, **options),
            optimizer=FUSED_ADAM,
        )
        return result.rescale(span, offset)

    def objective(
        self,
        image: NoisyImage,
        network: nn.Module,
        seed: int,
        loss: Callable[..., Tensor],
        *,
        tv_weight: float | None = None,
        draw: type[FreshNoise] | type[ShiftedNoise] = FreshNoise,
        whitening: Mapping[str, Tensor] | None = None,
    ) -> GeneratorObjective:
        """A loss of what the network makes of a random input of this seed, on the part that was measured."""
        pixels = image.pixels
        start = check_start(network, channels=pixels.shape[1])
        height, width = start.padded_size(*pixels.shape[-2:])
        z = fixed_input(channels=start.input_channels, height=height, width=width, seed=seed)
        z = z.to(pixels.device, memory_format=self.layout(pixels.device))
        input_noise = INPUT_NOISE_PER_SIGMA * image.noise.sigma if self.input_noise is None else self.input_noise
        return GeneratorObjective(
            loss=loss,
            z=z,
            input_noise=pixels.new_tensor([input_noise]),
            tv_weight=None if tv_weight is None else pixels.new_tensor([tv_weight]),
            **(whitening or {}),
            draws=[draw(z, seed)],
            precision=self.precision,
        )


def check_start(network: nn.Module, *, channels: int) -> SkipNet:
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
