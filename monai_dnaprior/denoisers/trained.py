"""A network that was trained on many images, as a denoiser: one pass an image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..checks import check_not_negative, check_whole
from ..fitting.stopping import root_mean_square
from ..fitting.threads import side_by_side
from ..fitting.tiles import map_tiles
from ..noise.estimate import CORRELATED, local_mean, local_noise, varying_pixels
from ..noise.model import NoiseModel
from ..training.objectives import Objective
from ..training.unet import DenoisingUNet
from ..training.weights import SHIPPED, TrainedNetwork, load_weights
from .nonlocal_bayes import cosines, refine
from .result import Record, Result, check_noisy
from .safeguards import Safeguards

SURROUNDINGS = 33  # side of the window over which the noise around a pixel is measured
WINDOW = 9  # side of the one over which what is removed is compared with it
LIMIT = 1.2  # so many times its standard deviation may be removed, because of few pixels it varies
BLOCK = 8  # side of the blocks by whose means the darkest place is found


@dataclass(frozen=True, kw_only=True)
class Trained:
    r"""IDDP, or another network trained on many images: :math:`\hat x = F_\theta(y)`, one pass an image.

    A network for one channel treats the channels of a colour image one by one, in an orthonormal basis (their mean,
    then differences), in which the image is most of one channel and noise is white in all.

    Args:
        weights: a file that :func:`~monai_dnaprior.training.weights.save_weights` wrote; None for those of IDDP that
            are shipped with the package.
        sha256: what the file's SHA-256 must be, if it is known.
        tile: images with a longer side are denoised in square tiles of this side, which overlap by a quarter and are
            blended, so that the memory needed does not grow with the image.
        ensemble: average what the network makes of the image's eight orientations, in eight times the time.
        refinements: rounds of a non-local filter, :func:`~monai_dnaprior.denoisers.nonlocal_bayes.refine`, which the
            network's output guides: two gain about as much as a fit, in less time.
        limited: scale down what is removed where it is more than the noise around a pixel, and, where neighbouring
            pixels' noise is alike, to the noise level of the image. For refinements, and for weights that are given,
            which may be of a network that removes such noise, its correlation and level are measured, in a second.
        clean_sigma: images with less estimated noise than this are given back as they came.

    Shapes: noisy (B, C, H, W), float, about [0, 1], of any size. Pixels that equal all their neighbours (an empty
    background) come out as they are. Noise that depends on brightness is stabilised first, for the refinements only:
    the network itself goes by the noise around each pixel.

    >>> noisy = torch.rand(1, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    >>> result = Trained()(noisy)
    >>> result.image.shape, result.records[0].stop_reason
    (torch.Size([1, 3, 33, 47]), 'network')
    """

    weights: str | PathLike | None = None
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

    def trained(self) -> TrainedNetwork:
        """What the weights hold."""
        return load_weights(self.weights_file, sha256=self.sha256)

    @property
    def weights_file(self) -> Path:
        """The file of the weights, those that are shipped if none is given."""
        return Path(self.weights or SHIPPED)

    def network(self) -> DenoisingUNet:
        """The trained network; it is shared, do not change it."""
        return self.trained().network

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, network: nn.Module | None = None
    ) -> Result:
        """Denoise (B, C, H, W) images; ``network`` takes the place of the one that the weights hold."""
        check_noisy(noisy)
        trained = self.trained()
        module = place_network(check_network(network or trained.network, channels=noisy.shape[1]), noisy.device)
        denoise_one = partial(self.denoise_one, module, trained.objective)
        outcomes = side_by_side(denoise_one, noisy.split(1), device=noisy.device)
        images, records = zip(*outcomes, strict=True)
        return Result(torch.cat(images), list(records))

    def denoise_one(self, network: DenoisingUNet, objective: Objective, noisy: Tensor) -> tuple[Tensor, Record]:
        """One image (1, C, H, W): leave it alone, or pass it through the network; a pixel that fails stays as it is."""
        with torch.no_grad():
            filtered = self.refinements > 0
            guard = Safeguards.of(noisy, stabilise=filtered, correlation=filtered or self.weights is not None)
            if reason := guard.reason_to_leave(self.clean_sigma):
                return guard.leave(reason)
            removed = self.noise_removed(network, objective, guard.noisy, guard.noise)
            if self.limited and guard.kind.correlation > CORRELATED:
                removed = removed * limit_energy(removed.new_tensor(guard.noise.sigma**2), removed.square().mean())
            record = Record(sigma=guard.noise.sigma, stop_reason="network", residual=root_mean_square(removed))
            return guard.finish(guard.noisy - removed, record, whitened=filtered)

    def noise_removed(self, network: DenoisingUNet, objective: Objective, noisy: Tensor, noise: NoiseModel) -> Tensor:
        """What one pass of the network, and the filter that it guides, take away from an image."""
        denoise = partial(map_tiles, partial(objective.denoise, network=network), side=self.tile)
        denoise = partial(average_orientations, denoise=denoise) if self.ensemble else denoise
        estimate = denoise(noisy) if noisy.shape[1] == network.channels else denoise_planes(noisy, denoise)
        estimate = refine(noisy, estimate, noise, rounds=self.refinements)
        seen = varying_pixels(noisy) & estimate.isfinite()
        removed = torch.where(seen, noisy - estimate, 0)
        return torch.where(seen, limit_removal(removed, noisy, noise), 0) if self.limited else removed


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


def limit_energy(limit: Tensor, energy: Tensor) -> Tensor:
    """The factor, at most 1, by which amplitudes of this energy (mean square) fall to the limit of it."""
    return (limit / energy.clamp(min=torch.finfo(energy.dtype).tiny)).clamp(max=1).sqrt()


def check_network(network: nn.Module, *, channels: int) -> DenoisingUNet:
    """The network, if it can denoise images of so many channels."""
    if not isinstance(network, DenoisingUNet):
        raise TypeError(f"network={type(network).__name__} must be a DenoisingUNet; take the one that network() gives.")
    if network.channels not in (1, channels):
        raise ValueError(f"network takes {network.channels} channels, the image has {channels}.")
    return network


def place_network(network: DenoisingUNet, device: torch.device) -> DenoisingUNet:
    """The network, or a copy of it, on this device: the one that weights were read into is never moved."""
    here = next(network.parameters()).device == device
    return network if here else copy.deepcopy(network).to(device)


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
