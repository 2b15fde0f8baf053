"""What is done about an image before any method treats it: leave it alone, or make its noise even."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .noise import estimate_sigma, noise_warnings
from .result import Record
from .stabilisation import Stabiliser

Treatment = Callable[[Tensor, float], tuple[Tensor, Record]]


def gated(noisy: Tensor, treat: Treatment, *, clean_sigma: float) -> tuple[Tensor, Record]:
    """One image (1, C, H, W) and the level of its noise handed to ``treat``, unless there is nothing to treat.

    A constant image, and one whose noise is estimated below ``clean_sigma``, come back as they are. The record gains
    the time that it took, and warnings about noise that no method for even white noise can treat.
    """
    started = time.perf_counter()
    noisy = noisy.clone().float()
    sigma = estimate_sigma(noisy).item()
    if noisy.min() == noisy.max():
        image, record = noisy, Record(sigma=sigma, stop_reason="constant")
    elif sigma < clean_sigma:
        image, record = noisy, Record(sigma=sigma, stop_reason="clean")
    else:
        image, record = treat(noisy, sigma)
        record = replace(record, warnings=(*record.warnings, *noise_warnings(noisy)))
    return image, replace(record, seconds=time.perf_counter() - started)


def evened(noisy: Tensor, denoise: Callable[[Tensor], tuple[Tensor, Record]]) -> tuple[Tensor, Record]:
    """One image (1, C, H, W) denoised on the grey scale on which its noise is even, and brought back.

    Pixels that ``denoise`` leaves as they are come back bit-identical; so does all of an image whose noise is even.
    """
    stabiliser = Stabiliser.if_needed(noisy)
    if stabiliser is None:
        return denoise(noisy)
    even = stabiliser(noisy.float())
    image, record = denoise(even)
    image = torch.where(image == even, noisy, stabiliser.inverse(image, record.sigma))
    return image.float(), replace(record, noise_variance=stabiliser.variance)
