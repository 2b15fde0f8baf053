"""DS-N2N: a small network maps one diagonal half of the pixels to the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from ..checks import check_whole
from ..fitting.fit import FitResult, Procedure
from ..fitting.losses import squared_error
from ..fitting.networks import OfGradientAlone, seeded_weights
from .per_image import NoisyImage, PerImageFit

DIAGONALS = ((0.5, 0.0), (0.0, 0.5)), ((0.0, 0.5), (0.5, 0.0))


@dataclass(frozen=True, kw_only=True)
class DualSamplingNoise2Noise(PerImageFit):
    r"""DS-N2N: a small network maps one diagonal half of the pixels to the other.

    The 2×2 diagonals of y give half-size images :math:`d_1, d_2`; :math:`u_i` are they, doubled bicubically;
    :math:`n_i` are the diagonals of :math:`h(y)`. With the mean squared error m,

    .. math:: m(h(d_1), d_2) + \tfrac12 \sum_i m(h(d_i), n_i) + m(h(u_1), u_2)
              + \tfrac12 \sum_i m(\uparrow n_i, h(u_i))

    Args:
        width: channels of the network, three 3×3 convolutions.
        others: see :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`; the learning rate halves at each third.

    Source: Bai, Zhu, Chen, "Dual-sampling noise2noise: efficient single image denoising", IEEE Transactions on
    Instrumentation and Measurement, 2025.

    Departures: sides of odd length are mirrored to even ones. The decay's steps are ours.

    >>> noisy = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    >>> DualSamplingNoise2Noise(steps=5, width=4)(noisy).image.shape
    torch.Size([1, 3, 9, 7])
    """

    steps: int = 3000
    learning_rate: float = 1e-3
    averaging: float = 0.0
    width: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, width=self.width)

    def network(self, channels: int = 1) -> NoiseNet:
        return NoiseNet(channels=channels, width=self.width, seed=self.seed)

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        request = partial(self.request, optimizer=torch.optim.AdamW, decay=lambda progress: 0.5 ** int(3 * progress))
        return (yield request(image, network, self.objective))

    @staticmethod
    def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        """The loss above, and the estimate of the image; odd sides are made even."""
        height, width = noisy.shape[-2:]
        even = pad(noisy, (0, width % 2, 0, height % 2), mode="replicate")
        estimate = network(even)
        halves, targets = diagonal_halves(even), diagonal_halves(estimate)
        inputs = [*halves, *map(double, halves)]
        outputs = [network(image) for image in inputs]
        loss = squared_error(outputs[0], inputs[1]) + squared_error(outputs[2], inputs[3])
        for output, target in zip(outputs, [*targets, *map(double, targets)], strict=True):
            loss = loss + squared_error(output, target) / 2
        return loss.sum(), estimate[..., :height, :width]


class NoiseNet(nn.Module):
    """DS-N2N's residual network, h(x) = x - g(x) with g(x) = x + convolutions(x), (B, C, H, W) to the same."""

    def __init__(self, *, channels: int, width: int, seed: int) -> None:
        super().__init__()
        with seeded_weights(self, seed):
            self.convolutions = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, channels, 3, padding=1),
            )

    def forward(self, image: Tensor) -> Tensor:
        return image - (image + self.convolutions(image))


def diagonal_halves(image: Tensor) -> list[Tensor]:
    """The means of both diagonals of every 2×2 cell: (B, C, H, W) to two of (B, C, H/2, W/2).

    >>> [half.item() for half in diagonal_halves(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))]
    [4.5, 3.0]
    """
    planes = image.flatten(0, 1)[:, None]
    kernels = [image.new_tensor(diagonal)[None, None] for diagonal in DIAGONALS]
    return [conv2d(planes, kernel, stride=2).unflatten(0, image.shape[:2]).squeeze(2) for kernel in kernels]


def double(image: Tensor) -> Tensor:
    """Double height and width bicubically."""
    return bicubic(image) if image.device.type == "cpu" else Doubled.apply(image)


bicubic = partial(interpolate, scale_factor=2, mode="bicubic", align_corners=False)


class Doubled(OfGradientAlone):
    """The same with a gradient that is summed in one order on every device."""

    @staticmethod
    def forward(image: Tensor) -> Tensor:
        return bicubic(image)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Doubling is a product with a matrix along each axis, whose columns are what it makes of single pixels."""
        rows, columns = (
            bicubic(torch.eye(size // 2, dtype=gradient.dtype, device=gradient.device)[None, :, :, None])[0, :, :, 0].mT
            for size in gradient.shape[-2:]
        )
        return rows.mT @ gradient @ columns
