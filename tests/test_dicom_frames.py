"""DICOM files of several frames: which volumes they are, that they come back bit for bit, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from monai.transforms import LoadImage
from pydicom import Dataset
from pydicom.uid import MPEG2MPML, ExplicitVRLittleEndian, RLELossless, UltrasoundMultiFrameImageStorage
from scans import PYDICOM_DATA, write_frames

from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.files import dicom_pixels
from monai_dnaprior.files.dicom import DicomScan, read_dicom
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.reader import ScanReader, find_scans, read_volume
from monai_dnaprior.files.scan import LPS_TO_RAS, Caps, ScanError, UnsupportedScan, same_bits

SHUFFLED = np.random.default_rng(0).permutation(5)
PLACES = np.array([[-20.0, 30.0, 7.0 + 3 * index] for index in SHUFFLED])
REAL = ("enhanced_CT/eCT_Supplemental.dcm", "enhanced_MR_philips/IM_0027_fMAP.dcm", "enhanced_MR_siemens_xa10/6_1.dcm")
PROVENANCE: dict[str, Any] = {"description": "denoised with tv", "configuration": "{}", "version": "0"}
SAGITTAL = (0, 1, 0, 0, 0, -1)


def noise(count: int, kind: str = "<i2") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, (count, 8, 6)).astype(kind)


def identity(path: Path, output: Path) -> Dataset:
    """What is written in the place of a file whose pixels do not change."""
    scan = read_dicom([path])
    scan.write(output, scan.stored, **PROVENANCE)
    assert same_bits(read_dicom([output]).stored, scan.stored)
    return pydicom.dcmread(output)


def itk_affine(path: Path) -> np.ndarray:
    """From a voxel (column, row, frame) to millimetres, RAS, as ITK has it."""
    image = SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def test_frames_out_of_order_become_a_volume_with_a_slope_each(tmp_path: Path) -> None:
    pixels, slopes = noise(5), [1.0, 0.5, 2.0, 0.25, 4.0]
    write_frames(tmp_path / "in.dcm", pixels, kind="CT", positions=PLACES, slopes=slopes)
    scan = read_dicom([tmp_path / "in.dcm"])
    assert scan.warnings == ()
    expected = pixels * np.array(slopes)[:, None, None] - 10
    for number, place in enumerate(SHUFFLED):
        assert np.array_equal(scan.values()[0, ..., place].T, expected[number])
        assert np.allclose(scan.affine @ [0, 0, place, 1], LPS_TO_RAS @ [*PLACES[number], 1])
    assert np.allclose(scan.spacing, (0.75, 0.5, 3))


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (0, 3, 1, 4, 2, 5), (5, 1, 3, 0, 4, 2)])
@pytest.mark.parametrize("told_by", ["times", "types", "indices"])
def test_frames_at_one_place_are_volumes_of_their_own(told_by: str, order: tuple[int, ...], tmp_path: Path) -> None:
    """Times or types (0, 0, 0, 1, 1, 1) at three places, stored in some order."""
    pixels, kinds = noise(6), ("M", "P") if told_by == "types" else (1, 2)
    dataset = write_frames(
        tmp_path / "in.dcm", pixels[list(order)], positions=PLACES[[number % 3 for number in order]],
        **{told_by.replace("indices", "times"): [kinds[number // 3] for number in order]},
    )  # fmt: skip
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        missing = {"times": "DimensionIndexValues", "indices": "TemporalPositionIndex"}.get(told_by, "StackID")
        del frame.FrameContentSequence[0][missing]
    dataset.save_as(tmp_path / "in.dcm")
    scan = read_dicom([tmp_path / "in.dcm"])
    along = np.argsort(SHUFFLED[:3])
    volumes = {pixels[along + first].tobytes() for first in (0, 3)}
    assert {np.ascontiguousarray(volume.transpose(2, 1, 0)).tobytes() for volume in scan.stored} == volumes
    assert scan.warnings == ()
    loaded = LoadImage(reader=ScanReader())(tmp_path / "in.dcm")
    assert loaded.shape == (6, 8, 3, 2)
    assert np.array_equal(loaded.numpy(), scan.stored.transpose(1, 2, 3, 0) - 10)
    assert np.allclose(loaded.affine, scan.affine)
    assert read_volume(tmp_path / "in.dcm").shape == scan.stored.shape


def test_stacks_elsewhere_and_of_other_lengths_are_told(tmp_path: Path) -> None:
    pixels = noise(4)
    turned = {"orientations": ((1, 0, 0, 0, 1, 0), SAGITTAL), "stacks": ("1", "2")}
    across = np.array([[7.0 * number, 0, 5.0 * number] for number in range(4)])
    write_frames(tmp_path / "localiser.dcm", pixels, positions=across, **turned)
    scan = read_dicom([tmp_path / "localiser.dcm"])
    assert scan.stored.shape == (2, 6, 8, 2)
    assert scan.affine is None
    assert "its stacks of frames do not lie at one place" in scan.warnings
    parallel = np.array([[0.0, 0, 3 * number + 90 * (number > 2)] for number in range(6)])
    write_frames(tmp_path / "parallel.dcm", noise(6), positions=parallel, stacks="111222")
    scan = read_dicom([tmp_path / "parallel.dcm"])
    assert (scan.stored.shape, scan.warnings) == ((2, 6, 8, 3), ("its stacks of frames do not lie at one place",))
    write_frames(tmp_path / "ended.dcm", pixels, positions=PLACES[[0, 1, 2, 0]], times=(1, 1, 1, 2))
    scan = read_dicom([tmp_path / "ended.dcm"])
    assert np.array_equal(scan.stored[0].T, pixels)
    assert (scan.affine, scan.warnings) == (
        None,
        ("its frames form no stacks of one size; each is one slice, in their order",),
    )


@pytest.mark.parametrize(
    ("elements", "warning"),
    [({"TotalPixelMatrixColumns": 12}, "its frames are tiles of one picture"),
     ({"RedPaletteColorLookupTableData": bytes(2)}, "some of its numbers are shown in colours")],
)  # fmt: skip
def test_what_is_odd_about_frames_is_warned_of(elements: dict[str, Any], warning: str, tmp_path: Path) -> None:
    write_frames(tmp_path / "in.dcm", noise(2), positions=PLACES[:2], **elements)
    (text,) = read_dicom([tmp_path / "in.dcm"]).warnings
    assert text.startswith(warning)


@pytest.mark.parametrize("kind", ["<i2", "<u2", "i1", "u1"])
@pytest.mark.parametrize("stored_as", ["little", "big", "RLE"])
def test_the_identity_gives_every_bit_back(kind: str, stored_as: str, tmp_path: Path) -> None:
    pixels, path = noise(5, kind), tmp_path / "in.dcm"
    pixels[0, 0, :2] = np.iinfo(kind).min, np.iinfo(kind).max
    write_frames(path, pixels, positions=PLACES, slopes=(1.0, 0.5), big_endian=stored_as == "big")
    if stored_as == "RLE":
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    source, derived = pydicom.dcmread(path), identity(path, tmp_path / "out.dcm")
    assert derived.PixelData == pixels.tobytes() + b"\0" * (pixels.size * pixels.itemsize % 2)
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    before, after = read_dicom([path]), read_dicom([tmp_path / "out.dcm"])
    assert np.array_equal(before.values(), after.values())
    assert np.array_equal(before.affine, after.affine)
    assert derived[0x2005, 0x1001].value == "kept"
    for keyword in ("SOPClassUID", "NumberOfFrames", "BitsStored", "DimensionIndexSequence", "StudyInstanceUID"):
        assert derived[keyword].value == source[keyword].value


def test_a_change_goes_to_its_frame_through_its_slope(tmp_path: Path) -> None:
    pixels, slopes = noise(5), (1.0, 0.5, 2.0, 0.25, 4.0)
    write_frames(tmp_path / "in.dcm", pixels, positions=PLACES, slopes=slopes)
    scan = read_dicom([tmp_path / "in.dcm"])
    residual = np.zeros(scan.stored.shape)
    residual[0, ..., SHUFFLED[2]] = 8  # of the third frame
    stored, _ = scan.subtract(residual, (slice(None),) * 4)
    scan.write(tmp_path / "out.dcm", stored, **PROVENANCE)
    written = pydicom.dcmread(tmp_path / "out.dcm").pixel_array.astype(int)
    assert [np.unique(change).tolist() for change in pixels - written] == [[0], [0], [4], [0], [0]]


def test_what_frames_were_made_from_is_said_where_their_kind_is(tmp_path: Path) -> None:
    write_frames(tmp_path / "in.dcm", noise(2), ConcatenationUID="1.2.3", InConcatenationNumber=1)
    source, derived = pydicom.dcmread(tmp_path / "in.dcm"), identity(tmp_path / "in.dcm", tmp_path / "out.dcm")
    assert derived.ImageType == ["DERIVED", "PRIMARY", "T1", "M"]
    for frame in derived.PerFrameFunctionalGroupsSequence:
        assert frame.MRImageFrameTypeSequence[0].FrameType == ["DERIVED", "PRIMARY", "T1", "M"]
    (item,) = derived.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert item.DerivationDescription == "denoised with tv"
    assert item.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert item.DerivationCodeSequence[0].CodeValue == "113087"
    (study,) = derived.SourceImageEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert "SourceImageSequence" not in derived
    identifiers = {derived[keyword].value for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "ConcatenationUID")}
    assert len(identifiers - {source.SOPInstanceUID, source.SeriesInstanceUID, "1.2.3"}) == 3
    assert derived.SeriesDescription == " denoised"


def test_what_frames_were_made_from_before_is_kept(tmp_path: Path) -> None:
    dataset = write_frames(tmp_path / "in.dcm", noise(2))
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.DerivationDescription = f"mean {number}"
        frame.DerivationImageSequence = [item]
    dataset.save_as(tmp_path / "in.dcm")
    derived = identity(tmp_path / "in.dcm", tmp_path / "out.dcm")
    for number, frame in enumerate(derived.PerFrameFunctionalGroupsSequence):
        assert [item.DerivationDescription[:6] for item in frame.DerivationImageSequence] == [
            f"mean {number}",
            "denois",
        ]
    assert "DerivationImageSequence" not in derived.SharedFunctionalGroupsSequence[0]


HOSTILE: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "fewer pixels than frames": (
        lambda file: setattr(file, "PixelData", file.PixelData[:-2]),
        "is cut short: 286 of 288 bytes of pixels",
    ),
    "no frames": (lambda file: setattr(file, "NumberOfFrames", 0), "says that it has no frames"),
    "fewer frames than pixels": (
        lambda file: setattr(file, "NumberOfFrames", 2),
        "decodes to (3, 8, 6) pixels; its header says (2, 8, 6)",
    ),
    "more frames than told of": (
        lambda file: file.PerFrameFunctionalGroupsSequence.pop(),
        "has 3 frames, and says of 2 where they are",
    ),
    "a frame without a place": (
        lambda file: delattr(file.PerFrameFunctionalGroupsSequence[1], "PlanePositionSequence"),
        "says the ImagePositionPatient of some frames, and not of the others",
    ),
    "a frame without a slope": (
        lambda file: delattr(file.PerFrameFunctionalGroupsSequence[1], "PixelValueTransformationSequence"),
        "says the RescaleSlope of some frames, and not of the others",
    ),
    "a slope of 0": (
        lambda file: setattr(
            file.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0], "RescaleSlope", 0
        ),
        "has a rescale slope of 0 and an intercept of -10",
    ),
    "half a place": (
        lambda file: setattr(
            file.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0], "ImagePositionPatient", [1, 2]
        ),
        "has an ImagePositionPatient that is not 3 numbers",
    ),
    "a million frames": (
        lambda file: setattr(file, "NumberOfFrames", 10**9),
        "96000000000 bytes of voxels are more than the cap of 4294967296; raise --max-bytes",
    ),
    "a segmentation": (
        lambda file: setattr(file, "SOPClassUID", pydicom.uid.SegmentationStorage),
        "is a segmentation; only images are supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_frames_that_contradict_themselves_are_refused_in_one_line(
    change: Callable[[Dataset], Any], reason: str, tmp_path: Path
) -> None:
    dataset = write_frames(tmp_path / "in.dcm", noise(3))
    change(dataset)
    dataset.save_as(tmp_path / "in.dcm")
    with pytest.raises(ScanError) as caught:
        read_dicom([tmp_path / "in.dcm"])
    assert str(caught.value) == f"{tmp_path / 'in.dcm'}: {reason}"


def test_compressed_frames_fewer_than_it_says_are_refused(tmp_path: Path) -> None:
    dataset = write_frames(tmp_path / "in.dcm", noise(3), PerFrameFunctionalGroupsSequence=None)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.NumberOfFrames = 4
    dataset.save_as(tmp_path / "in.dcm")
    with pytest.raises(ScanError, match="no installed decoder can read"):
        read_dicom([tmp_path / "in.dcm"])


@pytest.mark.parametrize("count", [1, 4])
def test_frames_without_a_place_stay_in_order(count: int, tmp_path: Path) -> None:
    pixels = noise(count, "u1")
    groups = {"SharedFunctionalGroupsSequence": None, "PerFrameFunctionalGroupsSequence": None}
    write_frames(tmp_path / "in.dcm", pixels, SOPClassUID=UltrasoundMultiFrameImageStorage, **groups)
    derived, scan = identity(tmp_path / "in.dcm", tmp_path / "out.dcm"), read_dicom([tmp_path / "in.dcm"])
    assert np.array_equal(scan.stored[0].T, pixels)
    assert scan.affine is None
    assert len(scan.warnings) == (count > 1)
    assert derived.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert derived.PixelData == pixels.tobytes()
    assert derived.SourceImageSequence


def test_a_frame_alone_is_as_thick_as_it_says(tmp_path: Path) -> None:
    write_frames(tmp_path / "in.dcm", noise(1))
    assert np.allclose(read_dicom([tmp_path / "in.dcm"]).spacing, (0.75, 0.5, 3))


def test_every_file_of_frames_is_a_scan_of_its_name(tmp_path: Path) -> None:
    for name in ("a.dcm", "b"):
        write_frames(tmp_path / name, noise(2), SeriesInstanceUID="1.2.3")
    sources, errors = find_sources(tmp_path)
    assert not errors
    assert [source.output_name for source in sources] == ["a_denoised.dcm", "b_denoised.dcm"]
    assert [scan["image"] for scan in find_scans(tmp_path)] == [[str(tmp_path / name)] for name in ("a.dcm", "b")]


COLOURED = (
    "SC_rgb_small_odd.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle_2frame.dcm", "examples_ybr_color.dcm",
    "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle_16bit_2frame.dcm",
)  # fmt: skip


@pytest.mark.parametrize("name", COLOURED)
def test_colours_come_back_as_red_green_and_blue(name: str, tmp_path: Path) -> None:
    path = PYDICOM_DATA / name
    if not path.exists():
        pytest.skip(f"this version of pydicom ships no {name}")
    expected = pydicom.dcmread(path).pixel_array
    derived = identity(path, tmp_path / "out.dcm")
    assert np.array_equal(derived.pixel_array, expected)
    assert (derived.PhotometricInterpretation, derived.PlanarConfiguration) == ("RGB", 0)
    itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out.dcm"), imageIO="GDCMImageIO"))
    assert np.array_equal(itk.reshape(expected.shape), expected)
    loaded = LoadImage(reader=ScanReader())(path)
    frames = expected if expected.ndim == 4 else expected[None]
    assert np.array_equal(loaded.numpy(), frames.transpose(2, 1, 0, 3))


def test_a_slice_of_colours_is_denoised_as_one(tmp_path: Path) -> None:
    (row,) = denoise_all(PYDICOM_DATA / "SC_rgb_small_odd.dcm", tmp_path / "out.dcm", caps=Caps(), method="median")
    assert (row.status, row.slices) == ("denoised", 1)


def test_colours_have_no_padding(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    dataset = pydicom.dcmread(PYDICOM_DATA / "SC_rgb_small_odd.dcm")
    dataset.add_new("PixelPaddingValue", "US", 166)
    dataset.save_as(path)
    assert 166 in read_dicom([path]).stored
    assert read_dicom([path]).valid is None


def test_video_is_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(PYDICOM_DATA / "SC_rgb_jpeg_gdcm.dcm")
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.save_as(tmp_path / "in.dcm")
    with pytest.raises(UnsupportedScan, match="is stored as MPEG2 Main Profile / Main Level, which is not supported"):
        read_dicom([tmp_path / "in.dcm"])


def test_frames_without_their_decoder_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SimpleITK, which would decode them, gives the scaling of the first frame to all."""
    dataset = write_frames(tmp_path / "in.dcm", noise(3))
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "in.dcm")
    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda syntax: SimpleNamespace(is_available=False))
    with pytest.raises(UnsupportedScan, match=r"is stored as RLE Lossless; pip install 'monai-dnaprior\[codecs\]'"):
        read_dicom([tmp_path / "in.dcm"])


