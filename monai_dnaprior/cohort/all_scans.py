"""Many scans, each by itself: one that fails stops no other."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..files.discovery import Source, find_sources
from ..files.disk import write_json
from ..files.labels import is_derivative, named_as_labels
from ..files.names import MANIFEST, describe_dataset, output_for
from ..files.scan import Caps, CorruptScan, LabelMap, NoScan, ScanError, UnsupportedScan
from .task import FAILED, LABELS, SOME_BAD, ScanRow, ScanTask

Runner = Callable[[Sequence[ScanTask]], Iterator[ScanRow]]


def denoise_all(
    path: Path,
    output: Path,
    *,
    caps: Caps,
    progress: bool = False,
    force: bool = False,
    runner: Runner | None = None,
    **settings: Any,
) -> Iterator[ScanRow]:
    """Denoise the scan that a path is, or every scan below it, and yield a row for each when it is finished.

    One scan becomes the output; several become files below it, named like theirs, with a ``manifest.json``.

    Args:
        path: a file, or a folder.
        output: a file, or a folder, of the same kind.
        caps: what a file may ask for.
        progress: show a progress bar over the slices of each scan.
        force: denoise label maps and masks too, of which one alone is refused, and those among others are left out.
        runner: denoises the scans, for instance a cluster; None denoises one after another.
        settings: see :class:`~monai_dnaprior.cohort.settings.Settings`.
    """
    if path.is_dir() and output.absolute().is_relative_to(path.absolute()):
        raise UnsupportedScan(output, "lies in the folder that is denoised; give another")
    sources, errors = find_images(path, force=force)
    if not sources and not any(error.exit_code for error in errors):
        raise UnsupportedScan(path, "holds no scan")
    alone = path.is_file() or [source.stem for source in sources] == ["."]
    manifest = None if alone else Manifest(output / MANIFEST)
    labels = None if force else UnsupportedScan if alone else LabelMap
    tasks = [
        ScanTask(source, output_for(source.output_name, path, output, alone=alone), caps, settings, progress, labels)
        for source in sources
    ]
    refused = (ScanRow.refused(error.path, error) for error in errors)
    try:
        for row in itertools.chain(refused, (runner or partial(map, ScanTask.run))(tasks)):
            if manifest is not None:
                manifest.add(row)
            yield row
    finally:
        if manifest is not None:
            manifest.write()
            describe_dataset(path, output)


def find_images(path: Path, *, force: bool) -> tuple[list[Source], list[ScanError]]:
    """The scans at or below a path, and why others are none: label maps by their names, others' derivatives."""
    sources, errors = find_sources(path)
    found: list[Source] = []
    for source in sources:
        stem = Path(source.stem).as_posix()
        if path.is_dir() and is_derivative(stem, path):
            errors.append(NoScan(source.label, "is a derivative; give its folder to denoise it"))
        elif not force and named_as_labels(f"{(path if path.is_dir() else path.absolute().parent).name}/{stem}"):
            error = LabelMap if path.is_dir() else UnsupportedScan
            errors.append(error(source.label, LABELS.format("its name says so")))
        else:
            found.append(source)
    return found, errors


class Manifest:
    """One row a scan, in a JSON file that is whole at any moment, and at most a second old.

    What earlier runs wrote there stays, of scans whose outputs are there still.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.written = path, dict[str, ScanRow](), -math.inf
        with suppress(OSError, ValueError, TypeError):
            before = [ScanRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
            self.rows = {row.source: row for row in before if row.output and Path(row.output).exists()}

    def add(self, row: ScanRow) -> None:
        if row.output or row.source not in self.rows:  # an output that is there already is no less there
            self.rows[row.source] = row
        if time.monotonic() - self.written > 1:
            self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in sorted(self.rows.values(), key=lambda row: row.source)]
        write_json(self.path, rows)
        self.written = time.monotonic()


def exit_code_of(rows: Sequence[ScanRow]) -> int:
    """0 if all went well, 8 if some did, otherwise what was wrong.

    >>> exit_code_of([ScanRow("a", "b", "denoised"), ScanRow("c", None, "refused", 4)])
    8
    """
    codes = {row.exit_code for row in rows}
    if codes <= {0}:
        return 0 if not rows or any(row.output for row in rows) else UnsupportedScan.exit_code
    if codes & {0, SOME_BAD}:
        return SOME_BAD
    return next(code for code in (CorruptScan.exit_code, FAILED, UnsupportedScan.exit_code) if code in codes)
