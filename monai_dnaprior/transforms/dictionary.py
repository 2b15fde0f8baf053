"""Denoising as MONAI transforms of dictionaries of images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from .array import Denoise, pinned


class Denoised(MapTransform):
    """Dictionary form of :class:`Denoise`: denoise the images under the given keys.

    Args:
        keys: the images to denoise.
        method, slice_dim, channel_wise, batch_size, rician, device, progress, options: see :class:`Denoise`.
        residual: also store what was removed from ``key`` under ``f"residual_{key}"``.
        spread: also store the spread over the restarts under ``f"spread_{key}"``.
        allow_missing_keys: skip keys that are absent.

    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(Denoised("image", "median", residual=True)(noisy))
    ['image', 'residual_image']
    """

    backend = Denoise.backend

    def __init__(
        self,
        keys: KeysCollection,
        method: str,
        *,
        slice_dim: int = -1,
        channel_wise: bool = False,
        batch_size: int = 8,
        rician: bool = False,
        device: str | torch.device | None = None,
        progress: bool = False,
        residual: bool = False,
        spread: bool = False,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.denoise = Denoise(
            method,
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            rician=rician,
            device=device,
            progress=progress,
            residual=residual,
            spread=spread,
            **options,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            extras = {"residual": self.denoise.residual, "spread": self.denoise.spread}
            names = [key, *(f"{name}_{key}" for name, wanted in extras.items() if wanted)]
            output = self.denoise(d[key])
            d.update(zip(names, output if len(names) > 1 else [output], strict=True))
        return d


DenoiseD = DenoiseDict = Denoised


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


DNAPriorDenoiseD = DNAPriorDenoiseDict = DNAPriorDenoised
IDDPDenoiseD = IDDPDenoiseDict = IDDPDenoised
