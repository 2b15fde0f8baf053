"""DNA-Prior: spectral fidelity and total variation, fitted to one noisy image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..checks import check_not_negative, check_whole
from ..fitting.fit import FitResult, Procedure
from ..fitting.losses import penalised_fidelity, whiten
from ..fitting.networks import ShiftedNoise
from ..fitting.stopping import StoppingRule
from ..noise.estimate import varying_pixels
from .low_rank import estimate_low_rank
from .nonlocal_bayes import refine
from .per_image import NoisyImage, PerImageFit, fit_tiles
from .skip_prior import SkipNetOptions

TV_WEIGHT_PER_SIGMA = 0.3
LARGE = 128  # side of an image that takes all the least steps; a smaller one takes up noise sooner
FLOOR = 0.02  # of the mean of a noise's spectrum, which is added to it where one divides by it
SMALLEST = 64  # side of an image that is still fitted when shrunk
GUIDES = ("fit", "low-rank")
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"steps": 70, "enough_steps": 70, "refinements": 2},
    "instant": {"guide": "low-rank"},
    "best": {"steps": 1500, "shrink": (1, 2), "restarts": 4},
    "paper": {
        "steps": 3000,
        "enough_steps": 3000,
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
class DNAPrior(SkipNetOptions, PerImageFit):
    r"""DNA-Prior: fit a network to one noisy image under spectral fidelity and total variation.

    .. math:: \theta^* = \arg\min_\theta\; \alpha L_{IS}(f_\theta(z), y) + \beta L_{TV}(f_\theta(z)), \qquad
              \hat x = f_{\theta^*}(z)

    with the losses of :mod:`monai_dnaprior.fitting.losses`. Where noise is correlated, its spectrum is measured and
    taken into account: by the fidelity, by the rule that ends the fit, and by the non-local filter.

    Args:
        tv_weight: of the total variation, :math:`\beta`; None takes
            :math:`0.3\,\hat\sigma\,(1 - \hat\sigma^2 / \overline{y^2})`. It grows with the noise, as in the model of
            Rudin, Osher, Fatemi: a small fixed one does nothing. The bracket is the part of the image's energy that is
            not noise; without it :math:`L_{TV}`, relative to :math:`\hat x`, would outweigh :math:`L_{IS}`, relative
            to y, in dark images.
        fidelity_weight: of the spectral fidelity, :math:`\alpha`.
        shrink: side of the blocks of pixels that are averaged before the fit, which makes it faster and the noise
            weaker. An image whose side would fall under 64 pixels is fitted as it is, with the fewer least steps the
            smaller it is. Several, as (1, 2), take turns over the restarts.
        refinements: rounds of a non-local filter, :func:`~monai_dnaprior.denoisers.nonlocal_bayes.refine`, which the
            fitted image guides, at its size and full size.
        guide: what guides that filter first: ``"fit"``; or ``"low-rank"``, an estimate without a network,
            :func:`~monai_dnaprior.denoisers.low_rank.estimate_low_rank`, in about the time that the noise takes to
            measure.
        others: see :class:`~monai_dnaprior.denoisers.skip_prior.SkipNetOptions` and
            :class:`~monai_dnaprior.denoisers.per_image.PerImageFit`.

    Shapes: noisy (B, C, H, W), float, about [0, 1], of any size: the network makes a larger image, of which only the
    part that was measured is compared.

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

    whitened: ClassVar[bool] = True

    steps: int = 800
    learning_rate: float = 0.006
    tv_weight: float | None = None
    fidelity_weight: float = 1.0
    stabilise: bool = True
    shrink: int | Sequence[int] = 2
    refinements: int = 3
    guide: str = "fit"
    input_noise: float | None = None
    stopping: str | Callable[[], StoppingRule] = "discrepancy"
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
        if self.guide not in GUIDES:
            raise ValueError(f"guide={self.guide!r} is unknown; choose one of {', '.join(GUIDES)}.")
        if self.guide == "low-rank" and self.restarts > 1:
            raise ValueError(f"restarts={self.restarts} are for a fit; leave it out, or take another guide.")

    @classmethod
    def from_preset(cls, preset: str = "default", **options: Any) -> DNAPrior:
        """A preset's configuration, with the fields that are given, and not None, in place of its own.

        Args:
            preset: ``"default"``, ``"fast"`` (half the time), ``"instant"`` (a fifth, no network), ``"best"`` (several
                times slower), or ``"paper"`` for the published weights, network and 3,000 steps; what is given besides
                takes the place of its own.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**PRESETS[preset] | given)

    @property
    def neighbours(self) -> int:
        """How many slices on each side help to denoise one of a volume, unless that is said: one, where it refines."""
        return 1 if self.refinements else 0

    @property
    def shrinks(self) -> Sequence[int]:
        """One after the other, for the restarts."""
        return self.shrink if isinstance(self.shrink, Sequence) else (self.shrink,)

    def fit_image(self, image: NoisyImage, network: nn.Module, seed: int, restart: int) -> Procedure[FitResult]:
        """Shrink → fit → refine → enlarge, an image larger than a tile tile by tile; then refine the whole."""

        def guide(tile: NoisyImage, network: nn.Module) -> Procedure[FitResult]:
            factor = self.factor(tile, restart)
            small = shrink(tile, factor)
            result = yield from self.first_guide(small, network, seed, factor)
            return result if factor == 1 else enlarge(self.refine_fit(small, result), factor, tile)

        return self.refine_fit(image, (yield from fit_tiles(guide, image, network, self.tile)))

    def first_guide(self, image: NoisyImage, network: nn.Module, seed: int, factor: int) -> Procedure[FitResult]:
        """The fit of an image, or an estimate without a network."""
        if self.guide == "low-rank":
            return FitResult(estimate_low_rank(image.pixels, image.noise), 0, "filter", ())
        return (yield from self.fit_small(image, network, seed, factor))

    def fit_small(self, image: NoisyImage, network: nn.Module, seed: int, factor: int) -> Procedure[FitResult]:
        """The fit of an image that was shrunk, or is too small for that and takes fewer least steps.

        The latter's fidelity is not whitened: at full size that would take several times the steps.
        """
        part = 1 if factor > 1 else min(1, math.sqrt(image.pixels.shape[-2:].numel()) / LARGE)
        whitening = whitening_of(image) if factor > 1 else {}
        request = partial(
            self.request,
            least_steps=int(part * self.least_steps),
            whiten=partial(whiten, **whitening) if whitening else None,
        )
        loss = partial(penalised_fidelity, fidelity_weight=self.fidelity_weight)
        options = {"tv_weight": self.balanced_tv_weight(image), "draw": ShiftedNoise, "whitening": whitening}
        return (yield from self.fit_network(request, image, network, seed, loss, **options))

    def refine_fit(self, image: NoisyImage, result: FitResult) -> FitResult:
        """The result after the non-local filter that it guides."""
        if result.failed:
            return result
        return replace(result, image=refine(image.pixels, result.image, image.noise, rounds=self.refinements))

    def factor(self, image: NoisyImage, restart: int) -> int:
        """How many times smaller an image is fitted; the restarts take turns."""
        factor = self.shrinks[restart % len(self.shrinks)]
        return factor if min(image.pixels.shape[-2:]) >= SMALLEST * factor else 1

    def balanced_tv_weight(self, image: NoisyImage) -> float:
        """The weight that balances the noise of an image, unless one is given."""
        if self.tv_weight is not None:
            return self.tv_weight
        return TV_WEIGHT_PER_SIGMA * image.noise.sigma * signal_share(image.pixels, image.noise.sigma)

    def used_tv_weight(self, image: NoisyImage, restart: int) -> float | None:
        if self.guide == "low-rank":
            return None
        return self.balanced_tv_weight(shrink(image, self.factor(image, restart)))


def whitening_of(image: NoisyImage) -> dict[str, Tensor]:
    """The factors of frequencies and pixels that make the noise of an image white and even; none if it is."""
    noise, factors = image.noise, dict[str, Tensor]()
    if not noise.is_white:
        spectrum = noise.spectrum(*image.pixels.shape[-2:])
        power = spectrum / (spectrum + FLOOR)
        factors["weight"] = (power.mean() * (spectrum + FLOOR)).rsqrt().to(image.pixels)[None, None]
    if noise.deviation is not None:
        factors["scale"] = 1 / noise.deviation
    return factors


def shrink(image: NoisyImage, factor: int) -> NoisyImage:
    """The image averaged over blocks of pixels, whose noise is that much weaker."""
    if factor == 1:
        return image
    seen = average_blocks(image.seen.float(), factor) > 0
    return NoisyImage(average_blocks(image.pixels, factor), seen, image.noise.shrink(factor))


def enlarge(result: FitResult, factor: int, image: NoisyImage) -> FitResult:
    """The fit of a shrunk image at the size of the image, its residuals in the noise of that."""
    height, width = image.pixels.shape[-2:]
    enlarged = interpolate(result.image, scale_factor=factor, mode="bicubic")[..., :height, :width]
    return replace(result.rescale(factor), image=enlarged)


def average_blocks(image: Tensor, factor: int) -> Tensor:
    """The means over blocks of factor × factor pixels; the last row and column are repeated to fill theirs.

    >>> import torch
    >>> average_blocks(torch.tensor([[[[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]]]), 2).tolist()
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
