"""What a DICOM file says before its pixels: read whatever breaks a rule, and refused where it is of no use."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from .scan import CorruptScan, ScanError, UnsupportedScan

SYNTAXES: dict[tuple[bool | None, bool | None], UID] = {  # by: implicit value representations? little-endian?
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
IMAGE = "Image Storage"  # in the name of every class of images
NO_IMAGES = {
    RTDoseStorage: "is a dose; only images are supported",
    SegmentationStorage: "is a segmentation; only images are supported",
    UID("1.2.840.10008.5.1.4.1.1.66.7"): "is a segmentation; only images are supported",  # of label maps
    ParametricMapStorage: "is a parametric map, computed from images; only images are supported",
}
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@contextmanager
def tolerant(path: object) -> Iterator[None]:
    """Take values that break DICOM's rules for a value's form as they are, and quote nothing of what goes wrong."""
    settings, logger = pydicom.config.settings, logging.getLogger("pydicom")
    before = settings.reading_validation_mode, settings._writing_validation_mode, logger.level
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ScanError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make any part of a parser fail
        raise CorruptScan(path, f"is damaged: its elements cannot be read ({type(error).__name__})") from error
    finally:
        settings.reading_validation_mode, settings._writing_validation_mode = before[:2]
        logger.setLevel(before[2])


def read_header(path: Path) -> Dataset:
    """A file's elements before its pixels, if it is of a kind that is supported.

    The first bytes of a file, which say that it is DICOM and how it is stored, may be missing.
    """
    with tolerant(path), path.open("rb") as file:
        if not file.read(1):
            raise CorruptScan(path, "is empty")
        file.seek(0)
        read_preamble(file, force=True)
        meta = _read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnsupportedScan(path, f"is stored as {DeflatedExplicitVRLittleEndian.name}, which is not supported")
        if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise UnsupportedScan(path, "is a DICOMDIR; give the folder of the images")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except OSError as error:
            raise CorruptScan(path, "is cut short or damaged: its elements do not fit into the file") from error
        complete(path, header)
        check_kind(path, header)
    return header


def complete(path: Path, header: Dataset) -> None:
    """Give a header what can be told where it does not say: its class, its identifier, how the file is stored."""
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword) and (value := header.file_meta.get(f"MediaStorage{keyword}")):
            setattr(header, keyword, value)
    if "SOPClassUID" not in header:
        raise CorruptScan(path, "does not begin as a DICOM file does, or does not say what it is")
    if "TransferSyntaxUID" not in header.file_meta:
        header.file_meta.TransferSyntaxUID = SYNTAXES[header.original_encoding]


def check_kind(path: Path, header: Dataset) -> None:
    """Refuse what holds no images of grey or coloured pixels, or is not said to."""
    kind = header.get("SOPClassUID")
    if "Rows" not in header or "Columns" not in header:
        if IMAGE in getattr(kind, "name", ""):
            raise CorruptScan(path, "is cut short or damaged: it is an image without rows and columns")
        raise UnsupportedScan(path, "has no pixels (a plan, a report or structures, say)")
    if kind in NO_IMAGES:
        raise UnsupportedScan(path, NO_IMAGES[kind])
    photometric = header.get("PhotometricInterpretation")
    if photometric == PALETTE:
        raise UnsupportedScan(path, "takes its colours from a palette; its numbers are no intensities")
    if photometric not in (*GREYSCALE, *COLOURS) or samples_of(header) != (1 if photometric in GREYSCALE else 3):
        raise UnsupportedScan(path, "is neither grey (MONOCHROME1, MONOCHROME2) nor in three colours (RGB, YBR)")
    if "ModalityLUTSequence" in header:
        raise UnsupportedScan(path, "has a modality look-up table; only a rescale slope and intercept are supported")
    if header.get("BitsAllocated") not in (8, 16, 32) or "PixelRepresentation" not in header:
        raise UnsupportedScan(path, "has pixels that are not integers of 8, 16 or 32 bits")
    if not 1 <= int(header.get("BitsStored") or 0) <= header.BitsAllocated:
        raise CorruptScan(path, "says that it uses more bits than a pixel has, or none")
    if header.get("PixelRepresentation") not in (0, 1):
        raise CorruptScan(path, "does not say whether its pixels are signed")
    if min(int(header.Rows), int(header.Columns)) < 1:
        raise CorruptScan(path, "has no rows or no columns")
    if count_frames(header) < 1:
        raise CorruptScan(path, "says that it has no frames")
    if not header.get("SOPInstanceUID"):
        raise UnsupportedScan(path, "has no SOPInstanceUID, which a derived image must refer to")


def count_frames(header: Dataset) -> int:
    count = header.get("NumberOfFrames")
    return 1 if count in (None, "") else int(count)


def is_multiframe(header: Dataset) -> bool:
    """Whether a file is a stack by itself, or is told of in the way of those that are."""
    return count_frames(header) > 1 or any(header.get(keyword) for keyword in GROUPS)


def samples_of(header: Dataset) -> int:
    """The numbers of a pixel."""
    return int(header.get("SamplesPerPixel", 1))


def is_in_colour(header: Dataset) -> bool:
    return header.PhotometricInterpretation in COLOURS


def frame_size(header: Dataset) -> int:
    """The bytes of a decoded frame."""
    return int(header.Rows) * int(header.Columns) * samples_of(header) * int(header.BitsAllocated) // 8


def is_inverted(header: Dataset) -> bool:
    """Whether small numbers are bright."""
    return header.PhotometricInterpretation == "MONOCHROME1"


def kind_of_pixels(header: Dataset) -> np.dtype:
    return np.dtype(f"{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}")


def scaling_of(path: Path, header: Dataset) -> tuple[float, float]:
    slope, intercept = (
        float(value) if (value := header.get(keyword)) not in (None, "") else default
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not (np.isfinite(slope) and np.isfinite(intercept) and slope != 0):
        raise CorruptScan(path, f"has a rescale slope of {slope:g} and an intercept of {intercept:g}")
    return slope, intercept


def limits_in_use(header: Dataset) -> tuple[int, int]:
    """The lowest and the highest number in the bits that a file says it uses."""
    bits = int(header.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (0, 2**bits - 1)


def padding_of(header: Dataset) -> tuple[int, int]:
    """The first and the last number that mean padding; none where the last is less, as of colours.

    They may be written with the sign that the pixels have or with the other: what counts is their bits.
    """
    ends = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] in (None, "") or is_in_colour(header):
        return 0, -1
    numbers = np.array([int(end) for end in ends if end not in (None, "")]).astype(kind_of_pixels(header))
    extended = extend_sign(numbers, int(header.BitsStored))
    return int(extended.min()), int(extended.max())


def extend_sign(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Signed pixels whose sign is said by the highest of the bits stored alone, the bits above being 0.

    >>> extend_sign(np.array([0x0FFF, 5, -1], np.int16), bits=12).tolist()
    [-1, 5, -1]
    >>> extend_sign(np.array([0x7FFF, 5, -1], np.int16), bits=15).tolist()
    [-1, 5, -1]
    """
    if pixels.dtype.kind == "u" or bits == 8 * pixels.itemsize:
        return pixels
    alone = (pixels >= 2 ** (bits - 1)) & (pixels < 2**bits)
    half = pixels.dtype.type(2 ** (bits - 1))
    return np.where(alone, pixels - half - half, pixels)
