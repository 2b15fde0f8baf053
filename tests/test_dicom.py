"""The derived DICOM image: what it keeps, what is its own, what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from scans import write_series

from monai_dnaprior import __version__
from monai_dnaprior.files.derived_dicom import derive
from monai_dnaprior.files.dicom import group_series, read_dicom, read_header
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
    vr = pydicom.datadict.dictionary_VR(keyword)
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
    [("MR_small_bigendian.dcm", "Big Endian"), ("SC_rgb_rle.dcm", "not greyscale"), ("rtdose.dcm", "several frames"),
     ("test-SR.dcm", "no pixels"), ("examples_palette.dcm", "not greyscale"), ("image_dfl.dcm", "Deflated")],
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
