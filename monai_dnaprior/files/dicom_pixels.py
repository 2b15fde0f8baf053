"""The pixels of a DICOM file, as they are stored: decoded by pydicom and its plugins, or by SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from .dicom_headers import (
    count_frames,
    extend_sign,
    frame_size,
    is_inverted,
    is_multiframe,
    kind_of_pixels,
    limits_in_use,
    samples_of,
    scaling_of,
    tolerant,
)
from .scan import CorruptScan, UnsupportedScan

SUBSAMPLED = "YBR_FULL_422"  # of each pair of pixels one is stored without its two differences of colour


def read_frames(path: Path, header: Dataset) -> np.ndarray:
    """The stored pixels of a file, (frames, rows, columns), or those of colours as RGB (frames, rows, columns, 3).

    If it is damaged, it is named, and not its series.
    """
    with tolerant(path):
        dataset = pydicom.dcmread(path, force=True)
        if "PixelData" not in dataset:
            raise CorruptScan(path, "is cut short: its pixels are not there")
        syntax = dataset.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
        if dataset["PixelData"].is_undefined_length and not syntax.is_compressed:
            raise CorruptScan(path, "is compressed, and does not say how")
        if syntax.is_compressed:
            if only_itk_decodes(path, header, syntax):
                return read_with_itk(path, header)
        elif len(dataset.PixelData) < (size := stored_size(header)):
            raise CorruptScan(path, f"is cut short: {len(dataset.PixelData)} of {size} bytes of pixels")
        return decode(path, header, dataset)


def stored_size(header: Dataset) -> int:
    """The bytes of pixels that are not compressed."""
    size = count_frames(header) * frame_size(header)
    return size * 2 // 3 if header.PhotometricInterpretation == SUBSAMPLED else size


def only_itk_decodes(path: Path, header: Dataset, syntax: UID) -> bool:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise UnsupportedScan(path, f"is stored as {syntax.name}, which is not supported") from error
    return not decoder.is_available or (syntax == JPEGExtended12Bit and header.BitsAllocated > 8)


def decode(path: Path, header: Dataset, dataset: Dataset) -> np.ndarray:
    """The pixels by pydicom and its plugins."""
    try:
        dataset.pixel_array_options(correct_unused_bits=False)
        pixels = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        name = header.file_meta.TransferSyntaxUID.name
        raise CorruptScan(path, f"has pixels that no installed decoder can read ({name})") from error
    sides = [count_frames(header), int(header.Rows), int(header.Columns), samples_of(header)]
    said = tuple(side for place, side in enumerate(sides) if side > 1 or place in (1, 2))
    if pixels.shape != said:
        raise CorruptScan(path, f"decodes to {pixels.shape} pixels; its header says {said}")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    bits, highest = int(header.BitsStored), int(header.get("HighBit") or header.BitsStored - 1)
    if highest >= bits and (pixels.view(f"u{pixels.itemsize}") >> bits).any():
        raise UnsupportedScan(path, f"keeps {bits} bits of a pixel below bit {highest}, where readers do not look")
    return extend_sign(pixels, bits).reshape(sides if sides[-1] > 1 else sides[:-1])


def read_with_itk(path: Path, header: Dataset) -> np.ndarray:
    """The grey pixels of a single frame by SimpleITK's decoders, whose rescaling and inversion are undone."""
    import SimpleITK

    name = header.file_meta.TransferSyntaxUID.name
    missing = UnsupportedScan(path, f"is stored as {name}; pip install 'monai-dnaprior[codecs]' to read it")
    if is_multiframe(header) or samples_of(header) > 1:
        raise missing
    try:
        image = SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        if get_decoder(header.file_meta.TransferSyntaxUID).is_available:
            raise CorruptScan(path, f"has pixels that no installed decoder can read ({name})") from error
        raise missing from error
    slope, intercept = scaling_of(path, header)
    stored = np.rint((SimpleITK.GetArrayFromImage(image).reshape(1, header.Rows, header.Columns) - intercept) / slope)
    stored = sum(limits_in_use(header)) - stored if is_inverted(header) else stored
    return stored.astype(kind_of_pixels(header))
