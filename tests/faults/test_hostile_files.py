"""F14, F15: files made to take memory, to reach other files or to write where they should not are refused."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from run_command import assert_refused, run
from scans import edited, read_scan, shipped, with_frame

from monai_dnaprior.__main__ import main
from monai_dnaprior.files.nifti import read_nifti
from monai_dnaprior.files.scan import Caps, CorruptScan, ScanError, UnsupportedScan

pytestmark = pytest.mark.fault("F15")

MEBIBYTE = 2**20
SIDE = 65535
SIZE_MARKER = b"\xff\x4f\xff\x51"  # begins a JPEG 2000 stream; its sides follow
SECRET = b"what another file holds"
NAMES = {"SeriesInstanceUID": "../../../1.2", "SeriesDescription": "../../%n%s\n", "PatientName": "../../evil\n%n"}


def nifti(*shape: int) -> bytes:
    """A header for voxels of one byte, of the second version because the sides of the first end at 32767."""
    header = nibabel.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"] = len(header.binaryblock) + 4
    return header.binaryblock + bytes(4)


def bomb(head: bytes, mebibytes: int) -> bytes:
    """What gunzip would make so many MiB from; its checksum is wrong, which none should live to see."""
    packer, parts = zlib.compressobj(9, wbits=-zlib.MAX_WBITS), []
    for content in (head, bytes(MEBIBYTE), b""):  # a block that begins afresh may be repeated
        parts.append(packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH if content else zlib.Z_FINISH))
    return gzip.compress(b"")[:10] + parts[0] + mebibytes * parts[1] + parts[2] + bytes(8)


def mha(size: str, voxels: str = "ElementDataFile = LOCAL", between: str = "") -> bytes:
    kind = "ObjectType = Image\nNDims = 2\nElementType = MET_UCHAR\n"
    return f"{kind}DimSize = {size}\n{between}{voxels}\n".encode() + bytes(100)


def nrrd(size: str, voxels: str = "encoding: raw", between: str = "") -> bytes:
    kind = "NRRD0004\ntype: uchar\ndimension: 2\n"
    return f"{kind}sizes: {size}\n{between}{voxels}\n\n".encode() + bytes(100)


def png(width: int, height: int) -> bytes:
    """A picture of so many grey pixels, of which 100 are there."""
    sides = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": sides, b"IDAT": zlib.compress(bytes(100)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )


def enlarged(stream: bytes) -> bytes:
    """A JPEG 2000 stream of another size."""
    place = stream.index(SIZE_MARKER) + len(SIZE_MARKER) + 4
    sides = struct.pack(">II", SIDE, SIDE)
    return stream[:place] + sides + stream[place + 8 : place + 16] + sides + stream[place + 24 :]


GREEDY: dict[str, tuple[str, Callable[[], bytes], str]] = {  # name of the file, its content, part of the reason
    "bomb behind small sides": ("scan.nii.gz", lambda: bomb(nifti(12, 14, 5), 1024), "holds more"),
    "bomb as large as it says": ("scan.nii.gz", lambda: bomb(nifti(1024, 1024, 1024), 1024), "--max-ratio"),
    "NIfTI": ("scan.nii", lambda: nifti(SIDE, SIDE), "--max-pixels"),
    "DICOM": ("scan.dcm", lambda: edited(Rows=SIDE, Columns=SIDE), "--max-bytes"),
    "JPEG 2000 in DICOM": ("scan.dcm", lambda: with_frame(enlarged, "MR_small_jp2klossless.dcm"), "decoder"),
    "MetaImage": ("scan.mha", lambda: mha(f"{SIDE} {SIDE}"), "--max-pixels"),
    "NRRD": ("scan.nrrd", lambda: nrrd(f"{SIDE} {SIDE}"), "--max-pixels"),
    "PNG": ("scan.png", lambda: png(SIDE, SIDE), "--max-pixels"),
}


@pytest.mark.fault("F14")
@pytest.mark.parametrize(("name", "content", "reason"), GREEDY.values(), ids=GREEDY)
def test_memory_is_not_taken(tmp_path: Path, name: str, content: Callable[[], bytes], reason: str) -> None:
    path, output = tmp_path / name, tmp_path / f"out{''.join(Path(name).suffixes)}"
    path.write_bytes(content())
    outcome = run("denoise", path, output, "--method", "identity", cwd=tmp_path)
    assert_refused(outcome, path, output)
    assert (outcome.code, reason in outcome.stderr) == (2 if "--max" in reason else 4, True), outcome


@pytest.mark.fault("F14")
@pytest.mark.parametrize("cap", ["--max-bytes", "--max-pixels"])
def test_memory_caps_are_options(tmp_path: Path, cap: str) -> None:
    path, output = tmp_path / "scan.dcm", tmp_path / "out.dcm"
    path.write_bytes(shipped("CT_small.dcm"))
    outcome = run("denoise", path, output, cap, 128 * 128 - 1, cwd=tmp_path)
    assert_refused(outcome, path, output)
    assert f"raise {cap}" in outcome.stderr


@pytest.mark.fault("F14")
def test_memory_is_taken_where_the_caps_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap is a limit, of what is large only: the mask of an organ may be packed a thousandfold."""
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(nifti(1024, 1024, 65) + bytes(65 * MEBIBYTE), 1))
    assert read_nifti(path).stored.nbytes == 65 * MEBIBYTE
    monkeypatch.setattr("monai_dnaprior.files.scan.SPARSE", 64 * MEBIBYTE)
    with pytest.raises(UnsupportedScan, match="cap 200; raise --max-ratio"):
        read_nifti(path)
    assert read_nifti(path, Caps(ratio=1000)).stored.nbytes == 65 * MEBIBYTE


