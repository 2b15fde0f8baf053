"""Scans in folders: DICOM series made here with what goes wrong in practice, and real ones."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage
from scans import axial, write_series

from monai_dnaprior import ScanReader
from monai_dnaprior.files.names import output_name
from monai_dnaprior.files.reader import find_scans, output_root

TILTED = (1.0, 0.0, 0.0, 0.0, 0.9, -0.4358898943540674)  # rows along x, columns leaning out of the axial plane


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, (4, 5, 6))


def test_slices_are_sorted_by_position_and_scaled_one_by_one(tmp_path: Path, pixels: np.ndarray) -> None:
    slopes = np.array([0.25, 1.0, 2.5, 0.001])
    write_series(tmp_path / "ct", pixels, positions=axial(4), orientation=(1, 0, 0, 0, 1, 0), slope=slopes)
    image = LoadImage(reader=ScanReader())(tmp_path / "ct")
    np.testing.assert_allclose(image.numpy(), (pixels * slopes[:, None, None] - 10).T, rtol=1e-6)
    ras = np.diag([-0.75, -0.5, 3.0, 1.0])
    ras[:3, 3] = 20, -30, 7
    np.testing.assert_allclose(image.affine, ras, atol=1e-6)


def test_the_affine_keeps_a_gantry_tilt(tmp_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path, pixels, positions=axial(4), orientation=TILTED)
    image = LoadImage(reader=ScanReader())(tmp_path)
    corner = np.array([0, 4, 3, 1])
    expected = axial(4)[3] + 4 * 0.5 * np.array(TILTED[3:])
    np.testing.assert_allclose((image.affine.numpy() @ corner)[:3], expected * [-1, -1, 1], atol=1e-5)


def test_unequal_spacing_is_said(tmp_path: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    positions = axial(4)
    positions[3, 2] += 2
    write_series(tmp_path, pixels, positions=positions, orientation=(1, 0, 0, 0, 1, 0))
    with caplog.at_level(logging.WARNING, "monai_dnaprior"):
        assert LoadImage(reader=ScanReader())(tmp_path).shape == (6, 5, 4)
    assert "slices are 3.000 to 5.000 mm apart" in caplog.text


def test_one_file_is_a_series_of_one(tmp_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path, pixels[:1], positions=axial(1), orientation=(1, 0, 0, 0, 1, 0))
    assert LoadImage(reader=ScanReader())(tmp_path / "000").shape == (6, 5, 1)


def test_two_slices_at_one_position_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path, pixels, positions=axial(4)[[0, 1, 1, 2]], orientation=(1, 0, 0, 0, 1, 0))
    with pytest.raises(ValueError, match="two slices at one position"):
        LoadImage(reader=ScanReader())(tmp_path)


def test_several_series_in_a_folder_are_told_apart(tmp_path: Path, pixels: np.ndarray) -> None:
    for depth in (3, 4):
        write_series(tmp_path / "both", pixels[:depth], positions=axial(depth), orientation=(1, 0, 0, 0, 1, 0))
        for file in (tmp_path / "both").glob("[0-9]*"):
            file.rename(file.with_name(f"s{depth}-{file.name}"))
    with pytest.raises(ValueError, match="holds 2 DICOM image series"):
        LoadImage(reader=ScanReader())(tmp_path / "both")
    scans = find_scans(tmp_path)
    assert [LoadImage(reader=ScanReader())(scan["image"]).shape[-1] for scan in scans] == [3, 4]


def test_find_scans_lists_files_and_series_below_a_folder(tmp_path: Path, nifti_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path / "a" / "1.2.840.7", pixels, positions=axial(4), orientation=(1, 0, 0, 0, 1, 0))
    (tmp_path / "a" / "notes.txt").write_text("not an image", encoding="utf-8")
    scans = find_scans(tmp_path)
    assert [scan["image"] for scan in scans] == [str(nifti_path), str(tmp_path / "a" / "1.2.840.7")]


def test_outputs_mirror_the_folder_and_keep_dots_in_names(tmp_path: Path, pixels: np.ndarray) -> None:
    series = tmp_path / "1.2.840.7"
    write_series(series, pixels, positions=axial(4), orientation=(1, 0, 0, 0, 1, 0))
    assert output_root(series) == str(tmp_path)
    assert output_root(tmp_path) == str(tmp_path)
    names = {str(series): "1.2.840.7.nii", "/x/b.c.nii.gz": "b.c.nii", "/x/im.dcm": "im.nii"}
    for path, name in names.items():
        assert Path(output_name({"filename_or_obj": path}, None)["subject"]).name == name


def test_scans_that_would_share_an_output_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds two scans named .*a; rename one of them"):
        find_scans(tmp_path)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_scans_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"dataset_dir='.*{folder}' holds no NIfTI file and no DICOM image series"):
        find_scans(tmp_path / folder)


def shipped(name: str) -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def test_a_real_file_that_pydicom_ships() -> None:
    path = shipped("CT_small.dcm")
    image = LoadImage(reader=ScanReader())(path)
    source = pydicom.dcmread(path)
    expected = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
    np.testing.assert_allclose(image[..., 0].numpy(), expected.T)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("examples_palette.dcm", "takes its colours from a palette; its numbers are no intensities"),
        ("rtdose.dcm", "is a dose; only images are supported"),
        ("rtplan.dcm", "has no pixels"),
        ("MR_truncated.dcm", "is cut short: 8130 of 8192 bytes of pixels"),
    ],
)
def test_what_is_no_image_is_refused(name: str, message: str) -> None:
    if not shipped(name).exists():
        pytest.skip(f"this version of pydicom ships no {name}")
    with pytest.raises(ValueError, match=message) as caught:
        LoadImage(reader=ScanReader())(shipped(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["STS_008_PET", "STS_008_CT", "STS_008_MR_T1", "ge_head_CT_tilt"])
def test_real_series(shared_data: Path, name: str) -> None:
    folder = shared_data / "dicom" / name
    image = LoadImage(reader=ScanReader())(folder)
    sources = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda source: float(source.ImagePositionPatient[2])
    )
    for index, source in enumerate(sources):
        expected = source.pixel_array * float(source.get("RescaleSlope", 1)) + float(source.get("RescaleIntercept", 0))
        np.testing.assert_allclose(image[..., index].numpy(), expected.T, rtol=1e-6)
        position = np.array(source.ImagePositionPatient, float) * [-1, -1, 1]
        np.testing.assert_allclose((image.affine.numpy() @ np.array([0, 0, index, 1]))[:3], position, atol=0.02)


def test_padding_keeps_its_numbers_and_monochrome1_is_inverted(tmp_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path / "padded", pixels, PixelPaddingValue=int(pixels[0, 0, 0]))
    np.testing.assert_array_equal(LoadImage(reader=ScanReader())(tmp_path / "padded").numpy(), (pixels - 10).T)
    write_series(tmp_path / "inverted", np.abs(pixels).astype("<u2"), PhotometricInterpretation="MONOCHROME1")
    inverted = LoadImage(reader=ScanReader())(tmp_path / "inverted").numpy()
    np.testing.assert_array_equal(inverted, (65535 - np.abs(pixels) - 10).T)


def test_a_damaged_slice_is_not_left_out(tmp_path: Path, pixels: np.ndarray) -> None:
    write_series(tmp_path, pixels)
    path = tmp_path / "001"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match="001: is cut short"):
        LoadImage(reader=ScanReader())(tmp_path)


def test_without_decoders_of_pydicom_those_of_itk_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm")
    images = [LoadImage(reader=ScanReader())(shipped(name)) for name in names]
    monkeypatch.setattr(
        "monai_dnaprior.files.dicom_pixels.get_decoder", lambda syntax: SimpleNamespace(is_available=False)
    )
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(LoadImage(reader=ScanReader())(shipped(name)), image)


def test_a_real_series_equals_the_same_scan_as_nifti(shared_data: Path) -> None:
    series = LoadImage(reader=ScanReader())(shared_data / "dicom" / "STS_008_MR_T1")
    nifti = nibabel.load(next((shared_data / "volumes/STS_MR_T1/imagesTr").glob("*.nii.gz")))
    assert sorted(np.unique(series.numpy())) == sorted(np.unique(nifti.get_fdata()))
