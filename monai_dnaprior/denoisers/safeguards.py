"""What is done about an image before any method treats it: leave it alone, or make its noise even."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..noise.estimate import NoiseKind, estimate_sigma
from ..noise.stabilisation import Stabiliser
from .result import Record

NOT_FINITE = "the result was not finite; the input is given back"
Treatment = Callable[[Tensor, float, NoiseKind], tuple[Tensor, Record]]


def treated(noisy: Tensor, treat: Treatment, *, clean_sigma: float, stabilise: bool) -> tuple[Tensor, Record]:
    """One image (1, C, H, W), and its noise's level and kind, handed to ``treat``, unless there is nothing to treat.

    Noise that depends on brightness is treated, if ``stabilise``, on the grey scale on which it is even. A constant
    image, one whose noise is estimated below ``clean_sigma``, one that ``treat`` makes NaN of, and pixels that it
    leaves as they are come back bit-identical. The record gains the time that it took, and warnings about noise of
    other kinds.
    """
    started = time.perf_counter()
    noisy = noisy.clone().float()
    kind = NoiseKind.of(noisy)
    if stabilise and kind.can_be_evened:
        stabiliser = Stabiliser.of(noisy)
        even = stabiliser(noisy)
        kind = NoiseKind.of(even)
        image, record = unless_clean(even, kind, treat, clean_sigma)
        image = torch.where(image == even, noisy, stabiliser.inverse(image, record.sigma)).float()
        record = replace(record, noise_variance=stabiliser.variance)
    else:
        image, record = unless_clean(noisy, kind, treat, clean_sigma)
    if record.stop_reason not in ("constant", "clean"):
        record = replace(record, warnings=(*record.warnings, *kind.warnings))
    if not image.isfinite().all():
        image, record = noisy, replace(record, stop_reason="non-finite", warnings=(*record.warnings, NOT_FINITE))
    return image, replace(record, seconds=time.perf_counter() - started)


def unless_clean(noisy: Tensor, kind: NoiseKind, treat: Treatment, clean_sigma: float) -> tuple[Tensor, Record]:
    sigma = estimate_sigma(noisy).item()
    if noisy.min() == noisy.max():
        return noisy, Record(sigma=sigma, stop_reason="constant")
    if sigma < clean_sigma:
        return noisy, Record(sigma=sigma, stop_reason="clean")
    return treat(noisy, sigma, kind)
