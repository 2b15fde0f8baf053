"""TIFF and PNG files of every kind: kept as they are but for their pixels, or refused in one true line."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image
from scans import read_scan

from monai_dnaprior.files.png import png_of
from monai_dnaprior.files.scan import CorruptScan, UnsupportedScan

SIDES = (20, 24)
RNG = np.random.default_rng(0)
GREY = RNG.integers(20, 200, SIDES).astype(np.uint8)
STACK = RNG.integers(0, 4000, (5, *SIDES)).astype(np.uint16)
COLOURS = RNG.integers(0, 255, (*SIDES, 3)).astype(np.uint8)
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
PLACES = {"StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts", "Compression", "Predictor"}


def tiff(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def pillow(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(np.tile(GREY, (4, 4)), subifds=1, metadata=None)
        file.write(np.tile(GREY, (2, 2)), subfiletype=1, metadata=None)


def several(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, metadata=None)
        file.write(COLOURS, photometric="rgb", metadata=None)


HYPERSTACK = {"imagej": True, "metadata": {"axes": "TZCYX", "unit": "um", "spacing": 1.5, "finterval": 2.0}}
OME = {"ome": True, "metadata": {"axes": "CZYX", "PhysicalSizeX": 0.32, "PhysicalSizeXUnit": "µm"}}
TILES = {"tile": (16, 16)}
WITH_ALPHA = {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
PLANES = {"photometric": "rgb", "planarconfig": "separate"}
ALPHA = RNG.integers(0, 255, (*SIDES, 4)).astype(np.uint8)
KEPT: dict[str, Callable[[Path], None]] = {
    **{f"{kind} {order}": tiff((STACK / 7).astype(kind), byteorder=order) for kind in TYPES for order in "<>"},
    "one picture of half floats": tiff(GREY.astype(np.float16)),
    "white is zero": tiff(GREY, photometric="miniswhite"),
    "300 per inch, with a description": tiff(GREY, resolution=(300, 300), resolutionunit="INCH", description="gain=3"),
    "ImageJ": tiff(STACK, imagej=True, resolution=(3.1, 3.1), metadata={"axes": "ZYX", "spacing": 1.5, "unit": "um"}),
    "ImageJ hyperstack": tiff(RNG.integers(0, 99, (2, 3, 4, *SIDES)).astype(np.uint16), **HYPERSTACK),
    "OME": tiff(RNG.integers(0, 99, (2, 3, *SIDES)).astype(np.uint16), **OME),
    "colours": tiff(COLOURS, photometric="rgb"),
    "colours in planes": tiff(np.moveaxis(COLOURS, -1, 0), **PLANES),
    "colours with alpha": tiff(ALPHA, photometric="rgb", extrasamples=["unassalpha"]),
    "grey with alpha": tiff(ALPHA[..., :2], photometric="minisblack", **WITH_ALPHA),
    "channels as samples": tiff(STACK[:4], photometric="minisblack", planarconfig="separate"),
    "BigTIFF": tiff(STACK, bigtiff=True),
    "pages that are not told": tiff(STACK, metadata=None),
    "many strips": tiff(STACK, rowsperstrip=3),
    "tiles": tiff(STACK, **TILES),
    "deflate": tiff(STACK, compression="zlib", rowsperstrip=7),
    "deflate in tiles, big-endian": tiff(STACK, compression="zlib", byteorder=">", **TILES),
    "deflated planes of colours": tiff(np.moveaxis(COLOURS, -1, 0), compression="zlib", **PLANES),
    "LZW": pillow(Image.fromarray(GREY), compression="tiff_lzw"),
    "LZW, 16 bits": pillow(Image.fromarray(STACK[0]), compression="tiff_lzw"),
    "LZW, colours": pillow(Image.fromarray(COLOURS), compression="tiff_lzw", tiffinfo={317: 2}),
    "PackBits": pillow(Image.fromarray(GREY), compression="packbits"),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "palette": (tiff(GREY, photometric="palette", colormap=np.zeros((3, 256), np.uint16)), "colours from a palette"),
    "one bit": (tiff(GREY > 99, photometric="minisblack"), "pixels of 1 bits"),
    "complex": (tiff(GREY.astype(np.complex64)), "pixels of 64 bits"),
    "CMYK": (tiff(ALPHA, photometric="separated"), "neither grey nor RGB, but SEPARATED"),
    "JPEG": (pillow(Image.fromarray(GREY), compression="jpeg"), "compressed by JPEG"),
    "group 4": (pillow(Image.fromarray(GREY > 99), compression="group4"), "pixels of 1 bits"),
    "pyramid": (pyramid, "several sizes"),
    "different pages": (several, "2 images of different kinds"),
    "several pictures in colour": (tiff(np.stack([COLOURS] * 2), photometric="rgb"), "one picture of 3 colours"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_tiff_is_kept(kind: str, tmp_path: Path) -> None:
    """Bytes where nothing changes; where all pixels change, these alone."""
    path, same, other = (tmp_path / f"{name}.tif" for name in ("in", "same", "other"))
    KEPT[kind](path)
    scan, before = read_scan(path), Image.open(path) if "LZW" in kind else tifffile.imread(path)
    array = np.asarray(before)
    if scan.colours or "alpha" in kind:
        plain = array if array.shape[-1] < 5 else np.moveaxis(array, 0, -1)
        assert np.array_equal(scan.stored, plain[..., : len(scan.stored)].transpose(2, 1, 0))
    else:
        assert np.array_equal(np.sort(scan.stored, None), np.sort(array, None))
        assert np.array_equal(
            scan.stored[0].T if scan.stored.ndim == 3 else scan.stored[0, ..., 0].T, array.reshape(-1, *SIDES)[0]
        )
    assert scan.stored.dtype == array.dtype
    scan.write(same, scan.stored)
    assert np.array_equal(read_scan(same).stored, scan.stored)
    changed = scan.stored + scan.stored.dtype.type(1)
    scan.write(other, changed)
    assert np.array_equal(read_scan(other).stored, changed)
    plain = array.copy()
    if "alpha" not in kind:
        plain += array.dtype.type(1)
        assert np.array_equal(tifffile.imread(other), plain)
    with tifffile.TiffFile(path) as one, tifffile.TiffFile(same) as copy, tifffile.TiffFile(other) as changed_file:
        packed = one.pages.first.compression != 1
        assert packed or same.read_bytes() == path.read_bytes()
        for file in (copy, changed_file):
            assert len(file.pages) == len(one.pages)
            for page, origin in zip(file.pages, one.pages, strict=True):
                tags, expected = ({tag.name: tag.value for tag in part.aspage().tags} for part in (page, origin))
                assert {name for name in expected if tags.get(name) != expected[name]} <= PLACES
    scan.write_values(tmp_path / "values.tif", scan.values())
    values = read_scan(tmp_path / "values.tif")
    assert np.array_equal(values.stored, scan.values().astype(np.float32))
    with tifffile.TiffFile(path) as one, tifffile.TiffFile(tmp_path / "values.tif") as floats:
        assert floats.pages.first.resolution == pytest.approx(one.pages.first.resolution)
        assert floats.pages.first.dtype == np.float32


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_tiff_is_refused(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "in.tif")
    with pytest.raises(UnsupportedScan, match=reason):
        read_scan(tmp_path / "in.tif")


@pytest.mark.parametrize("kind", ["ImageJ", "OME", "pages that are not told", "deflate", "tiles", "BigTIFF", "u2 >"])
def test_tiff_that_is_cut_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    KEPT[kind](path)
    content, whole = path.read_bytes(), read_scan(path).stored
    for cut in range(0, len(content) - 1, len(content) // 20):
        path.write_bytes(content[:cut])
        try:
            assert np.array_equal(read_scan(path).stored, whole)  # of what is missing nothing counts
        except CorruptScan:
            continue


def test_channels_and_times_are_volumes_and_white_may_be_zero(tmp_path: Path) -> None:
    KEPT["ImageJ hyperstack"](tmp_path / "a.tif")
    KEPT["white is zero"](tmp_path / "b.tif")
    scan = read_scan(tmp_path / "a.tif")
    array = tifffile.imread(tmp_path / "a.tif")  # times, slices, channels, rows, columns
    assert scan.stored.shape == (2 * 4, 24, 20, 3)
    assert np.array_equal(scan.stored[5], array[1, :, 1].transpose(2, 1, 0))
    assert read_scan(tmp_path / "b.tif").inverted
    assert scan.affine is None


def png(array: np.ndarray, colour: int, *others: tuple[bytes, bytes], depth: int = 8) -> Callable[[Path], None]:
    """A PNG file of this colour type with other chunks before and behind its pixels, which lie in two."""
    height, width = array.shape[:2]
    rows = (b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in array)
    packed = zlib.compress(b"".join(rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        *others,
        (b"IDAT", packed[:50]),
        (b"IDAT", packed[50:]),
        (b"tEXt", b"a\0b"),
        (b"IEND", b""),
    )
    return lambda path: path.write_bytes(png_of(chunks)) and None


SIZE, GAMMA = (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)), (b"gAMA", struct.pack(">I", 45455))
DEEP = RNG.integers(0, 65535, (*SIDES, 4)).astype(np.uint16)
PNGS = {
    "grey": png(GREY, 0, SIZE), "grey, 16 bits": png(DEEP[..., 0], 0, GAMMA, depth=16),
    "grey with alpha": png(ALPHA[..., :2], 4, SIZE), "grey with alpha, 16 bits": png(DEEP[..., :2], 4, depth=16),
    "colours": png(COLOURS, 2, SIZE, GAMMA), "colours, 16 bits": png(DEEP[..., :3], 2, depth=16),
    "colours with alpha": png(ALPHA, 6), "colours with alpha, 16 bits": png(DEEP, 6, SIZE, depth=16),
}  # fmt: skip
REFUSED_PNGS = {
    "palette": (pillow(Image.fromarray(GREY).convert("P")), "colours from a palette"),
    "one bit": (pillow(Image.fromarray(GREY > 99)), "pixels of 1 bits"),
    "transparent grey": (png(GREY, 0, (b"tRNS", b"\0\5")), "stands for transparent"),
    "frames": (png(GREY, 0, (b"acTL", bytes(8))), "several frames"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PNGS)
def test_png_is_kept(kind: str, tmp_path: Path) -> None:
    """Every chunk but that of the pixels."""
    PNGS[kind](tmp_path / "in.png")
    scan = read_scan(tmp_path / "in.png")
    samples = {"g": GREY[..., None], "c": COLOURS} if "16" not in kind else {"g": DEEP[..., :1], "c": DEEP[..., :3]}
    expected = ALPHA[..., : len(scan.stored)] if "alpha" in kind and "16" not in kind else samples[kind[0]]
    assert np.array_equal(scan.stored, expected.transpose(2, 1, 0))
    changed = scan.stored + scan.stored.dtype.type(1)
    scan.write(tmp_path / "out.png", changed)
    again = read_scan(tmp_path / "out.png")
    assert np.array_equal(again.stored, changed)
    assert np.array_equal(again.opacity, scan.opacity) if "alpha" in kind else again.opacity is None
    kept = [[chunk for chunk in one.chunks if chunk[0] != b"IDAT"] for one in (scan, again)]
    assert kept[0] == kept[1]
    if kind.startswith("grey, ") or kind == "grey":
        assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "out.png")), changed[0].T)
    scan.write_values(tmp_path / "values.tif", scan.values())
    assert np.array_equal(read_scan(tmp_path / "values.tif").stored, scan.values())


@pytest.mark.parametrize(("make", "reason"), REFUSED_PNGS.values(), ids=REFUSED_PNGS)
def test_png_is_refused(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "in.png")
    with pytest.raises(UnsupportedScan, match=reason):
        read_scan(tmp_path / "in.png")
