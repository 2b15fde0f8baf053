"""A network that was trained on many images, as a denoiser: one pass an image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from ..checks import check_not_negative, check_whole
from ..fitting.stopping import root_mean_square
from ..fitting.threads import side_by_side
from ..fitting.tiles import map_tiles
from ..noise.estimate import CORRELATED, local_mean, local_noise, varying_pixels
from ..noise.groups import cosines
from ..noise.model import NoiseModel
from ..training.unet import DenoisingUNet
from ..training.weights import SHIPPED, SHIPPED_CORRELATED, TrainedNetwork, load_weights
from .nonlocal_bayes import refine
from .record import Known, Record
from .result import Result, check_noisy
from .safeguards import Safeguards, measure_all, measure_correlated, measure_noise

SURROUNDINGS = 33  # side of the window over which the noise around a pixel is measured
WINDOW = 9  # side of the one over which what is removed is compared with it
SEEN = 1.4  # times 1/255 is the weakest noise of the training
WIDE = 0.8  # contrast that images have whose noise is weak in the whole range of intensities only
MOST = 2.5  # times the noise level of an image may be removed in all: most of it may lie in few places
BAND, MOST_IN_BAND = 9, 2.0  # frequencies along each axis, and how many times the noise's amplitude in them may go
UNCERTAIN = 0.05  # of the mean of a measured spectrum
LIMIT = 1.2  # so many times its standard deviation may be removed, because of few pixels it varies
WHOLE, MOST_DRAWN = 50 / 255, 0.6  # noise so strong that the second network alone would count, and its largest share
ENOUGH = 0.8  # part of correlated noise with less of which removed the other network is tried, too
NEAR = 0.2  # times the noise level two networks may differ by for that share
BLOCK = 8  # side of the blocks by whose means the darkest place is found


@dataclass(frozen=True, kw_only=True)
class Trained:
    r"""IDDP, or another network trained on many images: :math:`\hat x = F_\theta(y)`, one pass an image.

    A network for one channel denoises the mean of a colour image's channels, then their differences: in this
    orthonormal basis most of the image is in one channel, and noise is white in all.

    Args:
        weights: a file that :func:`~monai_dnaprior.training.weights.save_weights` wrote; None for those of IDDP that
            are shipped with the package.
        correlated_weights: the same, of a network for images whose noise is measured to be correlated; None for those
            that are shipped, or for ``weights`` if that is given. Where noise is white, what it makes of an image draws
            the other's output to its own, the more the stronger the noise is: see :func:`join`. Where it removes less
            than 0.8 of correlated noise, the other is tried, too, and the one taken that removes more.
        sha256: what the file's SHA-256 must be, if it is known.
        tile: images with a longer side are denoised in square tiles of this side, which overlap by a quarter and are
            blended, so that the memory needed does not grow with the image.
        ensemble: average what the network makes of the image's eight orientations, in eight times the time.
        refinements: rounds of :func:`~monai_dnaprior.denoisers.nonlocal_bayes.refine`, a non-local filter that the
            network's output guides: two gain about as much as a fit, in less time.
        limited: remove no more than the noise around each pixel, of correlated noise at each frequency, and in all not
            far more than the noise level of the image. With refinements, and where neighbouring pixels are alike, the
            noise is measured first, in part of a second.
        clean_sigma: images with less estimated noise than this are given back as they came. Correlated noise is noise
            however weak it is, and is removed with refinements; one pass alone leaves what is weaker than 1.4 times
            this, of which the networks have seen none.

    Shapes: noisy (B, C, H, W), float, about [0, 1], of any size. Pixels that equal all their neighbours (an empty
    background) come out as they are. Noise that depends on brightness is stabilised first, for the refinements only:
    the network itself goes by the noise around each pixel.

    >>> noisy = torch.rand(1, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = Trained()(noisy)
    >>> result.image.shape, result.records[0].stop_reason
    (torch.Size([1, 3, 33, 47]), 'network')
    """

    whitened: ClassVar[bool] = True  # it takes the correlation of the noise into account

    weights: str | PathLike | None = None
    correlated_weights: str | PathLike | None = None
    sha256: str | None = None
    tile: int = 512
    ensemble: bool = False
    refinements: int = 0
    limited: bool = True
    clean_sigma: float = 1 / 255

    def __post_init__(self) -> None:
        check_whole(64, tile=self.tile)
        check_whole(0, refinements=self.refinements)
        check_not_negative(clean_sigma=self.clean_sigma)
        self.trained()
        self.correlated()

    def trained(self) -> TrainedNetwork:
        """What the weights hold."""
        return load_weights(self.weights_file, sha256=self.sha256)

    def correlated(self) -> TrainedNetwork:
        """The same for correlated noise."""
        return load_weights(self.correlated_weights or self.weights or SHIPPED_CORRELATED)

    @property
    def weights_file(self) -> Path:
        """The file of the weights, those that are shipped if none is given."""
        return Path(self.weights or SHIPPED)

    def network(self) -> DenoisingUNet:
        """The trained network; it is shared, do not change it."""
        return self.trained().network

    def __call__(
        self,
        noisy: Tensor,
        *,
        slice_indices: Sequence[int] | None = None,
        noise: Sequence[Known] | None = None,
        network: nn.Module | None = None,
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` takes the place of the one that ``weights`` hold."""
        check_noisy(noisy)
        white, correlated = self.trained(), self.correlated()
        white = place_network(white, network or white.network, noisy)
        correlated = place_network(correlated, correlated.network, noisy)
        guards = measure_all(self.safeguards if self.refinements else self.light_safeguards, noisy, noise)
        outcomes = side_by_side(partial(self.denoise_one, white, correlated), guards, device=noisy.device)
        images, records = zip(*outcomes, strict=True)
        kept = [guard if self.refinements or not guard.noise.assumed else None for guard in guards]
        return Result(torch.cat(images), list(records), guards=kept)

    def safeguards(self, noisy: Tensor, known: Known | None) -> Safeguards:
        """One image (1, C, H, W) as a filter sees it, with what is known or measured of its noise."""
        return Safeguards.of(noisy, known, stabilise=True, measure=measure_noise)

    def light_safeguards(self, noisy: Tensor, known: Known | None) -> Safeguards:
        """The same as the network sees it, which stabilises by itself."""
        return Safeguards.of(noisy, known, stabilise=False, measure=measure_correlated)

    def denoise_one(
        self, white: TrainedNetwork, correlated: TrainedNetwork, guard: Safeguards
    ) -> tuple[Tensor, Record]:
        """One image: leave it alone, or pass it through a network, where this is; a pixel that fails stays as it is."""
        with torch.no_grad():
            guard = guard.to(next(white.network.parameters()).device)
            least = 0.0 if self.refinements else SEEN * self.clean_sigma
            if reason := guard.reason_to_leave(self.clean_sigma, least_correlated=least):
                return guard.leave(reason)
            noise = guard.noise
            factor = max(1.0, WIDE / guard.contrast) if noise.sigma < self.clean_sigma else 1.0
            removed = self.noise_removed(white, correlated, factor * guard.noisy, noise.scale(factor)) / factor
            if self.limited:
                most = (1 if guard.kind.correlation > CORRELATED else MOST) * noise.sigma
                removed = removed * limit_energy(removed.new_tensor(most**2), removed.square().mean())
            record = Record(sigma=noise.sigma, stop_reason="network", residual=root_mean_square(removed))
            return guard.finish(guard.noisy - removed, record, whitened=True)

    def noise_removed(
        self, white: TrainedNetwork, correlated: TrainedNetwork, noisy: Tensor, noise: NoiseModel
    ) -> Tensor:
        """What one pass of the networks, and the filter that it guides, take away from an image."""
        first, second = (white, correlated) if noise.is_white else (correlated, white)
        estimate = self.one_pass(first, noisy)
        if self.weights is None or self.correlated_weights is not None:
            if noise.is_white:
                estimate = join(estimate, self.one_pass(second, noisy), noise.sigma)
            elif root_mean_square(noisy - estimate) < ENOUGH * noise.sigma:
                estimate = max(
                    estimate, self.one_pass(second, noisy), key=lambda image: root_mean_square(noisy - image)
                )
        estimate = refine(noisy, estimate, noise, rounds=self.refinements)
        seen = varying_pixels(noisy) & estimate.isfinite()
        removed = torch.where(seen, noisy - estimate, 0)
        if not self.limited:
            return removed
        return torch.where(seen, limit_bands(limit_removal(removed, noisy, noise), noise), 0)

    def one_pass(self, trained: TrainedNetwork, noisy: Tensor) -> Tensor:
        """What a network makes of an image, in tiles and orientations as they are wanted."""
        network = trained.network
        denoise = partial(map_tiles, partial(trained.objective.denoise, network=network), side=self.tile)
        denoise = partial(average_orientations, denoise=denoise) if self.ensemble else denoise
        return denoise(noisy) if noisy.shape[1] == network.channels else denoise_planes(noisy, denoise)


def join(estimate: Tensor, other: Tensor, sigma: float) -> Tensor:
    r"""The estimate of a network for white noise, drawn to that of one for all noise, (B, C, H, W) each.

    .. math:: \hat x + \min(\tfrac{\sigma}{50}, 0.6) \, \min\bigl(1, \tfrac{(0.2\,\sigma)^2}{A d^2}\bigr)^2 d, \qquad
              d = \hat x' - \hat x

    with :math:`\sigma` of 255, and A the mean over 9×9 pixels and the channels. The mean of the two is better than
    either, but the second takes a fine pattern for noise, where it differs by far more than such networks do.

    >>> estimate = torch.zeros(1, 1, 12, 12)
    >>> [round(join(estimate, estimate + 0.01 * far, 25 / 255).mean().item(), 4) for far in (1, 8)]
    [0.005, 0.0001]
    """
    difference = other - estimate
    energy = local_mean(difference.square().mean(1, keepdim=True), WINDOW)
    near = ((NEAR * sigma) ** 2 / energy.clamp(min=torch.finfo(energy.dtype).tiny)).clamp(max=1).square()
    return estimate + min(sigma / WHOLE, MOST_DRAWN) * near * difference


def limit_removal(removed: Tensor, noisy: Tensor, noise: NoiseModel) -> Tensor:
    """What is removed from images (B, C, H, W), scaled down where it is more than the noise around a pixel.

    Of colours in each plane of an orthonormal basis, in one of which most of the image lies.
    """
    basis = cosines(noisy.shape[1]).to(noisy)
    planes, image = (torch.einsum("kc,bchw->bkhw", basis, values) for values in (removed, noisy))
    level = local_noise(image, SURROUNDINGS) if noise.is_white else noise.variance(image)
    limit = LIMIT**2 * level
    planes = planes * limit_energy(limit, local_mean(planes.square(), WINDOW))
    return torch.einsum("kc,bkhw->bchw", basis, planes)


def limit_bands(removed: Tensor, noise: NoiseModel) -> Tensor:
    """What is removed from an image (1, C, H, W), scaled down at frequencies that correlated noise hardly has.

    Over 9×9 frequencies no more than twice the amplitude of the noise, and of what its spectrum is uncertain by: a fine
    pattern is left alone that a network takes for noise.
    """
    if noise.is_white:
        return removed
    height, width = removed.shape[-2:]
    spectrum = (noise.spectrum(height, width) + UNCERTAIN).to(removed)
    coefficients = torch.fft.fft2(removed if noise.deviation is None else removed / noise.deviation)
    power = pad(coefficients.abs().square(), [BAND // 2] * 4, "circular")
    limit = (MOST_IN_BAND * noise.sigma) ** 2 * height * width * spectrum
    limited = torch.fft.ifft2(coefficients * limit_energy(limit, avg_pool2d(power, BAND, stride=1))).real
    return limited if noise.deviation is None else noise.deviation * limited


def limit_energy(limit: Tensor, energy: Tensor) -> Tensor:
    """The factor, at most 1, by which amplitudes of this energy (mean square) fall to the limit of it."""
    return (limit / energy.clamp(min=torch.finfo(energy.dtype).tiny)).clamp(max=1).sqrt()


def place_network(trained: TrainedNetwork, network: nn.Module, noisy: Tensor) -> TrainedNetwork:
    """A network in place of the trained one, or its copy on the device of an image: one that is shared never moves."""
    if not isinstance(network, DenoisingUNet):
        raise TypeError(f"network={type(network).__name__} must be a DenoisingUNet; take the one that network() gives.")
    if network.channels not in (1, noisy.shape[1]):
        raise ValueError(f"network takes {network.channels} channels, the image has {noisy.shape[1]}.")
    if next(network.parameters()).device != noisy.device:
        copied = copy_shared if network is trained.network else copy_to
        network = copied(network, noisy.device)
    return replace(trained, network=network)


def copy_to(network: DenoisingUNet, device: torch.device) -> DenoisingUNet:
    return copy.deepcopy(network).to(device)


copy_shared = lru_cache(maxsize=4)(copy_to)  # of networks that nobody changes


def average_orientations(image: Tensor, denoise: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what a function makes of an image turned by quarters and mirrored, each turned back."""
    total = torch.zeros_like(image)
    for quarters in range(4):
        for mirrored in ([], [-1]):
            denoised = denoise(image.rot90(quarters, (-2, -1)).flip(mirrored))
            total = total + denoised.flip(mirrored).rot90(-quarters, (-2, -1))
    return total / 8


def denoise_planes(image: Tensor, denoise: Callable[[Tensor], Tensor]) -> Tensor:
    """Denoise an image (1, C, H, W) with a function for one channel: its mean and its differences, each from 0 up.

    Differences have either sign, but the network has learnt from images whose darkest places are about 0.
    """
    channels = image.shape[1]
    basis = cosines(channels).to(image)
    scale = image.new_tensor([channels**-0.5, *[1.0] * (channels - 1)])[:, None, None]
    planes = torch.einsum("kc,bchw->bkhw", basis, image) * scale
    block = min(BLOCK, *image.shape[-2:])
    darkest = avg_pool2d(planes, block).amin((-2, -1), keepdim=True)
    denoised = torch.cat([denoise(plane) for plane in (planes - darkest).split(1, dim=1)], 1)
    return torch.einsum("kc,bkhw->bchw", basis, (denoised + darkest) / scale)
