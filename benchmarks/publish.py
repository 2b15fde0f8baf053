"""Where measurements go: a file of numbers with machine and versions, a table, and the pages that show the table."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("monai-dnaprior", "torch", "monai", "scikit-image")


def publish(name: str, data: dict[str, Any], table: str) -> None:
    """Write ``NAME.json`` and ``NAME.md``, and put the table between the marks of that name on every page."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps({**about(), **data}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (RESULTS / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    show(name)


def show(name: str) -> None:
    """Put a table as it was written onto the pages that have its marks."""
    table = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    for page in PAGES:
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        text = page.read_text(encoding="utf-8")
        if begin in text:
            page.write_text(text[: text.index(begin) + len(begin)] + table + text[text.index(end) :], encoding="utf-8")


def about() -> dict[str, Any]:
    """The machine and the versions that a measurement was made with."""
    return {
        "machine": {
            "cpu": cpu_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **{package: version_of(package) for package in PACKAGES}},
    }


def version_of(package: str) -> str | None:
    """None for a package that runs where it lies."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    for path in RESULTS.glob("*.md"):
        show(path.stem)
