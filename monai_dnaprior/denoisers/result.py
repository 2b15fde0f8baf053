"""What every denoiser takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..fitting.devices import device_name
from .record import Known, Record
from .safeguards import Safeguards


@dataclass(frozen=True)
class Result:
    """Denoised images (B, C, H, W), one record for each, and where a fit was restarted the spread over its restarts.

    The spread, of the images' shape, is the standard deviation of what the restarts gave: how much of a pixel depends
    on where the fit began. The guards, one an image, hold what a filter that follows need not measure
    again; None where it was not measured.
    """

    image: Tensor
    records: list[Record]
    spread: Tensor | None = None
    guards: Sequence[Safeguards | None] | None = None


class Denoiser(Protocol):
    """Noisy images in, (B, C, H, W) with intensities about [0, 1]; the same shape and one record an image out.

    ``slice_indices`` numbers the images within their volume, so that a slice is treated alike in any batch. ``noise``
    is what is known of the noise in each image, in place of what is measured, see
    :meth:`~monai_dnaprior.noise.model.NoiseModel.given`.
    """

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, noise: Sequence[Known] | None = None
    ) -> Result: ...


def check_noisy(noisy: Tensor) -> None:
    """Refuse what no denoiser can treat, naming what to do."""
    if not isinstance(noisy, Tensor):
        raise TypeError(f"noisy={type(noisy).__name__} must be a torch.Tensor; convert it with torch.as_tensor.")
    device_name(noisy.device)
    if not noisy.is_floating_point():
        raise TypeError(f"noisy.dtype={noisy.dtype} must be floating point; convert it with noisy.float().")
    if noisy.ndim != 4 or noisy.numel() == 0:
        raise ValueError(f"noisy.shape={tuple(noisy.shape)} must be (B, C, H, W), none of them 0.")
    if not noisy.isfinite().all():
        raise ValueError("noisy holds NaN or infinite values; fill them first, as the transforms do.")
