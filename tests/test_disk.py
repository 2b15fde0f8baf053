"""What systems and file systems do otherwise than Linux on its own disk, emulated: nothing is lost by it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from scans import write_series

from monai_dnaprior.__main__ import main
from monai_dnaprior.files.disk import write_whole

RESIDUALS = {
    ".nii": ".nii.gz",
    ".nii.gz": ".nii.gz",
    ".dcm": ".nii.gz",
    ".png": ".tif",
    ".tif": ".tif",
    ".tiff": ".tif",
}


@pytest.fixture(autouse=True)
def no_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a process of its own is not spent."""
    monkeypatch.setattr("monai_dnaprior.cohort.task.preflight", lambda source, caps: None)


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def is_read_only(handle: int) -> bool:
    return not is_folder(handle) and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def fails(call: Callable, number: int, when: Callable) -> Callable:
    """A call of the system that fails when its first argument is of some kind."""

    def changed(first: Any, *others: Any, **options: Any) -> Any:
        if when(first):
            raise OSError(number, os.strerror(number))
        return call(first, *others, **options)

    return changed


def is_open(path: str | Path) -> bool:
    """Whether this process has a file or folder, or anything in it, open, which Windows does not rename."""
    handles = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    held = [os.path.realpath(handle) for handle in handles if os.path.lexists(handle)]
    return any(name == os.path.realpath(path) or name.startswith(f"{os.path.realpath(path)}/") for name in held)


SYSTEMS = {
    "Windows": [("fsync", errno.EBADF, is_read_only), ("replace", errno.EACCES, is_open)],
    "a share that flushes no folder": [("fsync", errno.EINVAL, is_folder)],
    "a share that flushes nothing": [("fsync", errno.ENOTSUP, lambda handle: True)],
}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["in.nii.gz", "series"])
def test_outputs_are_written_there_too(system: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.random.default_rng(0).normal(200, 10, (12, 10, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in.nii.gz")
    write_series(tmp_path / "series", volume)
    for call, number, when in SYSTEMS[system]:
        monkeypatch.setattr(os, call, fails(getattr(os, call), number, when))
    output = tmp_path / f"out{Path(name).suffix and '.nii.gz'}"
    words = ["denoise", str(tmp_path / name), str(output), "--method", "median", "--residual", "--quiet"]
    assert main(words) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == sorted(
        [output.name, "out.json", "out_residual.nii.gz"]
    )
    assert main([*words, "--resume"]) == 0


def test_a_flush_that_fails_for_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fails(os.fsync, errno.EIO, lambda handle: True))
    with pytest.raises(OSError, match="Input/output"):
        write_whole(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".dcm"])
def test_suffixes_are_compared_without_case(suffix: str, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (2, 12, 10)).astype(np.uint8)
    path = tmp_path / f"IN{suffix.upper()}"
    if suffix == ".dcm":
        write_series(tmp_path / "series", volume[:1].astype(np.int16))
        next((tmp_path / "series").iterdir()).rename(path)
    else:
        image = SimpleITK.GetImageFromArray(volume[0] if suffix == ".png" else volume)
        SimpleITK.WriteImage(image, tmp_path / f"in{suffix}")
        (tmp_path / f"in{suffix}").rename(path)
    outputs = [tmp_path / f"OUT{suffix.upper()}", tmp_path / f"out2{suffix}"]
    for output in outputs:
        assert main(["denoise", str(path), str(output), "--method", "median", "--residual", "--quiet"]) == 0
        assert output.is_file()
        assert output.with_name(f"{output.name[: -len(suffix)]}.json").is_file()
        assert output.with_name(f"{output.name[: -len(suffix)]}_residual{RESIDUALS.get(suffix, suffix)}").is_file()
    assert outputs[0].read_bytes() == outputs[1].read_bytes() or suffix == ".dcm"
    if suffix == ".dcm":
        first, second = (pydicom.dcmread(output).pixel_array for output in outputs)
        assert np.array_equal(first, second)