def test_frames_lie_where_itk_has_them(tmp_path: Path) -> None:
    places = np.array([[-20.0, 30 + 3 * number, 7] for number in range(4)])
    write_frames(tmp_path / "in.dcm", noise(4), positions=places, orientations=((1, 0, 0, 0, 0, -1),))
    scan, affine = read_dicom([tmp_path / "in.dcm"]), itk_affine(tmp_path / "in.dcm")
    assert scan.order is not None
    for place, number in enumerate(scan.order[0]):
        assert np.allclose(scan.affine @ [5, 7, place, 1], affine @ [5, 7, number, 1])


@pytest.mark.parametrize("name", REAL)
def test_real_frames_lie_where_itk_has_them(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "dicom" / name
    scan, affine = read_dicom([path]), itk_affine(path)
    assert isinstance(scan, DicomScan)
    assert scan.order is not None
    pixels = pydicom.dcmread(path).pixel_array
    for stack, volume in zip(scan.order, scan.stored, strict=True):
        for place, number in enumerate(stack):
            assert np.array_equal(volume[..., place].T, pixels[number])
            ahead = number % len(stack)  # ITK has the frames of several stacks behind each other
            assert np.allclose(scan.affine @ [5, 7, place, 1], affine @ [5, 7, ahead, 1], atol=1e-3)
    derived = identity(path, tmp_path / "out.dcm")
    assert np.array_equal(derived.pixel_array, pixels)
    assert np.allclose(itk_affine(tmp_path / "out.dcm"), affine)


def test_twelve_bits_of_jpeg_are_those_that_itk_decodes(shared_data: Path) -> None:
    path = shared_data / "dicom" / "pydicom_small" / "JPGExtended.dcm"
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
    assert np.array_equal(read_dicom([path]).stored[0].T, image)
