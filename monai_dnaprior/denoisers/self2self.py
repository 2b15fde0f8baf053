"""Self2Self: predict the pixels that were hidden from those that were kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, max_pool2d, pad

from ..checks import check_part, check_whole
from ..fitting.fit import FitResult, Procedure
from ..fitting.networks import seeded_weights
from .per_image import NoisyImage, PerImageFit


@dataclass(frozen=True, kw_only=True)
class Self2Self(PerImageFit):
    r"""Self2Self with dropout: predict the pixels that were hidden from those that were kept.

    .. math:: \min_\theta\; E_b\, \frac{\|(1 - b) \odot (f_\theta(b \odot y) - y)\|_2^2}{\|1 - b\|_1}

    with b Bernoulli, drawn anew each step, partial convolutions that know b, and dropout in the decoder. The result
    is the average over many such passes.

    Args:
        keep: probability that a pixel is kept.
        dropout: of the decoder.
        width: channels of the encoder; the decoder has twice as many.
        scales: number of halvings.
        averaging: of the stochastic outputs.
        others: see :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Source: Quan, Chen, Pang, Ji, "Self2Self with dropout: learning self-supervised denoising from single image", CVPR
    2020, doi:10.1109/CVPR42600.2020.00196.

    Departures: the passes that are averaged are those of the last steps of the fit, not 50 more after it; far fewer
    steps than the 150,000 of the source; no sigmoid, so that nothing is cut off; sides that do not fit the halvings are
    padded with unknown pixels.

    >>> noisy = torch.rand(1, 3, 17, 9, generator=torch.Generator().manual_seed(0))
    >>> Self2Self(steps=5, width=4, scales=2)(noisy).image.shape
    torch.Size([1, 3, 17, 9])
    """

    steps: int = 6000
    learning_rate: float = 1e-4
    averaging: float = 0.99
    keep: float = 0.7
    dropout: float = 0.3
    width: int = 48
    scales: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(keep=self.keep, dropout=self.dropout)
        check_whole(1, width=self.width, scales=self.scales)

    def network(self, channels: int = 1) -> PartialUNet:
        return PartialUNet(channels=channels, width=self.width, scales=self.scales, seed=self.seed)

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        generator = torch.Generator(image.pixels.device).manual_seed(seed)
        return (yield self.request(image, network, partial(self.objective, generator=generator)))

    def objective(self, noisy: Tensor, network: nn.Module, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss above, with a mask and a dropout that are drawn anew, and the estimate of the image."""
        (height, width), multiple = noisy.shape[-2:], 2**self.scales
        flips = [dim for dim in (-2, -1) if torch.rand((), generator=generator, device=noisy.device) < 0.5]
        kept = bernoulli(noisy, self.keep, generator)
        padding = (0, -width % multiple, 0, -height % multiple)
        image, known = (pad(values, padding).flip(flips) for values in (noisy, kept))  # beyond the edge: unknown
        estimate = network(image, known, self.dropout, generator).flip(flips)[..., :height, :width]
        hidden = 1 - kept
        return (hidden * (estimate - noisy)).square().sum() / hidden.sum().clamp(min=1), estimate


class PartialUNet(nn.Module):
    """Self2Self's U-Net: an encoder of partial convolutions, a decoder with dropout, an unbounded output.

    Shapes: image and known (B, C, H, W), H and W multiples of 2 ** scales; output (B, C, H, W).
    """

    def __init__(self, *, channels: int, width: int, scales: int, seed: int) -> None:
        super().__init__()
        with seeded_weights(self, seed):
            inputs = [channels, *[width] * scales]
            self.encoder = nn.ModuleList(PartialConvolution(size, width) for size in inputs)
            skips = [channels, *[width] * (scales - 1)]
            self.decoder = nn.ModuleList(
                nn.ModuleList(
                    [nn.Conv2d(deep + skip, 2 * width, 3, padding=1), nn.Conv2d(2 * width, 2 * width, 3, padding=1)]
                )
                for skip, deep in zip(skips, [*[2 * width] * (scales - 1), width], strict=True)
            )
            self.head = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, image: Tensor, known: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        features, skips = image * known, [image * known]
        for index, convolution in enumerate(self.encoder):
            features, known = convolution(features, known)
            features = leaky_relu(features, 0.1)
            if index < len(self.decoder):
                features, known = max_pool2d(features, 2), max_pool2d(known, 2)
                skips.append(features)
        for convolutions, skip in zip(reversed(self.decoder), reversed(skips[:-1]), strict=True):
            assert isinstance(convolutions, nn.ModuleList)
            features = torch.cat([interpolate(features, scale_factor=2), skip], dim=1)
            for convolution in convolutions:
                dropped = features * bernoulli(features, 1 - dropout, generator) / (1 - dropout)
                features = leaky_relu(convolution(dropped), 0.1)
        return self.head(features)


class PartialConvolution(nn.Module):
    r"""3×3 convolution over known values alone, scaled up for the unknown ones.

    .. math:: w * (x \odot m) \cdot \frac{\text{window}}{\textstyle\sum m} + b

    where any value is known, else 0; the result is known wherever the window holds a known value.

    Source: Liu et al., "Image inpainting for irregular holes using partial convolutions", ECCV 2018,
    doi:10.1007/978-3-030-01252-6_6.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        window = known.new_ones(1, known.shape[1], 3, 3)
        count = conv2d(known, window, padding=1)
        reached = (count > 0).to(features.dtype)
        weighted = conv2d(features * known, self.convolution.weight, padding=1)
        bias = self.convolution.get_parameter("bias")[:, None, None]
        scaled = weighted * (window.numel() / count.clamp(min=1)) + bias
        return scaled * reached, reached


def bernoulli(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Independent ones with this probability, else zeros, in the shape of an image."""
    draw = torch.rand(like.shape, generator=generator, device=like.device)
    return (draw < probability).to(like.dtype)
