"""DICOM series in and out: single greyscale frames, sorted along their normal, each with its own scaling."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
)

from .derived_dicom import derive, identifier
from .dicom_geometry import affine_of, orientation_of, sorted_along_normal
from .nifti import write_array
from .scan import Caps, CorruptScan, Scan, ScanError, UnsupportedScan

PREAMBLE = 128
FIRST_GROUPS = (b"\2\0", b"\x08\0", b"\0\2", b"\0\x08")  # of elements, in either byte order
SYNTAXES: dict[tuple[bool | None, bool | None], UID] = {  # by: implicit value representations? little-endian?
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
MOST_PADDING = 0.9  # of the voxels, beyond which it is doubted
IMAGE = "Image Storage"  # in the name of every class of images


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomScan(Scan):
    """The files of one series that have one orientation and one matrix; ``headers`` are theirs without the pixels."""

    headers: tuple[Dataset, ...]

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        """Write a derived file for each slice into a new folder, or that of a single slice as a file."""
        single = path.suffix.lower() == ".dcm"
        if not single:
            path.mkdir()
        for number, header in enumerate(self.headers):
            file = path if single else path / f"{number + 1:04d}.dcm"
            pixels = np.ascontiguousarray(stored[0, ..., number].T.astype(kind_of_pixels(header)))
            with tolerant(self.name):
                derive(header, pixels, **provenance).save_as(
                    file, enforce_file_format=True, little_endian=True, implicit_vr=False
                )

    @property
    def inverted(self) -> bool:
        return is_inverted(self.headers[0])

    def write_values(self, path: Path, values: np.ndarray) -> None:
        write_array(path, values, self.affine)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does, is named like one, or holds one without its first bytes.

    A DICOMDIR, a list of others, is none.
    """
    with path.open("rb") as file:
        start = file.read(PREAMBLE + 4)
    if path.name.upper() == "DICOMDIR":
        return False
    return start[PREAMBLE:] == b"DICM" or path.suffix.lower() == ".dcm" or holds_class(path, start)


def holds_class(path: Path, start: bytes) -> bool:
    """Whether a file that begins with no prefix begins with elements, among them the class of what they describe."""
    if start[:2] not in FIRST_GROUPS:
        return False
    try:
        with tolerant(path):
            found = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            return "SOPClassUID" in found or "MediaStorageSOPClassUID" in found.file_meta
    except ScanError:
        return False


def group_series(paths: Sequence[Path]) -> tuple[list[list[Path]], list[ScanError]]:
    """The files of each stack of slices, by series, orientation and matrix, and why others belong to none."""
    stacks: dict[tuple, list[Path]] = defaultdict(list)
    errors: list[ScanError] = []
    for path in paths:
        try:
            header = read_header(path)
            with tolerant(path):
                orientation = tuple(np.round(orientation_of(header), 3))
                key = str(header.get("SeriesInstanceUID") or ""), orientation, int(header.Rows), int(header.Columns)
        except ScanError as error:
            errors.append(error)
        except OSError as error:
            errors.append(UnsupportedScan(path, f"cannot be read: {error.strerror}"))
        else:
            stacks[key].append(path)
    return [stacks[key] for key in sorted(stacks)], errors


def read_dicom(paths: Sequence[Path], caps: Caps | None = None) -> DicomScan:
    """Read the files of one stack of slices, sorted along their normal, compressed or not.

    Voxels that are padding, or beyond the bits that the file says it uses, are not valid. Unequal spacing and a gantry
    tilt are warned of: slices are treated one by one.

    Raises:
        CorruptScan: a file is damaged; two slices cannot be told apart.
        UnsupportedScan: more than the caps, colours, several frames, no pixels, a dose, a missing decoder.

    >>> path = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    >>> read_dicom([path]).stored.shape
    (1, 128, 128, 1)
    """
    caps = caps or Caps()
    place = paths[0] if len(paths) == 1 else paths[0].parent
    headers = {path: read_header(path) for path in paths}
    total = sum(frame_size(header) for header in headers.values())
    for path, header in headers.items():
        pixels = int(header.Rows) * int(header.Columns)
        caps.admit(path, decoded=frame_size(header), encoded=path.stat().st_size, pixels=pixels)
    caps.admit(place, decoded=total, encoded=total, pixels=1)
    with tolerant(place):
        paths, step, cautions = sorted_along_normal(place, headers)
        frames, scalings = zip(*[read_slice(path, headers[path]) for path in paths], strict=True)
        ordered = [headers[path] for path in paths]
        for header in ordered:
            if not header.get("SeriesInstanceUID"):
                header.SeriesInstanceUID = identifier(str(ordered[0].SOPInstanceUID))
        stored = np.stack(frames).transpose(2, 1, 0)[None]
        low, high = np.array([limits_in_use(header) for header in ordered]).T
        first, last = np.array([padding_of(header) for header in ordered]).T
        padded, used = (stored >= first) & (stored <= last), (stored >= low) & (stored <= high)
        valid = used & ~padded
        cautions += tuple(doubts_of(padded, used))
        affine = affine_of(ordered[0], step)
    return DicomScan(
        name=place.name,
        stored=stored,
        slope=np.array([slope for slope, _ in scalings]),
        intercept=np.array([intercept for _, intercept in scalings]),
        limits=(low, high),
        valid=None if valid.all() else valid,
        padding=(first, last),
        affine=affine,
        warnings=cautions,
        headers=tuple(ordered),
    )


