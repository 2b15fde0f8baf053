"""The networks that are fitted to one image, and the inputs that they are fed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..checks import check_whole

PADDINGS = ("reflect", "zeros")
SHIFTS = 33  # along each axis, of the noise that is drawn once


class SkipNet(nn.Module):
    r"""Hourglass network with skip branches, whose architecture alone is the prior on the image.

    Scale :math:`s` halves its input with two 3×3 convolutions, hands the result to scale :math:`s + 1`, doubles what
    comes back bilinearly, joins it to a 1×1 skip branch and mixes the two with a 3×3 and a 1×1 convolution. Every
    convolution is followed by batch normalisation and a leaky ReLU (slope 0.2). The network is made for a batch of one.

    The defaults are the network of Deep Image Prior: 5 scales, 128 channels, 4 skip channels, reflection padding,
    sigmoid output; 2,217,573 parameters for one output channel.

    Args:
        channels: output channels C (1 grey, 3 RGB).
        input_channels: channels of the fixed input z.
        width: channels of every scale, down and up.
        scales: number of halvings; input height and width must be multiples of ``2 ** scales``, at least twice that.
        skip_channels: channels of each skip branch; 0 leaves the branches out.
        padding: ``"reflect"`` as in the original, or ``"zeros"``, which is cheaper.
        sigmoid: end with a sigmoid, which holds the output inside (0, 1); without it the output is unbounded.
        seed: the initial weights depend on this number alone; the global random state is neither read nor changed. None
            for no weights.

    Shapes: input (B, input_channels, H, W), output (B, channels, H, W), both float32.

    Source: Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, doi:10.1109/CVPR.2018.00984.

    Departures: batch normalisation keeps no running statistics, because they would ruin the prior in evaluation mode.
    On other devices than a CPU reflection padding and bilinear doubling have gradients of their own, because PyTorch's
    are not deterministic on CUDA.

    >>> network = SkipNet(channels=1)
    >>> sum(p.numel() for p in network.parameters())
    2217573
    >>> network(fixed_input(channels=32, height=64, width=96)).shape
    torch.Size([1, 1, 64, 96])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        input_channels: int = 32,
        width: int = 128,
        scales: int = 5,
        skip_channels: int = 4,
        padding: str = "reflect",
        sigmoid: bool = True,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_whole(1, channels=channels, input_channels=input_channels, width=width, scales=scales)
        check_whole(0, skip_channels=skip_channels)
        if padding not in PADDINGS:
            raise ValueError(f"padding={padding!r} is unknown; choose one of {', '.join(PADDINGS)}.")
        self.input_channels = input_channels
        self.multiple = 2**scales
        with seeded_weights(self, seed):
            self.body = scale(input_channels, width, skip_channels, padding, depth=scales)
            self.head = nn.Conv2d(width, channels, 1)
            self.output = nn.Sigmoid() if sigmoid else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        height, width = z.shape[-2:]
        if height % self.multiple or width % self.multiple or min(height, width) < 2 * self.multiple:
            raise ValueError(
                f"z of {height}×{width} does not suit this network; make both sides a multiple of {self.multiple} "
                f"and at least {2 * self.multiple} (padded_size does)."
            )
        features = self.body(z)
        rounded = features.dtype != z.dtype  # by an autocast, which must not round the image itself
        with torch.autocast(z.device.type, enabled=False) if rounded else nullcontext():
            return self.output(self.head(features.to(z.dtype)))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size that this network can make and that holds a height × width image."""
        sides = (max(2, math.ceil(side / self.multiple)) * self.multiple for side in (height, width))
        return next(sides), next(sides)


def fixed_input(*, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """The fixed input z of a fit: (1, channels, height, width), uniform in [0, 0.1), from its own seed.

    >>> z = fixed_input(channels=2, height=4, width=4, seed=3)
    >>> bool((z >= 0).all() and (z < 0.1).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.rand(1, channels, height, width, generator=generator, device="cpu")


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


class Join(nn.Module):
    """Concatenate what several branches make of the same input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([branch(features) for branch in self.branches], dim=1)


class ReflectionPad(nn.Module):
    """Mirror one pixel on each side without repeating the edge, as ``nn.ReflectionPad2d(1)``."""

    def forward(self, features: Tensor) -> Tensor:
        return mirror(features) if features.device.type == "cpu" else Mirrored.apply(features)


def mirror(features: Tensor) -> Tensor:
    return nn.functional.pad(features, (1, 1, 1, 1), mode="reflect")


class OfGradientAlone(torch.autograd.Function):
    """An operation whose gradient takes nothing of its input."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Tensor) -> None:
        pass


class Mirrored(OfGradientAlone):
    """The same with a gradient that is summed in one order on every device."""

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return mirror(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """What the mirrored pixels got is added to those that they show."""
        gradient = gradient.clone()
        for dim in (-2, -1):
            last = gradient.shape[dim] - 1
            for mirrored, shown in ((0, 2), (last, last - 2)):
                gradient.narrow(dim, shown, 1).add_(gradient.narrow(dim, mirrored, 1))
            gradient = gradient.narrow(dim, 1, last - 1)
        return gradient


class BilinearDouble(nn.Module):
    """Double height and width as ``nn.Upsample(scale_factor=2, mode="bilinear")``."""

    def forward(self, features: Tensor) -> Tensor:
        if features.device.type != "cpu":
            return Doubled.apply(features)
        doubled = double(features)
        if doubled.requires_grad:
            doubled.register_hook(without_gaps)
        return doubled


def double(features: Tensor) -> Tensor:
    return nn.functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)


class Doubled(OfGradientAlone):
    """The same with a gradient that is summed in one order on every device."""

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return double(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Along each axis 1/4, 3/4, 3/4, 1/4 of four neighbours: pairs are averaged twice, and added once."""
        gradient = nn.functional.pad(gradient, (1, 1, 1, 1), mode="replicate")
        averages = avg_pool2d(avg_pool2d(gradient, 2, stride=1), 2, stride=1)
        return avg_pool2d(averages, 2, divisor_override=1)


def without_gaps(gradient: Tensor) -> Tensor:
    """The same, copied if it is some channels of a larger one: PyTorch takes six times as long to halve that."""
    last = gradient.stride(1) == 1
    return gradient.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def convolution(inputs: int, outputs: int, size: int, padding: str, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (or halves it), normalisation, leaky ReLU."""
    mirrored = size == 3 and padding == "reflect"
    return nn.Sequential(
        *([ReflectionPad()] if mirrored else []),
        ConvolutionBefore(inputs, outputs, size, stride, 0 if mirrored else size // 2),
        normalisation(outputs),
        nn.LeakyReLU(0.2),
    )


class ConvolutionBefore(nn.Conv2d):
    """A convolution before a normalisation, which takes its bias away again: only a CPU adds one, in no time."""

    def forward(self, features: Tensor) -> Tensor:
        return self._conv_forward(features, self.weight, self.bias if features.device.type == "cpu" else None)


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the statistics of the image at hand, in training and in evaluation mode alike."""
    return Normalisation(channels, track_running_stats=False)


class Normalisation(nn.BatchNorm2d):
    def forward(self, features: Tensor) -> Tensor:
        if features.device.type == "cpu":
            return super().forward(features)
        return Normalised.apply(features, self.weight, self.bias)


def normalise(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.batch_norm(features, None, None, weight, bias, training=True)


class Normalised(torch.autograd.Function):
    """The same; for many networks it is one normalisation of all their channels, weights included."""

    @staticmethod
    def forward(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(features, weight, bias)

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Tensor) -> None:
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in context.saved_tensors]
            return torch.autograd.grad(normalise(*inputs), inputs, gradient)

    @staticmethod
    def vmap(info: Any, dims: Any, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        features, weight, bias = (
            value.movedim(dim, 0) for value, dim in zip((features, weight, bias), dims, strict=True)
        )
        flat = normalise(features.flatten(0, 2)[None], weight.flatten(), bias.flatten())
        return flat.view(features.shape), 0


def scale(inputs: int, width: int, skip_channels: int, padding: str, *, depth: int) -> nn.Sequential:
    """One scale and all deeper ones: inputs channels in, width channels out, at the same size."""
    deeper = nn.Sequential(
        convolution(inputs, width, 3, padding, stride=2),
        convolution(width, width, 3, padding),
        *([scale(width, width, skip_channels, padding, depth=depth - 1)] if depth > 1 else []),
        BilinearDouble(),
    )
    skip = [convolution(inputs, skip_channels, 1, padding)] if skip_channels else []
    return nn.Sequential(
        Join(*skip, deeper),
        normalisation(skip_channels + width),
        convolution(skip_channels + width, width, 3, padding),
        convolution(width, width, 1, padding),
    )


@contextmanager
def seeded_weights(network: nn.Module, seed: int | None) -> Iterator[None]:
    """Build the layers of a network inside this, and its weights come from the seed, not the global random state.

    Without a seed it has none, and takes no memory for them.
    """
    with torch.device("meta"):  # no weights yet, so nothing is drawn
        yield
    if seed is not None:
        network.to_empty(device="cpu")
        initialise(network, torch.Generator().manual_seed(seed))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's own initial weights (uniform within 1/sqrt(fan-in)), drawn from a private generator."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                values = torch.view_as_real(parameter.detach()) if parameter.is_complex() else parameter
                nn.init.uniform_(values, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
