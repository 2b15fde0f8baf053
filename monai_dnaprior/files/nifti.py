"""NIfTI files in and out: the header stays as it is, byte for byte."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np

from .scan import Caps, CorruptScan, Scan, UnsupportedScan, largest_slice, limits_of

SUFFIXES = (".nii", ".nii.gz")
TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
OTHER_TYPES = {
    1: "boolean", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"
}  # fmt: skip
LABELS = (1002, 1005)  # intents, of label maps and of names of structures
COMPRESSION = 6
LONGEST_HEAD = 2**24  # bytes before the voxels, header and extensions
SINGULAR = 1e-12  # of the product of an affine's columns' lengths


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiScan(Scan):
    """A NIfTI file; ``head`` is all of it that comes before the voxels, ``shape`` that of its array."""

    head: bytes
    header: nibabel.Nifti1Header
    shape: tuple[int, ...]

    def write(self, path: Path, stored: np.ndarray, **provenance: Any) -> None:
        write_file(path, self.head, self._as_in_file(stored))

    def write_values(self, path: Path, values: np.ndarray) -> None:
        header = self.header.copy()
        header.set_data_dtype(np.float32)
        fields = {"scl_slope": 1, "scl_inter": 0, "cal_min": 0, "cal_max": 0, "vox_offset": len(header.binaryblock) + 4}
        for name, value in fields.items():
            header[name] = value
        kind = np.dtype(np.float32).newbyteorder(header.endianness)
        write_file(path, header.binaryblock + bytes(4), self._as_in_file(values.astype(kind)))

    @property
    def marked_as_labels(self) -> bool:
        return int(self.header["intent_code"]) in LABELS

    @property
    def spacing(self) -> Sequence[float] | None:
        return np.abs(self.header["pixdim"][1:4]).tolist() if self.affine is None else super().spacing

    def _as_in_file(self, volumes: np.ndarray) -> np.ndarray:
        return np.moveaxis(volumes, 0, -1).reshape(self.shape, order="F")


def read_nifti(path: Path, caps: Caps | None = None) -> NiftiScan:
    """Read a NIfTI-1 or NIfTI-2 file (``.nii``, ``.nii.gz``) of two to four axes, the last of four being volumes.

    Integers and floats of either byte order. The whole file is read, and what a reader might overlook is refused: a
    wrong checksum, bytes that are missing or left over, dimensions that the data cannot fill, no usable affine.

    Raises:
        CorruptScan: the file is damaged.
        UnsupportedScan: more than the caps or four axes, complex, RGB or boolean voxels, a pair of files.

    >>> path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    >>> read_nifti(path).stored.shape
    (2, 128, 96, 24)
    """
    with open_nifti(path) as file:
        try:
            return read_stream(path, file, caps or Caps())
        except (gzip.BadGzipFile, zlib.error) as error:
            raise CorruptScan(path, "its compression is damaged") from error
        except EOFError as error:
            raise CorruptScan(path, "is cut short: its compressed data do not end") from error


def open_nifti(path: Path) -> IO[bytes] | gzip.GzipFile:
    """The file, decompressed if its name says that it is compressed."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UnsupportedScan(path, f"is no NIfTI file of one piece; its name must end in {' or '.join(SUFFIXES)}")
    if name.endswith(".nii"):
        return path.open("rb")
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"\x1f\x8b":
        raise CorruptScan(path, "is empty" if not start else "is named .gz but is not compressed with gzip")
    return gzip.open(path)


