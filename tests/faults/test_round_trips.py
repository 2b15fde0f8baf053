"""F4, F12: what a file holds comes back bit for bit where nothing is changed, and to half a step where it is."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from conftest import NIBABEL_DATA
from scans import axial, write_series

from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.task import ScanRow
from monai_dnaprior.files.dicom import read_dicom
from monai_dnaprior.files.nifti import read_nifti
from monai_dnaprior.files.scan import Caps, Scan

pytestmark = pytest.mark.fault("F4")

TILTED = (1.0, 0.0, 0.0, 0.0, 0.9, -0.4358898943540674)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
UNEVEN = axial(5) + np.array([[0, 0, extra] for extra in (0, 0, 2.5, 2.5, 9)])
SERIES: dict[str, dict[str, Any]] = {
    "no instance numbers": {"instance_numbers": [None] * 5},
    "shuffled instance numbers": {"instance_numbers": [4, 0, 3, 1, 2]},
    "one instance number": {"instance_numbers": [7] * 5},
    "gantry tilt": {"orientation": TILTED},
    "sagittal": {"orientation": SAGITTAL, "positions": axial(5)[:, [2, 0, 1]]},
    "non-uniform": {"positions": UNEVEN},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
    "fractional slopes": {"slope": [0.1, 1 / 3, 2.7182818, 1e-6, 1e3]},
    "negative slope": {"slope": -0.5},
    "12 bits": {"BitsStored": 12, "HighBit": 11},
    "padding": {"PixelPaddingValue": -1000},
}


def identity(path: Path, output: Path, **settings: Any) -> ScanRow:
    (row,) = denoise_all(path, output, caps=Caps(), method="identity", **settings)
    return row


def by_instance(folder: Path) -> dict[str, pydicom.Dataset]:
    return {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, sorted(folder.iterdir()))}


@pytest.mark.parametrize("case", SERIES)
def test_a_made_series_comes_back_slice_by_slice(case: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 8)).astype("<i2")
    write_series(tmp_path / "in", pixels, **SERIES[case])
    row = identity(tmp_path / "in", tmp_path / "out")
    assert (row.status, row.exit_code) == ("denoised", 0)
    assert_same_series(tmp_path / "in", tmp_path / "out")
    assert any("apart" in text for text in row.warnings) == (case == "non-uniform")
    assert any("tilt" in text for text in row.warnings) == (case in ("gantry tilt", "sagittal and oblique"))


def assert_same_series(source: Path, derived: Path) -> None:
    """The derived files are in order, one a source, with its pixels, its scaling and its place."""
    sources, positions = by_instance(source), []
    for dataset in map(pydicom.dcmread, sorted(derived.iterdir())):
        origin = sources.pop(dataset.SourceImageSequence[0].ReferencedSOPInstanceUID)
        assert dataset.pixel_array.dtype == origin.pixel_array.dtype
        assert np.array_equal(dataset.pixel_array, origin.pixel_array)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
                        "RescaleIntercept", "PhotometricInterpretation", "BitsStored", "InstanceNumber"):  # fmt: skip
            assert dataset.get(keyword) == origin.get(keyword), keyword
        if "ImagePositionPatient" in dataset:
            rows, columns = np.split(np.array(dataset.ImageOrientationPatient, float), 2)
            positions.append(np.array(dataset.ImagePositionPatient, float) @ np.cross(rows, columns))
    assert not sources
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", ["ge_head_CT_tilt", "STS_008_PET", "STS_008_MR_T1", "STS_008_CT"])
def test_a_real_series_comes_back_slice_by_slice(name: str, shared_data: Path, tmp_path: Path) -> None:
    row = identity(shared_data / "dicom" / name, tmp_path / "out")
    assert (row.status, row.exit_code) == ("denoised", 0)
    assert_same_series(shared_data / "dicom" / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz"])
def test_a_shipped_nifti_file_comes_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    source = NIBABEL_DATA / name
    assert identity(source, tmp_path / name).status == "denoised"
    contents = [gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
                for path in (source, tmp_path / name)]  # fmt: skip
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".png", ".tif"])
@pytest.mark.parametrize("colours", [False, True])
def test_other_files_come_back(suffix: str, colours: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (12, 9, 4) if colours else (12, 9)).astype(np.uint16)
    image = SimpleITK.GetImageFromArray(array, isVector=colours)
    image.SetSpacing((0.5, 2.0))
    SimpleITK.WriteImage(image, tmp_path / f"in{suffix}")
    assert identity(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}").status == "denoised"
    before, after = (SimpleITK.ReadImage(tmp_path / f"{name}{suffix}") for name in ("in", "out"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(after), SimpleITK.GetArrayFromImage(before))
    assert after.GetPixelID() == before.GetPixelID()
    np.testing.assert_allclose(after.GetSpacing(), before.GetSpacing(), rtol=1e-6)


TYPES = ["u1", "i1", "<i2", ">i2", "u2", "<i4", "u4", "i8", "u8", "f4", ">f8"]


@pytest.mark.fault("F12")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("slope", [1.0, 1e-6, 1e3, -0.3])
def test_numbers_change_by_what_was_removed_and_never_wrap(kind: str, slope: float, tmp_path: Path) -> None:
    scan = nifti_of(extremes(np.dtype(kind)), slope, tmp_path)
    rng = np.random.default_rng(1)
    removed = rng.normal(0, 300, scan.stored.shape) * abs(slope)
    removed[(rng.random(removed.shape) < 0.3) | ~np.isfinite(scan.values())] = 0
    stored, clipped = scan.subtract(removed, tuple(slice(None) for _ in removed.shape))
    assert stored.dtype == scan.stored.dtype
    assert np.array_equal(stored[removed == 0], scan.stored[removed == 0])
    native, step = scan.stored.astype(np.longdouble), 0.5 + 1e-6
    exact = native - removed / np.longdouble(scan.slope)
    if stored.dtype.kind == "f":
        step = 2 * np.finfo(stored.dtype).eps * np.maximum(abs(exact), abs(native))
    changed, (low, high) = removed != 0, scan.limits
    assert (abs(stored - exact.clip(low, high)) <= step)[changed].all()
    assert clipped == np.count_nonzero(changed & ((exact < low - 0.5) | (exact > high + 0.5)))


def extremes(kind: np.dtype) -> np.ndarray:
    """A volume of a type with its lowest and highest numbers, and others between."""
    rng = np.random.default_rng(0)
    if kind.kind == "f":
        return rng.normal(0, 1000, (6, 5, 4)).astype(kind)
    info = np.iinfo(kind)
    volume = rng.integers(max(info.min, -30000), min(info.max, 30000), (6, 5, 4)).astype(kind)
    volume[0], volume[1] = info.min, info.max
    return volume


def nifti_of(volume: np.ndarray, slope: float, folder: Path) -> Scan:
    """What is read from a file that holds these numbers in their byte order."""
    header = nibabel.Nifti1Header(endianness=">" if volume.dtype.byteorder == ">" else "<")
    header.set_data_dtype(volume.dtype)
    header.set_data_shape(volume.shape)
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, slope, 7
    (folder / "scan.nii").write_bytes(header.binaryblock + bytes(4) + volume.tobytes(order="F"))
    return read_nifti(folder / "scan.nii")


@pytest.mark.fault("F12")
def test_numbers_of_12_bits_stay_in_12_bits_and_off_the_padding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (3, 16, 16)).astype("<u2")
    pixels[:, :4] = 0
    write_series(tmp_path / "in", pixels, BitsStored=12, HighBit=11, PixelPaddingValue=0, slope=[0.5, 1, 2])
    scan = read_dicom(sorted((tmp_path / "in").iterdir()))
    assert scan.valid is not None
    assert np.array_equal(scan.valid, scan.stored != 0)
    assert np.array_equal(np.isnan(scan.values()), scan.stored == 0)
    removed = np.where(scan.valid, 5000 * np.random.default_rng(1).standard_normal(scan.stored.shape), 0)
    stored, clipped = scan.subtract(removed, tuple(slice(None) for _ in removed.shape))
    assert np.array_equal(stored == 0, scan.stored == 0)
    assert stored[scan.valid].min() == 1
    assert stored.max() == 4095
    assert clipped > 0