def doubts_of(padded: np.ndarray, used: np.ndarray) -> Iterator[str]:
    """What is doubtful about the voxels that are left alone, in words: all are padding, or they lie scattered."""
    if (share := padded.mean()) > MOST_PADDING:
        yield f"{share:.0%} of the voxels are padding, as the file says, and are left as they are"
    beside = sum(np.roll(padded, step, axis) for axis in (1, 2) for step in (-1, 1))
    if 2 * np.count_nonzero(padded & (beside == 0)) > np.count_nonzero(padded):
        yield "what the file says is padding lies scattered among the voxels, and is left as it is"
    if outside := np.count_nonzero(~used & ~padded):
        yield f"{outside} voxels use more bits than the file says, and are left as they are"


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
    """Refuse what is no single frame of grey pixels, or is not said to be."""
    kind = header.get("SOPClassUID")
    if "Rows" not in header or "Columns" not in header:
        if IMAGE in getattr(kind, "name", ""):
            raise CorruptScan(path, "is cut short or damaged: it is an image without rows and columns")
        raise UnsupportedScan(path, "has no pixels (a plan, a report or structures, say)")
    photometric = header.get("PhotometricInterpretation")
    if photometric not in GREYSCALE or header.get("SamplesPerPixel", 1) != 1:
        raise UnsupportedScan(path, f"is not greyscale; its pixels must be {' or '.join(GREYSCALE)}")
    if int(header.get("NumberOfFrames") or 1) != 1 or "PerFrameFunctionalGroupsSequence" in header:
        raise UnsupportedScan(path, "has several frames; only series of single frames are supported")
    if kind == RTDoseStorage:
        raise UnsupportedScan(path, "is a dose; only images are supported")
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
    if not header.get("SOPInstanceUID"):
        raise UnsupportedScan(path, "has no SOPInstanceUID, which a derived image must refer to")


def frame_size(header: Dataset) -> int:
    return int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8


def read_slice(path: Path, header: Dataset) -> tuple[np.ndarray, tuple[float, float]]:
    """The stored pixels of a file, its slope and its intercept; if it is damaged, it is named and not the series."""
    with tolerant(path):
        return read_pixels(path, header), scaling_of(path, header)


def read_pixels(path: Path, header: Dataset) -> np.ndarray:
    """The stored pixels (rows, columns) of a file, decoded."""
    dataset = pydicom.dcmread(path, force=True)
    if "PixelData" not in dataset:
        raise CorruptScan(path, "is cut short: its pixels are not there")
    syntax = dataset.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    if dataset["PixelData"].is_undefined_length and not syntax.is_compressed:
        raise CorruptScan(path, "is compressed, and does not say how")
    if syntax.is_compressed:
        if not get_decoder(syntax).is_available:
            return read_pixels_with_itk(path, header)
    elif len(dataset.PixelData) < frame_size(header):
        raise CorruptScan(path, f"is cut short: {len(dataset.PixelData)} of {frame_size(header)} bytes of pixels")
    try:
        dataset.pixel_array_options(correct_unused_bits=False)
        pixels = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptScan(path, f"has pixels that no installed decoder can read ({syntax.name})") from error
    if pixels.shape != (header.Rows, header.Columns):
        raise CorruptScan(path, f"decodes to {pixels.shape} pixels; its header says {(header.Rows, header.Columns)}")
    bits, highest = int(header.BitsStored), int(header.get("HighBit") or header.BitsStored - 1)
    if highest >= bits and (pixels.view(f"u{pixels.itemsize}") >> bits).any():
        raise UnsupportedScan(path, f"keeps {bits} bits of a pixel below bit {highest}, where readers do not look")
    return extend_sign(pixels, bits)


def read_pixels_with_itk(path: Path, header: Dataset) -> np.ndarray:
    """The same by SimpleITK's decoders, whose rescaling and inversion are undone."""
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        name = header.file_meta.TransferSyntaxUID.name
        raise UnsupportedScan(path, f"is stored as {name}; pip install 'monai-dnaprior[codecs]' to read it") from error
    slope, intercept = scaling_of(path, header)
    stored = np.rint((SimpleITK.GetArrayFromImage(image).reshape(header.Rows, header.Columns) - intercept) / slope)
    stored = sum(limits_in_use(header)) - stored if is_inverted(header) else stored
    return stored.astype(kind_of_pixels(header))


def extend_sign(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Signed pixels whose sign is said by the highest of the bits stored alone, the bits above being 0.

    >>> extend_sign(np.array([0x0FFF, 5, -1], np.int16), bits=12).tolist()
    [-1, 5, -1]
    """
    if pixels.dtype.kind == "u":
        return pixels
    alone = (pixels >= 2 ** (bits - 1)) & (pixels < 2**bits)
    return np.where(alone, pixels.astype(np.int64) - 2**bits, pixels).astype(pixels.dtype)


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
    """The first and the last number that mean padding; none where the last is less.

    They may be written with the sign that the pixels have or with the other: what counts is their bits.
    """
    ends = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] in (None, ""):
        return 0, -1
    numbers = np.array([int(end) for end in ends if end not in (None, "")]).astype(kind_of_pixels(header))
    extended = extend_sign(numbers, int(header.BitsStored))
    return int(extended.min()), int(extended.max())
