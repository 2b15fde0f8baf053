"""DNA-Prior: spectral fidelity and total variation, fitted to one noisy image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..checks import check_not_negative, check_whole
from ..fitting.batch import Ask
from ..fitting.fit import FitResult
from ..fitting.losses import spectral_fidelity, total_variation
from ..noise.estimate import varying_pixels
from .nonlocal_bayes import refine
from .skip_prior import FreshNoise, ShiftedNoise, SkipNetPrior

TV_WEIGHT_PER_SIGMA = 0.3
LARGE = 128  # side of an image that takes all the least steps; a smaller one takes up noise sooner
SMALLEST = 64  # side of an image that is still fitted when shrunk
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"steps": 70, "refinements": 2},
    "best": {"steps": 1500, "shrink": (1, 2), "restarts": 4},
    "paper": {
        "steps": 3000,
        "learning_rate": 0.01,
        "tv_weight": 1e-4,
        "stabilise": False,
        "shrink": 1,
        "refinements": 0,
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
class DNAPrior(SkipNetPrior):
    r"""DNA-Prior: fit a network to one noisy image under spectral fidelity and total variation.

    .. math:: \theta^* = \arg\min_\theta\; \alpha L_{IS}(f_\theta(z), y) + \beta L_{TV}(f_\theta(z)), \qquad
              \hat x = f_{\theta^*}(z)

    with the losses of :mod:`monai_dnaprior.fitting.losses`.

    Args:
        tv_weight: :math:`\beta`; None takes :math:`0.3\,\hat\sigma\,(1 - \hat\sigma^2 / \overline{y^2})`: a fixed
            small one is inert, the weight that balances noise grows with it (as in the model of Rudin, Osher, Fatemi),
            and the bracket, the part of the energy that is not noise, makes up for :math:`L_{IS}` being relative to y
            and :math:`L_{TV}` to the much weaker :math:`\hat x` where an image is dark.
        fidelity_weight: :math:`\alpha`.
        shrink: the network is fitted to the image averaged over blocks of shrink × shrink pixels, whose noise is that
            much weaker, in as many times fewer operations; an image that would have a side under 64 pixels, as it is,
            with the fewer least steps the smaller it is. Several, as (1, 2), take turns over the restarts.
        refinements: rounds of :func:`~monai_dnaprior.denoisers.nonlocal_bayes.refine` on the fitted image, at its size
        and full size.
        others: see :class:`~monai_dnaprior.denoisers.skip_prior.SkipNetPrior` and
        :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Shapes: noisy (B, C, H, W), float, about [0, 1]; any size, because the network makes a larger image of which only
    the part that was measured is compared.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025, equations 3 to 7.

    Departures: the paper leaves network, input, optimiser, learning rate and stopping open; the preset ``paper`` takes
    its printed weights and steps and the set-up of Deep Image Prior for the rest, with averaged output. The other
    presets set :math:`\beta` and the input noise from the estimated noise, use a smaller network that stops by itself,
    and let the fitted image guide a non-local filter of the noisy one, which is where most of their quality is from.

    >>> import torch
    >>> noisy = torch.rand(2, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = DNAPrior(steps=20, width=8)(noisy)
    >>> result.image.shape, result.records[0].steps
    (torch.Size([2, 1, 33, 47]), 20)
    """

    draws: ClassVar[type[FreshNoise] | type[ShiftedNoise]] = ShiftedNoise

    steps: int = 800
    learning_rate: float = 0.006
    tv_weight: float | None = None
    fidelity_weight: float = 1.0
    stabilise: bool = True
    shrink: int | Sequence[int] = 2
    refinements: int = 3
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
        if not self.shrinks:
            raise ValueError("shrink=() names no size; give at least one, 1 for the image as it is.")
        for shrink in self.shrinks:
            check_whole(1, shrink=shrink)
        check_whole(0, refinements=self.refinements)

    @classmethod
    def from_preset(cls, preset: str = "default", **options: Any) -> DNAPrior:
        """A preset's configuration, with the fields that are given, and not None, in place of its own."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**PRESETS[preset] | given)

    @property
    def shrinks(self) -> Sequence[int]:
        """One after the other, for the restarts."""
        return self.shrink if isinstance(self.shrink, Sequence) else (self.shrink,)

    def of_restart(self, number: int) -> DNAPrior:
        return replace(self, shrink=self.shrinks[number % len(self.shrinks)])

    def weight(self, noisy: Tensor, sigma: float) -> float:
        if self.tv_weight is not None:
            return self.tv_weight
        return TV_WEIGHT_PER_SIGMA * sigma * signal_share(noisy, sigma)

    def loss(self, estimate: Tensor, noisy: Tensor, tv_weight: Tensor) -> Tensor:
        """Equation 6."""
        return self.fidelity_weight * spectral_fidelity(estimate, noisy) + tv_weight * total_variation(estimate)

    def estimate(
        self, ask: Ask, network: nn.Module, noisy: Tensor, where: Tensor, sigma: float, seed: int
    ) -> FitResult:
        """The fit, of a smaller image if that is large enough, whose refined result is enlarged."""
        factor, size = self.factor(noisy), noisy.shape[-2:]
        if factor == 1:
            part = min(1, math.sqrt(size.numel()) / LARGE)
            fewer = replace(self, least_steps=int(part * self.least_steps))
            return super(DNAPrior, fewer).estimate(ask, network, noisy, where, sigma, seed)
        small, seen = averaged(noisy, factor), averaged(where.float(), factor) > 0
        result = super().estimate(ask, network, small, seen, sigma / factor, seed)
        image = self.refined(small, result.image, sigma / factor) if result.stop_reason != "non-finite" else small
        image = interpolate(image, scale_factor=factor, mode="bicubic")[..., : size[0], : size[1]]
        trace = tuple((step, loss, residual * factor) for step, loss, residual in result.trace)
        return replace(result, image=image, trace=trace)

    def details(self, noisy: Tensor, sigma: float) -> dict[str, Any]:
        factor = self.factor(noisy)
        return super().details(averaged(noisy, factor), sigma / factor)

    def factor(self, noisy: Tensor) -> int:
        """How many times smaller an image is fitted."""
        return self.shrinks[0] if min(noisy.shape[-2:]) >= SMALLEST * self.shrinks[0] else 1

    def refined(self, noisy: Tensor, estimate: Tensor, sigma: float) -> Tensor:
        return refine(noisy, estimate, sigma, rounds=self.refinements)


def averaged(image: Tensor, factor: int) -> Tensor:
    """The means over blocks of factor × factor pixels; the last row and column are repeated to fill theirs.

    >>> import torch
    >>> averaged(torch.tensor([[[[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]]]), 2).tolist()
    [[[[2.0, 5.0]]]]
    """
    height, width = image.shape[-2:]
    return avg_pool2d(pad(image, [0, -width % factor, 0, -height % factor], "replicate"), factor)


def signal_share(noisy: Tensor, sigma: float) -> float:
    """The part of an image's energy that is not noise, where noise can be seen; at least a fiftieth.

    >>> import torch
    >>> signal_share(torch.tensor([[[[0.0, 2.0]]]]), 1.0)
    0.5
    """
    energy = noisy[varying_pixels(noisy)].square().mean().item()
    return max(0.02, 1 - sigma**2 / energy)
