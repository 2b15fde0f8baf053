"""F1: NIfTI files that are damaged, that contradict themselves or that are of a kind not treated are refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from run_command import assert_refused, run

from monai_dnaprior.files.nifti import read_nifti
from monai_dnaprior.files.scan import ScanError

pytestmark = pytest.mark.fault("F1")

SHAPE = (12, 14, 5)
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.5, 0.2, -20], [0, -0.2, 3.0, 5], [0, 0, 0, 1]])
HEADER, VOXELS = 348, 352  # bytes before what follows
GZIP_HEADER, CHECKSUM, LENGTH = 10, -8, -4  # where the parts of a compressed file are
UNSUPPORTED, CORRUPT = 2, 4


def sound_volume(kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image) -> bytes:
    """A small volume of noise with an oblique affine, as a ``.nii`` file."""
    voxels = np.random.default_rng(0).integers(-1000, 3000, SHAPE, np.int16)
    image = kind(voxels, AFFINE)
    image.set_qform(AFFINE, 1)
    return image.to_bytes()


SOUND = sound_volume()
SECOND = sound_volume(nibabel.Nifti2Image)
PACKED = gzip.compress(SOUND, mtime=0)


def with_fields(**fields: Any) -> bytes:
    """The volume with other header fields, whatever they contradict."""
    header = nibabel.Nifti1Header(SOUND[:HEADER], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + SOUND[HEADER:]


def with_shape(*lengths: int, count: int | None = None) -> bytes:
    padded = np.ones(8, np.int16)
    padded[0], padded[1 : len(lengths) + 1] = len(lengths) if count is None else count, lengths
    return with_fields(dim=padded)


def with_type(code: int, bits: int) -> bytes:
    """The volume with voxels of another type, as many bytes as they need."""
    content = with_fields(datatype=code, bitpix=bits)
    return content + bytes(VOXELS + bits // 8 * int(np.prod(SHAPE)) - len(content))


def with_extension(size: int) -> bytes:
    """The volume with a header extension of 16 bytes that says it has so many."""
    header = with_fields(vox_offset=VOXELS + 16)[:HEADER]
    return header + bytes([1, 0, 0, 0]) + struct.pack("<ii8x", size, 6) + SOUND[VOXELS:]


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


NAN_ROW, ZEROS = [np.nan, 0, 0, 0], [0, 0, 0, 0]
MALFORMED = {  # name of the file, content, exit code, part of the reason
    "cut in half, packed": ("scan.nii.gz", PACKED[: len(PACKED) // 2], CORRUPT, "cut short"),
    "tail cut, packed": ("scan.nii.gz", PACKED[:-3], CORRUPT, "cut short"),
    "wrong checksum": ("scan.nii.gz", flipped(PACKED, CHECKSUM), CORRUPT, "compression is damaged"),
    "wrong length": ("scan.nii.gz", flipped(PACKED, LENGTH), CORRUPT, "compression is damaged"),
    "junk behind, packed": ("scan.nii.gz", PACKED + b"../junk", CORRUPT, "compression is damaged"),
    "bit flip in the stream": ("scan.nii.gz", flipped(PACKED, len(PACKED) // 2, 5), CORRUPT, "is damaged"),
    "empty, packed": ("scan.nii.gz", b"", CORRUPT, "is empty"),
    "not packed": ("scan.nii.gz", SOUND, CORRUPT, "not compressed"),
    "zeros": ("scan.nii", bytes(len(SOUND)), CORRUPT, "zeros"),
    "header only": ("scan.nii", SOUND[:HEADER], CORRUPT, "cut short"),
    "more voxels than there are": ("scan.nii", with_shape(12, 14, 6), CORRUPT, "cut short"),
    "negative axis": ("scan.nii", with_shape(12, -14, 5), CORRUPT, "axis of length -14"),
    "empty axis": ("scan.nii", with_shape(12, 14, 0), CORRUPT, "axis of length 0"),
    "nine axes": ("scan.nii", with_shape(12, 14, 5, count=9), CORRUPT, "9 axes"),
    "unknown type": ("scan.nii", with_fields(datatype=999), CORRUPT, "unknown type"),
    "contradicting type": ("scan.nii", with_fields(bitpix=8), CORRUPT, "8 bits"),
    "voxels nowhere": ("scan.nii", with_fields(vox_offset=np.nan), CORRUPT, "begin at byte"),
    "extension overruns": ("scan.nii", with_extension(4096), CORRUPT, "extension"),
    "slope NaN": ("scan.nii", with_fields(scl_slope=np.nan, scl_inter=5), CORRUPT, "slope"),
    "slope infinite": ("scan.nii", with_fields(scl_slope=np.inf, scl_inter=5), CORRUPT, "slope"),
    "affine NaN": ("scan.nii", with_fields(srow_x=NAN_ROW), CORRUPT, "sform"),
    "affine singular": ("scan.nii", with_fields(srow_y=ZEROS), CORRUPT, "sform"),
    "complex": ("scan.nii", with_type(32, 64), UNSUPPORTED, "complex"),
    "five axes": ("scan.nii", with_shape(12, 7, 5, 1, 2), UNSUPPORTED, "5 axes"),
}  # fmt: skip
MORE = {  # of which only the reader is asked, for the time that a process takes
    "junk packed behind": ("scan.nii.gz", PACKED + gzip.compress(b"junk"), CORRUPT, "holds more"),
    "bit flip at the stream's start": ("scan.nii.gz", flipped(PACKED, GZIP_HEADER, 2), CORRUPT, "is damaged"),
    "unknown compression": ("scan.nii.gz", flipped(PACKED, 2), CORRUPT, "is damaged"),
    "nothing packed": ("scan.nii.gz", gzip.compress(b""), CORRUPT, "is empty"),
    "tail cut": ("scan.nii", SOUND[:-1], CORRUPT, "cut short"),
    "text": ("scan.nii", b"not a scan at all\n" * 100, CORRUPT, "does not begin"),
    "wrong magic": ("scan.nii", with_fields(magic=b"abc"), CORRUPT, "does not begin"),
    "header cut": ("scan.nii", SOUND[:200], CORRUPT, "cut short"),
    "fewer voxels than there are": ("scan.nii", with_shape(12, 14, 4), CORRUPT, "holds more"),
    "no axes": ("scan.nii", with_shape(12, 14, 5, count=0), CORRUPT, "0 axes"),
    "voxels far away": ("scan.nii", with_fields(vox_offset=1e30), CORRUPT, "begin at byte"),
    "voxels behind the end": ("scan.nii", with_fields(vox_offset=4000), CORRUPT, "cut short"),
    "extension of negative size": ("scan.nii", with_extension(-16), CORRUPT, "extension"),
    "intercept NaN": ("scan.nii", with_fields(scl_slope=1, scl_inter=np.nan), CORRUPT, "intercept"),
    "quaternion too long": ("scan.nii", with_fields(quatern_b=5, sform_code=0), CORRUPT, "qform"),
    "second version cut": ("scan.nii", SECOND[:-1], CORRUPT, "cut short"),
    "one axis": ("scan.nii", with_shape(840), UNSUPPORTED, "1 axes"),
    "header of a pair": ("scan.hdr", with_fields(magic=b"ni1", vox_offset=0)[:HEADER], UNSUPPORTED, "one piece"),
    "cut in half": ("scan.nii", SOUND[: len(SOUND) // 2], CORRUPT, "cut short"),
    "junk behind": ("scan.nii", SOUND + b"j", CORRUPT, "holds more"),
    "empty": ("scan.nii", b"", CORRUPT, "is empty"),
    "voxels in the header": ("scan.nii", with_fields(vox_offset=100), CORRUPT, "begin at byte"),
    "spacing zero": ("scan.nii", with_fields(pixdim=np.ones(8) * [1, 0, 1, 1, 1, 1, 1, 1]), CORRUPT, "qform"),
    "colour": ("scan.nii", with_type(128, 24), UNSUPPORTED, "RGB"),
    "boolean": ("scan.nii", with_fields(datatype=1, bitpix=1), UNSUPPORTED, "boolean"),
    "half of a pair": ("scan.nii", with_fields(magic=b"ni1", vox_offset=0), UNSUPPORTED, "pair"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "code", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_command_refuses(tmp_path: Path, name: str, content: bytes, code: int, reason: str) -> None:
    path, output = tmp_path / name, tmp_path / f"out{''.join(Path(name).suffixes)}"
    path.write_bytes(content)
    outcome = run("denoise", path, output, "--method", "identity", cwd=tmp_path)
    assert_refused(outcome, path, output)
    assert (outcome.code, reason in outcome.stderr) == (code, True), outcome


@pytest.mark.parametrize(("name", "content", "code", "reason"), MORE.values(), ids=MORE)
def test_reader_refuses(tmp_path: Path, name: str, content: bytes, code: int, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScanError, match=reason) as caught:
        read_nifti(path)
    assert caught.value.exit_code == code
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_messages_quote_nothing_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(PACKED + b"Doe")
    with pytest.raises(ScanError) as caught:
        read_nifti(path)
    assert "Do" not in caught.value.reason


@pytest.mark.parametrize(("name", "content"), [("scan.nii", SOUND), ("scan.nii", SECOND), ("scan.nii.gz", PACKED)])
def test_sound_file_is_not_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Otherwise the tests above would tell nothing."""
    path = tmp_path / name
    path.write_bytes(content)
    assert read_nifti(path).stored.shape == (1, *SHAPE)


