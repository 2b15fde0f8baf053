"""NRRD, MetaImage, PNG and TIFF files in and out, through SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from .scan import Caps, CorruptScan, Scan, UnsupportedScan, limits_of

PICTURES = (".png", ".tif", ".tiff")
SUFFIXES = (".nrrd", ".mha", *PICTURES)
DETACHED = (b"\ndata file:", b"\ndatafile:", b"\nelementdatafile")
LONGEST_HEADER = 2**16
COLOURS = (3, 4)  # channels of a picture; the fourth is how opaque it is
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


@dataclass(frozen=True, kw_only=True, eq=False)
class ItkScan(Scan):
    """A file that SimpleITK reads; ``image`` is what it read, ``opacity`` (H, W) the fourth channel of a picture."""

    image: SimpleITK.Image
    opacity: np.ndarray | None = None

    @property
    def values_suffix(self) -> str:
        suffix = Path(self.name).suffix.lower()
        return ".tif" if suffix in PICTURES else suffix

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
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array), isVector=self.colours)
        image.CopyInformation(self.image)
        for key in self.image.GetMetaDataKeys():
            image.SetMetaData(key, self.image.GetMetaData(key))
        SimpleITK.WriteImage(image, str(path), useCompression=path.suffix == ".nrrd")


def read_itk(path: Path, caps: Caps | None = None) -> ItkScan:
    """Read an NRRD, MetaImage, PNG or TIFF file of two to four axes, the last of four being volumes.

    Pictures of two axes may be grey or in colour, opaque or not.

    Raises:
        CorruptScan: the file is damaged, or larger than the caps.
        UnsupportedScan: voxels that are vectors or complex, more than four axes, voxels in another file.
    """
    caps = caps or Caps()
    if not path.name.lower().endswith(SUFFIXES):
        raise UnsupportedScan(path, f"is of no known kind; its name must end in {', '.join(SUFFIXES)}")
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    if not start:
        raise CorruptScan(path, "is empty")
    check_attached(path, start)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_information(path, reader, caps)
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


def check_attached(path: Path, start: bytes) -> None:
    """Refuse a header that names another file: which one is read must be the user's choice alone."""
    if path.suffix.lower() not in (".nrrd", ".mha"):
        return
    text = start.split(b"\n\n")[0].replace(b" =", b"=").lower()
    named = [line for line in text.splitlines() if (b"\n" + line).startswith(DETACHED)]
    if any(line.split(b"=")[-1].split(b":")[-1].strip() != b"local" for line in named):
        raise UnsupportedScan(path, "keeps its voxels in another file; convert it to one file first")


def check_information(path: Path, reader: SimpleITK.ImageFileReader, caps: Caps) -> None:
    """Refuse, before the voxels are read, what is not supported or larger than the caps."""
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
    sides = sorted(size[:3])
    caps.admit(path, decoded=decoded, encoded=path.stat().st_size, pixels=sides[-1] * sides[-2])


def to_volumes(array: np.ndarray, colours: bool) -> np.ndarray:
    """(..., D, H, W) or a picture (H, W, C) as (C, W, H[, D])."""
    if colours:
        return array.transpose(2, 1, 0)
    return array.transpose(0, 3, 2, 1) if array.ndim == 4 else array.T[None]


def affine_of(image: SimpleITK.Image) -> np.ndarray | None:
    """From voxel to millimetre, RAS, of a volume."""
    if image.GetDimension() != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine
