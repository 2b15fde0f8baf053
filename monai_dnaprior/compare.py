"""Methods side by side on the same noisy images: a table, a picture, a plot."""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation
from torch import Tensor
from tqdm.auto import tqdm

from .denoisers.registry import create_denoiser
from .figures import Panel, busiest_window, draw_grid, draw_points
from .files.reader import PICTURE_SUFFIXES, read_picture, read_volume, scan_stem
from .noise.estimate import estimate_sigma, noise_correlation
from .noise.metrics import correlation, decibels, similarity
from .noise.models import add_noise

SAMPLE_EVERY = 0.01  # seconds between looks at the memory in use


@dataclass(frozen=True)
class Case:
    """One noisy image (1, C, H, W), about [0, 1], and the clean one if it is known."""

    name: str
    noisy: Tensor
    clean: Tensor | None


@dataclass(frozen=True)
class Row:
    """What one method did on one image. Quality is left empty where no clean image is known.

    Attributes:
        psnr, ssim: against the clean image, the output clipped to [0, 1]; dB and 0 to 1.
        sigma: estimated noise level of the noisy image, on the 8-bit scale.
        residual_correlation: of neighbouring pixels in what was removed; white noise has about 0.
        image_correlation: of what was removed with the output; anatomy in the residual shows here.
        seconds, megabytes: wall time and the peak of memory above the start.
        error: why there is no output.
    """

    image: str
    method: str
    psnr: float | None = None
    ssim: float | None = None
    sigma: float | None = None
    residual_correlation: float | None = None
    image_correlation: float | None = None
    steps: int | None = None
    stop_reason: str | None = None
    seconds: float | None = None
    megabytes: float | None = None
    error: str = ""
    key: str = ""


