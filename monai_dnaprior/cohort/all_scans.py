"""Many scans, each by itself: one that fails stops no other."""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.discovery import Source, find_sources
from ..files.disk import write_json
from ..files.names import MANIFEST, describe_dataset, output_for
from ..files.preflight import rehearse
from ..files.scan import Caps, ScanError, UnsupportedScan

if TYPE_CHECKING:
    from .settings import Settings


NOTHING_VALID, CORRUPT, SOME_BAD, FAILED = 2, 4, 8, 1
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


@dataclass(frozen=True)
class Task:
    """One scan to denoise; the settings are those of :class:`~monai_dnaprior.cohort.settings.Settings`."""

    source: Source
    output: Path
    caps: Caps
    settings: Mapping[str, Any]
    progress: bool = False

    def chosen(self) -> Settings:
        """The settings; what is wrong with them is wrong for every scan."""
        from .settings import Settings  # takes seconds, for which a scan that is refused need not wait

        return Settings(caps=self.caps, **self.settings)


Runner = Callable[[Sequence[Task]], Iterator[Row]]


def denoise_all(
    path: Path, output: Path, *, caps: Caps, progress: bool = False, runner: Runner | None = None, **settings: Any
) -> Iterator[Row]:
    """Denoise the scan that a path is, or every scan below it, and tell of each when it is finished.

    One scan becomes the output; several become files below it, named like theirs, with a ``manifest.json``.

    Args:
        path: a file, or a folder.
        output: a file, or a folder, of the same kind.
        caps: what a file may ask for.
        progress: show a progress bar over the slices of each scan.
        runner: what takes care of the scans; None treats one after another.
        settings: see :class:`~monai_dnaprior.cohort.settings.Settings`.
    """
    if path.is_dir() and output.absolute().is_relative_to(path.absolute()):
        raise UnsupportedScan(output, "lies in the folder that is denoised; give another")
    sources, errors = find_sources(path)
    if not sources and not errors:
        raise UnsupportedScan(path, "holds no scan")
    alone = path.is_file() or [source.stem for source in sources] == ["."]
    manifest = None if alone else Manifest(output / MANIFEST)
    tasks = [
        Task(source, output_for(source, path, output, alone=alone), caps, settings, progress) for source in sources
    ]
    refused = (Row(error.path, None, "refused", error.exit_code, str(error)) for error in errors)
    try:
        for row in itertools.chain(refused, (runner or one_after_another)(tasks)):
            if manifest is not None:
                manifest.add(row)
            yield row
    finally:
        if manifest is not None:
            manifest.write()
            describe_dataset(path, output)


def one_after_another(tasks: Sequence[Task]) -> Iterator[Row]:
    return map(row_of, tasks)


class Manifest:
    """A row for each scan in a JSON file that is whole at any moment, and at most a second old.

    What earlier runs wrote there stays, of scans whose outputs are there still.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.written = path, dict[str, Row](), -math.inf
        with suppress(OSError, ValueError, TypeError):
            before = [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
            self.rows = {row.source: row for row in before if row.output and Path(row.output).exists()}

    def add(self, row: Row) -> None:
        if row.output or row.source not in self.rows:  # an output that is there already is no less there
            self.rows[row.source] = row
        if time.monotonic() - self.written > 1:
            self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in sorted(self.rows.values(), key=lambda row: row.source)]
        write_json(self.path, rows)
        self.written = time.monotonic()


def row_of(task: Task) -> Row:
    """Rehearse and denoise one scan, and tell what became of it."""
    try:
        rehearse(task.source, task.caps)
    except (ScanError, OSError) as error:
        return row_of_error(task.source, error)
    return row_of_rehearsed(task)


def row_of_rehearsed(task: Task) -> Row:
    """Denoise one scan that can be read, and tell what became of it."""
    from .one_scan import denoise_source  # takes seconds too

    source, settings = task.source, task.chosen()
    try:
        report = denoise_source(source, task.output, settings, progress=task.progress)
    except Exception as error:  # whatever it is, it must not end the other scans
        return row_of_error(source, error)
    count, warnings = len(report["slices"]), tuple(report["warnings"])
    if not report["fallbacks"]:
        return Row(source.label, str(task.output), "denoised", 0, "", count, warnings)
    reason = f"{source.label}: {report['fallbacks']} of {count} slices could not be denoised and are the input's"
    return Row(source.label, str(task.output), "denoised", SOME_BAD, reason, count, warnings)


def row_of_error(source: Source, error: Exception) -> Row:
    """Why there is no result, in one line."""
    if isinstance(error, ScanError):
        return Row(source.label, None, "refused", error.exit_code, str(error))
    logger.debug("%s could not be denoised", source.label, exc_info=error)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Row(source.label, None, "failed", FAILED, f"{source.label}: could not be denoised: {reason.splitlines()[0]}")


def exit_code_of(rows: Sequence[Row]) -> int:
    """0 if all went well, 8 if some did, otherwise what was wrong.

    >>> exit_code_of([Row("a", "b", "denoised"), Row("c", None, "refused", 4)])
    8
    """
    codes = {row.exit_code for row in rows}
    if codes <= {0}:
        return 0
    if codes & {0, SOME_BAD}:
        return SOME_BAD
    return next(code for code in (CORRUPT, FAILED, NOTHING_VALID) if code in codes)
