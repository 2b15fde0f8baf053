"""The transforms of the two methods by their names: :class:`~monai_dnaprior.transforms.Denoise` with their options."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.config import KeysCollection

from .files.disk import hash_of
from .training.weights import SHIPPED
from .transforms import Denoise, Denoised


class DNAPriorDenoise(Denoise):
    r"""Denoise an image or every 2D slice of a volume with DNA-Prior, in the image's own units.

    A network is fitted to each slice, :math:`\hat x = f_\theta(z)`, under spectral fidelity and total variation; no
    training data, no clean image and no noise level are needed. Slices without noise come out bit-identical.

    Args:
        preset: ``"default"``, ``"fast"`` (half the time), ``"best"`` (several times slower), or ``"paper"`` for
            the published weights, network and 3,000 steps.
        steps: at most this many optimisation steps a slice; None for the preset's.
        tv_weight: weight of the total variation; None for the preset's (by default set from the estimated noise).
        restarts: fits of each slice, whose mean is the result; None for the preset's.
        seed: same seed, same image, same device: same bits. The global random state is neither read nor changed.
        others: see :class:`~monai_dnaprior.transforms.Denoise`, also for shapes, what is returned, errors, and where to
            place it.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025; what departs from
    the paper is said in :class:`~monai_dnaprior.denoisers.dnaprior.DNAPrior`.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> DNAPriorDenoise(steps=10)(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    def __init__(
        self,
        *,
        preset: str = "default",
        steps: int | None = None,
        tv_weight: float | None = None,
        restarts: int | None = None,
        slice_dim: int = -1,
        channel_wise: bool = False,
        batch_size: int = 8,
        rician: bool = False,
        device: str | torch.device | None = None,
        seed: int = 0,
        progress: bool = False,
        residual: bool = False,
        spread: bool = False,
    ) -> None:
        super().__init__(
            "dna-prior",
            preset=preset,
            steps=steps,
            tv_weight=tv_weight,
            restarts=restarts,
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            rician=rician,
            device=device,
            seed=seed,
            progress=progress,
            residual=residual,
            spread=spread,
        )


class DNAPriorDenoised(Denoised):
    """Dictionary form of :class:`DNAPriorDenoise`: denoise the images under the given keys.

    Args:
        keys: the images to denoise.
        preset, steps, tv_weight, restarts, slice_dim, channel_wise, batch_size, rician, device, seed, progress: see
            :class:`DNAPriorDenoise`.
        residual: also store what was removed from ``key`` under ``f"residual_{key}"``.
        spread: also store the spread over the restarts under ``f"spread_{key}"``.
        allow_missing_keys: skip keys that are absent.

    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(DNAPriorDenoised("image", steps=10, residual=True)(noisy))
    ['image', 'residual_image']
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        preset: str = "default",
        steps: int | None = None,
        tv_weight: float | None = None,
        restarts: int | None = None,
        slice_dim: int = -1,
        channel_wise: bool = False,
        batch_size: int = 8,
        rician: bool = False,
        device: str | torch.device | None = None,
        seed: int = 0,
        progress: bool = False,
        residual: bool = False,
        spread: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            "dna-prior",
            preset=preset,
            steps=steps,
            tv_weight=tv_weight,
            restarts=restarts,
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            rician=rician,
            device=device,
            seed=seed,
            progress=progress,
            residual=residual,
            spread=spread,
            allow_missing_keys=allow_missing_keys,
        )


class IDDPDenoise(Denoise):
    r"""Denoise an image or every 2D slice of a volume with IDDP's trained network, in the image's own units.

    One pass of a U-Net a slice, :math:`\hat x = F_\theta(y)`, which was trained on noisy images alone. Slices without
    noise come out bit-identical.

    Args:
        weights: a file that :func:`~monai_dnaprior.training.weights.save_weights` wrote; None for those that are
        shipped.
        sha256: what the file's SHA-256 must be; None takes the one that it has now. A file that has another one when an
            image is denoised is refused.
        tile: larger slices are denoised in overlapping tiles of this side, in bounded memory.
        ensemble: average over the eight orientations of a slice, in eight times the time.
        refinements: rounds of a non-local filter that the network's output guides; two cost seconds and gain much.
        others: see :class:`~monai_dnaprior.transforms.Denoise`, also for shapes, what is returned, errors, and where to
            place it.

    Source: Lin et al., "Self-supervised image denoising using implicit deep denoiser prior", AAAI 2023,
    doi:10.1609/aaai.v37i2.25245; what departs from it is said in :class:`~monai_dnaprior.training.objectives.IDDP` and
    :class:`~monai_dnaprior.denoisers.trained.Trained`.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> IDDPDenoise()(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        sha256: str | None = None,
        tile: int = 512,
        ensemble: bool = False,
        refinements: int = 0,
        slice_dim: int = -1,
        channel_wise: bool = False,
        batch_size: int = 8,
        rician: bool = False,
        device: str | torch.device | None = None,
        progress: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(
            "iddp",
            weights=weights,
            sha256=pinned(weights, sha256),
            tile=tile,
            ensemble=ensemble,
            refinements=refinements,
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            rician=rician,
            device=device,
            progress=progress,
            residual=residual,
        )


class IDDPDenoised(Denoised):
    """Dictionary form of :class:`IDDPDenoise`: denoise the images under the given keys.

    Args:
        keys: the images to denoise.
        weights, sha256, tile, ensemble, refinements, slice_dim, channel_wise, batch_size, rician, device, progress: see
            :class:`IDDPDenoise`.
        residual: also store what was removed from ``key`` under ``f"residual_{key}"``.
        allow_missing_keys: skip keys that are absent.

    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(IDDPDenoised("image", residual=True)(noisy))
    ['image', 'residual_image']
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        weights: str | None = None,
        sha256: str | None = None,
        tile: int = 512,
        ensemble: bool = False,
        refinements: int = 0,
        slice_dim: int = -1,
        channel_wise: bool = False,
        batch_size: int = 8,
        rician: bool = False,
        device: str | torch.device | None = None,
        progress: bool = False,
        residual: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys,
            "iddp",
            weights=weights,
            sha256=pinned(weights, sha256),
            tile=tile,
            ensemble=ensemble,
            refinements=refinements,
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            rician=rician,
            device=device,
            progress=progress,
            residual=residual,
            allow_missing_keys=allow_missing_keys,
        )


def pinned(weights: str | None, sha256: str | None) -> str | None:
    """The hash of the weights: with it in a transform's state, a cache never serves what other weights denoised."""
    path = Path(weights or SHIPPED)
    return hash_of(path) if sha256 is None and path.is_file() else sha256


DNAPriorDenoiseD = DNAPriorDenoiseDict = DNAPriorDenoised
IDDPDenoiseD = IDDPDenoiseDict = IDDPDenoised
