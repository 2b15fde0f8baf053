"""The list of denoisers: one line a method."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any

from .classical import bm3d, check_wavelet, classical, gaussian, identity, median, nl_means, tv, wavelet
from .dip import DeepImagePrior, DeepSpectralPrior
from .dnaprior import DNAPrior
from .ds_n2n import DualSamplingNoise2Noise
from .nl_ridge import lichi, nl_ridge
from .options import check_options, suggest
from .result import Denoiser
from .self2self import Self2Self
from .wire import WIRE

FITTED = ("dna-prior", "dip", "dip-tv", "dsp", "wire", "ds-n2n", "self2self")  # have a seed and steps
DENOISERS: dict[str, Callable[..., Denoiser] | str] = {
    "dna-prior": DNAPrior.from_preset,
    "iddp": f"{__package__}.trained:Trained",  # brings MONAI, for whose import the other methods need not wait
    "dip": DeepImagePrior,
    "dip-tv": partial(DeepImagePrior, tv_weight=0.02),
    "dsp": DeepSpectralPrior,
    "wire": WIRE,
    "ds-n2n": DualSamplingNoise2Noise,
    "self2self": Self2Self,
    "wavelet": classical(wavelet, check_wavelet),
    "tv": classical(tv),
    "bm3d": classical(bm3d),
    "nl-ridge": classical(nl_ridge),
    "lichi": classical(lichi),
    "nl-means": classical(nl_means),
    "gaussian": classical(gaussian),
    "median": classical(median),
    "identity": classical(identity),
}


def list_denoisers() -> list[str]:
    """The names that :func:`create_denoiser` knows.

    >>> "dna-prior" in list_denoisers()
    True
    """
    return list(DENOISERS)


def create_denoiser(name: str, **options: Any) -> Denoiser:
    """A denoiser by name, with its options.

    Args:
        name: one of :func:`list_denoisers`.
        options: the fields of the method, for instance ``preset``, ``steps`` and ``seed`` of ``"dna-prior"``. A method
            without a fit has no use for ``seed`` and ``steps``, which every method accepts. The command
            ``monai-dnaprior methods`` shows all of them.

    Returns:
        a callable: noisy (B, C, H, W), about [0, 1], to a result with ``image`` of the same shape and ``records``.

    Raises:
        ValueError: an unknown name, or an option of another kind or out of its range.
        TypeError: an option that the method does not have.

    >>> import torch
    >>> denoiser = create_denoiser("dna-prior", preset="default", steps=10, width=8, seed=1)
    >>> result = denoiser(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    >>> result.image.shape, result.records[0].stop_reason
    (torch.Size([1, 1, 32, 32]), 'steps')
    """
    create = find_method(name)
    if name not in FITTED:
        options = {option: value for option, value in options.items() if option not in ("seed", "steps")}
    check_options(name, create, options)
    return create(**options)


def find_method(name: str) -> Callable[..., Denoiser]:
    """What makes the denoiser of this name."""
    if name not in DENOISERS:
        names = ", ".join(DENOISERS)
        raise ValueError(f"name={name!r} is no known denoiser; choose one of {names}.{suggest(name, DENOISERS)}")
    method = DENOISERS[name]
    return pkgutil.resolve_name(method) if isinstance(method, str) else method
