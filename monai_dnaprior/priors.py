"""Deep image priors: networks that, fitted to one noisy image, make the image before the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .fit import Objective
from .losses import spectral_discrepancy, spectral_fidelity, squared_error, total_variation, variation
from .networks import GaborNet, SkipNet, check_architecture, coordinate_grid, fixed_input
from .per_image import PerImageFit, check_not_negative

TV_WEIGHT_PER_SIGMA = 0.6
INPUT_NOISE_PER_SIGMA = 0.1
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "steps": 3000,
        "tv_weight": 1e-4,
        "stopping": "steps",
        "clean_sigma": 0.0,
        "input_noise": 1 / 30,
        "width": 128,
        "scales": 5,
        "skip_channels": 4,
        "padding": "reflect",
        "sigmoid": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class SkipNetPrior(PerImageFit):
    r"""A skip network with a fixed random input; its defaults are those of Deep Image Prior.

    Args:
        input_noise: standard deviation of the noise added to z at every step; None takes a tenth of the estimated
            noise level: more lifts the quality at high noise, and slows down the fit of fine detail at low noise.
        input_channels, width, scales, skip_channels, padding, sigmoid: see
            :class:`~monai_dnaprior.networks.SkipNet`. With a sigmoid the image is first scaled so that its own range,
            noise included, fits into [0, 1].
        steps, learning_rate, averaging, stopping, margin, clean_sigma, seed: see
            :class:`~monai_dnaprior.per_image.PerImageFit`.
    """

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(input_noise=self.input_noise)
        check_architecture(**self._architecture())

    def loss(self, estimate: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        """The distance that is minimised, (B,), for images (B, C, H, W)."""
        raise TypeError(f"{type(self).__name__} names no loss.")

    def network(self, channels: int = 1) -> SkipNet:
        return SkipNet(channels=channels, sigmoid=self.sigmoid, seed=self.seed, **self._architecture())

    def _architecture(self) -> dict[str, Any]:
        names = ("input_channels", "width", "scales", "skip_channels", "padding")
        return {name: getattr(self, name) for name in names}

    def output_range(self, noisy: Tensor) -> tuple[float, float]:
        return sigmoid_range(noisy) if self.sigmoid else (0.0, 1.0)

    def objective(self, network: nn.Module, noisy: Tensor, sigma: float, seed: int) -> Objective:
        """The loss on the part of the network's output that was measured."""
        start = checked_start(network, channels=noisy.shape[1])
        height, width = noisy.shape[-2:]
        padded_height, padded_width = start.padded_size(height, width)
        z = fixed_input(channels=start.input_channels, height=padded_height, width=padded_width, seed=seed)
        z = z.to(noisy.device, memory_format=torch.channels_last)
        generator = torch.Generator(noisy.device).manual_seed(seed)
        input_noise = INPUT_NOISE_PER_SIGMA * sigma if self.input_noise is None else self.input_noise

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            perturbation = torch.randn(z.shape, generator=generator, device=z.device)  # contiguous: five times faster
            perturbed = z + input_noise * perturbation.contiguous(memory_format=torch.channels_last)
            estimate = network(perturbed)[..., :height, :width]
            return self.loss(estimate, noisy, sigma).sum(), estimate

        return objective


