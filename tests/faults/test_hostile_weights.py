"""F15: weights made to run code, to write files or to take memory are refused before they do."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_command import GIGABYTE
from safetensors import safe_open
from safetensors.torch import save

from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.settings import Settings
from monai_dnaprior.training.weights import SHIPPED

pytestmark = pytest.mark.fault("F15")

MARKER = "executed"


@pytest.fixture(autouse=True)
def folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class Intruder:
    """What leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(MARKER),)


def largest_memory() -> int:
    """The bytes that this process has had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def zipped() -> bytes:
    """A file like those of torch.save, with a member that lies outside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"../{MARKER}", b"")
        archive.writestr("archive/data.pkl", pickle.dumps(Intruder()))
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"network": Intruder()}, buffer)
    return buffer.getvalue()


def headed(header: Any, content: bytes = bytes(8), *, length: int | None = None) -> bytes:
    """A safetensors file with any header, which may say of itself any length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def tensor(shape: list[int], *ends: int, kind: str = "F32") -> dict[str, Any]:
    return {"tensor": {"dtype": kind, "shape": shape, "data_offsets": ends}}


def described(**changes: Any) -> bytes:
    """The shipped weights with another description."""
    with safe_open(SHIPPED, framework="pt") as file:
        description = json.loads(file.metadata()["monai_dnaprior"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary
    for name, value in changes.items():
        description[name] = {**description[name], **value} if isinstance(value, dict) else value
    return save(tensors, {"monai_dnaprior": json.dumps({name: v for name, v in description.items() if v is not None})})


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "pickle": ("weights.pkl", lambda: pickle.dumps(Intruder())),
    "pickle of another name": ("weights.safetensors", lambda: pickle.dumps(Intruder(), 0)),
    "torch.save": ("weights.pt", saved),
    "torch.save of another name": ("weights.safetensors", saved),
    "zip": ("weights.zip", zipped),
    "zip of another name": ("weights.pt", zipped),
    "endless header": ("weights.safetensors", lambda: headed({}, length=2**40)),
    "negative header": ("weights.safetensors", lambda: headed({}, length=2**64 - 1)),
    "deep header": ("weights.safetensors", lambda: headed(b"[" * 100_000)),
    "deep description": (
        "weights.safetensors",
        lambda: headed({"__metadata__": {"monai_dnaprior": "[" * 100_000}}, b""),
    ),
    "beyond the end": ("weights.safetensors", lambda: headed(tensor([2**30], 0, 2**32))),
    "before the start": ("weights.safetensors", lambda: headed(tensor([2], -8, 0))),
    "overflow": ("weights.safetensors", lambda: headed(tensor([2**62, 8], 0, 8))),
    "unknown type": ("weights.safetensors", lambda: headed(tensor([2], 0, 8, kind="F32\n\x1b[2J"))),
    "wide network": ("weights.safetensors", lambda: described(network={"features": [30_000] * 4})),
    "many channels": ("weights.safetensors", lambda: described(network={"channels": 10**6})),
    "many heads": ("weights.safetensors", lambda: described(network={"heads": 10**6})),
    "many scales": ("weights.safetensors", lambda: described(network={"features": [4] * 4000})),
    "many layers": ("weights.safetensors", lambda: described(network={"residual_units": 10**6})),
    "no training": ("weights.safetensors", lambda: described(training=None)),
    "no network": ("weights.safetensors", lambda: described(network=None)),
    "a list for a network": ("weights.safetensors", lambda: described(network=[1])),
    "another class": ("weights.safetensors", lambda: described(objective={"name": "__class__"})),
    "another format": ("weights.safetensors", lambda: described(format="\x1b[2J\n")),
}


def test_intruder_would_leave_a_mark() -> None:
    """Otherwise the tests below would tell nothing."""
    pickle.loads(pickle.dumps(Intruder()))
    assert Path(MARKER).exists()
    torch.load(io.BytesIO(saved()), weights_only=False)


@pytest.mark.parametrize(("name", "content"), HOSTILE.values(), ids=HOSTILE)
def test_weights_are_refused(tmp_path: Path, name: str, content: Callable[[], bytes]) -> None:
    """In little more memory than the file takes, and nothing is run or written."""
    Path(name).write_bytes(content())
    memory = largest_memory()
    with pytest.raises(ValueError, match="is no safetensors file|holds no network") as caught:
        Settings(method="iddp", options={"weights": name})
    assert largest_memory() - memory < GIGABYTE // 4
    assert str(caught.value).startswith(f"weights='{name}'")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_command_refuses_weights(nifti_path: Path, capsys: pytest.CaptureFixture) -> None:
    Path("weights.pt").write_bytes(saved())
    options = ["--method", "iddp", "--option", "weights=weights.pt"]
    assert main(["denoise", str(nifti_path), "out.nii.gz", *options]) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert "weights='weights.pt' is no safetensors file" in stderr
    assert sorted(path.name for path in Path().iterdir()) == ["case.nii.gz", "weights.pt"]
