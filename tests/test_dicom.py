"""The derived DICOM image: what it keeps, what is its own, what is gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.uid import ExplicitVRLittleEndian
from scans import write_series

from monai_dnaprior import __version__
from monai_dnaprior.files.derived_dicom import derive
from monai_dnaprior.files.dicom import group_series, read_dicom
from monai_dnaprior.files.dicom_headers import read_header
from monai_dnaprior.files.reader import ScanReader
from monai_dnaprior.files.scan import CorruptScan, UnsupportedScan

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
PROVENANCE = {"description": "denoised with tv", "configuration": "{}", "version": __version__}


@pytest.fixture
def source() -> Dataset:
    return read_header(SHIPPED / "CT_small.dcm")


@pytest.fixture
def pixels() -> np.ndarray:
    return pydicom.dcmread(SHIPPED / "CT_small.dcm").pixel_array


def test_patient_study_geometry_and_acquisition_are_kept(source: Dataset, pixels: np.ndarray) -> None:
    derived = derive(source, pixels, **PROVENANCE)
    changed = {
        "ImageType", "InstanceCreationDate", "InstanceCreationTime", "SOPInstanceUID", "SeriesInstanceUID",
        "SeriesNumber", "SeriesDescription", "SourceImageSequence", "DerivationDescription", "DerivationCodeSequence",
        "ContributingEquipmentSequence", "PixelData", "DataSetTrailingPadding",
    }  # fmt: skip
    differing = {
        pydicom.datadict.keyword_for_tag(tag) for tag in {*source.keys(), *derived.keys()}
        if source.get(tag) != derived.get(tag)
    }  # fmt: skip
    assert differing <= changed
    assert derived[0x0009, 0x0010].value == "GEMS_IDEN_01"  # private elements, too


def test_what_it_was_made_from_and_how_is_said(source: Dataset, pixels: np.ndarray) -> None:
    source.DerivationDescription, source.SeriesDescription, source.SeriesNumber = "resampled", "x" * 64, 7
    derived = derive(source, pixels, **PROVENANCE)
    assert derived.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert derived.SeriesNumber == 1007
    assert derived.SeriesDescription == "x" * 55 + " denoised"
    assert derived.DerivationDescription == "resampled; denoised with tv"
    (origin,) = derived.SourceImageSequence
    assert origin.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert origin.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert derived.DerivationCodeSequence[-1].CodeValue == "113087"
    assert derived.ContributingEquipmentSequence[-1].SoftwareVersions == __version__
    assert derived.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID


def test_identifiers_are_the_same_for_the_same_pixels_alone(source: Dataset, pixels: np.ndarray) -> None:
    def uid(**changes: Any) -> str:
        return str(derive(source, changes.pop("pixels", pixels), **{**PROVENANCE, **changes}).SOPInstanceUID)

    same, others = uid(), [uid(pixels=pixels + 1), uid(configuration='{"steps": 3}'), uid(version="0")]
    assert uid() == same
    assert len({same, *others}) == 4
    series = {str(derive(source, pixels + step, **PROVENANCE).SeriesInstanceUID) for step in (0, 1)}
    assert len(series) == 1
    assert source.SeriesInstanceUID not in series
    assert pydicom.uid.UID(same).is_valid
    assert uid(description="in other words") == same


@pytest.mark.parametrize(
    "keyword",
    ["SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
     "IconImageSequence", "MACParametersSequence", "DigitalSignaturesSequence", "DataSetTrailingPadding",
     "ExtendedOffsetTable", "ExtendedOffsetTableLengths"],
)  # fmt: skip
def test_what_no_longer_holds_is_gone(source: Dataset, pixels: np.ndarray, keyword: str) -> None:
    vr = dictionary_VR(keyword)
    source.add_new(keyword, "SS" if " or " in vr else vr, [] if vr == "SQ" else b"12345678" if vr[0] == "O" else 1)
    assert keyword in source
    assert keyword not in derive(source, pixels, **PROVENANCE)


def test_a_lossy_source_is_said_to_be_one(pixels: np.ndarray) -> None:
    source = read_header(SHIPPED / "JPEG2000.dcm")
    source.pop("LossyImageCompression", None)
    assert derive(source, pixels, **PROVENANCE).LossyImageCompression == "01"
    assert "LossyImageCompression" not in derive(read_header(SHIPPED / "MR_small_RLE.dcm"), pixels, **PROVENANCE)


def test_the_creation_date_can_be_set(source: Dataset, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    derived = derive(source, pixels, **PROVENANCE)
    assert (derived.InstanceCreationDate, derived.InstanceCreationTime) == ("19700102", "000000")


def test_bytes_of_odd_images_are_even(source: Dataset) -> None:
    derived = derive(source, np.zeros((3, 3), np.uint8), **PROVENANCE)
    assert len(derived.PixelData) == 10
    assert derived["PixelData"].VR == "OB"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("rtdose.dcm", "a dose"), ("test-SR.dcm", "no pixels"), ("examples_palette.dcm", "a palette"),
     ("image_dfl.dcm", "Deflated")],
)  # fmt: skip
def test_what_is_not_supported_is_said(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedScan, match=reason):
        read_dicom([SHIPPED / name])


def test_stacks_are_told_apart_by_orientation_and_matrix(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (6, 8, 8)).astype("<i2")
    write_series(tmp_path / "localiser", pixels[:2])
    series = read_header(next((tmp_path / "localiser").iterdir())).SeriesInstanceUID
    write_series(tmp_path / "b", pixels[:3], orientation=(0, 1, 0, 0, 0, -1), SeriesInstanceUID=series)
    write_series(tmp_path / "c", pixels[:4, :5], SeriesInstanceUID=series)
    stacks, errors = group_series(sorted(file for file in tmp_path.rglob("*") if file.is_file()))
    assert sorted(map(len, stacks)) == [2, 3, 4]
    assert not errors


def test_slices_at_one_place_are_told_apart_by_their_instance_number(tmp_path: Path) -> None:
    pixels = np.arange(4).reshape(4, 1, 1).repeat(8, 1).repeat(8, 2).astype("<i2")
    positions = np.array([[0.0, 0, 0]] * 4)
    write_series(tmp_path / "echoes", pixels, positions=positions, instance_numbers=[3, 1, 4, 2])
    scan = read_dicom(sorted((tmp_path / "echoes").iterdir()))
    assert scan.stored[0, 0, 0].tolist() == [1, 3, 0, 2]
    write_series(tmp_path / "twins", pixels, positions=positions, instance_numbers=[1, 1, 1, 1])
    with pytest.raises(CorruptScan, match="two slices of one position and instance number"):
        read_dicom(sorted((tmp_path / "twins").iterdir()))


PER_SLICE = {
    "BitsStored": [{"BitsStored": bits, "HighBit": bits - 1} for bits in (7, 12, 16, 7)],
    "PixelRepresentation": [{"PixelRepresentation": sign} for sign in (0, 1, 1, 0)],
    "BitsAllocated": [
        {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(bits == 16)}
        for bits in (8, 16, 32, 16)
    ],
    "rescaling": [{"RescaleSlope": 0.5 + index, "RescaleIntercept": -index} for index in range(4)],
    "padding": [{}, {"PixelPaddingValue": 9}, {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 5}, {}],
    "window": [{"WindowCenter": 40 + index, "WindowWidth": 400 - index} for index in range(4)],
    "PhotometricInterpretation": [{"PhotometricInterpretation": f"MONOCHROME{number}"} for number in (1, 2, 2, 1)],
}


@pytest.mark.parametrize("kind", PER_SLICE)
def test_elements_that_differ_from_slice_to_slice_are_those_of_each_slice(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (4, 8, 8)).astype("<i2")
    write_series(tmp_path / "in", pixels)
    files = [tmp_path / "in" / f"{name:03d}" for name in np.random.default_rng(0).permutation(4)]
    for file, elements, plane in zip(files, PER_SLICE[kind], pixels, strict=True):
        dataset = pydicom.dcmread(file)
        for keyword, value in elements.items():
            vr = dictionary_VR(keyword)
            dataset.add_new(keyword, "SS" if " or " in vr else vr, value)
        dataset.PixelData = plane.astype(f"<u{dataset.BitsAllocated // 8}").tobytes()
        dataset.save_as(file)
    together, alone = read_dicom(sorted(files)), [read_dicom([file]) for file in files]
    residual = np.random.default_rng(1).normal(0, 60, together.stored.shape)
    everywhere = tuple(slice(None) for _ in residual.shape)
    denoised = together.subtract(residual, everywhere)[0]
    together.write(tmp_path / "out", denoised, **PROVENANCE)
    loaded = ScanReader().get_data(together)[0]
    for index, (one, elements) in enumerate(zip(alone, PER_SLICE[kind], strict=True)):
        one_denoised = one.subtract(residual[..., [index]], everywhere)[0]
        assert np.array_equal(together.values()[..., [index]], one.values(), equal_nan=True)
        assert np.array_equal(denoised[..., [index]], one_denoised)
        assert np.array_equal(loaded[..., index], ScanReader().get_data(one)[0][..., 0])
        written = read_header(tmp_path / "out" / f"{index + 1:04d}.dcm")
        assert {keyword: written.get(keyword) for keyword in elements} == elements
        assert np.array_equal(read_dicom([tmp_path / "out" / f"{index + 1:04d}.dcm"]).stored, one_denoised)


@pytest.mark.parametrize(
    ("kind", "bits", "vr", "value", "number"),
    [("<u2", 16, "SS", -2000, 63536), ("<u2", 16, "US", 63536, 63536), ("<u2", 12, "SS", -2000, 63536),
     ("<i2", 16, "US", 63536, -2000), ("<i2", 12, "US", 2096, -2000), ("<i2", 16, "SS", -2000, -2000),
     ("u1", 8, "SS", -1, 255), ("<u4", 32, "SS", -1, 2**32 - 1)],
)  # fmt: skip
def test_padding_is_known_by_its_bits_whatever_sign_it_is_written_with(
    kind: str, bits: int, vr: str, value: int, number: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (1, 8, 8)).astype(kind)
    pixels[:, :3] = number
    write_series(tmp_path, pixels, BitsStored=bits, HighBit=bits - 1)
    (file,) = tmp_path.iterdir()
    dataset = pydicom.dcmread(file)
    dataset.add_new("PixelPaddingValue", vr, value)
    dataset.save_as(file)
    scan = read_dicom([file])
    assert scan.valid is not None
    assert np.array_equal(scan.valid, np.arange(8).reshape(1, 1, 8, 1).repeat(8, 1) >= 3)
    assert not scan.warnings
    scan.write(tmp_path / "out.dcm", scan.stored, **PROVENANCE)
    assert pydicom.dcmread(tmp_path / "out.dcm").PixelData == dataset.PixelData


@pytest.mark.parametrize(
    ("elements", "warning"),
    [({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 95}, "9.% of the voxels are padding"),
     ({"PixelPaddingValue": 40}, "lies scattered among the voxels"),
     ({"BitsStored": 6, "HighBit": 5}, "[0-9]+ voxels use more bits than the file says")],
)  # fmt: skip
def test_what_is_left_alone_for_a_doubtful_reason_is_warned_of(
    elements: dict[str, int], warning: str, tmp_path: Path
) -> None:
    write_series(tmp_path, np.random.default_rng(0).integers(0, 100, (2, 16, 16)).astype("<u2"), **elements)
    (text,) = read_dicom(sorted(tmp_path.iterdir())).warnings
    assert re.search(warning, text)


def test_pixels_in_the_upper_bits_are_refused_and_a_wrong_highest_bit_alone_is_not(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (1, 8, 8)).astype("<u2")
    write_series(tmp_path / "low", pixels, BitsStored=12, HighBit=15)
    assert np.array_equal(read_dicom(list((tmp_path / "low").iterdir())).stored[0, ..., 0].T, pixels[0])
    write_series(tmp_path / "high", pixels << 4, BitsStored=12, HighBit=15)
    with pytest.raises(UnsupportedScan, match="keeps 12 bits of a pixel below bit 15"):
        read_dicom(list((tmp_path / "high").iterdir()))
