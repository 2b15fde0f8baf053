"""Scans made for tests, with what real ones have in practice."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from monai_dnaprior.files.dicom_headers import tolerant
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.scan import Caps, Scan

PYDICOM_DATA = Path(pydicom.__file__).parent / "data" / "test_files"


def axial(depth: int) -> np.ndarray:
    """Positions of slices 3 mm apart."""
    return np.array([[-20.0, 30.0, 7.0 + 3 * index] for index in range(depth)])


def write_series(
    folder: Path,
    pixels: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    slope: Any = 1.0,
    instance_numbers: Sequence[int | None] | None = None,
    **elements: Any,
) -> None:
    """Slices (D, rows, columns) at positions (D, 3); file names and instance numbers in an order that means nothing.

    The pixels' type is stored. Further elements are those of every file; an element None is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    positions = axial(len(pixels)) if positions is None else positions
    series, order = generate_uid(), np.random.default_rng(0).permutation(len(pixels))
    numbers = [int(name) for name in order] if instance_numbers is None else instance_numbers
    stored = pixels.astype("<i2") if pixels.dtype == np.int64 else pixels
    for index, name in enumerate(order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "CT", series, series
        dataset.ImageOrientationPatient = list(orientation)
        dataset.ImagePositionPatient = [round(float(value), 6) for value in positions[index]]
        dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 3
        dataset.Rows, dataset.Columns = pixels.shape[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8 * stored.itemsize
        dataset.HighBit, dataset.PixelRepresentation = 8 * stored.itemsize - 1, int(stored.dtype.kind == "i")
        dataset.RescaleSlope, dataset.RescaleIntercept = float(np.broadcast_to(slope, len(pixels))[index]), -10
        dataset.PixelData = stored[index].tobytes()
        for keyword, value in {"InstanceNumber": numbers[index], **elements}.items():
            setattr(dataset, keyword, value)
            if value is None:
                delattr(dataset, keyword)
        dataset.save_as(folder / f"{name:03d}", enforce_file_format=True)


def write_frames(
    path: Path | io.BytesIO,
    pixels: np.ndarray,
    *,
    kind: str = "MR",
    positions: np.ndarray | None = None,
    orientations: Sequence[Sequence[float]] = ((1, 0, 0, 0, 1, 0),),
    slopes: Sequence[float] = (1.0,),
    stacks: Sequence[str] = ("1",),
    types: Sequence[str] = ("M",),
    times: Sequence[int] = (1,),
    big_endian: bool = False,
    **elements: Any,
) -> Dataset:
    """An enhanced image of frames (N, rows, columns), what differs from frame to frame a value for each or one for all.

    Its indices of dimensions are the stack, the position and the time.
    """
    count = len(pixels)
    dataset, frames = enhanced(kind, big_endian), []
    positions = axial(count) if positions is None else positions
    known = np.unique(np.round(positions, 3), axis=0).tolist()
    for number in range(count):
        stack, name, time = (values[number % len(values)] for values in (stacks, types, times))
        place = [round(float(value), 6) for value in positions[number]]
        indices = [sorted(set(stacks)).index(stack) + 1, known.index(np.round(place, 3).tolist()) + 1, time]
        frames.append(
            group(
                FrameContentSequence={"StackID": stack, "InStackPositionNumber": indices[1],
                                      "TemporalPositionIndex": time, "DimensionIndexValues": indices},
                PlanePositionSequence={"ImagePositionPatient": place},
                PlaneOrientationSequence={"ImageOrientationPatient": list(orientations[number % len(orientations)])},
                PixelValueTransformationSequence={"RescaleSlope": slopes[number % len(slopes)], "RescaleIntercept": -10,
                                                  "RescaleType": "US"},
                **{f"{kind}ImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "T1", name]}},
            )
        )  # fmt: skip
    measures = group(PixelMeasuresSequence={"PixelSpacing": [0.5, 0.75], "SliceThickness": 3})
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [measures], frames
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = count, *pixels.shape[1:3]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = 8 * pixels.itemsize - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<>"[big_endian])).tobytes()
    dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
        if value is None:
            delattr(dataset, keyword)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    with tolerant(path):
        dataset.save_as(path, enforce_file_format=True)
    return dataset


def enhanced(kind: str, big_endian: bool) -> Dataset:
    """What an enhanced image says besides its frames."""
    sop_class = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}[kind]
    meta = FileMetaDataset()
    dataset = FileDataset(
        None, {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False, is_little_endian=not big_endian
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality, dataset.ImageType = kind, ["ORIGINAL", "PRIMARY", "T1", "M"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    keywords = ("StackID", "InStackPositionNumber", "TemporalPositionIndex")
    pointers = [{"DimensionIndexPointer": tag_for_keyword(keyword)} for keyword in keywords]
    dataset.DimensionIndexSequence = [item_of(pointer) for pointer in pointers]
    private = dataset.private_block(0x2005, "MADE FOR TESTS", create=True)
    private.add_new(1, "LO", "kept")
    return dataset


def group(**sequences: dict[str, Any]) -> Dataset:
    """A functional group."""
    return item_of({keyword: [item_of(elements)] for keyword, elements in sequences.items()})


def item_of(elements: dict[str, Any]) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def shipped(name: str) -> bytes:
    """A DICOM file that pydicom ships."""
    return (PYDICOM_DATA / name).read_bytes()


def edited(*removed: str, source: str = "CT_small.dcm", **elements: Any) -> bytes:
    """A shipped file with other elements, whatever they contradict, and without some."""
    dataset, buffer = pydicom.dcmread(PYDICOM_DATA / source), io.BytesIO()
    with tolerant(source):
        for keyword in removed:
            del dataset[keyword]
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(buffer)
    return buffer.getvalue()


def with_frame(change: Callable[[bytes], bytes], source: str) -> bytes:
    """A shipped compressed file whose compressed pixels are changed, soundly wrapped."""
    frame = next(generate_frames(pydicom.dcmread(PYDICOM_DATA / source).PixelData, number_of_frames=1))
    return edited(source=source, PixelData=encapsulate([change(frame)]))


def read_scan(path: Path) -> Scan:
    """What a file holds, by the reader of its kind."""
    (source,), _ = find_sources(path)
    return source.read(Caps())