@dataclass(frozen=True, kw_only=True)
class DNAPrior(SkipNetPrior):
    r"""DNA-Prior: fit a network to one noisy image under spectral fidelity and total variation.

    .. math:: \theta^* = \arg\min_\theta\; \alpha L_{IS}(f_\theta(z), y) + \beta L_{TV}(f_\theta(z)), \qquad
              \hat x = f_{\theta^*}(z)

    with the losses of :mod:`monai_dnaprior.losses`.

    Args:
        tv_weight: :math:`\beta`; None takes 0.6 times the estimated noise level, because a fixed small one is inert
            and the weight that balances noise grows with it (as in the model of Rudin, Osher, Fatemi).
        fidelity_weight: :math:`\alpha`.
        others: see :class:`SkipNetPrior` and :class:`~monai_dnaprior.per_image.PerImageFit`.

    Shapes: noisy (B, C, H, W), float, about [0, 1]; any size, because the network makes a larger image of which only
    the part that was measured is compared.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025, equations 3 to 7.

    Departures: the paper leaves network, input, optimiser, learning rate and stopping open; the preset ``paper`` takes
    its printed weights and steps and the set-up of Deep Image Prior for the rest, with averaged output. The defaults
    here set :math:`\beta` and the input noise from the estimated noise and use a smaller network that stops by itself.

    >>> noisy = torch.rand(2, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = DNAPrior(steps=20, width=8)(noisy)
    >>> result.image.shape, result.records[0].steps
    (torch.Size([2, 1, 33, 47]), 20)
    """

    steps: int = 800
    tv_weight: float | None = None
    fidelity_weight: float = 1.0
    input_noise: float | None = None
    stopping: str = "discrepancy"
    clean_sigma: float = 1 / 255
    width: int = 16
    scales: int = 2
    skip_channels: int = 32
    padding: str = "zeros"
    sigmoid: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(tv_weight=self.tv_weight, fidelity_weight=self.fidelity_weight)

    @classmethod
    def from_preset(cls, preset: str = "default", **options: Any) -> DNAPrior:
        """A preset's configuration, with the fields that are given, and not None, in place of its own."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**PRESETS[preset] | given)

    def details(self, sigma: float) -> dict[str, Any]:
        return {"tv_weight": TV_WEIGHT_PER_SIGMA * sigma if self.tv_weight is None else self.tv_weight}

    def loss(self, estimate: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        """Equation 6."""
        fidelity = self.fidelity_weight * spectral_fidelity(estimate, noisy)
        return fidelity + self.details(sigma)["tv_weight"] * total_variation(estimate)


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior(SkipNetPrior):
    r"""Deep Image Prior, and with a weight on the total variation DIP-TV.

    .. math:: \min_\theta\; \tfrac1N \|f_\theta(z) - y\|_2^2 + \tfrac{\lambda}{N} \mathrm{TV}(f_\theta(z))

    Args:
        tv_weight: :math:`\lambda`; 0 is Deep Image Prior. The source of DIP-TV leaves its value open.
        others: see :class:`SkipNetPrior` and :class:`~monai_dnaprior.per_image.PerImageFit`.

    Source: Ulyanov, Vedaldi, Lempitsky, CVPR 2018, doi:10.1109/CVPR.2018.00984; Liu, Sun, Xu, Kamilov, "Image
    restoration using total variation regularized deep image prior", ICASSP 2019, doi:10.1109/ICASSP.2019.8682856.

    Departures: the average covers the last tenth of the first thousand steps, see :func:`~monai_dnaprior.fit.fit`.

    >>> noisy = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> DeepImagePrior(steps=5, width=4, scales=2)(noisy).image.shape
    torch.Size([1, 3, 16, 16])
    """

    tv_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(tv_weight=self.tv_weight)

    def details(self, sigma: float) -> dict[str, Any]:
        return {"tv_weight": self.tv_weight}

    def loss(self, estimate: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        fidelity = squared_error(estimate, noisy)
        if self.tv_weight == 0:
            return fidelity
        return fidelity + self.tv_weight * variation(estimate) / estimate[0].numel()


@dataclass(frozen=True, kw_only=True)
class DeepSpectralPrior(SkipNetPrior):
    r"""Deep Spectral Prior, our reading: fidelity to the Fourier coefficients' amplitude and phase.

    .. math:: \min_\theta\; \tfrac1N \sum_k a\,(|\hat X_k| - |Y_k|)^2
              + p\,2 |\hat X_k| |Y_k| (1 - \cos(\angle \hat X_k - \angle Y_k))

    Args:
        amplitude_weight: a.
        phase_weight: p. With a = p = 1 the sum is the squared distance of the spectra, which is Deep Image Prior's
            loss by Plancherel's theorem.
        others: see :class:`SkipNetPrior` and :class:`~monai_dnaprior.per_image.PerImageFit`.

    Source: Cheng et al., "Deep spectral prior", 2025, arXiv:2505.19873.

    Departures: its network and weights are not public; here they are Deep Image Prior's network and a = 1, p = 1.

    >>> noisy = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> DeepSpectralPrior(steps=5, width=4, scales=2)(noisy).image.shape
    torch.Size([1, 1, 16, 16])
    """

    amplitude_weight: float = 1.0
    phase_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(amplitude_weight=self.amplitude_weight, phase_weight=self.phase_weight)

    def loss(self, estimate: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        return spectral_discrepancy(
            estimate, noisy, amplitude_weight=self.amplitude_weight, phase_weight=self.phase_weight
        )


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

    def decay(self, progress: float) -> float:
        return 0.1**progress

    def objective(self, network: nn.Module, noisy: Tensor, sigma: float, seed: int) -> Objective:
        coordinates = coordinate_grid(*noisy.shape[-2:]).to(noisy.device)

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            estimate = network(coordinates).mT.reshape(noisy.shape)
            return squared_error(estimate, noisy).sum(), estimate

        return objective


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
