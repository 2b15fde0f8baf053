"""Methods side by side on the same noisy images: a table, a picture, a plot."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from ..denoisers.registry import create_denoiser
from ..fitting.devices import computing_device
from ..noise.estimate import estimate_sigma, noise_correlation
from ..noise.metrics import correlation, psnr, ssim
from ..progress import follow
from .cases import Case
from .figures import Panel, busiest_window, draw_grid, draw_points
from .table import Row, markdown, read_rows, row_key, write_rows

SAMPLE_EVERY = 0.01  # seconds between checks of the memory in use


def compare(
    cases: Sequence[Case],
    methods: Mapping[str, tuple[str, Mapping[str, Any]]],
    output: str | Path,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> list[Row]:
    """Run every method on every case, and write ``table.csv``, ``table.md``, ``grid.png`` and ``plot.png``.

    Rows that are in the folder already, of the same image and the same options, are kept: an interrupted comparison
    goes on where it stopped. A method that fails is a row that says why.

    Args:
        cases: see :func:`load_cases`.
        methods: label to (name, options) of :func:`~monai_dnaprior.denoisers.registry.create_denoiser`.
        output: folder.
        device: where the methods compute, see :func:`~monai_dnaprior.fitting.devices.computing_device`.
        progress: show a progress bar.
    """
    device = str(computing_device(device))
    folder = Path(output)
    (folder / "denoised").mkdir(parents=True, exist_ok=True)
    done = {row.key: row for row in read_rows(folder / "table.csv") if not row.error}
    rows: list[Row] = []
    pairs = [(case, label) for case in cases for label in methods]
    for case, label in follow(pairs, unit="fit", name=f"on {device}", shown=progress):
        name, options = methods[label]
        key, stored = row_key(case, name, options, device), stored_output(folder, case, label)
        row = done.get(key) if stored.exists() else None
        if row is None:
            done = {old: other for old, other in done.items() if (other.image, other.method) != (case.name, label)}
            write_rows([*rows, *done.values()], folder / "table.csv")  # no row tells of a file that is overwritten
            row, denoised = run_method(case, label, name, options, key, device)
            if denoised is not None:
                np.save(stored, denoised.numpy())
        rows.append(row)
        done.pop(key, None)
        write_rows([*rows, *done.values()], folder / "table.csv")  # also what an earlier run did of what is to come
    write_rows(rows, folder / "table.csv")
    (folder / "table.md").write_text(markdown(rows), encoding="utf-8")
    try:
        draw_grid(list(strips(cases, list(methods), folder)), folder / "grid.png")
        draw_quality(rows, folder / "plot.png")
    except ImportError as error:  # the table is there all the same
        logging.getLogger(__name__).warning(error)
    return rows


def stored_output(folder: Path, case: Case, label: str) -> Path:
    """Where a method's output is kept; a label may hold signs that a file's name must not."""
    return folder / "denoised" / f"{case.name}-{quote(label, safe='=')}.npy"


def run_method(
    case: Case, label: str, name: str, options: Mapping[str, Any], key: str, device: str
) -> tuple[Row, Tensor | None]:
    """One method on one case: its row, and its output unless it failed."""
    started = time.perf_counter()
    try:
        with peak_memory(device) as peak:
            result = create_denoiser(name, **options)(case.noisy.to(device))
            image = result.image.cpu()
    except Exception as error:  # one failing method must not end the comparison
        return Row(case.name, label, error=f"{type(error).__name__}: {error}".splitlines()[0], key=key), None
    seconds, record = time.perf_counter() - started, result.records[0]
    residual, clean = case.noisy - image, case.clean
    row = Row(
        case.name,
        label,
        psnr=None if clean is None else round(psnr(image, clean), 2),
        ssim=None if clean is None else round(ssim(image, clean), 4),
        sigma=round(255 * estimate_sigma(case.noisy).item(), 2),
        residual_correlation=round(noise_correlation(residual).item(), 3),
        image_correlation=round(correlation(residual, image), 3),
        steps=record.steps,
        stop_reason=record.stop_reason,
        seconds=round(seconds, 3),
        megabytes=round(peak[0] / 1e6, 1),
        key=key,
    )
    return row, image


@contextmanager
def peak_memory(device: str | torch.device = "cpu") -> Iterator[list[int]]:
    """The peak above its start of this process's memory, or of a GPU's, in bytes, as the one entry of a list.

    It is 0 where that is unknown.
    """
    peak, ended = [0], threading.Event()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    start = resident_memory()

    def watch() -> None:
        while not ended.wait(SAMPLE_EVERY):
            peak[0] = max(peak[0], resident_memory() - start)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def resident_memory() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def strips(cases: Sequence[Case], labels: Sequence[str], folder: Path) -> Iterator[list[Panel]]:
    """For every image the panels of the picture: noisy, clean if known, and every output with what it removed."""
    for case in cases:
        window = busiest_window(case.noisy if case.clean is None else case.clean)
        limit = 3 * max(estimate_sigma(case.noisy).item(), 0.01)
        images = {"noisy": case.noisy} | ({} if case.clean is None else {"clean": case.clean})
        for label in labels:
            stored = stored_output(folder, case, label)
            if stored.exists():
                images[label] = torch.from_numpy(np.load(stored))
        panels = []
        for label, image in images.items():
            title = f"{case.name}\n{label}" if label == "noisy" else label
            if case.clean is not None and label != "clean":
                title += f"\n{psnr(image, case.clean):.2f} dB"
            removed = None if label in ("noisy", "clean") else (case.noisy - image) / (2 * limit) + 0.5
            panels.append(Panel(title, image[0], image[window][0], None if removed is None else removed[0]))
        yield panels


def draw_quality(rows: Sequence[Row], path: Path) -> None:
    """Quality over time, a point a row; without clean images, the correlation of what was removed with the output."""
    quality = "psnr" if any(row.psnr is not None for row in rows) else "image_correlation"
    points = {
        label: [(row.seconds or 0.0, getattr(row, quality)) for row in rows if row.method == label and not row.error]
        for label in dict.fromkeys(row.method for row in rows)
    }
    draw_points(points, path, label="PSNR, dB" if quality == "psnr" else "correlation of removed and output")
