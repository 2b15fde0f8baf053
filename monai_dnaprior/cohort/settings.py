"""How scans are denoised: all that a user chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checks import check_positive
from ..denoisers.registry import create_denoiser
from ..denoisers.result import Denoiser
from ..files.disk import hash_of
from ..files.scan import Caps
from ..fitting.devices import computing_device
from ..transforms.slicing import AUTO, Slicing
from ..transforms.volumes import check_spread, used_neighbours


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scans are denoised.

    Args:
        method, options: see :func:`~monai_dnaprior.denoisers.registry.create_denoiser`.
        device: where to compute, see :func:`~monai_dnaprior.fitting.devices.computing_device`.
        slice_dim, batch_size, neighbours, rician: see :class:`~monai_dnaprior.transforms.slicing.Slicing`.
        mask: a scan of the same shape; where it is 0, voxels come out as they are.
        noise: its standard deviation in the units of the scan, or a scan of the same shape that holds it.
        residual, spread: also write what was removed, and the spread over restarts.
        caps: what a file may ask for.
        resume: go on where a run with the same input and settings stopped.
    """

    method: str = "dna-prior"
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    slice_dim: int | str = AUTO
    batch_size: int | None = None
    neighbours: int | None = None
    rician: bool = False
    mask: Path | None = None
    noise: float | Path | None = None
    residual: bool = False
    spread: bool = False
    caps: Caps = field(default_factory=Caps)
    resume: bool = False

    def __post_init__(self) -> None:
        check_spread(self.denoiser, self.spread)  # which refuses options that are out of range
        for name, path in (("mask", self.mask), ("noise", self.noise)):
            if isinstance(path, Path) and not path.exists():
                raise ValueError(f"{name}={str(path)!r} does not exist.")
        if self.noise is not None and not isinstance(self.noise, Path):
            check_positive(noise=self.noise)
        self.slicing(colours=False)
        computing_device(self.device)

    @cached_property
    def computing(self) -> torch.device:
        """The device that computes."""
        return computing_device(self.device)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The method with its options."""
        return create_denoiser(self.method, **self.options)

    def slicing(self, *, colours: bool) -> Slicing:
        """How a scan is cut; its channels are colours of one image, or volumes of their own."""
        return Slicing(
            slice_dim=self.slice_dim,
            channel_wise=not colours,
            batch_size=self.batch_size,
            neighbours=used_neighbours(self.denoiser, self.neighbours),
            rician=self.rician,
        )

    @property
    def besides(self) -> list[str]:
        """What is written besides the denoised scan."""
        return [what for what in ("residual", "spread") if getattr(self, what)]

    def configuration(self) -> dict[str, Any]:
        """All of what the voxels of the output depend on besides the input."""
        weights = getattr(self.denoiser, "weights_file", None)
        return {
            "version": __version__,
            "method": self.method,
            "options": dict(self.options),
            "slice_dim": self.slice_dim,
            "neighbours": self.slicing(colours=False).neighbours,
            "rician": self.rician,
            "device": self.computing.type,
            "mask": None if self.mask is None else hash_of(self.mask),
            "noise": hash_of(self.noise) if isinstance(self.noise, Path) else self.noise,
            "weights": None if weights is None else hash_of(weights),
        }
