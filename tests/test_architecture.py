"""The house: folders that import downward only, short ways through it, and shallow classes."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_readme import ROOT, blocks

import monai_dnaprior
from monai_dnaprior import Denoise
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.files.scan import Caps
from monai_dnaprior.fitting import losses

PACKAGE = Path(monai_dnaprior.__file__).parent
FLOORS = (
    {"__main__"}, {"report"}, {"cohort"}, {"transforms", "compare"}, {"denoisers"}, {"training"},
    {"fitting", "noise", "files"}, {"checks", "progress"},
)  # fmt: skip
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
MOST_FILES = 6


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """The rooms of the package that a file imports from, wherever in it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = parts[: len(parts) - node.level]
            whole = (*above, *(node.module or "").split("."))
            yield from [whole[0]] if whole[0] else (name.name for name in node.names)


def test_folders_import_only_downward() -> None:
    arrows = {
        (path.relative_to(PACKAGE).with_suffix("").parts[0], room)
        for path, tree in modules()
        for room in imports(path, tree)
        if room != "__version__"
    }
    assert ("transforms", "denoisers") in arrows
    upward = [(start, end) for start, end in arrows if start != end and not FLOOR[start] < FLOOR[end]]
    assert not upward
    assert set(FLOOR) == {path.stem for path in PACKAGE.glob("[!_]*.py")} | set(FOLDERS) | {"__main__"}


@pytest.mark.parametrize("folder", ["files"])
def test_files_are_read_without_torch(folder: str) -> None:
    """What only looks at files must not wait for it; ``reader`` serves MONAI."""
    importing = {
        path.name
        for path, tree in modules()
        for node in ast.walk(tree)
        if path.parent.name == folder and isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        if name.split(".")[0] in ("torch", "monai")
    }
    assert importing <= {"reader.py"}


def test_the_scans_of_a_cohort_are_found_without_torch() -> None:
    tree = ast.parse((PACKAGE / "cohort" / "all_scans.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.Import) and node.names[0].name == "torch"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_in_two_sentences_what_it_holds(folder: str) -> None:
    text = importlib.import_module(f"monai_dnaprior.{folder}").__doc__
    assert text is not None
    assert len(re.findall(r"[.;]\s", f"{text.strip()} ")) >= 2


def test_no_class_is_more_than_two_deep() -> None:
    for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "monai_dnaprior."):
        if name.endswith("__main__"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            ours = [base for base in kind.__mro__ if base.__module__.startswith("monai_dnaprior")]
            depth = max(len(line) for line in lines_of(kind)) if ours else 0
            assert depth <= 2, kind


def lines_of(kind: type) -> Iterator[tuple[type, ...]]:
    """Every way from a class to one of ours that has no base of ours."""
    bases = [base for base in kind.__bases__ if base.__module__.startswith("monai_dnaprior")]
    if not bases:
        yield (kind,)
    for base in bases:
        for line in lines_of(base):
            yield (kind, *line)


def record_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that lead to a loss, those of the thread that waits first, once where they follow each other."""
    passed: list[str] = []
    fidelity = losses.spectral_fidelity

    def watched(*images: torch.Tensor) -> torch.Tensor:
        ways = [traceback.extract_stack(frame) for frame in sys._current_frames().values()]
        files = [Path(one.filename) for way in sorted(ways, key=len, reverse=True) for one in way]
        inside = [path.relative_to(PACKAGE).as_posix() for path in files if path.is_relative_to(PACKAGE)]
        passed[:] = [name for name, _ in itertools.groupby(inside)]
        return fidelity(*images)

    monkeypatch.setattr(losses, "spectral_fidelity", watched)
    return passed


@pytest.mark.parametrize("batched_on", [(), ("cpu",)], ids=["in threads", "batched"])
def test_an_image_passes_few_files_to_its_loss_and_none_twice(
    monkeypatch: pytest.MonkeyPatch, batched_on: tuple[str, ...]
) -> None:
    """On a CPU a fit is made in a thread, whose way begins where the caller of all threads waits."""
    passed = record_ways(monkeypatch)
    monkeypatch.setattr("monai_dnaprior.fitting.fit.BATCHED_ON", batched_on)
    Denoise("dna-prior", steps=1, width=4)(torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert passed[0] == "transforms/array.py"
    assert passed[-1] == "fitting/losses.py"
    assert len(passed) == len(set(passed)) <= MOST_FILES


def test_a_cohort_passes_few_files_to_one_scan_and_none_twice(
    monkeypatch: pytest.MonkeyPatch, nifti_path: Path, tmp_path: Path
) -> None:
    passed = record_ways(monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of several slices in threads the ways would be mixed
    try:
        (row,) = denoise_all(nifti_path, tmp_path / "out.nii.gz", caps=Caps(), options={"steps": 1, "width": 4})
    finally:
        torch.set_num_threads(threads)
    assert row.status == "denoised"
    assert passed[0] == "cohort/all_scans.py"
    assert passed.index("cohort/one_scan.py") < MOST_FILES
    assert len(passed) == len(set(passed))


def test_a_method_is_added_as_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = types.ModuleType("shown")
    monkeypatch.setitem(sys.modules, "shown", shown)
    images = []
    for block in blocks(page, "python"):
        exec(block, shown.__dict__)
        images.append(shown.__dict__["result"].image)
    assert [tuple(image.shape) for image in images] == [(1, 1, 32, 32), (2, 1, 32, 32)]


def test_what_the_page_links_to_is_there() -> None:
    page = ROOT / "docs" / "architecture.md"
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert not [link for link in links if not (page.parent / link).exists()]
