"""Volumes and pages that tests of reports share."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.files.discovery import Source, find_sources
from monai_dnaprior.files.scan import Caps


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def write_volume(path: Path, volume: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, 2, 3, 1])), path)
    return path


def noisy_volume(depth: int = 3, shape: tuple[int, int] = (30, 24)) -> np.ndarray:
    """A bright box in white noise, int16."""
    volume = np.random.default_rng(0).normal(0, 20, (*shape, depth))
    volume[8:20, 6:18] += 300
    return volume.astype(np.int16)


def source_of(path: Path) -> Source:
    (source,), _ = find_sources(path)
    return source


def denoised(path: Path, output: Path, **settings: Any) -> tuple[Source, Path]:
    rows = list(denoise_all(path, output, caps=Caps(), **settings))
    assert [row.exit_code for row in rows] == [0], rows[0].reason
    return source_of(path), output


def decoded(text: str | None) -> np.ndarray:
    """The grey values of a picture in a page."""
    assert text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("L")).astype(float)
