"""What a network is trained for on a set of images: IDDP and its kin, most of which need no clean image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..checks import check_not_negative, check_part, check_whole, is_number
from ..noise.estimate import averaging_filter
from .masking import Windows, blind, neighbour_pairs, neighbours, subimage
from .renoising import random_phases, random_signs

Network = Callable[[Tensor], Tensor]
SHIFTS = 16  # of the prior and the re-noised image, along each axis
OFFSETS = 17  # of the inner windows of both, with phases
FAINT, WEIGHT = 2 / 255, 0.05  # with phases the squares' weight is 0.05 over the noise level, of weak noise no more
WINDOW = 7  # side of the windows in which CVF-SID takes mean and deviation


class Step(NamedTuple):
    """What an objective is told of a step besides the noisy images, which stand for a target that it does not need."""

    target: Tensor
    progress: float
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training minimises over batches of images; a method adds its loss.

    Call it with ``noisy`` (B, C, H, W), the ``network``, ``target`` (what it ``needs``, or None where that is
    ``"none"``), ``progress`` from 0 to 1 through the training, and the ``generator`` of its randomness on the device of
    the images. It returns a scalar. Squares are summed over an image's pixels, not averaged: with means over pixels
    gradients would be so small that Adam's epsilon drowns them.

    Attributes:
        needs: the target: ``"none"``, a ``"second"`` image with other noise, the ``"clean"`` image, or
            ``"recorrupted"``: a second image and the map of its noise's standard deviation, (B, 2 C, H, W).
        heads: how many images of C channels the network outputs for one.
    """

    needs: ClassVar[str] = "none"
    heads: ClassVar[int] = 1

    def __call__(
        self, noisy: Tensor, network: Network, *, target: Tensor | None, progress: float, generator: torch.Generator
    ) -> Tensor:
        if target is None and self.needs != "none":
            raise ValueError(f"target=None: {type(self).__name__} needs a {self.needs} image for each.")
        return self.loss(noisy, network, Step(noisy if target is None else target, progress, generator))

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        """What a step minimises."""
        raise TypeError(f"{type(self).__name__} names no loss.")

    def denoise(self, noisy: Tensor, network: Network) -> Tensor:
        """What the trained network makes of noisy images (B, C, H, W)."""
        return network(noisy)[:, : noisy.shape[1]]


@dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
    r"""The squared distance to the clean image, :math:`\|F(y) - x\|_2^2`."""

    needs: ClassVar[str] = "clean"

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        return sum_squares(network(noisy) - step.target)


@dataclass(frozen=True, kw_only=True)
class Noise2Noise(Objective):
    r"""The squared distance to a second image of the same scene, :math:`\|F(y) - y'\|_2^2`.

    Source: Lehtinen et al., "Noise2Noise: learning image restoration without clean data", ICML 2018, arXiv:1803.04189.
    """

    needs: ClassVar[str] = "second"

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        return sum_squares(network(noisy) - step.target)


