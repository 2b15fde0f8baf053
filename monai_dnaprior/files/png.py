"""PNG pictures in and out: every chunk but that of the pixels stays as it is."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .scan import Caps, CorruptScan, Scan, UnsupportedScan, limits_of

SUFFIXES = (".png",)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = ">IIBBBBB"  # width, height, depth, colour type, compression, filter, interlacing
SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type; the last of 2 and of 4 says how opaque a pixel is
PALETTE, GREY_ALPHA, UP = 3, 4, 2
SAME_SIZE = {8: (16, 0), 16: (8, 6)}  # depth and colour type of pixels as large as grey ones with alpha, by their depth
Chunks = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PngScan(Scan):
    """A PNG file: its ``chunks``, kind and content, and the sample (H, W, 1) that says how opaque a pixel is."""

    chunks: Chunks
    opacity: np.ndarray | None = None

    @property
    def values_suffix(self) -> str:
        return ".tif"

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        array = stored.transpose(2, 1, 0)
        if self.opacity is not None:
            array = np.concatenate([array, self.opacity], -1)
        big = np.ascontiguousarray(array, array.dtype.newbyteorder(">"))
        rows = big.reshape(len(array), -1).view(np.uint8)
        filtered = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
        pixels = zlib.compress(np.insert(filtered, 0, UP, axis=1).tobytes())
        header = self.chunks[0][1][:-1] + b"\0"  # not interlaced
        first = next(number for number, (kind, _) in enumerate(self.chunks) if kind == b"IDAT")
        others = [(kind, content) for kind, content in self.chunks[first:] if kind != b"IDAT"]
        path.write_bytes(png_of(((b"IHDR", header), *self.chunks[1:first], (b"IDAT", pixels), *others)))

    def write_values(self, path: Path, values: np.ndarray) -> None:
        array = values.astype(np.float32).transpose(2, 1, 0)
        kind = "rgb" if self.colours else "minisblack"
        tifffile.imwrite(path, array if self.colours else array[..., 0], photometric=kind, metadata=None)


def read_png(path: Path, caps: Caps | None = None) -> PngScan:
    """Read a PNG file of 8 or 16 bits: grey or in colour, opaque or not.

    Raises:
        CorruptScan: the file is damaged.
        UnsupportedScan: more than the caps, other depths, a palette, a transparent colour, several frames.
    """
    content = path.read_bytes()
    if not content:
        raise CorruptScan(path, "is empty")
    chunks = tuple(chunks_of(path, content))
    width, height, depth, colour, *_, interlaced = struct.unpack(HEADER, chunks[0][1])
    samples = SAMPLES.get(colour, 1)
    size = width * height * samples * max(depth // 8, 1)
    (caps or Caps()).admit(path, decoded=size, encoded=len(content), pixels=width * height)
    check_kind(path, {kind for kind, _ in chunks}, depth, colour)
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    if not interlaced:
        check_pixels(path, packed, size + height)
    try:
        array = read_grey_alpha(chunks, width, height, depth) if colour == GREY_ALPHA else read_plain(path)
    except (RuntimeError, OSError, ValueError, SyntaxError) as error:
        raise CorruptScan(path, "is damaged: its pixels cannot be read") from error
    array = array.reshape(height, width, samples)
    opaque = samples % 2 == 1
    return PngScan(
        name=path.name,
        stored=(array if opaque else array[..., :-1]).transpose(2, 1, 0),
        limits=limits_of(array.dtype),
        colours=samples > 2,
        chunks=chunks,
        opacity=None if opaque else array[..., -1:],
    )


def chunks_of(path: Path, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of every chunk, if the file is whole."""
    place, kind = len(SIGNATURE), b""
    if not content.startswith(SIGNATURE) or content[place + 4 : place + 8] != b"IHDR" or content[place + 3] != 13:
        raise CorruptScan(path, "is damaged, or not of the kind that its name says: it cannot be read")
    while kind != b"IEND":
        length = int.from_bytes(content[place : place + 4], "big")
        kind, end = content[place + 4 : place + 8], place + 8 + length
        if len(content) < end + 4:
            raise CorruptScan(path, "is cut short")
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise CorruptScan(path, "is damaged: a checksum is wrong")
        yield kind, content[place + 8 : end]
        place = end + 4
    if place < len(content):
        raise CorruptScan(path, "holds more than its chunks")


def check_kind(path: Path, kinds: set[bytes], depth: int, colour: int) -> None:
    if b"IDAT" not in kinds:
        raise CorruptScan(path, "is damaged: it has no pixels")
    if colour == PALETTE:
        raise UnsupportedScan(path, "takes its colours from a palette; its numbers are no intensities")
    if depth not in (8, 16):
        raise UnsupportedScan(path, f"has pixels of {depth} bits; 8 and 16 are supported")
    if colour not in SAMPLES:
        raise CorruptScan(path, "is damaged: it is neither grey nor in colour")
    if b"tRNS" in kinds:
        raise UnsupportedScan(path, "has a colour that stands for transparent pixels")
    if b"acTL" in kinds:
        raise UnsupportedScan(path, "has several frames")


def check_pixels(path: Path, packed: bytes, size: int) -> None:
    """Refuse compressed pixels of another size than the header says, or a wrong checksum."""
    stream = zlib.decompressobj()
    try:
        decoded = len(stream.decompress(packed, size + 1))
    except zlib.error as error:
        raise CorruptScan(path, "its compression is damaged") from error
    if decoded != size or not stream.eof:
        raise CorruptScan(path, "its compressed pixels are not as many as its header says")


def read_plain(path: Path) -> np.ndarray:
    import SimpleITK  # takes half a second, for which files of other formats need not wait

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("PNGImageIO")
    return SimpleITK.GetArrayFromImage(reader.Execute())


def read_grey_alpha(chunks: Chunks, width: int, height: int, depth: int) -> np.ndarray:
    """Grey pixels with alpha, which few decoders know, as others of their size: what PNG packs are the same bytes."""
    from PIL import Image

    interlaced = chunks[0][1][-1]
    header = struct.pack(HEADER, width, height, *SAME_SIZE[depth], 0, 0, interlaced)
    pixels = tuple(chunk for chunk in chunks if chunk[0] == b"IDAT")
    array = np.asarray(Image.open(io.BytesIO(png_of(((b"IHDR", header), *pixels, (b"IEND", b""))))))
    if depth == 8:
        return array.astype(">u2").view(np.uint8)
    return array.reshape(height, -1).view(">u2").astype(np.uint16)


def png_of(chunks: Chunks) -> bytes:
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
