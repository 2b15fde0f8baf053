"""TIFF files in and out: all but the pixels stays as it is, byte for byte."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .scan import Caps, CorruptScan, Scan, ScanError, UnsupportedScan, limits_of

SUFFIXES = (".tif", ".tiff")
GREY, COLOURS, DEPTHS = ("MINISBLACK", "MINISWHITE"), "RGB", "ZIQ"  # of photometric interpretations, and of axes
NONE, LZW, DEFLATE = 1, 5, 8
COMPRESSIONS = (NONE, LZW, DEFLATE, 32946, 32773)  # deflate as it once was, and PackBits
NO_PREDICTOR, HORIZONTAL = 1, 2
ALPHA = (1, 2)  # kinds of extra samples that say how opaque a pixel is
BITS = (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffScan(Scan):
    """A TIFF file; ``content`` is all of it, ``axes`` and ``shape`` those of its pixels, by tifffile's letters.

    ``opacity`` is the sample that says how opaque a pixel is, where there is one.
    """

    content: bytes
    axes: str
    shape: tuple[int, ...]
    opacity: np.ndarray | None = None
    white_is_zero: bool = False

    @property
    def values_suffix(self) -> str:
        return ".tif"

    @property
    def inverted(self) -> bool:
        return self.white_is_zero

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        array = self._as_in_file(stored)
        if self.opacity is not None:
            array = np.concatenate([array, self.opacity], self.axes.index("S"))
        path.write_bytes(self.content)
        with quiet(), tifffile.TiffFile(path, mode="r+", _multifile=False) as file:
            write_pixels(file, array.astype(array.dtype.newbyteorder(file.byteorder)))

    def write_values(self, path: Path, values: np.ndarray) -> None:
        with quiet(), tifffile.TiffFile(io.BytesIO(self.content), _multifile=False) as file:
            tags = file.pages.first.tags
            text = tags["ImageDescription"].value if "ImageDescription" in tags else None
            sizes = {"resolution": file.pages.first.resolution, "resolutionunit": file.pages.first.resolutionunit}
        options: dict[str, Any] = sizes if "XResolution" in tags else {}
        array = self._as_in_file(values.astype(np.float32))
        if self.opacity is not None and not self.colours:
            array = array.squeeze(self.axes.index("S"))
        elif "S" in self.axes:
            options["planarconfig"] = "contig" if self.axes.endswith("S") else "separate"
        if text is not None:
            options["description"] = re.sub(r'(?<=\sType=")\w+', "float", str(text)).encode()
        kind = "rgb" if self.colours else "minisblack"
        tifffile.imwrite(path, array, photometric=kind, metadata=None, **options)

    def _as_in_file(self, volumes: np.ndarray) -> np.ndarray:
        order = volume_order(self.axes)
        sides = dict(zip(self.axes, self.shape, strict=True))
        if self.opacity is not None:
            sides["S"] -= 1
        return volumes.reshape([sides[axis] for axis in order]).transpose([order.index(axis) for axis in self.axes])


def read_tiff(path: Path, caps: Caps | None = None) -> TiffScan:
    """Read a TIFF file: a grey picture, a stack of them, or several (channels, times), or one picture in colour.

    Integers and floats of 8 to 64 bits; a sample beside them may say how opaque they are.

    Raises:
        CorruptScan: the file is damaged.
        UnsupportedScan: more than the caps, another kind of pixels or compression, pages of different kinds.
    """
    content = path.read_bytes()
    if not content:
        raise CorruptScan(path, "is empty")
    try:
        with quiet(), tifffile.TiffFile(io.BytesIO(content), _multifile=False) as file:
            series = check_pages(path, file)
            page, decoded = series.keyframe, series.dtype.itemsize * int(np.prod(series.shape, dtype=object))
            pixels = int(page.imagelength) * int(page.imagewidth)
            caps = caps or Caps()
            caps.admit(path, decoded=decoded, encoded=len(content), pixels=pixels)
            check_segments(path, series, len(content))
        if page.compression == LZW:
            content = deflate_lzw(content)
        with quiet(), tifffile.TiffFile(io.BytesIO(content), _multifile=False) as file:
            series = file.series[0]
            page = series.keyframe
            array = np.empty(series.shape, series.dtype.newbyteorder("="))
            for plane, one in zip(array.reshape(len(series.pages), *page.shape), series.pages, strict=True):
                plane[...] = one.asarray()
            axes, white_is_zero = series.axes, page.photometric.name == "MINISWHITE"
            colours = page.photometric.name == COLOURS
            opaque = not is_opacity(series)
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make any part of a parser fail
        raise CorruptScan(path, "is damaged, or not of the kind that its name says: it cannot be read") from error
    opacity = None
    if not opaque:
        array, opacity = np.split(array, [array.shape[axes.index("S")] - 1], axes.index("S"))
    order = volume_order(axes)
    ordered = array.transpose([axes.index(axis) for axis in order])
    last = 3 if order[-1] in DEPTHS else 2
    return TiffScan(
        name=path.name,
        stored=ordered.reshape(-1, *ordered.shape[ordered.ndim - last :]),
        limits=limits_of(array.dtype),
        colours=colours,
        content=content,
        axes=axes,
        shape=series.shape,
        opacity=opacity,
        white_is_zero=white_is_zero,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what tifffile logs of files that break a rule."""
    logger = logging.getLogger("tifffile")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_pages(path: Path, file: Any) -> Any:
    """The pages of a file, if they are of one kind that is supported."""
    first, last = file.pages.first, file.pages[len(file.pages) - 1]
    if not file.series or len(first.tags) < directory_of(first)[0] or directory_of(last)[1]:
        raise CorruptScan(path, "is cut short or damaged: pages or tags that it speaks of are not there")
    if len(file.series) > 1:
        raise UnsupportedScan(path, f"holds {len(file.series)} images of different kinds; give a file for each")
    series = file.series[0]
    page = series.keyframe
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if 0 in series.shape or page.dtype is None:
        raise CorruptScan(path, "is damaged: its pixels have no size or no type")
    if len(series.levels) > 1 or page.subifds:
        raise UnsupportedScan(path, "is a pyramid of one image at several sizes")
    if any(one is None for one in series.pages):
        raise UnsupportedScan(path, "keeps some of its pixels in another file")
    if photometric == "PALETTE":
        raise UnsupportedScan(path, "takes its colours from a palette; its numbers are no intensities")
    if photometric not in (*GREY, COLOURS):
        raise UnsupportedScan(path, f"is neither grey nor RGB, but {photometric}")
    if page.dtype.kind not in "iuf" or page.bitspersample not in BITS:
        raise UnsupportedScan(path, f"has pixels of {page.bitspersample} bits; integers and floats of 8 to 64 are read")
    if page.compression not in COMPRESSIONS or page.predictor not in (NO_PREDICTOR, HORIZONTAL):
        name = getattr(page.compression, "name", page.compression)
        raise UnsupportedScan(path, f"is compressed by {name}, which is not supported; save it without")
    if page.fillorder != 1:
        raise UnsupportedScan(path, "stores the bits of its pixels in reverse")
    if page.imagedepth != 1 or "Y" not in series.axes or "X" not in series.axes:
        raise UnsupportedScan(path, f"has axes {series.axes}; rows and columns are needed")
    if photometric == COLOURS and (len(series.axes) > 3 or samples_of(series) > 4):
        raise UnsupportedScan(path, f"has axes {series.axes} of {series.shape}; one picture of 3 colours is supported")
    return series


