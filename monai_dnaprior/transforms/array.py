"""Denoising as MONAI transforms of single images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from ..checks import check_flag
from ..denoisers.outcome import Outcome, along_axis, count_warnings
from ..denoisers.record import Record
from ..denoisers.registry import create_denoiser
from ..denoisers.result import Result
from ..files.disk import hash_of
from ..fitting.devices import computing_device, device_name
from ..training.weights import SHIPPED
from .metadata import name_of, slicing_of
from .signature import takes_parameters_of
from .slicing import AUTO, Slicing
from .volumes import Noise, check_spread, check_volume, denoise_volume, used_neighbours

logger = logging.getLogger(__name__)
RECORDS_KEY = "denoising"
LONG_DOUBLE = "g"  # which torch does not know
GIVEN = ("method", "options")  # what a transform of one method gives itself


class Denoise(Transform):
    """Denoise an image or every 2D slice of a volume with any denoiser of the list, in the image's own units.

    Args:
        method: one of :func:`~monai_dnaprior.denoisers.registry.list_denoisers`.
        slice_dim: spatial axis along which a volume is cut into slices, -3 to 2; "auto" is the one of thick slices
            where the affine tells, and else the last, axial for volumes as MONAI loads them. A 2D image is one slice.
        channel_wise: denoise every channel by itself (modalities, time points), or all together (RGB).
        batch_size: slices denoised side by side, on a CPU one a thread; None for what suits the device.
        neighbours: how many slices on each side help to denoise one of a volume, 0 to 3: a second pass, for methods
            with a network. None for the method's own choice: 1 for ``"dna-prior"`` with refinements, else 0.
        rician: the image holds magnitudes (MR): also take away what Rician noise adds to their mean.
        noise: what is known of the noise, in the image's units, in place of what is measured: its standard deviation,
            as a number or a map of the image's shape, or a :class:`~monai_dnaprior.noise.model.NoiseModel`.
        device: where to compute: ``"auto"`` (where the image lies if that is a GPU, else a GPU if there is one, else
            the CPU), ``"cpu"`` or ``"cuda"``.
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
    noise alike, which is harder to tell from anatomy.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> Denoise("tv")(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        method: str,
        *,
        slice_dim: int | str = AUTO,
        channel_wise: bool = False,
        batch_size: int | None = None,
        neighbours: int | None = None,
        rician: bool = False,
        noise: Noise | None = None,
        device: str | torch.device = "auto",
        progress: bool = False,
        residual: bool = False,
        spread: bool = False,
        **options: Any,
    ) -> None:
        check_flag(residual=residual, spread=spread)
        denoiser = create_denoiser(method, **options)  # which refuses what is out of range
        check_spread(denoiser, spread)
        self.method, self.options = method, options
        self.slicing = Slicing(
            slice_dim=slice_dim,
            channel_wise=channel_wise,
            batch_size=batch_size,
            neighbours=neighbours,
            rician=rician,
            progress=progress,
        )
        used_neighbours(denoiser, neighbours)  # which refuses them where the method can have none
        self.device = device_name(device)
        self.residual, self.spread, self.noise = residual, spread, noise

    def __call__(self, img: NdarrayOrTensor) -> Any:
        image = to_tensor(img)
        device = computing_device(self.device, near=image.device)
        denoiser = create_denoiser(self.method, **self.options)
        check_volume(image)
        slicing, doubts = slicing_of(img, self.slicing)
        result = denoise_volume(image.to(device), denoiser, slicing, noise=self.noise)
        log_result(name_of(img), result, slicing, doubts)
        outputs = [result.image]
        if self.residual:
            denoised = result.image.to(image.device)
            outputs.append(torch.where(image.isfinite(), image.double() - denoised, 0).float())
        if self.spread:
            outputs.append(result.spread)  # type: ignore[arg-type]
        converted = tuple(convert_like(img, output, result.records) for output in outputs)
        return converted if len(converted) > 1 else converted[0]


