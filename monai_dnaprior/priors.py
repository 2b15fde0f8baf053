"""Denoisers that fit a network to each image by itself."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .fit import Discrepancy, FitResult, MovingVariance, Objective, StoppingRule, fit, side_by_side
from .losses import spectral_fidelity, total_variation
from .networks import SkipNet, check_architecture, fixed_input
from .noise import estimate_sigma, varying_pixels
from .result import Record, Result, check_noisy

TV_WEIGHT_PER_SIGMA = 0.6
INPUT_NOISE_PER_SIGMA = 0.1
UNDER_FITTED = 1.1  # residual over noise level at which anatomy, too, must have been left out
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
        "scales": 5,
        "skip_channels": 4,
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
        tv_weight: :math:`\beta`; None takes 0.6 times the estimated noise level, because a fixed small one is inert
            and the weight that balances noise grows with it (as in the model of Rudin, Osher, Fatemi).
        fidelity_weight: :math:`\alpha`.
        learning_rate: Adam's.
        input_noise: standard deviation of the noise added to z at every step; None takes a tenth of the estimated
            noise level: more lifts the quality at high noise, and slows down the fit of fine detail at low noise.
        averaging: the output is the running average of the network's outputs with this memory.
        stopping: ``"discrepancy"`` ends the fit when the residual has fallen to the estimated noise level less
            ``margin``, ``"variance"`` when the outputs' moving variance rises, ``"steps"`` at the last step only.
        margin: see ``stopping``. At the noise level itself a fit is still too smooth, the more so the less noise.
        clean_sigma: images with less estimated noise than this are given back as they came.
        input_channels, width, scales, skip_channels, padding, sigmoid: see
            :class:`~monai_dnaprior.networks.SkipNet`. With a sigmoid the image is first scaled so that its own range,
            noise included, fits into [0, 1].
        seed: the network's initial weights depend on it alone; the rest of a fit's randomness on a hash of it, the
            image and the slice index. The global random state is neither read nor changed.

    Shapes: noisy (B, C, H, W), float, about [0, 1]; any size, because the network makes a larger image of which only
    the part that was measured is compared. Pixels that equal all their neighbours (an empty background) hold no
    visible noise: they come out as they are, and the fit is cropped to the others.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025, equations 3 to 7.

    Departures: the paper leaves network, input, optimiser, learning rate and stopping open; the preset ``paper`` takes
    its printed weights and steps and the set-up of Deep Image Prior for the rest, with averaged output. The defaults
    here set :math:`\beta` from the estimated noise and use a smaller network that stops by itself.

    >>> noisy = torch.rand(2, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = DNAPrior(steps=20, width=8)(noisy)
    >>> result.image.shape, result.records[0].steps
    (torch.Size([2, 1, 33, 47]), 20)
    """

    steps: int = 800
    tv_weight: float | None = None
    fidelity_weight: float = 1.0
    learning_rate: float = 0.01
    input_noise: float | None = None
    averaging: float = 0.99
    stopping: str = "discrepancy"
    margin: float = 1 / 255
    clean_sigma: float = 1 / 255
    input_channels: int = 32
    width: int = 16
    scales: int = 2
    skip_channels: int = 32
    padding: str = "zeros"
    sigmoid: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value} must be a whole number, at least {least}.")
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping={self.stopping!r} is unknown; choose one of {', '.join(STOPPING)}.")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging={self.averaging} must lie in [0, 1); use 0 for the last output alone.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        for name in ("tv_weight", "fidelity_weight", "input_noise", "margin", "clean_sigma"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be a finite number, 0 or more.")
        check_architecture(**self._architecture())

    @classmethod
    def from_preset(cls, preset: str = "default", **options: Any) -> DNAPrior:
        """A preset's configuration, with the fields that are given, and not None, in place of its own."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**PRESETS[preset] | given)

    def network(self, channels: int = 1) -> SkipNet:
        """The network that every fit starts from: the same weights for the same seed."""
        return SkipNet(channels=channels, sigmoid=self.sigmoid, seed=self.seed, **self._architecture())

    def _architecture(self) -> dict[str, Any]:
        names = ("input_channels", "width", "scales", "skip_channels", "padding")
        return {name: getattr(self, name) for name in names}

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, network: Callable[..., Any] | None = None
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` gives the initial weights in place of :meth:`network`."""
        check_noisy(noisy)
        indices = range(len(noisy)) if slice_indices is None else slice_indices
        if len(indices) != len(noisy):
            raise ValueError(f"slice_indices has {len(indices)} entries; give one for each of the {len(noisy)} images.")
        channels = noisy.shape[1]
        initial = self.network(channels) if network is None else checked_network(network, channels=channels)
        pairs = side_by_side(partial(self._denoise, initial), noisy.split(1), indices, device=noisy.device)
        return Result(torch.cat([image for image, _ in pairs]), [record for _, record in pairs])

    def _denoise(self, initial: SkipNet, noisy: Tensor, index: int) -> tuple[Tensor, Record]:
        """One image (1, C, H, W): leave it alone, or fit it, once more if that fails."""
        started = time.perf_counter()
        noisy = noisy.clone().float()
        sigma = estimate_sigma(noisy).item()
        tv_weight = TV_WEIGHT_PER_SIGMA * sigma if self.tv_weight is None else self.tv_weight
        record = Record(sigma=sigma, tv_weight=tv_weight)
        image = noisy
        if noisy.min() == noisy.max():
            record = replace(record, stop_reason="constant")
        elif sigma < self.clean_sigma:
            record = replace(record, stop_reason="clean")
        else:
            where = varying_pixels(noisy)
            box = bounding_box(where)
            for attempt in range(2):
                seed = slice_seed(self.seed, index, attempt, noisy)
                result = self._fit(noisy[box], where[box], copy.deepcopy(initial), sigma, tv_weight, seed)
                if result.stop_reason != "non-finite":
                    image = noisy.clone()
                    image[box] = torch.where(where[box], result.image, noisy[box])
                    break
            record = fitted_record(record, result, seed)
        return image, replace(record, seconds=time.perf_counter() - started)

    def _fit(
        self, noisy: Tensor, where: Tensor, network: SkipNet, sigma: float, tv_weight: float, seed: int
    ) -> FitResult:
        offset, span = sigmoid_range(noisy) if self.sigmoid else (0.0, 1.0)
        rules: dict[str, list[StoppingRule]] = {
            "discrepancy": [Discrepancy((sigma - self.margin) / span)],
            "variance": [MovingVariance()],
            "steps": [],
        }
        result = fit(
            network.to(noisy.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            (noisy - offset) / span,
            self._objective(network, noisy.shape, sigma, tv_weight, seed, noisy.device),
            steps=self.steps,
            learning_rate=self.learning_rate,
            averaging=self.averaging,
            stopping=rules[self.stopping],
            where=where,
        )
        trace = tuple((step, loss, residual * span) for step, loss, residual in result.trace)
        return replace(result, image=result.image * span + offset, trace=trace)

    def _objective(
        self, network: SkipNet, shape: torch.Size, sigma: float, tv_weight: float, seed: int, device: torch.device
    ) -> Objective:
        """Equation 6, on the part of the network's output that was measured."""
        height, width = shape[-2:]
        padded_height, padded_width = network.padded_size(height, width)
        z = fixed_input(channels=network.input_channels, height=padded_height, width=padded_width, seed=seed)
        z = z.to(device, memory_format=torch.channels_last)
        generator = torch.Generator(device).manual_seed(seed)
        input_noise = INPUT_NOISE_PER_SIGMA * sigma if self.input_noise is None else self.input_noise

        def objective(noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
            perturbation = torch.randn(
                z.shape, generator=generator, device=device
            )  # drawn contiguous: five times faster
            perturbed = z + input_noise * perturbation.contiguous(memory_format=torch.channels_last)
            estimate = network(perturbed)[..., :height, :width]
            fidelity = self.fidelity_weight * spectral_fidelity(estimate, noisy)
            return (fidelity + tv_weight * total_variation(estimate)).sum(), estimate

        return objective


def checked_network(network: Callable[..., Any], *, channels: int) -> SkipNet:
    """The network, if it can make images of so many channels."""
    if not isinstance(network, SkipNet):
        raise TypeError(f"network={type(network).__name__} must be a SkipNet; take the one that network() makes.")
    if network.head.out_channels != channels:
        raise ValueError(f"network makes {network.head.out_channels} channels, the image has {channels}.")
    return network


def fitted_record(record: Record, result: FitResult, seed: int) -> Record:
    """The record of a slice that was fitted, with a warning where the result should not be trusted."""
    residual, warnings = result.trace[-1][2], []
    if result.stop_reason == "non-finite":
        residual = 0.0
        warnings.append("the fit failed twice; the input is given back")
    elif result.stop_reason == "steps" and residual > UNDER_FITTED * record.sigma:
        warnings.append(
            f"under-fitted: {residual / record.sigma:.1f} times the noise level was removed; allow more steps"
        )
    return replace(
        record,
        steps=result.steps,
        stop_reason=result.stop_reason,
        seed=seed,
        residual=residual,
        trace=result.trace,
        warnings=tuple(warnings),
    )


def bounding_box(where: Tensor) -> tuple[slice, ...]:
    """The smallest window of an image (1, C, H, W) that holds every pixel that is marked in any channel.

    >>> where = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    >>> where[0, 0, 1:3, 2:4] = True
    >>> bounding_box(where)[2:]
    (slice(1, 3, None), slice(2, 4, None))
    """
    rows, columns = (where.any(1).any(dim).flatten().nonzero().flatten() for dim in (-1, -2))
    ends = [(int(side[0]), int(side[-1]) + 1) for side in (rows, columns)]
    return (slice(None), slice(None), *(slice(*end) for end in ends))


def slice_seed(seed: int, index: int, attempt: int, noisy: Tensor) -> int:
    """A seed of this slice's own: it depends on its voxels and its place, not on the batch, the order or the worker."""
    digest = hashlib.sha256(f"{seed} {index} {attempt} {tuple(noisy.shape)}".encode())
    digest.update(noisy.cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:6], "big")


def sigmoid_range(noisy: Tensor) -> tuple[float, float]:
    """Offset and span that bring an image into [0, 1], which they leave as it is when it lies there already."""
    low, high = min(0.0, noisy.min().item()), max(1.0, noisy.max().item())
    return low, high - low
