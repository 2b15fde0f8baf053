"""What each method did on each image: rows, in a CSV file and in Markdown."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .cases import Case

MEANINGS = {
    "psnr": "peak signal-to-noise ratio against the clean image, the output clipped to [0, 1], in dB; more is better",
    "ssim": "structural similarity with the clean image, at most 1; more is better",
    "sigma": "estimated noise level of the noisy image, on the 8-bit scale",
    "residual_correlation": "of neighbouring pixels in what was removed; white noise has about 0",
    "image_correlation": "of what was removed with the output; anatomy that was removed shows here, best is 0",
    "steps": "of the fit; 0 for a method without one",
    "stop_reason": "what ended the fit, or why the image was left alone",
    "seconds": "wall time",
    "megabytes": "peak of memory above what was in use before, of the GPU where one computes",
    "error": "why there is no output",
}


@dataclass(frozen=True)
class Row:
    """What one method did on one image; see :data:`MEANINGS`. Quality is empty where no clean image is known."""

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


def row_key(case: Case, name: str, options: Mapping[str, Any], device: str) -> str:
    """What a row was made from: the noisy and the clean pixels, the method, its options and the kind of device."""
    digest = hashlib.sha256(f"{name} {sorted(options.items())} {device.partition(':')[0]}".encode())
    for image in (case.noisy, case.clean):
        digest.update(b"" if image is None else image.numpy().tobytes())
    return digest.hexdigest()[:16]


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
    """The rows as a table, and what its columns mean; those without any value are left out.

    The best PSNR of every image is bold.
    """
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
    meanings = [f"- `{name}`: {MEANINGS[name]}" for name in names if name in MEANINGS]
    return "\n".join([markdown_table(names, lines), "", *meanings, ""])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, without a line end behind the last row.

    >>> print(markdown_table(["method", "dB"], [["tv", 31.42]]))
    | method | dB |
    | --- | --- |
    | tv | 31.42 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