def load_cases(
    images: Sequence[str | Path],
    *,
    references: Sequence[str | Path] | None = None,
    noise: str | None = None,
    slice_index: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """Read images: clean ones to which noise is added, noisy ones with references, or noisy ones alone.

    Args:
        images: pictures (PNG, TIFF, …), NIfTI files, DICOM files or folders; of a volume one axial slice is taken.
        references: clean images of the same scale, one for each.
        noise: added to clean images, see :func:`~monai_dnaprior.noise.models.add_noise`.
        slice_index: of volumes; the middle by default.
        seed: of the noise.
    """
    if references is not None and len(references) != len(images):
        raise ValueError(f"reference has {len(references)} images; give one for each of the {len(images)} noisy ones.")
    if references is not None and noise is not None:
        raise ValueError(f"noise={noise!r} is for clean images; leave it out where references are given.")
    cases: list[Case] = []
    for index, path in enumerate(images):
        name = unused_name(case_name(path), [case.name for case in cases])
        values = read_slice(path, slice_index)
        if references is not None:
            clean = read_slice(references[index], slice_index)
            if clean.shape != values.shape:
                raise ValueError(f"{references[index]} is {clean.shape}, {path} is {values.shape}; they must agree.")
            cases.append(Case(name, to_unit(values, like=clean), to_unit(clean, like=clean)))
        elif noise is not None:
            clean_unit = to_unit(values, like=values).clamp(0, 1)
            cases.append(Case(name, add_noise(clean_unit, noise, seed=seed), clean_unit))
        else:
            cases.append(Case(name, to_unit(values, like=values), None))
    return cases


def case_name(path: str | Path) -> str:
    """The name of a picture or a scan without its suffix."""
    name = Path(path).name.encode(errors="backslashreplace").decode()  # a file's name may be no text
    return Path(name).stem if name.lower().endswith(PICTURE_SUFFIXES) else scan_stem(name)


def unused_name(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number behind it where images in several folders have it.

    >>> unused_name("scan", ["scan", "scan-2"])
    'scan-3'
    """
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)


def read_slice(path: str | Path, slice_index: int | None) -> np.ndarray:
    """One image (C, H, W) as it is stored: a picture, or a slice of a scan turned as radiologists look at it."""
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        return read_picture(path)
    scan = Orientation("LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(read_volume(path))
    volume = scan[0].numpy()  # of a series in time the first
    index = volume.shape[-1] // 2 if slice_index is None else slice_index
    if not 0 <= index < volume.shape[-1]:
        raise ValueError(f"slice={index} is not in {path}; it has slices 0 to {volume.shape[-1] - 1}.")
    return volume[None, ..., index].swapaxes(-1, -2)


def to_unit(values: np.ndarray, *, like: np.ndarray) -> Tensor:
    """Bring an image to about [0, 1]: 8-bit by 255, others from the minimum to the 99.9th percentile of ``like``.

    What is not finite becomes 0.
    """
    known = like[np.isfinite(like)] if np.isfinite(like).any() else np.zeros(1)
    low, high = (0, 255) if like.dtype == np.uint8 else (float(known.min()), float(np.percentile(known, 99.9)))
    scaled = (values.astype(np.float64) - low) / ((high - low) or 1)
    return torch.tensor(np.where(np.isfinite(scaled), scaled, 0), dtype=torch.float32)[None]


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
        device: where the methods compute.
        progress: show a progress bar.
    """
    folder = Path(output)
    (folder / "denoised").mkdir(parents=True, exist_ok=True)
    done = {row.key: row for row in read_rows(folder / "table.csv") if not row.error}
    rows: list[Row] = []
    for case, label in tqdm([(case, label) for case in cases for label in methods], disable=not progress, unit="fit"):
        name, options = methods[label]
        key, stored = row_key(case, name, options), folder / "denoised" / f"{case.name}-{label}.npy"
        row = done.get(key) if stored.exists() else None
        if row is None:
            done = {old: other for old, other in done.items() if (other.image, other.method) != (case.name, label)}
            write_rows([*rows, *done.values()], folder / "table.csv")  # no row tells of a file that is overwritten
            row, denoised = run_method(case, label, name, options, key, device)
            if denoised is not None:
                np.save(stored, denoised.numpy())
        rows.append(row)
        done.pop(key, None)
        write_rows(
            [*rows, *done.values()], folder / "table.csv"
        )  # also what an earlier run did and this comes to later
    write_rows(rows, folder / "table.csv")
    (folder / "table.md").write_text(markdown(rows), encoding="utf-8")
    draw_grid(list(strips(cases, list(methods), folder)), folder / "grid.png")
    draw_quality(rows, folder / "plot.png")
    return rows


def run_method(
    case: Case, label: str, name: str, options: Mapping[str, Any], key: str, device: str
) -> tuple[Row, Tensor | None]:
    """One method on one case: its row, and its output unless it failed."""
    started = time.perf_counter()
    try:
        with peak_memory() as peak:
            result = create_denoiser(name, **options)(case.noisy.to(device))
            image = result.image.cpu()
    except Exception as error:  # one failing method must not end the comparison
        return Row(case.name, label, error=f"{type(error).__name__}: {error}".splitlines()[0], key=key), None
    seconds, record = time.perf_counter() - started, result.records[0]
    removed = case.noisy - image
    row = Row(
        case.name,
        label,
        psnr=None if case.clean is None else round(decibels(image, case.clean), 2),
        ssim=None if case.clean is None else round(similarity(image, case.clean), 4),
        sigma=round(255 * estimate_sigma(case.noisy).item(), 2),
        residual_correlation=round(noise_correlation(removed).item(), 3),
        image_correlation=round(correlation(removed, image), 3),
        steps=record.steps,
        stop_reason=record.stop_reason,
        seconds=round(seconds, 3),
        megabytes=round(peak[0] / 1e6, 1),
        key=key,
    )
    return row, image


def row_key(case: Case, name: str, options: Mapping[str, Any]) -> str:
    """What a row was made from: the noisy and the clean pixels, the method and its options."""
    digest = hashlib.sha256(f"{name} {sorted(options.items())}".encode())
    for image in (case.noisy, case.clean):
        digest.update(b"" if image is None else image.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The peak of this process's memory above its start, in bytes, as the one entry of a list; 0 where unknown."""
    peak, ended = [0], threading.Event()
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


def write_rows(rows: Sequence[Row], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    os.replace(temporary, path)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    kinds = {"steps": int, "image": str, "method": str, "stop_reason": str, "error": str, "key": str}
    with path.open(newline="", encoding="utf-8") as file:
        stored: Iterator[dict[str, Any]] = csv.DictReader(file)
        return [Row(**{name: kinds.get(name, float)(text) for name, text in row.items() if text}) for row in stored]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; the best PSNR of every image is bold, columns without any value are left out."""
    names = [field.name for field in fields(Row) if field.name != "key"]
    names = [name for name in names if any(getattr(row, name) not in (None, "") for row in rows)]
    best: dict[str, float] = {}
    for row in rows:
        if row.psnr is not None:
            best[row.image] = max(row.psnr, best.get(row.image, row.psnr))
    lines = []
    for row in rows:
        cells = ["" if (value := getattr(row, name)) is None else str(value) for name in names]
        if row.psnr is not None and row.psnr == best[row.image]:
            cells[names.index("psnr")] = f"**{row.psnr}**"
        lines.append(cells)
    return markdown_table(names, lines) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, without a line end behind the last row.

    >>> print(markdown_table(["method", "dB"], [["tv", 31.42]]))
    | method | dB |
    | --- | --- |
    | tv | 31.42 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def strips(cases: Sequence[Case], labels: Sequence[str], folder: Path) -> Iterator[list[Panel]]:
    """For every image the panels of the picture: noisy, clean if known, and every output with what it removed."""
    for case in cases:
        window = busiest_window(case.noisy if case.clean is None else case.clean)
        limit = 3 * max(estimate_sigma(case.noisy).item(), 0.01)
        images = {"noisy": case.noisy} | ({} if case.clean is None else {"clean": case.clean})
        for label in labels:
            stored = folder / "denoised" / f"{case.name}-{label}.npy"
            if stored.exists():
                images[label] = torch.from_numpy(np.load(stored))
        panels = []
        for label, image in images.items():
            title = f"{case.name}\n{label}" if label == "noisy" else label
            if case.clean is not None and label != "clean":
                title += f"\n{decibels(image, case.clean):.2f} dB"
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