@dataclass(frozen=True, kw_only=True)
class IDDP(Objective):
    r"""Implicit deep denoiser prior: the network's own output, noised again with what was removed, is its target.

    .. math:: \alpha \|F(y) - y_{\text{blur}}\|_2^2 + \beta \|F(y_2) - \text{sg}(F(y))\|_2^2, \qquad
              y_2 = \text{sg}(F(y)) + m \odot \text{sg}(y - F(y))

    with m independent signs ±1, drawn anew each step, and sg the stop-gradient.

    Args:
        fidelity_weight: :math:`\alpha`.
        regularity_weight: :math:`\beta`.
        blur: side of the averaging filter that gives :math:`y_{\text{blur}}`, in pixels; odd.
        warm_up: part of the training, at its beginning, on the fidelity alone, with weight 1.

    Source: Lin et al., "Self-supervised image denoising using implicit deep denoiser prior", AAAI 2023, equations 7 to
    11, doi:10.1609/aaai.v37i2.25245.

    Departures: the source leaves the filter's size open and has no warm-up. Without one a network that starts near the
    identity stays there: the second term is of second order in the distance to it, the first only of weight
    :math:`\alpha`. Here prior and re-noised image are also shifted round their edges by up to 15 pixels and mirrored,
    alike, at random: otherwise the grid that a network's strides leave in the prior would stay in place, and the
    network would learn to make it stronger with every step.

    >>> noisy = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> identity = lambda image: image
    >>> loss = IDDP(fidelity_weight=0, warm_up=0)(
    ...     noisy, identity, target=None, progress=0.5, generator=torch.Generator().manual_seed(0))
    >>> loss.item()
    0.0
    """

    fidelity_weight: float = 0.001
    regularity_weight: float = 1.0
    blur: int = 5
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative(fidelity_weight=self.fidelity_weight, regularity_weight=self.regularity_weight)
        if not isinstance(self.blur, int) or self.blur < 1 or self.blur % 2 == 0:
            raise ValueError(f"blur={self.blur} must be an odd number of pixels.")
        check_warm_up(self.warm_up)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        estimate = network(noisy)
        fidelity = sum_squares(estimate - averaging_filter(noisy, self.blur))
        if step.progress < self.warm_up:
            return fidelity
        prior = estimate.detach()
        renoised = prior + random_signs(noisy, step.generator) * (noisy - prior)
        shift = torch.randint(SHIFTS, (2,), generator=step.generator, device=noisy.device).tolist()
        sides = [side for side in (-2, -1) if random_signs(fidelity, step.generator) > 0]
        renoised, prior = (image.roll(shift, (-2, -1)).flip(sides) for image in (renoised, prior))
        return self.fidelity_weight * fidelity + self.regularity_weight * sum_squares(network(renoised) - prior)