NAMES_OF_VOXELS = {
    ".mha": [
        "ElementDataFile = {}", "ElementDataFile: {}", "  ElementDataFile = {}", "\tElementDataFile\t=\t{}",
        "\x0bElementDataFile = {}", "ElementDataFile = LIST\n{}", "ElementDataFile = {} 1 1 1",
        "Comment = ElementDataFile = LOCAL\nElementDataFile = {}", "ElementDataFile = {}\nElementDataFile = LOCAL",
        "elementdatafile = LOCAL\nElementDataFile = {}",
    ],
    ".nrrd": [
        "data file: {}", "datafile: {}", "DATA FILE: {}", "data file:\t{}", "data file: LIST 2\n{}", "data file: {}\r",
        "data file: {} 1 1 1",
    ],
}  # fmt: skip
LONG = "".join(f"{{}}{'x' * 100}\n" for _ in range(12_000))  # more than is looked at
BETWEEN = {".mha": ["", "\n\n", LONG.replace("{}", "Comment = ")], ".nrrd": ["", "#\n", LONG.replace("{}", "# ")]}


@pytest.mark.parametrize("suffix", NAMES_OF_VOXELS)
def test_no_header_names_another_file(tmp_path: Path, suffix: str, record_property: Any) -> None:
    """However it is written: what is read must be the user's choice alone."""
    header = {".mha": mha, ".nrrd": nrrd}[suffix]
    spellings = NAMES_OF_VOXELS[suffix]
    record_property("tried", len(spellings) * len(BETWEEN[suffix]) * 2)
    path = tmp_path / f"scan{suffix}"
    for name in ("secret.raw", "a=local"):
        (tmp_path / name).write_bytes(SECRET)
        for spelling in spellings:
            for between in BETWEEN[suffix]:
                path.write_bytes(header(f"{len(SECRET)} 1", spelling.format(name), between))
                with pytest.raises(ScanError, match="another file|header does not end"):
                    read_scan(path)
    path.write_bytes(header("10 10"))
    assert read_scan(path).stored.shape == (1, 10, 10)


def test_no_name_hides_another_format(tmp_path: Path) -> None:
    """HDF5, which SimpleITK can read and which may name other files, is none of the formats."""
    scan = SimpleITK.GetImageFromArray(np.ones((4, 5, 6), np.int16))
    SimpleITK.WriteImage(scan, str(tmp_path / "scan.h5"))
    for suffix in (".png", ".tif", ".mha", ".nrrd"):
        path = (tmp_path / "scan.h5").rename(tmp_path / f"scan{suffix}")
        with pytest.raises(CorruptScan, match="not of the kind that its name says"):
            read_scan(path)
        path.rename(tmp_path / "scan.h5")


def test_no_element_names_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing that a DICOM file says of itself becomes part of a name or of a message."""
    folder, output = tmp_path / "in" / "scans", tmp_path / "out" / "scans"
    folder.mkdir(parents=True)
    for number in range(2):
        elements = {**NAMES, "SeriesInstanceUID": f"{NAMES['SeriesInstanceUID']}.{number}"}
        (folder / f"{number}.dcm").write_bytes(edited(PatientID="../../evil", StudyID="../evil", **elements))
    assert main(["denoise", str(folder), str(output), "--method", "identity", "--residual", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    made = {f"series-0{number}_{what}" for number in (1, 2) for what in ("denoised/0001.dcm", "denoised.json")}
    made |= {f"series-0{number}_residual.nii.gz" for number in (1, 2)} | {"manifest.json"}
    assert files == {f"out/scans/{name}" for name in made} | {"in/scans/0.dcm", "in/scans/1.dcm"}
    assert not any(
        part in path.read_text(encoding="utf-8") for path in output.glob("*.json") for part in ("evil", "..", "%n")
    )
    assert json.loads((output / "manifest.json").read_text(encoding="utf-8"))[0]["status"] == "denoised"


def test_no_file_name_breaks_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nTraceback\x1b[31m.nii"
    path.write_bytes(b"")
    outcome = run("denoise", path, tmp_path / "out.nii", "--method", "identity", cwd=tmp_path)
    assert (outcome.code, outcome.stderr.count("\n"), "\x1b" in outcome.stderr) == (4, 1, False)
    assert "is empty" in outcome.stderr


@pytest.mark.parametrize("command", ["denoise", "report", "compare"])
def test_names_that_are_no_text_are_taken_in_any_locale(tmp_path: Path, command: str) -> None:
    """Latin letters of an old disk are no UTF-8, and a locale may know ASCII alone."""
    scan, output = (os.fsdecode(bytes(tmp_path) + name) for name in (b"/h\xe9.nii", b"/h\xe9 out.nii"))
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(100, 9, (24, 24, 2)), np.eye(4)), scan)
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    calls = {
        "denoise": [["denoise", scan, output, "--method", "median"]],
        "compare": [["compare", scan, "--methods", "median", "--noise", "gaussian:25", "--output", tmp_path / "table"]],
    }
    calls["report"] = [*calls["denoise"], ["report", scan, output]]
    for arguments in calls[command]:
        outcome = run(*arguments, cwd=tmp_path, **ascii_only)
        assert outcome.code == 0, outcome
