"""WIRE: an image as a network of its coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..checks import check_positive, check_whole
from ..fitting.fit import FitResult, Procedure
from ..fitting.losses import squared_error
from ..fitting.networks import seeded_weights
from .per_image import NoisyImage, PerImageFit


@dataclass(frozen=True, kw_only=True)
class WIRE(PerImageFit):
    r"""Wavelet implicit neural representation: a network of the coordinates, with complex Gabor activations.

    .. math:: \min_\theta\; \tfrac1N \sum_i |f_\theta(r_i) - y_i|^2, \qquad
              \psi(u) = \exp(i \omega u - |s u|^2)

    Args:
        omega: frequency :math:`\omega` of the activation; about 4 for denoising.
        scale: width :math:`s` of its envelope; about 4 for denoising.
        hidden: complex units of each layer.
        layers: hidden layers after the first.
        learning_rate: Adam's for images of at most 256×256, less in proportion for larger; it decays to a tenth.
        others: see :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Source: Saragadam et al., "WIRE: Wavelet Implicit Neural Representations", CVPR 2023,
    doi:10.1109/CVPR52729.2023.01775.

    >>> import torch
    >>> noisy = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    >>> WIRE(steps=5, hidden=8)(noisy).image.shape
    torch.Size([1, 1, 9, 7])
    """

    steps: int = 2000
    learning_rate: float = 5e-3
    averaging: float = 0.0
    omega: float = 4.0
    scale: float = 4.0
    hidden: int = 181
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(omega=self.omega, scale=self.scale)
        check_whole(1, hidden=self.hidden)
        check_whole(0, layers=self.layers)

    def network(self, channels: int = 1) -> GaborNet:
        shape = {"hidden": self.hidden, "layers": self.layers}
        return GaborNet(channels=channels, **shape, omega=self.omega, scale=self.scale, seed=self.seed)

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        size = image.pixels.shape[-2:]
        coordinates = coordinate_grid(*size).to(image.pixels.device)

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            estimate = network(coordinates).mT.reshape(noisy.shape)
            return squared_error(estimate, noisy).sum(), estimate

        learning_rate = self.learning_rate * min(1, 256**2 / size.numel())
        request = partial(self.request, learning_rate=learning_rate, decay=lambda progress: 0.1**progress)
        return (yield request(image, network, objective))


class GaborNet(nn.Module):
    """The network of :class:`WIRE`: a real linear layer, then complex ones, with Gabor activations between them.

    The real part of the last layer is the output. Shapes: coordinates (N, 2) in [-1, 1], output (N, channels).
    """

    def __init__(self, *, channels: int, hidden: int, layers: int, omega: float, scale: float, seed: int) -> None:
        super().__init__()
        self.omega, self.scale = omega, scale
        with seeded_weights(self, seed):
            self.first = nn.Linear(2, hidden)
            self.rest = nn.ModuleList(nn.Linear(hidden, hidden, dtype=torch.cfloat) for _ in range(layers))
            self.head = nn.Linear(hidden, channels, dtype=torch.cfloat)

    def forward(self, coordinates: Tensor) -> Tensor:
        features = gabor(self.first(coordinates), self.omega, self.scale)
        for layer in self.rest:
            features = gabor(layer(features), self.omega, self.scale)
        return self.head(features).real


def gabor(values: Tensor, omega: float, scale: float) -> Tensor:
    """WIRE's activation, exp(i·omega·u - |scale·u|²), of real or complex values."""
    real, imaginary = (values.real, values.imag) if values.is_complex() else (values, 0)
    envelope = torch.exp(-omega * imaginary - scale**2 * (real.square() + imaginary**2))
    return torch.polar(envelope, omega * real)  # a third faster than the exponential of complex numbers


def coordinate_grid(height: int, width: int) -> Tensor:
    """The pixels' coordinates (height · width, 2) in rows, from -1 to 1 along each axis.

    >>> coordinate_grid(2, 2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    return torch.cartesian_prod(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))