def read_stream(path: Path, file: IO[bytes] | gzip.GzipFile, caps: Caps) -> NiftiScan:
    start = file.read(540)
    header = checked_header(path, start)
    shape = checked_shape(path, header)
    kind = checked_type(path, header)
    offset = checked_offset(path, header)
    size = kind.itemsize * int(np.prod(shape, dtype=object))
    caps.admit(path, decoded=size, encoded=path.stat().st_size, pixels=largest_slice(shape))
    data = start + file.read(offset + size - len(start) + 1)
    if len(data) < offset + size:
        raise CorruptScan(path, f"is cut short: {len(data)} of {offset + size} bytes are there")
    if len(data) > offset + size:
        raise CorruptScan(path, "holds more than its header says")
    check_extensions(path, data[len(header.binaryblock) : offset], header.endianness)
    array = np.frombuffer(data, kind, offset=offset).reshape(shape, order="F")
    slope, intercept = checked_scaling(path, header)
    affine, cautions = checked_affine(path, header, shape)
    if not np.isfinite(header["scl_slope"]):
        cautions.append("its slope is no number, which means that there is no scaling")
    volumes = array.reshape((*shape, 1, 1)[:4], order="F")
    stored = np.moveaxis(volumes, -1, 0)
    return NiftiScan(
        name=path.name,
        stored=stored[..., 0] if len(shape) < 3 else stored,
        slope=slope,
        intercept=intercept,
        limits=limits_of(kind),
        affine=affine,
        warnings=tuple(cautions),
        head=data[:offset],
        header=header,
        shape=shape,
    )


def checked_header(path: Path, start: bytes) -> nibabel.Nifti1Header:
    """The header, of whichever version and byte order."""
    if not start.strip(b"\0"):
        raise CorruptScan(path, "is empty" if not start else "holds zeros where its header should be")
    sizes = {int.from_bytes(start[:4], order): order for order in ("little", "big")}
    kind = nibabel.Nifti1Header if 348 in sizes else nibabel.Nifti2Header if 540 in sizes else None
    if kind is None:
        raise CorruptScan(path, "does not begin with a NIfTI header")
    length = 348 if 348 in sizes else 540
    if len(start) < length:
        raise CorruptScan(path, f"is cut short: {len(start)} bytes are there, its header takes {length}")
    header = kind(start[:length], endianness="<" if sizes[length] == "little" else ">", check=False)
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise UnsupportedScan(path, "is the header of a pair of files; convert it to one .nii file first")
    if magic not in (b"n+1", b"n+2"):
        raise CorruptScan(path, "does not begin with a NIfTI header (its magic is wrong)")
    return header


def checked_shape(path: Path, header: nibabel.Nifti1Header) -> tuple[int, ...]:
    """The lengths of the axes, without those of length 1 behind the fourth."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise CorruptScan(path, f"says that it has {count} axes; 1 to 7 are possible")
    shape = tuple(int(length) for length in header["dim"][1 : count + 1])
    if min(shape) < 1:
        raise CorruptScan(path, f"has an axis of length {min(shape)}")
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4:
        raise UnsupportedScan(path, f"has {len(shape)} axes; 2 to 4 are supported")
    return shape


def checked_type(path: Path, header: nibabel.Nifti1Header) -> np.dtype:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code in OTHER_TYPES:
        raise UnsupportedScan(
            path, f"has {OTHER_TYPES[code]} voxels; supported are integers and floats of 8 to 64 bits"
        )
    if code not in TYPES:
        raise CorruptScan(path, f"has voxels of an unknown type ({code})")
    kind = np.dtype(TYPES[code]).newbyteorder(header.endianness)
    if bits != 8 * kind.itemsize:
        raise CorruptScan(path, f"says that its voxels have {bits} bits, and that their type has {8 * kind.itemsize}")
    return kind


def checked_offset(path: Path, header: nibabel.Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    least = len(header.binaryblock) + 4
    if not (least <= offset <= LONGEST_HEAD and offset == int(offset)):
        raise CorruptScan(path, f"says that its voxels begin at byte {offset:g}")
    return int(offset)


def checked_scaling(path: Path, header: nibabel.Nifti1Header) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (not np.isfinite(slope) and (intercept == 0 or not np.isfinite(intercept))):
        return 1.0, 0.0  # the standard's ways to say that there is no scaling
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise CorruptScan(path, f"has a slope of {slope:g} and an intercept of {intercept:g}; they must be finite")
    return slope, intercept


def checked_affine(
    path: Path, header: nibabel.Nifti1Header, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, list[str]]:
    """The affine that counts, None where the header gives none, and what is odd about it.

    Both forms are checked where both are there. What readers agree on is taken: sizes of voxels are positive, any on an
    axis without length, and a qform is none where there is a sform and its quaternion is no rotation.
    """
    affines: list[np.ndarray] = []
    odd: list[str] = []
    header = header.copy()
    if header["qform_code"] > 0:
        odd = repair_sizes(header["pixdim"], shape)
    for name in ("sform", "qform"):
        try:
            affine = getattr(header, f"get_{name}")(coded=True)[0]
            reason = "is singular or not finite" if affine is not None and not is_sound(affine) else ""
        except (nibabel.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError):
            affine, reason = None, "is no affine"
        if reason and affines and (header["pixdim"][1:4] > 0).all():
            odd.append("its qform is no affine; its sform is taken")
        elif reason:
            raise CorruptScan(path, f"has a {name} that {reason}")
        elif affine is not None:
            affines.append(affine)
    return (affines[0] if affines else None), odd


def is_sound(affine: np.ndarray) -> bool:
    """Whether an affine is finite and can be inverted."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > SINGULAR * np.prod(lengths))


