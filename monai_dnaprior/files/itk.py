"""NRRD and MetaImage files in and out, through SimpleITK."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .scan import Caps, CorruptScan, Scan, UnsupportedScan, largest_slice, limits_of, ras_affine

if TYPE_CHECKING:
    import SimpleITK  # takes half a second, for which files of other formats need not wait

FORMATS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
SUFFIXES = tuple(FORMATS)
HEADER_ENDS = {
    ".nrrd": re.compile(rb"\n\r?\n"),
    ".mha": re.compile(rb"\n[ \t]*ElementDataFile[ \t]*[=:][ \t]*(LOCAL|Local|local)[ \t]*\r?\n"),
}
ANOTHER_FILE = re.compile(rb"[\r\n]\s*data ?file\s*:|elementdatafile", re.IGNORECASE)
COMPRESSED = re.compile(rb"[\r\n]\s*(encoding\s*:\s*gz|CompressedData\s*[=:]\s*[T1])", re.IGNORECASE)
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
LONGEST_HEADER = 2**20
COLOURS = (3, 4)  # channels of a picture; the fourth is how opaque it is


@dataclass(frozen=True, kw_only=True, eq=False)
class ItkScan(Scan):
    """A file that SimpleITK reads; ``image`` is what it read, ``opacity`` (H, W) the fourth channel of a picture."""

    image: SimpleITK.Image
    opacity: np.ndarray | None = None

    @property
    def values_suffix(self) -> str:
        return Path(self.name).suffix.lower()

    @property
    def spacing(self) -> Sequence[float] | None:
        return self.image.GetSpacing()[:3] if self.image.GetDimension() > 2 else None

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        array = self._as_in_file(stored)
        if self.opacity is not None:
            array = np.concatenate([array, self.opacity[..., None]], -1)
        self._save(path, array)

    def write_values(self, path: Path, values: np.ndarray) -> None:
        self._save(path, self._as_in_file(values.astype(np.float32)))

    def _as_in_file(self, volumes: np.ndarray) -> np.ndarray:
        if self.colours:
            return volumes.transpose(2, 1, 0)
        return volumes.transpose(0, 3, 2, 1) if self.image.GetDimension() == 4 else volumes[0].T

    def _save(self, path: Path, array: np.ndarray) -> None:
        import SimpleITK

        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array), isVector=self.colours)
        image.CopyInformation(self.image)
        for key in self.image.GetMetaDataKeys():
            image.SetMetaData(key, self.image.GetMetaData(key))
        written = path.with_suffix(path.suffix.lower())  # by which ITK knows what to write
        SimpleITK.WriteImage(image, str(written), useCompression=written.suffix == ".nrrd")
        os.replace(written, path)


def read_itk(path: Path, caps: Caps | None = None) -> ItkScan:
    """Read an NRRD or MetaImage file of two to four axes, the last of four being volumes.

    Pictures of two axes may be grey or in colour, opaque or not.

    Raises:
        CorruptScan: the file is damaged.
        UnsupportedScan: more than the caps or four axes, vectors or complex voxels, voxels in another file.
    """
    import SimpleITK

    caps = caps or Caps()
    if not path.name.lower().endswith(SUFFIXES):
        raise UnsupportedScan(path, f"is of no known kind; its name must end in {', '.join(SUFFIXES)}")
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    if not start:
        raise CorruptScan(path, "is empty")
    header = header_of(path, start)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(FORMATS[path.suffix.lower()])  # otherwise the content decides, and may be of any format
    try:
        reader.ReadImageInformation()
        size = checked_size(path, reader, caps)
        if COMPRESSED.search(header):
            check_compression(path, len(header), size)
        image = reader.Execute()
    except RuntimeError as error:
        raise CorruptScan(path, "is damaged, or not of the kind that its name says: it cannot be read") from error
    array = SimpleITK.GetArrayFromImage(image)
    colours = image.GetNumberOfComponentsPerPixel() > 1
    opacity = array[..., 3] if colours and array.shape[-1] == 4 else None
    return ItkScan(
        name=path.name,
        stored=to_volumes(array if opacity is None else array[..., :3], colours),
        limits=limits_of(array.dtype),
        colours=colours,
        affine=affine_of(image),
        image=image,
        opacity=opacity,
    )


def header_of(path: Path, start: bytes) -> bytes:
    """What comes before the voxels of an NRRD or MetaImage file.

    A header may name another file as that of the voxels, but which one is read must be the user's choice alone. So
    that no way of writing a header passes for another, it must end within what is there of the file, and all of that
    mentions no other file.
    """
    end = HEADER_ENDS[path.suffix.lower()]
    if ANOTHER_FILE.search(end.sub(b"", start, count=1)):
        raise UnsupportedScan(path, "keeps its voxels in another file; convert it to one file first")
    found = end.search(start)
    if found is None:
        raise CorruptScan(path, "is damaged, or not of the kind that its name says: its header does not end")
    return start[: found.end()]


def check_compression(path: Path, start: int, size: int) -> None:
    """Refuse compressed voxels of another size than the header says, or a wrong checksum, which ITK would let pass."""
    with path.open("rb") as file:
        file.seek(start)
        stream = zlib.decompressobj(ZLIB_OR_GZIP)
        try:
            decoded = len(stream.decompress(file.read(), size + 1))
        except zlib.error as error:
            raise CorruptScan(path, "its compression is damaged") from error
    if decoded != size or not stream.eof:
        raise CorruptScan(path, "its compressed voxels are not as many as its header says")


def checked_size(path: Path, reader: SimpleITK.ImageFileReader, caps: Caps) -> int:
    """The bytes of the voxels; before they are read, what is not supported or larger than the caps is refused."""
    import SimpleITK

    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if not 2 <= len(size) <= 4 or (components > 1 and len(size) > 2):
        raise UnsupportedScan(
            path, f"has {len(size)} axes of {components} numbers; 2 to 4 of one number, or a picture in colour"
        )
    if components not in (1, *COLOURS):
        raise UnsupportedScan(path, f"has {components} channels; 1, 3 or 4 are supported")
    kind = SimpleITK.GetArrayViewFromImage(SimpleITK.Image([1] * len(size), reader.GetPixelID(), components)).dtype
    if kind.kind not in "iuf":
        raise UnsupportedScan(path, "has voxels that are neither integers nor floats")
    decoded = kind.itemsize * components * int(np.prod(size, dtype=object))
    caps.admit(path, decoded=decoded, encoded=path.stat().st_size, pixels=largest_slice(size))
    return decoded


def to_volumes(array: np.ndarray, colours: bool) -> np.ndarray:
    """(..., D, H, W) or a picture (H, W, C) as (C, W, H[, D])."""
    if colours:
        return array.transpose(2, 1, 0)
    return array.transpose(0, 3, 2, 1) if array.ndim == 4 else array.T[None]


def affine_of(image: SimpleITK.Image) -> np.ndarray | None:
    """From voxel to millimetre, RAS, of a volume."""
    if image.GetDimension() != 3:
        return None
    return ras_affine(np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing(), np.array(image.GetOrigin()))