def odd_header(flat: bool, forms: str, **fields: Any) -> bytes:
    """A volume, or one slice, with a header that is odd."""
    voxels = np.frombuffer(SOUND[VOXELS:], np.int16).reshape(SHAPE, order="F")
    image = nibabel.Nifti1Image(voxels[..., 0] if flat else voxels, STRAIGHT)
    image.set_qform(STRAIGHT, int(forms != "sform"))
    image.set_sform(STRAIGHT, int(forms != "qform"))
    content = image.to_bytes()
    header = nibabel.Nifti1Header(content[:HEADER], check=False)
    for name, value in fields.items():
        if name.startswith("pixdim"):
            header["pixdim"][int(name[-1])] = value
        else:
            header[name] = value
    return header.binaryblock + content[HEADER:]


STRAIGHT = np.diag([2.0, 3, 4, 1])
HALF = float(np.sqrt(0.5 * (1 + 6e-7)))
ODD = {  # whether it is one slice, which forms it has, fields, and part of the warning
    "qfac 0": (False, "both", {"pixdim0": 0}, "qfac is 0"),
    "qfac 0, qform alone": (False, "qform", {"pixdim0": 0}, "qfac is 0"),
    "qfac NaN": (False, "both", {"pixdim0": np.nan}, "qfac is nan"),
    "qfac 2": (False, "qform", {"pixdim0": 2}, "qfac is 2"),
    "qfac 0, sform alone": (False, "sform", {"pixdim0": 0}, None),
    "quaternion a hair too long": (False, "both", {"quatern_b": HALF, "quatern_c": HALF}, "sform is taken"),
    "quaternion far too long": (False, "both", {"quatern_b": 5}, "sform is taken"),
    "quaternion NaN": (False, "both", {"quatern_b": np.nan}, "sform is taken"),
    "negative size": (False, "both", {"pixdim1": -2}, "negative sizes"),
    "negative size, sform alone": (False, "sform", {"pixdim1": -2}, None),
    "no third size": (True, "both", {"pixdim3": 0}, None),
    "no third size, qform alone": (True, "qform", {"pixdim3": 0}, None),
    "slope NaN": (False, "both", {"scl_slope": np.nan, "scl_inter": 0}, "slope is no number"),
    "slope and intercept NaN": (False, "both", {"scl_slope": np.nan, "scl_inter": np.nan}, "slope is no number"),
    "slope infinite": (False, "both", {"scl_slope": np.inf, "scl_inter": 0}, "slope is no number"),
    "intercept NaN without slope": (False, "both", {"scl_slope": 0, "scl_inter": np.nan}, None),
}  # fmt: skip


@pytest.mark.parametrize(("flat", "forms", "fields", "warning"), ODD.values(), ids=ODD)
@pytest.mark.fault("F4")
def test_what_readers_agree_on_is_taken(
    tmp_path: Path, flat: bool, forms: str, fields: dict[str, float], warning: str | None
) -> None:
    """With a warning where it is odd; the bytes of the header stay."""
    path, output = tmp_path / "scan.nii", tmp_path / "out.nii"
    path.write_bytes(odd_header(flat, forms, **fields))
    scan = read_nifti(path)
    assert np.array_equal(scan.values()[0], nibabel.load(path).get_fdata())
    assert np.array_equal(scan.values()[0].T, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))
    np.testing.assert_allclose(scan.affine, STRAIGHT if not flat else np.diag([2, 3, abs(scan.affine[2, 2]), 1]))
    assert all(warning in text for text in scan.warnings) if warning else not scan.warnings
    assert bool(scan.warnings) == bool(warning)
    scan.write(output, scan.stored)
    assert output.read_bytes() == path.read_bytes()
