"""The derived DICOM image: what it keeps of its source, what is its own, and what no longer holds."""

from __future__ import annotations

import copy
import hashlib
import os
import time
import uuid
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    PositronEmissionTomographyImageStorage,
)

from .dicom_frames import frame_types
from .dicom_headers import GROUPS, is_in_colour

MANUFACTURER = "monai-dnaprior"
SUFFIX = " denoised"
LONGEST_DESCRIPTION, LONGEST_DERIVATION = 64, 1024  # characters of LO and ST
SERIES_NUMBER_OFFSET = 1000
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
DERIVATION = "DerivationImageSequence"
OF_ALL_PARTS = ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource")  # of an image in several files
WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # bytes of one, by value representation
NO_LONGER_TRUE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "DataSetTrailingPadding",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)


def derive(header: Dataset, pixels: np.ndarray, *, description: str, configuration: str, version: str) -> Dataset:
    """The derived image of a source and its denoised pixels, ready to be written as Explicit VR Little Endian.

    Patient, study, frame of reference, geometry, acquisition, rescaling and private elements are the source's.

    Args:
        header: the source, without its pixels.
        pixels: (rows, columns) of stored numbers, of the source's depth; frames in the source's order in front, and
            colours (RGB) behind, where it has such.
        description: how it was denoised.
        configuration: all of what the pixels depend on besides the source, as text. With the source, the version and
            the pixels it gives the new identifiers: the same identifier, the same pixels.
        version: of this package.
    """
    derived = copy.deepcopy(header)
    if header.original_encoding[1] is False:
        convert_to_little_endian(derived)
    for keyword in NO_LONGER_TRUE:
        if keyword in derived:
            del derived[keyword]
    source_class, source = str(header.SOPClassUID), str(header.SOPInstanceUID)
    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    derived.SOPInstanceUID = identifier(source, version, configuration, little.tobytes())
    derived.SeriesInstanceUID = identifier(str(header.SeriesInstanceUID), version, configuration)
    derived.SeriesNumber = int(header.get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET
    derived.SeriesDescription = str(header.get("SeriesDescription") or "")[: LONGEST_DESCRIPTION - len(SUFFIX)] + SUFFIX
    derived.ImageType = derived_type(header.get("ImageType"), header)
    now = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    derived.InstanceCreationDate = time.strftime("%Y%m%d", now)
    derived.InstanceCreationTime = time.strftime("%H%M%S", now)
    shared, each = (list(derived.get(keyword) or []) for keyword in GROUPS)
    for item in (item for group in (*shared, *each) for item in frame_types(group)):
        item.FrameType = derived_type(item.get("FrameType"), header)
    for item in derivations(shared, each) or [derived]:
        add_derivation(item, source_image(source_class, source), description)
    if shared or each:
        earlier = header.get("SourceImageEvidenceSequence") or []
        derived.SourceImageEvidenceSequence = [*earlier, evidence(header)]
    for keyword in OF_ALL_PARTS:
        if keyword in derived:
            derived[keyword].value = identifier(str(derived[keyword].value), version, configuration)
    equipment = list(header.get("ContributingEquipmentSequence") or [])
    derived.ContributingEquipmentSequence = [*equipment, processing_equipment(version)]
    if header.file_meta.TransferSyntaxUID in LOSSY and "LossyImageCompression" not in header:
        derived.LossyImageCompression = "01"
    if is_in_colour(header):
        derived.PhotometricInterpretation, derived.PlanarConfiguration = "RGB", 0
    derived.PixelData = pad_to_even(little.tobytes())
    derived["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    derived.file_meta = FileMetaDataset()
    derived.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    derived.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    derived.file_meta.MediaStorageSOPInstanceUID = derived.SOPInstanceUID
    return derived


def derived_type(kind: Sequence[str] | None, header: Dataset) -> list[str]:
    """The type of an image, or of a frame, when it is derived; some classes know PRIMARY only."""
    primary = header.SOPClassUID == PositronEmissionTomographyImageStorage or is_enhanced(header)
    return ["DERIVED", "PRIMARY" if primary else "SECONDARY", *list(kind or [])[2:]]


def is_enhanced(header: Dataset) -> bool:
    """Whether an image is of a class that tells of its frames in functional groups."""
    return "Enhanced" in getattr(header.SOPClassUID, "name", "") or any(keyword in header for keyword in GROUPS)


def derivations(shared: list[Dataset], each: list[Dataset]) -> list[Dataset]:
    """New items in the functional groups that say what frames were made from: those of all, or of each as before."""
    items = []
    for group in each if any(DERIVATION in group for group in each) else shared or each:
        items.append(Dataset())
        setattr(group, DERIVATION, [*(group.get(DERIVATION) or []), items[-1]])
    return items


def add_derivation(item: Dataset, source: Dataset, description: str) -> None:
    earlier = str(item.get("DerivationDescription") or "")
    item.DerivationDescription = "; ".join(part for part in (earlier, description) if part)[-LONGEST_DERIVATION:]
    item.DerivationCodeSequence = [*(item.get("DerivationCodeSequence") or []), code("113087", "Smoothing")]
    item.SourceImageSequence = [source]


def convert_to_little_endian(dataset: Dataset) -> None:
    """Turn what a big-endian file holds as plain words; numbers of other kinds are written as they should be anyway."""
    for element in dataset.iterall():
        if element.VR in WORDS and element.value:
            words = np.frombuffer(element.value, f">u{WORDS[element.VR]}")
            element.value = words.astype(f"<u{WORDS[element.VR]}").tobytes()
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True)


def identifier(*parts: str | bytes) -> str:
    """A UID that is the same for the same parts.

    >>> identifier("1.2.3", b"pixels") == identifier("1.2.3", b"pixels") != identifier("1.2.3", b"others")
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big") + content)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def source_image(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return item


def evidence(header: Dataset) -> Dataset:
    """Where an image is found: its study, its series, itself."""
    study, series, image = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = header.SeriesInstanceUID, [image]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = header.get("StudyInstanceUID"), [series]
    return study


def processing_equipment(version: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    item.Manufacturer, item.SoftwareVersions = MANUFACTURER, version
    return item


def code(value: str, meaning: str) -> Dataset:
    """An item of DICOM's own code scheme."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def pad_to_even(content: bytes) -> bytes:
    """The content in an even number of bytes, as every element has."""
    return content + b"\0" * (len(content) % 2)
