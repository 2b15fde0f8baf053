"""What a folder holds: every scan is found, and whatever is none, or cannot be looked at, is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import NIBABEL_DATA
from scans import PYDICOM_DATA, edited, shipped, write_series

from monai_dnaprior.__main__ import main
from monai_dnaprior.files import dicom, discovery
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.reader import find_scans
from monai_dnaprior.files.scan import Caps, NoScan, ScanError

PREFIX = 132  # bytes: the preamble and DICM


def dataset_of(name: str) -> bytes:
    """A shipped file without preamble, prefix and the elements that say how it is stored."""
    content = shipped(name)
    first = b"\0\x08\0\x08" if "bigendian" in name else b"\x08\0\x08\0"
    return content[content.index(first, PREFIX) :]


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
@pytest.mark.parametrize("kept", ["all", "no prefix", "data set"])
@pytest.mark.parametrize("called", ["IM0001", "image.dcm", "image.img", "1.2.840.7", "A.DCM"])
def test_dicom_is_known_by_what_it_holds(name: str, kept: str, called: str, tmp_path: Path) -> None:
    contents = {"all": shipped(name), "no prefix": shipped(name)[PREFIX:], "data set": dataset_of(name)}
    (tmp_path / called).write_bytes(contents[kept])
    (source,), errors = find_sources(tmp_path)
    scan = source.read(Caps())
    assert not errors
    assert np.array_equal(scan.stored[0, ..., 0].T, pydicom.dcmread(PYDICOM_DATA / "MR_small.dcm").pixel_array)
    scan.write(tmp_path / "out.dcm", scan.stored, description="", configuration="", version="")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert np.array_equal(written.pixel_array, scan.stored[0, ..., 0].T)
    assert (written.Rows, written.SOPClassUID.name) == (64, "MR Image Storage")


def test_a_series_of_which_some_files_lack_their_first_bytes_is_whole(tmp_path: Path) -> None:
    write_series(tmp_path, np.random.default_rng(0).integers(0, 100, (6, 8, 8)).astype("<i2"))
    (whole,) = find_sources(tmp_path)[0]
    before = whole.read(Caps()).stored
    for file in sorted(tmp_path.iterdir())[1:4]:
        file.write_bytes(file.read_bytes()[PREFIX:])
    (source,), errors = find_sources(tmp_path)
    assert (len(source.files), errors) == (6, [])
    assert np.array_equal(source.read(Caps()).stored, before)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(dataset_of("MR_small_RLE.dcm"), "is compressed, and does not say how"),
     (edited("SOPInstanceUID", source="MR_small.dcm")[PREFIX:], None),
     (edited("SOPClassUID", source="MR_small.dcm")[PREFIX:], None),
     (edited("SeriesInstanceUID", source="MR_small.dcm"), None)],
)  # fmt: skip
def test_what_a_file_does_not_say_is_taken_from_where_it_is_said(
    content: bytes, reason: str | None, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(content)
    (source,), _ = find_sources(tmp_path)
    if reason:
        with pytest.raises(ScanError, match=reason):
            source.read(Caps())
        return
    scan = source.read(Caps())
    scan.write(tmp_path / "out.dcm", scan.stored, description="", configuration="", version="")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert written.SeriesInstanceUID
    assert written.SourceImageSequence[0].ReferencedSOPClassUID == written.SOPClassUID


def test_words_of_a_big_endian_file_are_turned(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM_DATA / "MR_small_bigendian.dcm")
    dataset.add_new(0x00191001, "OW", b"\1\2\3\4")
    dataset.add_new(0x00191002, "OB", b"\1\2\3\4")
    dataset.add_new(0x00191003, "US", 258)
    dataset.save_as(tmp_path / "in.dcm")
    scan = dicom.read_dicom([tmp_path / "in.dcm"])
    scan.write(tmp_path / "out.dcm", scan.stored, description="", configuration="", version="")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    values = [written[0x0019, element].value for element in (0x1001, 0x1002, 0x1003)]
    assert values == [b"\2\1\4\3", b"\1\2\3\4", 258]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four subjects as DataLad keeps them: a link that leads to a file, one to nowhere, one to a folder, a file."""
    for folder in ("in/.git/annex", "in/sub-01", "in/sub-02", "in/sub-04", "store"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("store", "in/sub-04", "in/.git/annex"):
        shutil.copy(NIBABEL_DATA / "anatomical.nii", tmp_path / place / "sub-04_T1w.nii")
    (tmp_path / "in/sub-01/sub-01_T1w.nii").symlink_to(tmp_path / "store/sub-04_T1w.nii")
    (tmp_path / "in/sub-02/sub-02_T1w.nii.gz").symlink_to("../.git/annex/absent.nii.gz")
    (tmp_path / "in/sub-03").symlink_to(tmp_path / "store")
    (tmp_path / "in/participants.tsv").touch()
    (tmp_path / "in/sub-04/notes").write_bytes(b"\x08\0 no DICOM file")
    os.mkfifo(tmp_path / "in/pipe")
    return tmp_path / "in"


def test_what_cannot_be_looked_at_or_is_no_scan_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["denoise", str(dataset), str(tmp_path / "out"), "--method", "identity", "--quiet"]) == 8
    *bad, left_out = capsys.readouterr().err.splitlines()
    rows = {row["source"]: row for row in json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))}
    named = {str(Path(source).relative_to(dataset)): (row["status"], row["exit_code"]) for source, row in rows.items()}
    assert named == {
        "sub-01/sub-01_T1w.nii": ("denoised", 0), "sub-02/sub-02_T1w.nii.gz": ("refused", 2),
        "sub-03": ("refused", 2), "sub-04/sub-04_T1w.nii": ("denoised", 0), "pipe": ("refused", 2),
        "participants.tsv": ("left out", 0), "sub-04/notes": ("left out", 0),
    }  # fmt: skip
    assert {line.split(": ")[-1] for line in bad} == {
        "is a link that leads nowhere; fetch the file that it stands for",
        "is a link to a folder, which is not followed",
        "is no file that could be read",
    }
    assert "left out 2 files that are no scans" in left_out
    assert "participants.tsv" in left_out
    assert "notes" in left_out


def test_the_data_list_of_a_bundle_holds_what_can_be_read(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = [Path(scan["image"]).relative_to(dataset).as_posix() for scan in find_scans(dataset)]
    assert found == ["sub-01/sub-01_T1w.nii", "sub-04/sub-04_T1w.nii"]
    assert {Path(record.getMessage().split(": ")[0]).name for record in caplog.records} == {
        "sub-02_T1w.nii.gz", "sub-03", "pipe"
    }  # fmt: skip


def test_what_may_not_be_read_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    shutil.rmtree(dataset / ".git")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        assert [error.reason for error in find_sources(dataset)[1]] == ["cannot be looked into: Permission denied"]
    monkeypatch.setattr(dicom, "is_dicom", refuse)
    errors = {Path(error.path).name: error for error in find_sources(dataset / "sub-04")[1]}
    assert errors["notes"].reason == "cannot be read: Permission denied"
    assert not isinstance(errors["notes"], NoScan)
    monkeypatch.setattr(dicom, "read_header", refuse)
    monkeypatch.setattr(discovery, "kind_of", lambda path: "DICOM")
    assert {error.reason for error in find_sources(dataset / "sub-04")[1]} == {"cannot be read: Permission denied"}
