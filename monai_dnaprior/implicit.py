"""Implicit neural representations: an image as a network of its coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .fitting.fit import Objective
from .fitting.losses import squared_error
from .fitting.networks import GaborNet, coordinate_grid
from .per_image import PerImageFit


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
        others: see :class:`~monai_dnaprior.per_image.PerImageFit`.

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

    def network(self, channels: int = 1) -> GaborNet:
        return GaborNet(
            channels=channels,
            hidden=self.hidden,
            layers=self.layers,
            omega=self.omega,
            scale=self.scale,
            seed=self.seed,
        )

    def rate(self, noisy: Tensor) -> float:
        return self.learning_rate * min(1, 256**2 / (noisy.shape[-2] * noisy.shape[-1]))

    @staticmethod
    def decay(progress: float) -> float:
        return 0.1**progress

    def objective(self, network: nn.Module, noisy: Tensor, sigma: float, seed: int) -> Objective:
        coordinates = coordinate_grid(*noisy.shape[-2:]).to(noisy.device)

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            estimate = network(coordinates).mT.reshape(noisy.shape)
            return squared_error(estimate, noisy).sum(), estimate

        return objective
