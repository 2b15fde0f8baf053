"""Deep Image Prior and its relatives: a network fitted to one noisy image as its authors print it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from ..checks import check_not_negative
from ..fitting.fit import FitResult, Procedure
from ..fitting.losses import penalised_error, spectral_discrepancy, squared_error
from .per_image import NoisyImage, PerImageFit
from .skip_prior import SkipNetOptions


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior(SkipNetOptions, PerImageFit):
    r"""Deep Image Prior, and with a weight on the total variation DIP-TV.

    .. math:: \min_\theta\; \tfrac1N \|f_\theta(z) - y\|_2^2 + \tfrac{\lambda}{N} \mathrm{TV}(f_\theta(z))

    Args:
        tv_weight: of the total variation, :math:`\lambda`; 0 is Deep Image Prior. The source of DIP-TV leaves its value
            open.
        others: see :class:`~monai_dnaprior.denoisers.skip_prior.SkipNetOptions` and
            :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Source: Ulyanov, Vedaldi, Lempitsky, CVPR 2018, doi:10.1109/CVPR.2018.00984; Liu, Sun, Xu, Kamilov, "Image
    restoration using total variation regularized deep image prior", ICASSP 2019, doi:10.1109/ICASSP.2019.8682856.

    Departures: the average covers the last tenth of the first thousand steps, see
    :func:`~monai_dnaprior.fitting.fit.fit`.

    >>> import torch
    >>> noisy = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> DeepImagePrior(steps=5, width=4, scales=2)(noisy).image.shape
    torch.Size([1, 3, 16, 16])
    """

    tv_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(tv_weight=self.tv_weight)

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        loss, options = (penalised_error, {"tv_weight": self.tv_weight}) if self.tv_weight else (squared_error, {})
        return (yield from self.fit_network(self.request, image, network, seed, loss, **options))


@dataclass(frozen=True, kw_only=True)
class DeepSpectralPrior(SkipNetOptions, PerImageFit):
    r"""Deep Spectral Prior, our reading: fidelity to the Fourier coefficients' amplitude and phase.

    .. math:: \min_\theta\; \tfrac1N \sum_k a\,(|\hat X_k| - |Y_k|)^2
              + p\,2 |\hat X_k| |Y_k| (1 - \cos(\angle \hat X_k - \angle Y_k))

    Args:
        amplitude_weight: of the amplitudes, a.
        phase_weight: of the phases, p. With a = p = 1 the sum is the squared distance of the spectra, which is Deep
            Image Prior's loss by Plancherel's theorem.
        others: see :class:`~monai_dnaprior.denoisers.skip_prior.SkipNetOptions` and
            :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Source: Cheng et al., "Deep spectral prior", 2025, arXiv:2505.19873.

    Departures: its network and weights are not public; here they are Deep Image Prior's network and a = 1, p = 1.

    >>> import torch
    >>> noisy = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> DeepSpectralPrior(steps=5, width=4, scales=2)(noisy).image.shape
    torch.Size([1, 1, 16, 16])
    """

    tv_weight: ClassVar[float] = 0.0  # for the record

    amplitude_weight: float = 1.0
    phase_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(amplitude_weight=self.amplitude_weight, phase_weight=self.phase_weight)

    def fit_tile(self, image: NoisyImage, network: nn.Module, seed: int) -> Procedure[FitResult]:
        loss = partial(spectral_discrepancy, amplitude_weight=self.amplitude_weight, phase_weight=self.phase_weight)
        return (yield from self.fit_network(self.request, image, network, seed, loss))
