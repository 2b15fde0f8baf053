"""Denoisers that fit a network to each image by itself."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .fit import Discrepancy, FitResult, MovingVariance, Objective, StoppingRule, fit, gradients_enabled
from .losses import spectral_fidelity, total_variation
from .networks import SkipNet, check_architecture, fixed_input
from .noise import estimate_sigma, varying_pixels
from .result import Record, Result, check_noisy

STOPPING = ("discrepancy", "variance", "steps")
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "steps": 3000,
        "tv_weight": 1e-4,
        "stopping": "steps",
        "clean_sigma": 0.0,
        "input_noise": 1 / 30,
        "width": 128,
        "padding": "reflect",
        "sigmoid": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class DNAPrior:
    r"""DNA-Prior: fit a network to one noisy image under spectral fidelity and total variation.

    .. math:: \theta^* = \arg\min_\theta\; \alpha L_{IS}(f_\theta(z), y) + \beta L_{TV}(f_\theta(z)), \qquad
              \hat x = f_{\theta^*}(z)

    with the losses of :mod:`monai_dnaprior.losses`. Every image is a fit of its own: its result does not depend on
    the batch it came in.

    Args:
        steps: at most this many optimisation steps.
        tv_weight: :math:`\beta`; None takes ``tv_per_sigma`` times the estimated noise level, because a fixed small
            one is inert and the weight that balances noise grows with it (as in the model of Rudin, Osher, Fatemi).
        tv_per_sigma: :math:`\beta / \hat\sigma` for images about [0, 1].
        fidelity_weight: :math:`\alpha`.
        learning_rate: Adam's.
        input_noise: standard deviation of the noise added to z at every step.
        averaging: the output is the running average of the network's outputs with this memory.
        stopping: ``"discrepancy"`` ends the fit when the residual has fallen to ``discrepancy`` times the estimated
            noise level, ``"variance"`` when the outputs' moving variance rises, ``"steps"`` at the last step only.
        discrepancy: see ``stopping``.
        clean_sigma: images with less estimated noise than this are given back as they came.
        width, scales, skip_channels, padding, sigmoid: see :class:`~monai_dnaprior.networks.SkipNet`. With a sigmoid
            the image is first scaled so that its own range, noise included, fits into [0, 1].
        seed: the network's initial weights depend on it alone; the rest of a fit's randomness on a hash of it, the
            image and the slice index. The global random state is neither read nor changed.

    Shapes: noisy (B, C, H, W), float, about [0, 1]; any size, because the network makes a larger image of which only
    the part that was measured is compared.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025, equations 3 to 7.

    Departures: the paper leaves network, input, optimiser, learning rate and stopping open; the preset ``paper`` takes
    its printed weights and steps and the set-up of Deep Image Prior for the rest, with averaged output. The defaults
    here set :math:`\beta` from the estimated noise and use a smaller network that stops by itself.

    >>> noisy = torch.rand(2, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = DNAPrior(steps=20, width=8)(noisy)
    >>> result.image.shape, result.records[0].steps
    (torch.Size([2, 1, 33, 47]), 20)
    """

    steps: int = 1000
    tv_weight: float | None = None
    tv_per_sigma: float = 0.5
    fidelity_weight: float = 1.0
    learning_rate: float = 0.01
    input_noise: float = 0.01
    averaging: float = 0.99
    stopping: str = "discrepancy"
    discrepancy: float = 0.96
    clean_sigma: float = 1 / 255
    width: int = 16
    scales: int = 5
    skip_channels: int = 4
    padding: str = "zeros"
    sigmoid: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1.")
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping={self.stopping!r} is unknown; choose one of {', '.join(STOPPING)}.")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging={self.averaging} must lie in [0, 1); use 0 for the last output alone.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative.")
        for name in ("tv_weight", "tv_per_sigma", "fidelity_weight", "input_noise", "discrepancy", "clean_sigma"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be a finite number, 0 or more.")
        check_architecture(width=self.width, scales=self.scales, skip_channels=self.skip_channels, padding=self.padding)

    @classmethod
    def from_preset(cls, preset: str = "default", **options: Any) -> DNAPrior:
        """A preset's configuration, with the fields that are given, and not None, in place of its own."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**PRESETS[preset] | given)

    def network(self, channels: int = 1) -> SkipNet:
        """The network that every fit starts from: the same weights for the same seed."""
        return SkipNet(
            channels=channels,
            width=self.width,
            scales=self.scales,
            skip_channels=self.skip_channels,
            padding=self.padding,
            sigmoid=self.sigmoid,
            seed=self.seed,
        )

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, network: nn.Module | None = None
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` gives the initial weights in place of :meth:`network`."""
        check_noisy(noisy)
        indices = range(len(noisy)) if slice_indices is None else slice_indices
        if len(indices) != len(noisy):
            raise ValueError(f"slice_indices has {len(indices)} entries; give one for each of the {len(noisy)} images.")
        initial = self.network(noisy.shape[1]) if network is None else network
        with gradients_enabled(noisy.device):
            pairs = [
                self._denoise(image.clone().float(), index, initial)
                for image, index in zip(noisy.split(1), indices, strict=True)
            ]
        return Result(torch.cat([image for image, _ in pairs]), [record for _, record in pairs])

    def _denoise(self, noisy: Tensor, index: int, initial: nn.Module) -> tuple[Tensor, Record]:
        """One image (1, C, H, W): leave it alone, or fit it, once more if that fails."""
        started = time.perf_counter()
        sigma = estimate_sigma(noisy).item()
        tv_weight = self.tv_per_sigma * sigma if self.tv_weight is None else self.tv_weight
        record = Record(sigma=sigma, tv_weight=tv_weight)
        image = noisy
        if noisy.min() == noisy.max():
            record = replace(record, stop_reason="constant")
        elif sigma < self.clean_sigma:
            record = replace(record, stop_reason="clean")
        else:
            for attempt in range(2):
                seed = slice_seed(self.seed, index, attempt, noisy)
                result = self._fit(noisy, copy.deepcopy(initial), sigma, tv_weight, seed)
                record = replace(
                    record, steps=result.steps, stop_reason=result.stop_reason, seed=seed, trace=result.trace
                )
                if result.stop_reason != "non-finite":
                    image = result.image
                    break
        residual = (noisy - image).square().mean().sqrt().item()
        return image, replace(record, residual=residual, seconds=time.perf_counter() - started)

    def _fit(self, noisy: Tensor, network: SkipNet, sigma: float, tv_weight: float, seed: int) -> FitResult:
        low, span = sigmoid_range(noisy) if self.sigmoid else (0.0, 1.0)
        scaled = (noisy - low) / span
        rules: dict[str, list[StoppingRule]] = {
            "discrepancy": [Discrepancy(self.discrepancy * sigma / span, varying_pixels(noisy))],
            "variance": [MovingVariance()],
            "steps": [],
        }
        result = fit(
            network.to(noisy.device),
            scaled,
            self._objective(network, noisy.shape, tv_weight, seed, noisy.device),
            steps=self.steps,
            learning_rate=self.learning_rate,
            averaging=self.averaging,
            stopping=rules[self.stopping],
        )
        trace = tuple((step, loss, residual * span) for step, loss, residual in result.trace)
        return replace(result, image=result.image * span + low, trace=trace)

    def _objective(
        self, network: SkipNet, shape: torch.Size, tv_weight: float, seed: int, device: torch.device
    ) -> Objective:
        """Equation 6, on the part of the network's output that was measured."""
        height, width = shape[-2:]
        padded_height, padded_width = network.padded_size(height, width)
        z = fixed_input(channels=network.input_channels, height=padded_height, width=padded_width, seed=seed).to(device)
        generator = torch.Generator(device).manual_seed(seed)

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            perturbation = torch.randn(z.shape, generator=generator, device=device)
            estimate = network(z + self.input_noise * perturbation)[..., :height, :width]
            fidelity = self.fidelity_weight * spectral_fidelity(estimate, noisy)
            return (fidelity + tv_weight * total_variation(estimate)).sum(), estimate

        return objective


def slice_seed(seed: int, index: int, attempt: int, noisy: Tensor) -> int:
    """A seed of this slice's own: it depends on its voxels and its place, not on the batch, the order or the worker."""
    digest = hashlib.sha256(f"{seed} {index} {attempt} {tuple(noisy.shape)}".encode())
    digest.update(noisy.cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:6], "big")


def sigmoid_range(noisy: Tensor) -> tuple[float, float]:
    """Offset and span that bring an image into [0, 1], which they leave as it is when it lies there already."""
    low, high = min(0.0, noisy.min().item()), max(1.0, noisy.max().item())
    return low, high - low