def directory_of(page: Any) -> tuple[int, int]:
    """How many tags a page has, as the file says, and where the next page begins, 0 if there is none."""
    handle, layout = page.parent.filehandle, page.parent.tiff
    order = "little" if layout.byteorder == "<" else "big"
    handle.seek(page.offset)
    tags = int.from_bytes(handle.read(layout.tagnosize), order)  # type: ignore[arg-type]
    handle.seek(page.offset + layout.tagnosize + tags * layout.tagsize)
    return tags, int.from_bytes(handle.read(layout.offsetsize), order)  # type: ignore[arg-type]


def samples_of(series: Any) -> int:
    return int(series.shape[series.axes.index("S")]) if "S" in series.axes else 1


def is_opacity(series: Any) -> bool:
    """Whether the last of several samples says how opaque a pixel is."""
    samples, kinds = samples_of(series), tuple(series.keyframe.extrasamples)
    return samples == 4 if series.keyframe.photometric.name == COLOURS else samples == 2 and kinds[:1] in [(1,), (2,)]


def check_segments(path: Path, series: Any, size: int) -> None:
    """Refuse pages whose pixels are not in the file, which a reader would take for zeros."""
    for page in series.pages:
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        short = page.compression == NONE and sum(page.databytecounts) < page.nbytes
        if not ends or min(page.dataoffsets) < 1 or max(ends) > size or short or 0 in page.databytecounts:
            raise CorruptScan(path, "is cut short: pixels that it speaks of are not there")
    if series.dataoffset is None and len(series.pages) * series.keyframe.size != series.size:
        raise CorruptScan(path, f"has {len(series.pages)} pages; its metadata speak of others")


