"""What works without any extra: all but clusters, pictures of comparisons and BM3D, which name the extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from plain import RefuseTheRest, plain_requirements


def test_a_plain_install_runs_one_of_everything(tmp_path: Path) -> None:
    refused = RefuseTheRest(plain_requirements()).refused
    assert "matplotlib" in refused
    assert not refused & {"torch", "monai", "nibabel", "skimage", "ignite"}
    words = [sys.executable, str(Path(__file__).with_name("plain.py"))]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert finished.returncode == 0, finished.stderr
    named = [line for line in finished.stdout.splitlines() if line.isalpha()]
    assert named == ["transforms", "inference", "training", "commands"]
    lines = finished.stderr.splitlines()
    for extra in ("report", "cluster"):
        assert any(f"pip install 'monai-dnaprior[{extra}]'" in line for line in lines), finished.stderr
