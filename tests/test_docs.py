"""What the pages about cohorts and the tutorial show, run on made data."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scans import write_series
from test_readme import ROOT, blocks

from monai_dnaprior.__main__ import main
from monai_dnaprior.denoisers import dnaprior as priors
from monai_dnaprior.fitting.devices import computing_device

DOCS = ROOT / "docs"
COHORTS = (DOCS / "cohorts.md").read_text(encoding="utf-8")
FAST = ["--method", "median", "--quiet"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two scans, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        noise = np.random.default_rng(number).normal(500, 50, (12, 12, 2)).astype(np.float32)
        (tmp_path / "study").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "study" / f"{number}.nii.gz")
    return tmp_path


def assert_denoised(folder: Path) -> None:
    assert len(list((folder / "denoised_study").glob("*_denoised.nii.gz"))) == 2


def shell_blocks(word: str) -> list[str]:
    return [block for block in blocks(COHORTS, "bash") if word in block]


def test_the_cohort_command_runs_as_shown(study: Path) -> None:
    (line,) = (block for block in shell_blocks("--workers"))
    assert main([*shlex.split(line)[1:], *FAST, "--dashboard=:0"]) == 0
    assert_denoised(study)


@pytest.fixture
def command_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which srun only runs what it is given."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nexec "$@"\n', encoding="utf-8")
    (tmp_path / "bin" / "srun").chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def test_the_job_for_slurm_runs_as_shown(study: Path, command_path: dict[str, str]) -> None:
    (script,) = shell_blocks("dask scheduler")
    script = script.replace("$(hostname)", "127.0.0.1").replace("denoised_study", f"denoised_study {' '.join(FAST)}", 1)
    process = subprocess.Popen(["bash", "-c", script + "\nresult=$?; kill $(jobs -p); exit $result"], env=command_path,
                               cwd=study, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    assert process.wait(timeout=240) == 0
    assert_denoised(study)


def test_workers_from_a_queue_are_asked_for_as_shown(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class SLURMCluster:
        scheduler_address = "tcp://127.0.0.1:1"

        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def adapt(self, *, maximum: int) -> None:
            asked.append(maximum)

    module = types.ModuleType("dask_jobqueue")
    module.SLURMCluster = SLURMCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    commands: list[list[str]] = []
    monkeypatch.setattr("monai_dnaprior.__main__.main", commands.append)
    (block,) = blocks(COHORTS, "python")
    exec(compile(block, "cohorts.md", "exec"), {})
    assert asked[-1] == 100
    assert commands == [["cohort", "study", "denoised_study", "--scheduler", "tcp://127.0.0.1:1"]]


@pytest.mark.parametrize("word", ["torchrun", "SLURM_ARRAY_TASK_ID"])
def test_shares_of_a_folder_go_to_processes_as_shown(study: Path, command_path: dict[str, str], word: str) -> None:
    (script,) = shell_blocks(word)
    (study / "bundles").symlink_to(ROOT / "bundles")
    script = script.rstrip() + " --steps 5 --device cpu --progress False\n"
    share = {} if word == "torchrun" else {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment = {**command_path, **share, "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", "-c", script], env=environment, cwd=study, check=True, capture_output=True)
    written = {path.name for path in (study / "denoised_study").glob("*_denoised.nii.gz")}
    assert written == {f"{number}_denoised.nii.gz" for number in ((0, 1) if word == "torchrun" else (1,))}


def test_the_first_hour_goes_as_shown(
    nifti_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (DOCS / "first_hour.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(priors.PRESETS, "default", {"steps": 10})
    nifti_path.rename(tmp_path / "scan.nii.gz")
    write_series(tmp_path / "ct_series", np.random.default_rng(0).integers(0, 900, (2, 20, 24)).astype("<i2"))
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "monai-dnaprior":
            assert main(words[1:]) == 0, line
    for name in set(re.findall(r"`([\w/]+\.(?:html|json|png|md))`", page)) - {"demo/before_after_removed.png"}:
        assert (tmp_path / name).stat().st_size > 100
    capsys.readouterr()
    with torch.random.fork_rng():
        exec(compile(blocks(page, "python")[0], "first_hour.md", "exec"), {})
    assert capsys.readouterr().out.count("network") == 3


def test_the_page_about_gpus_goes_as_shown(
    nifti_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (DOCS / "gpu.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setitem(priors.PRESETS, "default", {"steps": 10})
    nifti_path.rename(tmp_path / "scan.nii.gz")
    gpu, seen = importlib.import_module("gpu"), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        gpu, "measure", lambda run, folder, until, parts: seen.append(("measured", run.device.type, folder))
    )
    monkeypatch.setattr(gpu, "publish_folder", lambda folder: seen.append(("published", folder)))
    for line in "".join(blocks(page, "bash")).splitlines():
        program, *words = shlex.split(line)
        if program == "monai-dnaprior":
            assert main(["cpu" if word == "cuda" else word for word in words]) == 0
        else:
            monkeypatch.setattr("sys.argv", words)
            gpu.main()
    assert seen == [("measured", "cuda", Path("gpu_run")), ("published", Path("gpu_run"))]
    monkeypatch.undo()
    (block,) = blocks(page, "python")
    with torch.random.fork_rng():
        capsys.readouterr()
        exec(compile(block, "gpu.md", "exec"), {})
    assert capsys.readouterr().out.split() == [str(computing_device()), "cpu"]


def test_every_page_is_on_the_front_page() -> None:
    front = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")} - {"README.md"}
    linked = re.findall(r"\]\((.*?)\)", front)
    assert {link for link in linked if not link.startswith("..")} == pages
    assert all((DOCS / link).exists() for link in linked)


def test_every_benchmark_has_its_line() -> None:
    folder = ROOT / "benchmarks"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", page, flags=re.M)) == sorted(
        path.name for path in folder.glob("*.py")
    )
    assert {path.stem for path in (folder / "results").glob("*.md")} <= set(re.findall(r"`(\w+)`", page))


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(priors.PRESETS, "default", {"steps": 10})
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) <= 10
    namespace: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        for number, cell in enumerate(code):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    pyplot.close("all")
    found = capsys.readouterr().out
    assert found.count("Dice") == 4
    assert namespace["removed"].std() > 0


def test_the_tutorial_has_its_pictures() -> None:
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    pictures = [output["data"]["image/png"] for cell in cells for output in cell.get("outputs", [])
                if "image/png" in output.get("data", {})]  # fmt: skip
    assert len(pictures) == 3
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.get("outputs", []))
