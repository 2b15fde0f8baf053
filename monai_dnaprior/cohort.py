"""Many scans, each by itself: one that fails stops no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .disk import write_whole
from .rehearsal import rehearse
from .scan import Caps, ScanError, UnsupportedScan
from .sources import Source, find_sources, named

NOTHING_VALID, CORRUPT, SOME_BAD, FAILED = 2, 4, 8, 1
MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What became of one scan.

    Attributes:
        source, output: its file or folder, and that of the result, if there is one.
        status: ``denoised``, ``refused`` (not treated) or ``failed`` (the output could not be made).
        exit_code: 0; 2 unsupported, 4 corrupt, 1 failed; 8 denoised, but some slices could not be and are the input's.
        reason: in one line, where the exit code is not 0.
        slices, warnings: of the result.
    """

    source: str
    output: str | None
    status: str
    exit_code: int = 0
    reason: str = ""
    slices: int = 0
    warnings: tuple[str, ...] = ()


def denoise_all(path: Path, output: Path, *, caps: Caps, progress: bool = False, **settings: Any) -> Iterator[Row]:
    """Denoise the scan that a path is, or every scan below it, and tell of each when it is finished.

    One scan becomes the output; several become files below it, named like theirs, with a ``manifest.json``.

    Args:
        path: a file, or a folder.
        output: a file, or a folder, of the same kind.
        caps: what a file may ask for.
        progress: show progress bars.
        settings: see :class:`~monai_dnaprior.job.Settings`.
    """
    if path.is_dir() and output.absolute().is_relative_to(path.absolute()):
        raise UnsupportedScan(output, "lies in the folder that is denoised; give another")
    sources, errors = find_sources(path)
    if not sources and not errors:
        raise UnsupportedScan(path, "holds no scan")
    alone = len(sources) == 1 and (path.is_file() or sources[0].stem == ".")
    rows = [Row(error.path, None, "refused", error.exit_code, str(error)) for error in errors]
    yield from rows
    for source in sources:
        row = row_of(source, output_for(source, path, output, alone=alone), caps, progress, settings)
        rows.append(row)
        if not alone:
            output.mkdir(parents=True, exist_ok=True)
            write_whole(output / MANIFEST, (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode())
        yield row


def row_of(source: Source, output: Path, caps: Caps, progress: bool, settings: Mapping[str, Any]) -> Row:
    """Rehearse and denoise one scan, and tell what became of it."""
    try:
        rehearse(source, caps)
    except (ScanError, OSError) as error:
        return row_of_error(source, error)
    from .job import Settings, denoise_source  # takes seconds, for which a scan that is refused need not wait

    checked = Settings(caps=caps, **settings)  # what is wrong here is wrong for every scan
    try:
        report = denoise_source(source, output, checked, progress=progress)
    except Exception as error:  # whatever it is, it must not end the other scans
        return row_of_error(source, error)
    count, warnings = len(report["slices"]), tuple(report["warnings"])
    if not report["fallbacks"]:
        return Row(source.label, str(output), "denoised", 0, "", count, warnings)
    reason = f"{source.label}: {report['fallbacks']} of {count} slices could not be denoised and are the input's"
    return Row(source.label, str(output), "denoised", SOME_BAD, reason, count, warnings)


def row_of_error(source: Source, error: Exception) -> Row:
    """Why there is no result, in one line."""
    if isinstance(error, ScanError):
        return Row(source.label, None, "refused", error.exit_code, str(error))
    logger.debug("%s could not be denoised", source.label, exc_info=error)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Row(source.label, None, "failed", FAILED, f"{source.label}: could not be denoised: {reason.splitlines()[0]}")


def output_for(source: Source, path: Path, output: Path, *, alone: bool) -> Path:
    """Where the result of a scan goes."""
    below = not alone or (path.is_file() and output.is_dir())
    return output / (named(source.stem, "denoised") + source.suffix) if below else output


def exit_code_of(rows: Sequence[Row]) -> int:
    """0 if all went well, 8 if some did, otherwise what was wrong.

    >>> exit_code_of([Row("a", "b", "denoised"), Row("c", None, "refused", 4)])
    8
    """
    codes = {row.exit_code for row in rows}
    if codes <= {0} or SOME_BAD in codes or 0 in codes:
        return 0 if codes <= {0} else SOME_BAD
    return next(code for code in (CORRUPT, FAILED, NOTHING_VALID) if code in codes)