def denoising_records(image: MetaTensor) -> list[dict[str, Any]]:
    """The records of a denoised MetaTensor, one dictionary a slice (see
    :class:`~monai_dnaprior.denoisers.record.Record`).

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


def to_tensor(img: NdarrayOrTensor) -> torch.Tensor:
    """The tensor of an array of any type and byte order, or that may only be read."""
    if isinstance(img, np.ndarray):
        kind = img.dtype.newbyteorder("=") if img.dtype.char != LONG_DOUBLE else np.dtype(float)
        img = np.require(img, kind, "W")
    return convert_to_tensor(img, track_meta=False)


def convert_like(img: NdarrayOrTensor, values: torch.Tensor, records: list[Record]) -> Any:
    """Values in the container of img, on its device, with its metadata and the records."""
    output = convert_to_dst_type(values, dst=img, dtype=torch.float32)[0]
    if isinstance(output, MetaTensor):
        output.meta[RECORDS_KEY] = records_text(records)
    return output


def log_result(name: str, result: Result, slicing: Slicing, doubts: Sequence[str] = ()) -> None:
    """One line on a denoised image: which, how many slices, where, how noisy, how long, and all warnings."""
    records = result.records
    sigmas, steps = [record.sigma for record in records], [record.steps for record in records]
    warnings = [*doubts, *count_warnings([record.warnings for record in records])]
    logger.log(
        logging.WARNING if warnings else logging.INFO,
        "%s: %s%s; sigma %.4f to %.4f of the intensity range, steps %d to %d, %.1f s on %s%s",
        name,
        Outcome.of(record.stop_reason for record in records),
        along_axis(slicing.axis - 1),
        min(sigmas),
        max(sigmas),
        min(steps),
        max(steps),
        sum(record.seconds for record in records),
        ", ".join(sorted({record.device for record in records})),
        "".join(f"; warning: {text}" for text in warnings),
    )


class DNAPriorDenoise(Denoise):
    r"""Denoise an image or every 2D slice of a volume with DNA-Prior, in the image's own units.

    A network is fitted to each slice, :math:`\hat x = f_\theta(z)`, under spectral fidelity and total variation; no
    training data, no clean image and no noise level are needed. Slices without noise come out bit-identical.

    Args:
        preset: ``"default"``, ``"fast"`` (half the time), ``"instant"`` (a fifth, no network), ``"best"`` (several
            times slower), or ``"paper"`` for the published weights, network and 3,000 steps.
        steps: at most this many optimisation steps a slice; None for the preset's.
        tv_weight: weight of the total variation; None for the preset's (by default set from the estimated noise).
        restarts: fits of each slice, whose mean is the result; None for the preset's.
        seed: same seed, same image, same device: same bits. The global random state is neither read nor changed.
        others: see :class:`~monai_dnaprior.transforms.array.Denoise`, also for shapes, what is returned, errors, and
            where to place it.

    Source: Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025; what departs from
    the paper is said in :class:`~monai_dnaprior.denoisers.dnaprior.DNAPrior`.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> DNAPriorDenoise(steps=10)(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    @takes_parameters_of(Denoise, without=GIVEN)
    def __init__(
        self,
        *,
        preset: str = "default",
        steps: int | None = None,
        tv_weight: float | None = None,
        restarts: int | None = None,
        seed: int = 0,
        **others: Any,
    ) -> None:
        options: dict[str, Any] = {"preset": preset, "steps": steps, "tv_weight": tv_weight, "restarts": restarts}
        super().__init__("dna-prior", **options, seed=seed, **others)


class IDDPDenoise(Denoise):
    r"""Denoise an image or every 2D slice of a volume with IDDP's trained network, in the image's own units.

    One pass of a U-Net a slice, :math:`\hat x = F_\theta(y)`, which was trained on noisy images alone. Slices without
    noise come out bit-identical. With ``neighbours=1`` it is the fast way to nearly the quality of a fit of every
    slice.

    Args:
        weights: a file that :func:`~monai_dnaprior.training.weights.save_weights` wrote; None for those that are
        shipped.
        sha256: what the file's SHA-256 must be; None takes the one that it has now. A file that has another one when an
            image is denoised is refused.
        tile: larger slices are denoised in overlapping tiles of this side, in bounded memory.
        ensemble: average over the eight orientations of a slice, in eight times the time.
        refinements: rounds of a non-local filter that the network's output guides; two cost seconds and gain much.
        others: see :class:`~monai_dnaprior.transforms.array.Denoise`, also for shapes, what is returned, errors, and
            where to place it.

    Source: Lin et al., "Self-supervised image denoising using implicit deep denoiser prior", AAAI 2023,
    doi:10.1609/aaai.v37i2.25245; what departs from it is said in :class:`~monai_dnaprior.training.objectives.IDDP` and
    :class:`~monai_dnaprior.denoisers.trained.Trained`.

    >>> noisy = torch.rand(1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> IDDPDenoise()(noisy).shape
    torch.Size([1, 32, 32, 2])
    """

    @takes_parameters_of(Denoise, without=(*GIVEN, "spread"))
    def __init__(
        self,
        *,
        weights: str | None = None,
        sha256: str | None = None,
        tile: int = 512,
        ensemble: bool = False,
        refinements: int = 0,
        **others: Any,
    ) -> None:
        options: dict[str, Any] = {"weights": weights, "sha256": pin_hash(weights, sha256), "tile": tile}
        super().__init__("iddp", **options, ensemble=ensemble, refinements=refinements, **others)


def pin_hash(weights: str | None, sha256: str | None) -> str | None:
    """The hash of the weights: with it in a transform's state, a cache never serves what other weights denoised."""
    path = Path(weights or SHIPPED)
    return hash_of(path) if sha256 is None and path.is_file() else sha256
