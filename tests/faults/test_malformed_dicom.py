"""F2, F3: DICOM files that are damaged or of a kind not treated are refused, and no damage breaks the reader."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import RTStructureSetStorage, generate_uid
from run_command import FULL, GIGABYTE, assert_refused, run, tries
from scans import edited, shipped, with_frame, write_frames

from monai_dnaprior.files.dicom import read_dicom
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.preflight import preflight
from monai_dnaprior.files.scan import Caps, ScanError

pytestmark = pytest.mark.fault("F2")

UNSUPPORTED, CORRUPT = 2, 4
PREFIX = 132  # bytes: the preamble and DICM
PIXELS = b"\xe0\x7f\x10\x00"
ROWS = b"\x28\x00\x10\x00US"
SLOPE = b"\x28\x00\x53\x10DS\x02\x001 "  # as CT_small.dcm has it
MUTATED = ("CT_small.dcm", "enhanced", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm")


def sound(name: str) -> bytes:
    """A file that pydicom ships, or a made one of several frames."""
    if name != "enhanced":
        return shipped(name)
    write_frames(buffer := io.BytesIO(), np.random.default_rng(0).integers(0, 900, (4, 32, 32)).astype("<u2"))
    return buffer.getvalue()


def halved(content: bytes) -> bytes:
    return content[: len(content) // 4 * 2]


CT = shipped("CT_small.dcm")
FIRST = b"\x08\0\x05\0CS"  # what follows the elements that say how the file is stored, one of which is its identifier
NAMELESS = edited("SOPInstanceUID")
INTEGERS = ("PixelData", "BitsStored", "HighBit", "PixelRepresentation")  # what float pixels do without
MALFORMED = {  # content, exit code, part of the reason
    "empty": (b"", CORRUPT, "is empty"),
    "no class": (shipped("meta_missing_tsyntax.dcm"), CORRUPT, "does not say what it is"),
    "header cut": (CT[:2000], CORRUPT, "cut short"),
    "pixels cut": (shipped("MR_truncated.dcm"), CORRUPT, "cut short"),
    "JPEG 2000 cut": (with_frame(halved, "MR_small_jp2klossless.dcm"), CORRUPT, "no installed decoder"),
    "JPEG of 12 bits cut": (with_frame(halved, "JPEG-lossy.dcm"), CORRUPT, "no installed decoder"),
    "bad value representation": (CT.replace(ROWS, ROWS[:-2] + b"QQ"), CORRUPT, "is damaged"),
    "deflated": (shipped("image_dfl.dcm"), UNSUPPORTED, "Deflated"),
    "palette": (shipped("examples_palette.dcm"), UNSUPPORTED, "a palette"),
    "no kind of colours": (edited(PhotometricInterpretation="CMYK"), UNSUPPORTED, "neither grey"),
    "more frames than pixels": (edited(NumberOfFrames=2), CORRUPT, "cut short"),
    "no frames": (edited(NumberOfFrames=0), CORRUPT, "no frames"),
    "segmentation": (shipped("liver_1frame.dcm"), UNSUPPORTED, "a segmentation"),
    "dose": (shipped("rtdose_1frame.dcm"), UNSUPPORTED, "a dose"),
    "structures": (edited(source="rtplan.dcm", SOPClassUID=RTStructureSetStorage), UNSUPPORTED, "no pixels"),
    "report": (shipped("test-SR.dcm"), UNSUPPORTED, "no pixels"),
    "float pixels": (edited(*INTEGERS, BitsAllocated=32, FloatPixelData=bytes(4 * 128**2)), UNSUPPORTED, "integers"),
    "more bits than allocated": (edited(BitsStored=17), CORRUPT, "more bits"),
    "no rows": (edited(Rows=0), CORRUPT, "no rows"),
    "slope zero": (edited(RescaleSlope="0"), CORRUPT, "slope"),
    "slope NaN": (edited(RescaleSlope="nan"), CORRUPT, "slope"),
    "a list of files": (shipped("dicomdirtests/DICOMDIR"), UNSUPPORTED, "DICOMDIR"),
}  # fmt: skip
MORE = {  # of which only the reader is asked, for the time that a process takes
    "text": (b"not a scan at all\n" * 100, CORRUPT, "does not begin"),
    "only a preamble": (CT[:PREFIX], CORRUPT, "does not say what it is"),
    "pixels cut off": (CT[: CT.index(PIXELS)], CORRUPT, "cut short"),
    "compressed pixels cut": (shipped("MR_small_RLE.dcm")[:5000], CORRUPT, "cut short"),
    "RLE cut": (with_frame(halved, "MR_small_RLE.dcm"), CORRUPT, "no installed decoder"),
    "no identifier": (NAMELESS[NAMELESS.index(FIRST) :], UNSUPPORTED, "no SOPInstanceUID"),
    "plan": (shipped("rtplan.dcm"), UNSUPPORTED, "no pixels"),
    "more rows than pixels": (edited(Rows=200), CORRUPT, "cut short"),
    "slope text": (CT.replace(SLOPE, SLOPE[:-2] + b"?!"), CORRUPT, "is damaged"),
    "position NaN": (edited(ImagePositionPatient=["nan", "0", "0"]), CORRUPT, "ImagePositionPatient"),
    "no preamble": (shipped("no_meta.dcm"), CORRUPT, "does not begin"),
    "samples": (edited(SamplesPerPixel=3), UNSUPPORTED, "neither grey"),
    "12 bits allocated": (edited(BitsAllocated=12, BitsStored=12), UNSUPPORTED, "8, 16 or 32 bits"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "code", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_command_refuses(tmp_path: Path, content: bytes, code: int, reason: str) -> None:
    path, output = tmp_path / "scan.dcm", tmp_path / "out.dcm"
    path.write_bytes(content)
    outcome = run("denoise", path, output, "--method", "identity", cwd=tmp_path)
    assert_refused(outcome, path, output)
    assert (outcome.code, reason in outcome.stderr) == (code, True), outcome


@pytest.mark.parametrize(("content", "code", "reason"), MORE.values(), ids=MORE)
def test_reader_refuses(tmp_path: Path, content: bytes, code: int, reason: str) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(content)
    with pytest.raises(ScanError, match=reason) as caught:
        read_dicom([path])
    assert caught.value.exit_code == code
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_command_refuses_two_slices_of_one_place(tmp_path: Path) -> None:
    folder, output = tmp_path / "series", tmp_path / "out"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.dcm").write_bytes(edited(SOPInstanceUID=generate_uid()))
    outcome = run("denoise", folder, output, "--method", "identity", cwd=tmp_path)
    assert_refused(outcome, folder, output)
    assert (outcome.code, "two slices of one position" in outcome.stderr) == (CORRUPT, True), outcome


@pytest.mark.parametrize("name", sorted(set(MUTATED)))
def test_sound_file_is_not_refused(tmp_path: Path, name: str) -> None:
    """Otherwise the tests above would tell nothing."""
    assert fate_of(tmp_path, sound(name)) == "read"


@pytest.mark.fault("F3")
def test_mutants_are_read_or_refused(tmp_path: Path, record_property: Any) -> None:
    """What the command does before it denoises: no other error than a refusal, no hang, no memory beyond the cap."""
    count, generator = tries(12, 600), np.random.default_rng(0)
    record_property("tried", count)
    mutants = (mutant(sound(MUTATED[index % len(MUTATED)]), generator) for index in range(count))
    assert {fate_of(tmp_path, content) for content in mutants} == {"read", "refused"}
    assert 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < GIGABYTE


@pytest.mark.fault("F3")
def test_headers_of_mutants_are_read_or_refused(tmp_path: Path, record_property: Any) -> None:
    """What is read of them in the command's own process, many more because it is quick."""
    count, generator = tries(200, 6000), np.random.default_rng(2)
    record_property("tried", count)
    mutants = (mutant(sound(MUTATED[index % len(MUTATED)]), generator) for index in range(count))
    assert {fate_of(tmp_path, content, checked_before=False) for content in mutants} == {"read", "refused"}


