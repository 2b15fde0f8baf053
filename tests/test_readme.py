"""Everything that the README shows, run."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_bundle import run_bundle
from scans import write_series

from monai_dnaprior import list_denoisers
from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.task import FAILED, SOME_BAD
from monai_dnaprior.compare.table import Row
from monai_dnaprior.denoisers import dnaprior as priors
from monai_dnaprior.files.scan import CorruptScan, UnsupportedScan
from monai_dnaprior.report.before_after import STOPPED_BY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[a-z]*.md"))]
WITHOUT_TABLES = ("architecture.md", "cohorts.md", "first_hour.md")
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
BUNDLE_README = (ROOT / "bundles" / "dnaprior_denoise" / "docs" / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(priors.PRESETS, "default", {"steps": 10})


def test_python_blocks_run_one_after_another(
    nifti_path: Path, few_steps: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nifti_path.rename(nifti_path.with_name("scan.nii.gz"))
    monkeypatch.chdir(nifti_path.parent)
    namespace: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        for block in blocks(README, "python"):
            exec(compile(block, "README.md", "exec"), namespace)
    assert "steps" in capsys.readouterr().out
    assert namespace["image"].max() <= 1
    assert namespace["result"].image.shape == (4, 1, 64, 64)
    assert namespace["closer"].shape == namespace["denoised"].shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("text", "folder"), [(README, ROOT), (BUNDLE_README, ROOT / "bundles")], ids=["readme", "bundle-readme"]
)
def test_bundle_command_runs_as_shown(text: str, folder: Path, nifti_path: Path, tmp_path: Path) -> None:
    block = next(block for block in blocks(text, "bash") if "monai.bundle run" in block)
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "monai.bundle"]
    meant = {"INPUT": str(nifti_path.parent), "OUTPUT": str(tmp_path / "out")}
    run_bundle([*(meant.get(word, word) for word in words[3:]), "--steps", "10", "--device", "cpu"], folder)
    assert (tmp_path / "out" / "case_denoised.nii.gz").exists()


def test_comparison_command_runs_as_shown(nifti_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti_path.rename(tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    block = next(block for block in blocks(README, "bash") if "compare" in block)
    assert "iddp" in block
    assert main([*shlex.split(block)[1:], "--steps", "10", "--quiet"]) == 0
    assert "Error" not in (tmp_path / "comparison" / "table.md").read_text(encoding="utf-8")
    names = ["table.md", "table.csv", "grid.png", "plot.png"]
    assert all((tmp_path / "comparison" / name).stat().st_size > 0 for name in names)


def denoise_commands(text: str) -> list[str]:
    return re.findall(r"^monai-dnaprior denoise [^#\n]*", "".join(blocks(text, "bash")), flags=re.M)


@pytest.mark.parametrize("command", [*denoise_commands(README), *denoise_commands(RELIABILITY)])
def test_denoise_commands_run_as_shown(
    command: str, nifti_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "ct_series", np.random.default_rng(0).integers(0, 900, (2, 20, 24)).astype("<i2"))
    (tmp_path / "study").mkdir()
    shutil.copy(nifti_path, tmp_path / "study")
    nifti_path.rename(tmp_path / "scan.nii.gz")
    words = shlex.split(command)
    assert main([*words[1:], "--steps", "10", "--quiet"]) == 0
    assert (tmp_path / words[3]).exists()


def test_options_of_the_command_are_explained(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["denoise", "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {option for option in re.findall(r"`(--[\w-]+)", RELIABILITY)} <= known
    codes = {SOME_BAD, CorruptScan.exit_code, FAILED, UnsupportedScan.exit_code, 0}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", RELIABILITY, flags=re.M)} == codes


def test_number_of_denoisers_is_right() -> None:
    assert len(list_denoisers()) == 17
    assert "Seventeen denoisers" in README


def test_commands_are_targets_of_the_makefile() -> None:
    commands = re.findall(r"^make (\w+)", "".join(blocks(README, "bash")), flags=re.M)
    assert commands == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_measured_ones(page: Path) -> None:
    tables = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", page.read_text(encoding="utf-8"), flags=re.S)
    assert tables or page.name in WITHOUT_TABLES
    for name, table in tables:
        assert table == (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")


def test_command_of_the_table_writes_it_anew(tmp_path: Path, few_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    quality, publish = (importlib.import_module(name) for name in ("quality", "publish"))
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "PAGES", [tmp_path / "README.md"])
    monkeypatch.setattr("sys.argv", ["quality.py"])
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    quality.main()
    rows = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["sigma"], row["steps"]) for row in rows] == [(15, 10), (25, 10), (50, 10)]
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written.split("<!-- quality -->")[0] == README.split("<!-- quality -->")[0]
    assert written != README


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """The benchmark of a GPU, with results and a page of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    publish = importlib.import_module("publish")
    for module in (publish, importlib.import_module("gpu")):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "PAGES", [tmp_path / "page.md"])
    (tmp_path / "page.md").write_text("<!-- gpu -->\n<!-- /gpu -->\n", encoding="utf-8")
    (tmp_path / "gpu.json").write_text('{"volume": "of before"}', encoding="utf-8")
    return importlib.import_module("gpu")


