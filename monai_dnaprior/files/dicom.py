"""DICOM in and out: series of slices, sorted along their normal, each with its own scaling, and files of frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset

from .derived_dicom import derive, identifier
from .dicom_frames import arrange, frames_of
from .dicom_geometry import affine_of, orientation_of, sorted_along_normal
from .dicom_headers import (
    count_frames,
    frame_size,
    is_in_colour,
    is_inverted,
    is_multiframe,
    kind_of_pixels,
    limits_in_use,
    padding_of,
    read_header,
    samples_of,
    scaling_of,
    tolerant,
)
from .dicom_pixels import read_frames
from .nifti import write_array
from .scan import Caps, Scan, ScanError, UnsupportedScan

PREAMBLE = 128
FIRST_GROUPS = (b"\2\0", b"\x08\0", b"\0\2", b"\0\x08")  # of elements, in either byte order
MOST_PADDING = 0.9  # of the voxels, beyond which it is doubted


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomScan(Scan):
    """Slices of one orientation and one matrix, and the files that hold them.

    Attributes:
        headers: of the files, without their pixels: one a slice, or that of the one file that holds all frames.
        order: the numbers of the frames of the one file, (stacks, slices); None where each slice has a file.
    """

    headers: tuple[Dataset, ...]
    order: np.ndarray | None = None

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        """Write a derived file for each of the source into a new folder, or that of a single one as a file."""
        single = path.suffix.lower() == ".dcm"
        if not single:
            path.mkdir()
        files: Any = slices_of(stored, colours=self.colours)
        if self.order is not None:
            files = files.reshape(1, 1, -1, *files.shape[2:])[:, :, np.argsort(self.order.ravel())]
        for number, (header, pixels) in enumerate(zip(self.headers, files[0], strict=True)):
            file = path if single else path / f"{number + 1:04d}.dcm"
            with tolerant(self.name):
                derive(header, pixels.astype(kind_of_pixels(header)), **provenance).save_as(
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
    """The files of each stack of slices, by series, orientation and matrix, and why others belong to none.

    A file of several frames is a stack by itself.
    """
    stacks: dict[tuple, list[Path]] = defaultdict(list)
    errors: list[ScanError] = []
    for path in paths:
        try:
            header = read_header(path)
            with tolerant(path):
                orientation = tuple(np.round(orientation_of(header), 3))
                sides = int(header.Rows), int(header.Columns), samples_of(header)
                alone = str(path) if is_multiframe(header) else ""
                key = str(header.get("SeriesInstanceUID") or ""), orientation, sides, alone
        except ScanError as error:
            errors.append(error)
        except OSError as error:
            errors.append(UnsupportedScan(path, f"cannot be read: {error.strerror}"))
        else:
            stacks[key].append(path)
    return [stacks[key] for key in sorted(stacks)], errors


def holds_frames(path: Path) -> bool:
    """Whether a DICOM file is a stack by itself."""
    return is_multiframe(read_header(path))


def read_dicom(paths: Sequence[Path], caps: Caps | None = None) -> DicomScan:
    """Read the files of one stack of slices, sorted along their normal, compressed or not, or one file of frames.

    The stacks that the frames of one file form are channels, each a volume of its own; colours are RGB. Voxels that are
    padding, or beyond the bits that the file says it uses, are not valid. Unequal spacing and a gantry tilt are warned
    of, as are frames that say nothing of their place: slices are treated one by one.

    Raises:
        CorruptScan: a file is damaged; two slices cannot be told apart; frames are more or fewer than it says.
        UnsupportedScan: more than the caps, a palette, no pixels, a dose, a segmentation, a missing decoder.

    >>> path = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    >>> read_dicom([path]).stored.shape
    (1, 128, 128, 1)
    """
    caps = caps or Caps()
    place = paths[0] if len(paths) == 1 else paths[0].parent
    headers = {path: read_header(path) for path in paths}
    sizes = {path: count_frames(header) * frame_size(header) for path, header in headers.items()}
    for path, header in headers.items():
        pixels = int(header.Rows) * int(header.Columns)
        caps.admit(path, decoded=sizes[path], encoded=path.stat().st_size, pixels=pixels)
    caps.admit(place, decoded=(total := sum(sizes.values())), encoded=total, pixels=1)
    with tolerant(place):
        if is_multiframe(headers[paths[0]]):
            return read_multiframe(paths[0], headers[paths[0]])
        paths, step, cautions = sorted_along_normal(place, headers)
        ordered = [headers[path] for path in paths]
        slices = np.concatenate([read_frames(path, header) for path, header in zip(paths, ordered, strict=True)])
        scalings = np.array([scaling_of(path, header) for path, header in zip(paths, ordered, strict=True)])
        return scan_of(place.name, ordered, slices[None], scalings.T, affine_of(ordered[0], step), cautions)


def read_multiframe(path: Path, header: Dataset) -> DicomScan:
    pixels, frames = read_frames(path, header), frames_of(path, header)  # frames are believed if their pixels are there
    order, affine, cautions = arrange(path, header, frames)
    scalings = np.array([scaling_of(path, frame) for frame in frames])[order].transpose(2, 0, 1)[:, :, None, None]
    return scan_of(path.name, [header], pixels[order], scalings, affine, cautions, order)


def scan_of(
    name: str,
    headers: Sequence[Dataset],
    slices: np.ndarray,
    scalings: np.ndarray,
    affine: np.ndarray | None,
    cautions: tuple[str, ...],
    order: np.ndarray | None = None,
) -> DicomScan:
    """A scan of slices (stacks, slices, rows, columns[, 3]) and their slopes and intercepts."""
    for header in headers:
        if not header.get("SeriesInstanceUID"):
            header.SeriesInstanceUID = identifier(str(headers[0].SOPInstanceUID))
    colours = is_in_colour(headers[0])
    stored = slices[0].transpose(3, 2, 1, 0) if colours else slices.transpose(0, 3, 2, 1)
    low, high = np.array([limits_in_use(header) for header in headers]).T
    first, last = np.array([padding_of(header) for header in headers]).T
    padded, used = (stored >= first) & (stored <= last), (stored >= low) & (stored <= high)
    valid = used & ~padded
    return DicomScan(
        name=name,
        stored=stored,
        slope=scalings[0],
        intercept=scalings[1],
        limits=(low, high),
        valid=None if valid.all() else valid,
        padding=(first, last),
        colours=colours,
        affine=affine,
        warnings=(*cautions, *doubts_of(padded, used)),
        headers=tuple(headers),
        order=order,
    )


def slices_of(stored: np.ndarray, *, colours: bool) -> np.ndarray:
    """Slices (stacks, slices, rows, columns[, 3]) of a scan's numbers."""
    return stored.transpose(3, 2, 1, 0)[None] if colours else stored.transpose(0, 3, 2, 1)


def doubts_of(padded: np.ndarray, used: np.ndarray) -> Iterator[str]:
    """What is doubtful about the voxels that are left alone, in words: all are padding, or they lie scattered."""
    if (share := padded.mean()) > MOST_PADDING:
        yield f"{share:.0%} of the voxels are padding, as the file says, and are left as they are"
    if share and 2 * np.count_nonzero(padded & ~beside(padded)) > np.count_nonzero(padded):
        yield "what the file says is padding lies scattered among the voxels, and is left as it is"
    if outside := np.count_nonzero(~used & ~padded):
        yield f"{outside} voxels use more bits than the file says, and are left as they are"


def beside(voxels: np.ndarray) -> np.ndarray:
    """What lies beside some voxels in their slices."""
    return np.logical_or.reduce([np.roll(voxels, step, axis) for axis in (1, 2) for step in (-1, 1)])
