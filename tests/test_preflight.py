"""Reading a scan for trial: whatever a parser does, it does it elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NIBABEL_DATA

from monai_dnaprior.files import preflight as module
from monai_dnaprior.files.discovery import Source, find_sources
from monai_dnaprior.files.preflight import preflight
from monai_dnaprior.files.scan import Caps, CorruptScan


@pytest.fixture
def source() -> Source:
    (found,), _ = find_sources(NIBABEL_DATA / "anatomical.nii")
    return found


def stand_in(path: Path, script: str) -> str:
    """A program that takes the place of Python."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "reason"),
    [("kill -11 $$", "crashed its reader (signal 11)"), ("exit 3", "crashed its reader (exit 3)"),
     ("echo no json", "crashed its reader (exit 0)"), ("sleep 60", "cannot be read within 1 s")],
)  # fmt: skip
def test_a_reader_that_crashes_or_hangs_is_a_refusal(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path / "python", script))
    monkeypatch.setattr(module, "TIMEOUT", 1)
    with pytest.raises(CorruptScan) as refused:
        preflight(source, Caps())
    assert refused.value.reason == reason


def test_a_sound_scan_passes_and_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    preflight(source, Caps())
    assert not list(tmp_path.iterdir())


def test_modules_of_the_working_directory_are_not_imported(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\nos._exit(7)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    preflight(source, Caps())
    assert not (tmp_path / "imported").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("megabytes", "fits"), [(20, True), (400, False)])
def test_memory_is_limited(megabytes: int, fits: bool) -> None:
    program = f"""
from monai_dnaprior.files.preflight import limit_memory
limit_memory(200 * 2**20)
try:
    bytearray({megabytes} * 2**20)
    print(True)
except MemoryError:
    print(False)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout.strip() == str(fits)


def test_errors_of_the_system_are_not_blamed_on_the_scan(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"errno": 28}
    finished = subprocess.CompletedProcess([], 0, stdout=module.json.dumps(answer), stderr="")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(OSError, match="No space left on device"):
        preflight(source, Caps())
