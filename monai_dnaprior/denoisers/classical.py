"""Denoisers without a network: classical filters, with the noise level estimated where they need one."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_positive, is_number
from ..noise.background import exact_background, fill_background
from ..noise.estimate import estimate_sigma
from ..noise.model import NoiseModel
from .record import Known, Record
from .result import Result, check_noisy

TV_WEIGHT_PER_SIGMA = 1.0
NL_MEANS_STRENGTH = 0.8
BM3D_SIDE = 40  # its search window; with shorter sides its native code reads beyond the image


@dataclass(frozen=True, kw_only=True)
class Classical:
    """A filter ``image = filter(noisy, sigma)`` on one image (H, W, C) at a time, as a denoiser.

    Args:
        filter: takes the image as numpy, float32, and its noise level.
        sigma: standard deviation of the noise; None estimates it for each image.
    """

    filter: Callable[[np.ndarray, float], np.ndarray]
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and not (is_number(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma={self.sigma} must be positive; leave it out to have it estimated.")

    def __call__(
        self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, noise: Sequence[Known] | None = None
    ) -> Result:
        check_noisy(noisy)
        device, noisy = noisy.device, noisy.cpu()
        if noise is not None:
            sigmas = [NoiseModel(0).given(known).sigma for known in noise]
        else:
            sigmas = estimate_sigma(noisy).tolist() if self.sigma is None else [self.sigma] * len(noisy)
        pairs = [self._denoise(image.detach().float(), sigma) for image, sigma in zip(noisy, sigmas, strict=True)]
        return Result(torch.stack([image for image, _ in pairs]).to(device), [record for _, record in pairs])

    def _denoise(self, noisy: Tensor, sigma: float) -> tuple[Tensor, Record]:
        """One image (C, H, W)."""
        started = time.perf_counter()
        image, reason = noisy.clone(), "filter"
        if noisy.min() == noisy.max():
            reason = "constant"
        elif sigma == 0:
            reason = "clean"
        else:
            background = exact_background(noisy[None])
            seen = fill_background(noisy[None], background)[0]
            filtered = self.filter(seen.movedim(0, -1).numpy(), sigma)
            image = torch.from_numpy(np.ascontiguousarray(filtered, dtype=np.float32)).movedim(-1, 0)
            image = torch.where(background[0], noisy, image)
        residual = (noisy - image).square().mean().sqrt().item()
        seconds = time.perf_counter() - started
        return image.contiguous(), Record(sigma=sigma, stop_reason=reason, residual=residual, seconds=seconds)


def identity(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """The image as it came. For checks of files in and out."""
    return noisy


def gaussian(noisy: np.ndarray, sigma: float, *, width: float = 1.0) -> np.ndarray:
    """Gaussian filter, ``skimage.filters.gaussian``, whatever the noise.

    Args:
        width: standard deviation in pixels.
    """
    from skimage.filters import gaussian as smooth

    return smooth(noisy, width, channel_axis=-1)


def median(noisy: np.ndarray, sigma: float, *, size: int = 3) -> np.ndarray:
    """Median over a square of pixels, ``scipy.ndimage.median_filter``, whatever the noise.

    Args:
        size: side of the square.
    """
    from scipy.ndimage import median_filter

    return median_filter(noisy, size=(size, size, 1))


def wavelet(noisy: np.ndarray, sigma: float, *, wavelet: str = "db2", shifts: int = 4) -> np.ndarray:
    """BayesShrink soft thresholding of wavelets, ``skimage.restoration.denoise_wavelet``, averaged over shifts.

    As many levels as the image allows less three. The cycle spinning moves it by decibels.

    Args:
        wavelet: one of ``pywt.wavelist(kind="discrete")``.
        shifts: along each axis, by 0, 1, … pixels; the results are averaged.

    Source: Chang, Yu, Vetterli, IEEE Transactions on Image Processing 9, 2000, doi:10.1109/83.862633.
    """
    from skimage.restoration import cycle_spin, denoise_wavelet

    options = {"sigma": sigma, "wavelet": wavelet, "mode": "soft", "method": "BayesShrink", "channel_axis": -1}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Level value|The optional dask")
        return cycle_spin(noisy, denoise_wavelet, max_shifts=shifts - 1, func_kw=options, channel_axis=-1)


def tv(noisy: np.ndarray, sigma: float, *, weight_per_sigma: float = TV_WEIGHT_PER_SIGMA) -> np.ndarray:
    """Total variation by dual projection, ``skimage.restoration.denoise_tv_chambolle``.

    Args:
        weight_per_sigma: weight of the total variation over the noise level.

    Source: Chambolle, Journal of Mathematical Imaging and Vision 20, 2004, doi:10.1023/B:JMIV.0000011325.36760.1e.
    """
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(noisy, weight=weight_per_sigma * sigma, channel_axis=-1)


def nl_means(noisy: np.ndarray, sigma: float, *, strength: float = NL_MEANS_STRENGTH) -> np.ndarray:
    """Non-local means, ``skimage.restoration.denoise_nl_means``, 5×5 patches within 13×13 pixels.

    Args:
        strength: cut-off distance of patches over the noise level.

    Source: Buades, Coll, Morel, CVPR 2005, doi:10.1109/CVPR.2005.38.
    """
    from skimage.restoration import denoise_nl_means

    denoised = denoise_nl_means(
        noisy, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
    )
    return denoised.reshape(noisy.shape)  # it drops the axis of a single channel


def bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D, and CBM3D for colour, of the package ``bm3d`` (its licence is for non-commercial use only).

    Source: Dabov, Foi, Katkovnik, Egiazarian, IEEE Transactions on Image Processing 16, 2007,
    doi:10.1109/TIP.2007.901238.
    """
    try:
        import bm3d as package
    except ImportError as error:
        raise ImportError(
            "bm3d needs the package bm3d, whose licence is for non-commercial use only: "
            "pip install 'monai-dnaprior[baselines]'."
        ) from error
    height, width, channels = noisy.shape
    padding = [(0, max(0, BM3D_SIDE - side)) for side in (height, width)]
    padded = np.pad(noisy, [*padding, (0, 0)], mode="symmetric")
    if channels == 3:
        denoised = package.bm3d_rgb(padded, sigma)
    else:
        denoised = np.stack([package.bm3d(padded[..., channel], sigma) for channel in range(channels)], axis=-1)
    return denoised[:height, :width]


def check_wavelet(*, wavelet: str = "db2", **_: Any) -> None:
    from pywt import wavelist

    if wavelet not in wavelist(kind="discrete"):
        raise ValueError(f"wavelet={wavelet!r} is unknown; choose one of pywt.wavelist(kind='discrete'), say 'db2'.")


def classical(
    function: Callable[..., np.ndarray], check: Callable[..., None] | None = None
) -> Callable[..., Classical]:
    """What makes a denoiser of a filter: its own options go to the filter, ``sigma`` to :class:`Classical`.

    Numbers must be positive; ``check`` refuses what else an option may not be.
    """

    def create(*, sigma: float | None = None, **options: Any) -> Classical:
        check_positive(**{name: value for name, value in options.items() if is_number(value)})
        if check is not None:
            check(**options)
        return Classical(filter=partial(function, **options), sigma=sigma)

    sigma, _ = inspect.signature(create).parameters.values()
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    create.__signature__ = inspect.Signature([sigma, *own])  # type: ignore[attr-defined]
    create.__doc__ = function.__doc__
    return create