@dataclass(frozen=True, kw_only=True)
class IDDPWithPhases(Objective):
    r"""IDDP for correlated, uneven noise: the residual under random phases is noise of the same spectrum and map.

    .. math:: \alpha \|F(y_+) - y_-\|_2^2 + \beta \|F(y_2) - \text{sg}(F(y_+))\|_2^2, \qquad
              y_2 = \text{sg}(F(y_+)) + n_2, \qquad
              n_2 = \sigma(p) \, F^{-1}[\, |F(n / \sigma(p))| \, e^{i \varphi} \,]

    with :math:`n = y_+ - \text{sg}(F(y_+))`, antisymmetric phases :math:`\varphi` drawn anew each step, and two
    recorrupted images :math:`y_+, y_-` whose noises are independent (``recorruption.py``): no blur is needed for the
    first guide, which correlated noise survives, and the identity is no solution. Signs would make white noise of any
    residual; of white noise both make noise of the same statistics. Squares are weighted by the inverse of the noise
    level, else strong noise is all that is learnt.

    Args:
        fidelity_weight: :math:`\alpha`.
        regularity_weight: :math:`\beta`.
        warm_up: part of the training, at its beginning, on the fidelity alone.

    Sources: Pang, Zheng, Quan, Ji, "Recorrupted-to-Recorrupted: unsupervised deep learning for image denoising", CVPR
    2021, doi:10.1109/CVPR46437.2021.00208; Lin et al., see :class:`IDDP`. The phases are ours.

    Departures: :math:`y_2` and its target are the same inner squares, turned and mirrored, at an offset of up to 16
    pixels: the grid of the network's strides then lies elsewhere, see :class:`IDDP`, and there is no seam.
    """

    needs: ClassVar[str] = "recorrupted"

    fidelity_weight: float = 1.0
    regularity_weight: float = 1.0
    warm_up: float = 0.5

    def __post_init__(self) -> None:
        check_not_negative(fidelity_weight=self.fidelity_weight, regularity_weight=self.regularity_weight)
        check_warm_up(self.warm_up)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        second, deviation = step.target.chunk(2, 1)
        level = deviation.square().mean((1, 2, 3), keepdim=True).sqrt()
        weight = (WEIGHT / (level + FAINT)).sqrt()
        estimate = network(noisy)
        fidelity = self.fidelity_weight * sum_squares(weight * (estimate - second))
        if step.progress < self.warm_up:
            return fidelity
        with torch.no_grad():
            prior = estimate.detach()
            renoised = prior + random_phases(noisy - prior, deviation, step.generator)
            side = min(noisy.shape[-2:])
            offsets = min(OFFSETS, side // 4 + 1)
            number = torch.arange(len(noisy), device=noisy.device)
            corner = torch.randint(offsets, (len(noisy), 2), generator=step.generator, device=noisy.device)
            inner = Windows(number, corner, side - offsets + 1, step.generator)
            renoised, prior = inner(renoised), inner(prior)
        return fidelity + self.regularity_weight * sum_squares(weight * (network(renoised) - prior))


@dataclass(frozen=True, kw_only=True)
class Noise2Void(Objective):
    r"""Blind spots: predict hidden pixels from what is around them, :math:`\|M \odot (F(\tilde y) - y)\|_2^2`.

    In :math:`\tilde y` every pixel of the mask M holds the value of another pixel near by.

    Args:
        hidden: part of the pixels that is hidden.
        radius: of the window from which the other pixel is drawn; never the pixel itself.

    Source: Krull, Buchholz, Jug, "Noise2Void: learning denoising from single noisy images", CVPR 2019,
    doi:10.1109/CVPR.2019.00223.

    Departures: pixels are hidden independently, not one in each cell of a grid.
    """

    hidden: float = 0.015
    radius: int = 5

    def __post_init__(self) -> None:
        check_part(hidden=self.hidden)
        check_whole(1, radius=self.radius)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        mask = torch.rand(noisy[:, :1].shape, generator=step.generator, device=noisy.device) < self.hidden
        hidden = torch.where(mask, neighbours(noisy, self.radius, step.generator), noisy)
        return sum_squares(mask * (network(hidden) - noisy))


@dataclass(frozen=True, kw_only=True)
class Neighbor2Neighbor(Objective):
    r"""Two images of half the size, of neighbouring pixels, are each other's target.

    .. math:: \|F(g_1 y) - g_2 y\|_2^2
              + \lambda \|F(g_1 y) - g_2 y - (g_1 \text{sg} F(y) - g_2 \text{sg} F(y))\|_2^2

    :math:`g_1, g_2` take one of the eight ordered pairs of adjacent pixels of every 2×2 cell, drawn anew.

    Args:
        consistency_weight: :math:`\lambda` at the end of the training, to which it grows from 0.

    Source: Huang et al., "Neighbor2Neighbor: self-supervised denoising from single noisy images", CVPR 2021,
    doi:10.1109/CVPR46437.2021.01454.
    """

    consistency_weight: float = 2.0

    def __post_init__(self) -> None:
        check_not_negative(consistency_weight=self.consistency_weight)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        with torch.no_grad():
            estimate = network(noisy)
        pairs = neighbour_pairs(noisy, step.generator)
        first, second = (subimage(noisy, pair) for pair in pairs)
        first_estimate, second_estimate = (subimage(estimate, pair) for pair in pairs)
        difference = network(first) - second
        consistency = sum_squares(difference - (first_estimate - second_estimate))
        return sum_squares(difference) + step.progress * self.consistency_weight * consistency


@dataclass(frozen=True, kw_only=True)
class Blind2Unblind(Objective):
    r"""Blind spots, with what they lose made good by a look at the whole image.

    .. math:: \|h - y\|_2^2 \eta + \|(h - y) + \beta (\text{sg} F(y) - y)\|_2^2

    Each of 16 copies of y hides one pixel of every 4×4 cell behind the weighted mean of its neighbours; h gathers what
    the network makes of the hidden pixels. The trained network's result is :math:`(h + \beta F(y)) / (1 + \beta)`.

    Args:
        blind_weight: :math:`\eta`.
        first_weight, last_weight: :math:`\beta` at the beginning and at the end of the training.

    Source: Wang et al., "Blind2Unblind: self-supervised image denoising with visible blind spots", CVPR 2022,
    doi:10.1109/CVPR52688.2022.00207.
    """

    blind_weight: float = 1.0
    first_weight: float = 2.0
    last_weight: float = 20.0

    def __post_init__(self) -> None:
        check_not_negative(blind_weight=self.blind_weight, first_weight=self.first_weight, last_weight=self.last_weight)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        with torch.no_grad():
            visible = network(noisy)
        weight = self.first_weight + step.progress * (self.last_weight - self.first_weight)
        difference = blind(noisy, network) - noisy
        return self.blind_weight * sum_squares(difference) + sum_squares(difference + weight * (visible - noisy))

    def denoise(self, noisy: Tensor, network: Network) -> Tensor:
        return (blind(noisy, network) + self.last_weight * network(noisy)) / (1 + self.last_weight)


@dataclass(frozen=True, kw_only=True)
class CyclicVariateFunction(Objective):
    r"""CVF-SID: split an image into a clean one and two noises, and their sum, put together anew, likewise.

    With the heads :math:`c, n_w, n_b` of F(y), the sum of the squares of

    .. math:: c + c^\gamma n_w + n_b - y, \quad F(c) - (c, 0, 0), \quad
              F(c + s_w c^\gamma n_w + s_b n_b) - (c, s_w n_w, s_b n_b)

    with random signs s, one for each image (the sign-flip augmentation), behind a stop-gradient on the right; and of

    .. math:: A(c - y), \quad \text{std}(y - c) - \hat s

    without which c = y would do: A averages over 7×7 pixels, :math:`\hat s` is the standard deviation of y where that
    is least (the tenth percentile over such windows).

    Args:
        gamma: :math:`\gamma`, the power of brightness that the noise :math:`n_w` has.

    Source: Neshatavar et al., "CVF-SID: cyclic multi-variate function for self-supervised image denoising by
    disentangling noise from image", CVPR 2022, doi:10.1109/CVPR52688.2022.01709.

    Departures: squares in place of absolute values; equal weights; one network with three heads in place of three
    networks; the last two terms are our reading of the source's regularisation.
    """

    heads: ClassVar[int] = 3
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative(gamma=self.gamma)

    def loss(self, noisy: Tensor, network: Network, step: Step) -> Tensor:
        clean, varying, even = network(noisy).chunk(3, 1)
        brightness = clean.clamp(min=0) ** self.gamma
        signs = random_signs(noisy.new_empty(2, len(noisy), 1, 1, 1), step.generator)
        targets = torch.cat([clean, signs[0] * varying, signs[1] * even], 1).detach()
        first, *noises = targets.chunk(3, 1)
        again = first + first.clamp(min=0) ** self.gamma * noises[0] + noises[1]
        nothing = torch.zeros_like(noisy)
        removed = noisy - clean
        excess = removed.flatten(1).std(1) - least_deviation(noisy)
        return (
            sum_squares(clean + brightness * varying + even - noisy)
            + sum_squares(network(first) - torch.cat([first, nothing, nothing], 1))
            + sum_squares(network(again) - targets)
            + sum_squares(averaging_filter(removed, WINDOW))
            + noisy[0].numel() * excess.square().mean()
        )


OBJECTIVES: dict[str, type[Objective]] = {
    "iddp": IDDP,
    "iddp-phases": IDDPWithPhases,
    "noise2void": Noise2Void,
    "neighbor2neighbor": Neighbor2Neighbor,
    "cvf-sid": CyclicVariateFunction,
    "blind2unblind": Blind2Unblind,
    "noise2noise": Noise2Noise,
    "supervised": Supervised,
}


def create_objective(name: str, **options: Any) -> Objective:
    """An objective by name, with its options.

    >>> create_objective("iddp").needs
    'none'
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective={name!r} is unknown; choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name](**options)


def sum_squares(difference: Tensor) -> Tensor:
    """Squares summed over each image, averaged over the batch."""
    return difference.square().sum() / len(difference)


def check_warm_up(part: float) -> None:
    if not (is_number(part) and 0 <= part <= 1):
        raise ValueError(f"warm_up={part} must lie in [0, 1]: a part of the training.")


def least_deviation(noisy: Tensor) -> Tensor:
    """The standard deviation of (B, C, H, W) images where it is least: the tenth percentile over windows, (B,)."""
    mean = averaging_filter(noisy, WINDOW)
    variance = (averaging_filter(noisy.square(), WINDOW) - mean.square()).clamp(min=0)
    return variance.sqrt().flatten(1).quantile(0.1, 1)