@pytest.mark.fault("F3")
@pytest.mark.skipif(not FULL, reason="a mutant that is read takes the command six seconds")
def test_command_ends_well_with_mutants(tmp_path: Path, record_property: Any) -> None:
    count, generator = 12, np.random.default_rng(1)
    record_property("tried", count)
    for index in range(count):
        path, output = tmp_path / f"{index}.dcm", tmp_path / f"out{index}.dcm"
        path.write_bytes(mutant(CT, generator))
        outcome = run("denoise", path, output, "--method", "identity", "--quiet", cwd=tmp_path)
        if outcome.code == 0:
            assert (output.is_file(), outcome.stderr) == (True, "")
        else:
            assert_refused(outcome, path, output)


def mutant(content: bytes, generator: np.random.Generator) -> bytes:
    """The file with one to eight bytes changed; in every other file they are of what comes before the pixels."""
    changed = bytearray(content)
    end = content.index(PIXELS) if generator.random() < 0.5 else len(content)
    for place in generator.integers(PREFIX - 4, end, generator.integers(1, 9)):
        changed[place] = generator.integers(256)
    return bytes(changed)


def fate_of(folder: Path, content: bytes, *, checked_before: bool = True) -> str:
    """Whether a file is read or refused, with one line and nothing left behind."""
    path = folder / "scan.dcm"
    path.write_bytes(content)
    try:
        sources, errors = find_sources(path)
        for error in errors:
            raise error
        if checked_before:
            preflight(sources[0], Caps())
    except ScanError as error:
        refusal = error
    else:
        return "read"
    finally:
        assert list(folder.iterdir()) == [path]
    assert refusal.exit_code in (UNSUPPORTED, CORRUPT)
    assert path.name in str(refusal)
    assert len(str(refusal).splitlines()) == 1
    return "refused"
