"""One scan among many: what is to be done with it, and what became of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..denoisers.outcome import Outcome, along_axis
from ..files.discovery import Source
from ..files.preflight import preflight
from ..files.scan import Caps, ScanError, UnsupportedScan

if TYPE_CHECKING:
    from .one_scan import ScanJob

FAILED, SOME_BAD = 1, 8
LABELS = "is a label map or mask ({}); --force denoises it all the same"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanRow:
    """What became of one scan.

    Attributes:
        source, output: its file or folder, and that of the result, if there is one.
        status: ``denoised``, ``refused`` (not treated), ``left out`` (no scan), ``label map`` (left out, too),
            ``failed`` (no output could be made).
        exit_code: 0; 2 unsupported, 4 corrupt, 1 failed; 8 denoised, but some slices could not be and are the input's.
        reason: in one line, where the exit code is not 0.
        denoised, left_alone, fallbacks: how many slices, see :class:`~monai_dnaprior.denoisers.outcome.Outcome`.
        slice_dim: the axis along which it was cut, -1 for the last.
        warnings: each with in how many slices.
    """

    source: str
    output: str | None
    status: str
    exit_code: int = 0
    reason: str = ""
    slices: int = 0
    denoised: int = 0
    left_alone: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0
    slice_dim: int = -1
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What became of the slices, in words."""
        outcome = Outcome(denoised=self.denoised, left_alone=self.left_alone, fallbacks=self.fallbacks)
        return f"{outcome}{along_axis(self.slice_dim)}"

    @classmethod
    def of_error(cls, source: Source, error: Exception) -> ScanRow:
        """Why there is no result, in one line."""
        if isinstance(error, ScanError):
            return cls.refused(source.label, error)
        logger.debug("%s could not be denoised", source.label, exc_info=error)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return cls.failed(source, reason.splitlines()[0])

    @classmethod
    def refused(cls, source: str, error: ScanError) -> ScanRow:
        return cls(source, None, error.status, error.exit_code, str(error))

    @classmethod
    def failed(cls, source: Source, reason: str) -> ScanRow:
        return cls(source.label, None, "failed", FAILED, f"{source.label}: could not be denoised: {reason}")


@dataclass(frozen=True)
class ScanTask:
    """One scan to denoise; the settings are those of :class:`~monai_dnaprior.cohort.settings.Settings`.

    A label map raises the error ``labels``: one alone is refused, one among others left out; None denoises it.
    """

    source: Source
    output: Path
    caps: Caps
    settings: Mapping[str, Any]
    progress: bool = False
    labels: type[ScanError] | None = UnsupportedScan

    def check(self) -> None:
        """Refuse a scan that cannot be read, or that holds labels."""
        reason = preflight(self.source, self.caps)
        if reason and self.labels:
            raise self.labels(self.source.label, LABELS.format(reason))

    def job(self) -> ScanJob:
        """The scan with its settings; what is wrong with these is wrong for every scan."""
        from .one_scan import ScanJob  # takes seconds, for which a scan that is refused need not wait
        from .settings import Settings

        return ScanJob(self.source, self.output, Settings(caps=self.caps, **self.settings))

    def run(self) -> ScanRow:
        """Check that the scan can be read, denoise it, and tell what became of it."""
        try:
            self.check()
        except (ScanError, OSError) as error:
            return ScanRow.of_error(self.source, error)
        return self.denoise()

    def denoise(self) -> ScanRow:
        """Denoise a scan that can be read, and tell what became of it."""
        job, label = self.job(), self.source.label
        try:
            report = job.run(progress=self.progress)
        except Exception as error:  # whatever it is, it must not end the other scans
            return ScanRow.of_error(self.source, error)
        count, failed = len(report["slices"]), report["fallbacks"]
        reason = f"{label}: {failed} of {count} slices could not be denoised and are the input's" if failed else ""
        counts = {name: report[name] for name in ("denoised", "left_alone", "fallbacks")}
        return ScanRow(
            label,
            str(self.output),
            "denoised",
            SOME_BAD if failed else 0,
            reason,
            count,
            **counts,
            slice_dim=report["configuration"]["slice_dim"],
            warnings=tuple(report["warnings"]),
        )
