"""Scans made for tests, with what real ones have in practice."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from monai_dnaprior.files.dicom import tolerant
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