def repair_sizes(pixdim: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Take the factor and the voxel sizes of a qform as readers do, in place, and say what that changes."""
    odd = []
    if not (pixdim[0] < 0 or pixdim[0] == 1):
        odd.append(f"its qfac is {pixdim[0]:g}, which is taken as 1")
        pixdim[0] = 1
    if (pixdim[1:4] < 0).any():
        odd.append("its voxels have negative sizes, which are taken as positive")
        pixdim[1:4] = abs(pixdim[1:4])
    for axis, length in enumerate((*shape, 1, 1)[:3], 1):
        if length == 1 and not pixdim[axis] > 0:
            pixdim[axis] = 1
    return odd


def check_extensions(path: Path, block: bytes, endianness: str) -> None:
    """The extensions between header and voxels must fill no more than the place that is there."""
    if not block[:1].strip(b"\0"):
        return
    order = "little" if endianness == "<" else "big"
    place = 4
    while place + 8 <= len(block):
        size = int.from_bytes(block[place : place + 4], order, signed=True)  # type: ignore[arg-type]
        if size == 0 and not block[place:].strip(b"\0"):
            return
        if size < 8 or place + size > len(block):
            raise CorruptScan(path, f"has a header extension of {size} bytes, for which there is no place")
        place += size


def write_file(path: Path, head: bytes, array: np.ndarray) -> None:
    """Header and voxels, compressed if the name says so; the same bytes for the same content."""
    with (
        path.open("wb") as file,
        compress_into(file) if path.name.lower().endswith(".gz") else nullcontext(file) as content,
    ):
        content.write(head)
        for plane in np.moveaxis(array, -1, 0):  # the last axis is the slowest in the file
            content.write(plane.tobytes(order="F"))


def compress_into(file: IO[bytes]) -> gzip.GzipFile:
    """What compresses into a file, without a name or a time, which would make equal contents differ."""
    return gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=COMPRESSION, mtime=0)


def write_array(path: Path, values: np.ndarray, affine: np.ndarray | None) -> None:
    """Write float32 values (C, W, H[, D]) of a scan that came in another format, compressed."""
    array = np.moveaxis(values, 0, -1)
    array = array[..., 0] if array.shape[-1] == 1 else array
    image = nibabel.Nifti1Image(array.astype(np.float32), np.eye(4) if affine is None else affine)
    with path.open("wb") as file, compress_into(file) as packed:
        packed.write(image.to_bytes())
