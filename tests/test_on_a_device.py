"""What computes on a GPU, on a device that is pretended: ``on_a_device.py``, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices that are written in Python",
)
def test_all_that_computes_with_torch_computes_on_a_device() -> None:
    """PyTorch asks for its devices at the first gradient of a process, and forks of it then take none."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    finished = subprocess.run(
        [*words, str(Path(__file__).with_name("on_a_device.py"))],
        cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_no_other_test_meets_the_pretended_device() -> None:
    assert "on_a_device" not in sys.modules
    assert torch.Generator is torch._C.Generator
