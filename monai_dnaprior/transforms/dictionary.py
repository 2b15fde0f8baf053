"""Denoising as MONAI transforms of dictionaries of images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from .array import Denoise, DNAPriorDenoise, IDDPDenoise
from .signature import with_keys


class Denoised(MapTransform):
    """Dictionary form of :class:`~monai_dnaprior.transforms.array.Denoise`: denoise the images under the given keys.

    Args:
        keys: the images to denoise.
        allow_missing_keys: skip keys that are absent.
        residual: also store what was removed from ``key`` under ``f"residual_{key}"``.
        spread: also store the spread over the restarts under ``f"spread_{key}"``.
        others: those of the array form.

    >>> import torch
    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(Denoised("image", "median", residual=True)(noisy))
    ['image', 'residual_image']
    """

    array: type[Denoise] = Denoise
    backend = [TransformBackends.TORCH]
    __signature__ = with_keys(Denoise)

    def __init__(self, keys: KeysCollection, *arguments: Any, allow_missing_keys: bool = False, **others: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.denoise = self.array(*arguments, **others)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            extras = {"residual": self.denoise.residual, "spread": self.denoise.spread}
            names = [key, *(f"{name}_{key}" for name, wanted in extras.items() if wanted)]
            output = self.denoise(d[key])
            d.update(zip(names, output if len(names) > 1 else [output], strict=True))
        return d


class DNAPriorDenoised(Denoised):
    """Dictionary form of :class:`~monai_dnaprior.transforms.array.DNAPriorDenoise`; see :class:`Denoised`.

    >>> import torch
    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(DNAPriorDenoised("image", steps=10, residual=True)(noisy))
    ['image', 'residual_image']
    """

    array = DNAPriorDenoise
    __signature__ = with_keys(DNAPriorDenoise)


class IDDPDenoised(Denoised):
    """Dictionary form of :class:`~monai_dnaprior.transforms.array.IDDPDenoise`; see :class:`Denoised`.

    >>> import torch
    >>> noisy = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    >>> sorted(IDDPDenoised("image", residual=True)(noisy))
    ['image', 'residual_image']
    """

    array = IDDPDenoise
    __signature__ = with_keys(IDDPDenoise)


DenoiseD = DenoiseDict = Denoised
DNAPriorDenoiseD = DNAPriorDenoiseDict = DNAPriorDenoised
IDDPDenoiseD = IDDPDenoiseDict = IDDPDenoised