def test_gpu_benchmark_goes_on_where_it_stopped_and_is_published_apart(
    gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    figures = {"slices": 2, "side": 40, "at once": 2, "seconds": 3.0, "dB of the first": 30.0, "GiB": 0.1}
    made = {"environment": {"machine": {"gpu": "some"}, "versions": {}}, "volume": figures, "reference": {"steps": 5}}
    calls: list[str] = []

    def tasks(part: str) -> Any:
        def task() -> dict[str, Any]:
            calls.append(part)
            if part == "reference" and calls.count(part) == 1:
                raise RuntimeError("no luck")
            return made[part] | ({"dB of the first": 31.0, "seconds": 9.0} if part == "reference" else {})

        return lambda run: iter([(part, task)])

    monkeypatch.setattr(gpu, "PARTS", {part: tasks(part) for part in made})
    folder = tmp_path / "run"
    for budget in ("0", "100", "100"):
        monkeypatch.setattr(
            "sys.argv", ["gpu.py", "--tiny", "--device=cpu", f"--output={folder}", f"--budget={budget}"]
        )
        gpu.main()
    assert "goes on with environment" in capsys.readouterr().out
    assert calls == ["environment", "volume", "reference", "reference"]
    assert '"volume": "of before"' in (tmp_path / "gpu.json").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["gpu.py", f"--publish={folder}"])
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert (results["machine"], results["before"]) == ({"gpu": "some"}, {"volume": "of before"})
    table = (tmp_path / "page.md").read_text(encoding="utf-8").splitlines()[1:-1]
    assert table[0].startswith("| 2 slices of 40×40 | slices at once |")
    assert table[2:] == [
        "| volume | 2 | 3.0 | 1.5 | 30.0 | 0.1 |", "| reference, 5 steps | 1 |  | 9.0 | 31.0 |  |",
    ]  # fmt: skip


def test_gpu_benchmark_says_that_there_is_none(gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="--tiny rehearses"):
        gpu.main()


def test_cells_of_a_gpu_name_it(gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, row = sys.modules["cases"], Row("mri-25", "dip")
    monkeypatch.setattr(cases, "RESULTS", Path("absent"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some")
    here, there = (cases.merged([row], "table1", device=device)["mri-25", "dip"] for device in ("cpu", "cuda"))
    assert "gpu" not in here
    assert there["gpu"] == "some"
    assert "instructions" in here.keys() - there.keys()


def test_a_speed_is_measured_to_the_end_of_the_devices_work(
    gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    inference = importlib.import_module("inference")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("waited"))
    inference.least_time(lambda: calls.append("called"), "cuda")
    assert calls == ["called", "waited"] * (1 + inference.REPEATS)


def test_benchmarks_name_no_version_of_a_package_that_is_not_installed(gpu: types.ModuleType) -> None:
    publish = sys.modules["publish"]
    assert publish.version_of("torch") == torch.__version__
    assert publish.version_of("no-such-package") is None


def test_stop_reasons_are_all_explained() -> None:
    table = README.partition("| stop reason |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `([\w-]+)` \|", table, flags=re.M)) == tuple(STOPPED_BY)


def test_pictures_exist() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).read_bytes().startswith(b"\x89PNG")


def test_demo_makes_the_volume_and_the_picture(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "demo.py"), "--output", str(tmp_path)]
    command += ["--steps", "10", "--slices", "2"]
    finished = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert "Denoised 2 slices" in finished.stdout
    for line in finished.stdout.splitlines()[-2:]:
        assert Path(line.split()[-1]).stat().st_size > 1000
    picture = pytest.importorskip("matplotlib.image").imread(tmp_path / "before_after_removed.png")
    assert np.ptp(picture) > 0.5


def test_console_script_lists_the_methods() -> None:
    script = shutil.which("monai-dnaprior", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed with its console script")
    shown = subprocess.run([script, "methods"], check=True, capture_output=True, encoding="utf-8").stdout
    assert "dna-prior:" in shown.split()


def test_help_says_what_it_is_not(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "Not a medical device; keep the original." in capsys.readouterr().out