def volume_order(axes: str) -> str:
    """The axes in the order of volumes: channels of any kind, columns, rows, slices.

    >>> volume_order("TZCYX")
    'TCXYZ'
    """
    depth = next((axis for axis in DEPTHS if axis in axes), "")
    return "".join(axis for axis in axes if axis not in f"YX{depth}") + f"XY{depth}"


def write_pixels(file: Any, array: np.ndarray) -> None:
    """Write pixels of the file's shape, type and byte order in the place of those that it holds."""
    series = file.series[0]
    if series.dataoffset is not None:
        file.filehandle.seek(series.dataoffset)
        file.filehandle.write(array.tobytes())
        return
    for page, plane in zip(series.pages, array.reshape(len(series.pages), -1), strict=True):
        if page.is_final:
            file.filehandle.seek(page.dataoffsets[0])
            file.filehandle.write(plane.tobytes())
        else:
            write_segments(file, page.aspage(), plane.reshape(page.shaped))


def write_segments(file: Any, page: Any, plane: np.ndarray) -> None:
    """Write the strips or tiles of a page, compressed if they were."""
    segments = [segment_of(page, plane, number).tobytes() for number in range(len(page.dataoffsets))]
    packed = page.compression != NONE
    replace_segments(file, page, list(map(zlib.compress, segments)) if packed else segments)
    if packed:
        page.tags["Compression"].overwrite(DEFLATE)
    if "Predictor" in page.tags:
        page.tags["Predictor"].overwrite(NO_PREDICTOR)


def segment_of(page: Any, plane: np.ndarray, number: int) -> np.ndarray:
    """One strip or tile of a page (samples, 1, rows, columns, samples), filled up with zeros where it ends."""
    _, (sample, _, row, column, _), (_, rows, columns, _) = page.decode(None, number)
    part = plane[sample, 0, row : row + rows, column : column + columns]
    return np.pad(part, [(0, rows - part.shape[0]), (0, columns - part.shape[1]), (0, 0)])


def replace_segments(file: Any, page: Any, segments: Sequence[bytes]) -> None:
    """Put other strips or tiles into a page: where the old ones are if they fit there, else at the end of the file."""
    offsets = []
    for segment, offset, count in zip(segments, page.dataoffsets, page.databytecounts, strict=True):
        place = offset if len(segment) <= count else file.filehandle.seek(0, io.SEEK_END)
        file.filehandle.seek(place)
        file.filehandle.write(segment.ljust(count, b"\0"))
        offsets.append(place)
    names = ("TileOffsets", "TileByteCounts") if page.is_tiled else ("StripOffsets", "StripByteCounts")
    for name, values, before in zip(
        names, (offsets, list(map(len, segments))), (page.dataoffsets, page.databytecounts), strict=True
    ):
        if tuple(values) != tuple(before):
            page.tags[name].overwrite(values if len(values) > 1 else values[0], dtype="Q" if file.is_bigtiff else "I")


def deflate_lzw(content: bytes) -> bytes:
    """A file whose pages are compressed by LZW, which tifffile leaves to others, with deflate in its place."""
    buffer = io.BytesIO(content)
    with quiet(), tifffile.TiffFile(buffer, _multifile=False) as file:
        for page in map(lambda page: page.aspage(), file.series[0].pages):
            segments = []
            for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                file.filehandle.seek(offset)
                segments.append(zlib.compress(decode_lzw(file.filehandle.read(count), size_of_segment(page, number))))
            replace_segments(file, page, segments)
            page.tags["Compression"].overwrite(DEFLATE)
        return buffer.getvalue()


def size_of_segment(page: Any, number: int) -> int:
    """The bytes of a strip or a tile when it is decompressed."""
    rows, columns = page.tilelength, page.tilewidth
    if not page.is_tiled:
        strips = -(-page.imagelength // page.rowsperstrip)
        rows = min(page.rowsperstrip, page.imagelength - number % strips * page.rowsperstrip)
        columns = page.imagewidth
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return int(rows * columns * samples * page.dtype.itemsize)


def decode_lzw(packed: bytes, size: int) -> bytes:
    """So many bytes that are compressed by LZW, in the way of TIFF, by Pillow's decoder."""
    from PIL import Image

    tags = {256: size, 257: 1, 258: 8, 259: LZW, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(packed)}  # a row of bytes
    tags[273] = 14 + 12 * len(tags)  # where it begins
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    picture = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    return Image.open(io.BytesIO(picture)).tobytes()
