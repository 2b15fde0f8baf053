"""F6: killed at any moment and resumed, a run gives the same bits; F7: what cannot be written leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from run_command import end_of, run, start, tries

from monai_dnaprior.__main__ import main

pytestmark = pytest.mark.fault("F7")

FIT = (
    "--steps",
    "40",
    "--option",
    "width=8",
    "--option",
    "scales=2",
    "--option",
    "stopping=steps",
    "--batch-size",
    "2",
)
SLICES = tries(6, 24)


def write_volume(path: Path, side: int = 24, slices: int = SLICES) -> Path:
    noise = np.random.default_rng(0).normal(500, 50, (side, side, slices))
    nibabel.save(nibabel.Nifti1Image(noise.astype(np.int16), np.eye(4)), path)
    return path


@pytest.mark.fault("F6")
def test_a_run_that_is_killed_and_resumed_gives_the_same_bits(tmp_path: Path, record_property: Any) -> None:
    source = write_volume(tmp_path / "in.nii.gz")
    quiet = run("denoise", source, tmp_path / "quiet.nii.gz", *FIT, cwd=tmp_path)
    assert quiet.code == 0, quiet.stderr
    expected = (tmp_path / "quiet.nii.gz").read_bytes()
    rng, count = np.random.default_rng(), tries(2, 100)
    stages: dict[str, int] = {}
    for number in range(count):
        output, way = tmp_path / f"out-{number}.nii.gz", (signal.SIGKILL, signal.SIGTERM)[number % 2]
        stage = interrupt(source, output, way, rng.uniform(0, quiet.seconds))
        stages[stage] = stages.get(stage, 0) + 1
        assert not output.exists() or output.read_bytes() == expected
        assert main(["denoise", str(source), str(output), *FIT, "--resume", "--quiet"]) == 0
        assert output.read_bytes() == expected
        assert not list(tmp_path.glob("*.partial"))
    record_property("tried", count)
    record_property("note", ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())))


def interrupt(source: Path, output: Path, way: signal.Signals, after: float) -> str:
    """Start a run, end it after a time, and say how far it had come."""
    process = start("denoise", source, output, *FIT, cwd=source.parent)
    time.sleep(after)
    process.send_signal(way)
    _, stderr = end_of(process)
    assert "Traceback" not in stderr, stderr
    assert process.returncode in ((0, -9) if way == signal.SIGKILL else (0, 143, -15))  # -15: before Python had begun
    if output.exists():
        return "finished"
    kept = len(list(Path(f"{output}.partial").glob("*.safetensors")))
    return "with slices finished" if kept else "before the first slice"


@pytest.mark.parametrize("name", ["limit", "small disk", "no folder", "read-only"])
def test_what_cannot_be_written_is_said_and_leaves_no_output(name: str, tmp_path: Path) -> None:
    source = write_volume(tmp_path / "in.nii", side=64, slices=24)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "out.nii"
    limited: tuple[Any, ...] = ("denoise", source, output, "--method", "identity", "--quiet")
    if name == "limit":
        outcome = run(*limited, cwd=tmp_path, largest_file=100_000)
    elif name == "no folder":
        (tmp_path / "file").touch()
        outcome = run("denoise", source, tmp_path / "file" / "out.nii", "--method", "identity", "--quiet", cwd=tmp_path)
    else:
        options = "size=64k" if name == "small disk" else "size=1m,ro"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", output.parent], check=False)
        if mounted.returncode:
            pytest.skip("a file system cannot be mounted here")
        try:
            outcome = run(*limited, cwd=tmp_path)
            left = [path for path in output.parent.iterdir() if not path.name.endswith(".partial")]
        finally:
            subprocess.run(["umount", output.parent], check=True)
        assert not left
    assert outcome.code == 1
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert "could not be denoised" in outcome.stderr
    assert not os.path.lexists(output)
