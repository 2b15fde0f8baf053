"""Denoising as MONAI transforms, for single images and for dictionaries of them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from .checks import check_flag
from .denoisers.registry import create_denoiser
from .denoisers.result import Record
from .fitting.devices import computing_device, device_name
from .volumes import check_slicing, denoise_volume

RECORDS_KEY = "denoising"


class Denoise(Transform):
    """Denoise an image or every 2D slice of a volume with any denoiser of the list, in the image's own units.

    Args:
        method: one of :func:`~monai_dnaprior.denoisers.registry.list_denoisers`.
        slice_dim: spatial axis along which a volume is cut into slices, -3 to 2; -1 is axial for volumes as MONAI
            loads them. A 2D image is one slice.
        channel_wise: denoise every channel by itself (modalities, time points), or all together (RGB).
        batch_size: slices fitted side by side, on a CPU one a thread; the result does not depend on it.
        rician: the image holds magnitudes (MR): also take away what Rician noise adds to their mean.
        device: where to compute, for instance ``"cuda"``; None for the device of the image.
        progress: show a progress bar.
        residual: also return what was removed.
        spread: also return the standard deviation over the restarts of each slice's fit, in the image's units: how much
            of a voxel depends on where the fit began. It needs a method with ``restarts`` of at least 2.
        options: the method's own, see :func:`~monai_dnaprior.denoisers.registry.create_denoiser`.

    Shapes: (C, H, W) or (C, H, W, D); numpy array, tensor or MetaTensor, of any real type.

    Returns:
        the denoised image: same container, shape, units, device and metadata, float32. NaN and infinite voxels and
        constant slices come out bit-identical. A MetaTensor's metadata gains the records of its slices, see
        :func:`denoising_records`. With ``residual`` or ``spread``, a tuple: image, input minus output, spread.

    Raises:
        ValueError, TypeError: a parameter or an image out of range, with its name, value and remedy.

    Place it **before** ``Spacing`` and before a ``ScaleIntensityRange`` that clips: resampling makes neighbouring
    noise alike, and no denoiser of this kind can tell that from anatomy.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> Denoise("tv")(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
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
        **options: Any,
    ) -> None:
        check_flag(residual=residual, spread=spread)
        denoiser = create_denoiser(method, **options)  # refuses what is out of range
        if spread and getattr(denoiser, "restarts", 1) < 2:
            raise ValueError("spread=True needs a fit that is restarted; set restarts to at least 2.")
        self.method, self.options = method, options
        self.slicing = check_slicing(
            slice_dim=slice_dim, channel_wise=channel_wise, batch_size=batch_size, rician=rician, progress=progress
        )
        self.device = None if device is None else device_name(device)
        self.residual, self.spread = residual, spread

    def __call__(self, img: NdarrayOrTensor) -> Any:
        image = convert_to_tensor(img, track_meta=False)
        device = computing_device(self.device or image.device)
        denoiser = create_denoiser(self.method, **self.options)
        result = denoise_volume(image.to(device), denoiser, **self.slicing)
        outputs = [result.image]
        if self.residual:
            denoised = result.image.to(image.device)
            outputs.append(torch.where(image.isfinite(), image.double() - denoised, 0).float())
        if self.spread:
            outputs.append(result.spread)  # type: ignore[arg-type]
        converted = tuple(like(img, output, result.records) for output in outputs)
        return converted if len(converted) > 1 else converted[0]


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


def denoising_records(image: MetaTensor) -> list[dict[str, Any]]:
    """The records of a denoised MetaTensor, one dictionary a slice (see
    :class:`~monai_dnaprior.denoisers.result.Record`).

    They are stored in the metadata as text, so that any number of slices survives a DataLoader's collation.
    """
    text = image.meta.get(RECORDS_KEY) if isinstance(image, MetaTensor) else None
    if isinstance(text, list):
        raise ValueError("image is a batch, with records for each image; pass it through decollate_batch first.")
    if text is None:
        raise ValueError("image has no denoising records; they are in the metadata of a denoised MetaTensor.")
    return json.loads(text)


def records_text(records: list[Record]) -> str:
    return json.dumps([asdict(record) for record in records])


def like(img: NdarrayOrTensor, values: torch.Tensor, records: list[Record]) -> Any:
    """The values in the container of img, on its device, with its metadata and the records."""
    output = convert_to_dst_type(values, dst=img, dtype=torch.float32)[0]
    if isinstance(output, MetaTensor):
        output.meta[RECORDS_KEY] = records_text(records)
    return output
