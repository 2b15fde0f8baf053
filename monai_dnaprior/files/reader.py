"""Scans in a folder, for MONAI's LoadImage: NIfTI files and DICOM series."""

from __future__ import annotations

import copy
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor, NibabelReader, NibabelWriter
from monai.transforms import EnsureChannelFirst
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from . import nifti
from .dicom import DicomScan, group_series, read_dicom
from .dicom_geometry import affine_of, position_of, slice_keys
from .dicom_headers import is_inverted, read_header
from .discovery import kind_of, walk
from .labels import is_derivative, named_as_labels
from .names import scan_stem, stem_of
from .scan import Caps, CorruptScan, ScanError

ANY_SIZE = Caps(size=2**62, ratio=2.0**62, pixels=2**62)
logger = logging.getLogger(__name__)


class ScanReader(ImageReader):
    """Read a NIfTI file, or a DICOM series sorted by the position of its slices, with the affine of the scan.

    NIfTI files go to MONAI's ``NibabelReader``. A DICOM series is given as its folder, its files, or one file. Its
    slices are sorted along their normal, each with its own rescale slope and intercept, and the affine is taken from
    the positions of the first and last slice, so that a gantry tilt is kept. So are the frames of one file, by what it
    says of each. Arrays are (W, H, D), those of several volumes (echoes, times) or colours (W, H, D, C), float32,
    affines RAS, as everywhere in MONAI; the grey scale of MONOCHROME1 images is inverted, as ITK does. What is unusual
    about a series (unequal spacing, a tilt) is logged as a warning.

    Raises:
        ValueError: a folder with no DICOM series or with several, a series without pixels, of a palette, or that cannot
            be sorted. ``get_data`` raises it, because LoadImage ignores what ``read`` raises.

    >>> import nibabel
    >>> from monai.transforms import LoadImage
    >>> path = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
    >>> LoadImage(reader=ScanReader())(path).shape
    torch.Size([33, 41, 25])
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        paths = [str(path) for path in ensure_tuple(data)]
        if paths[0].lower().endswith(nifti.SUFFIXES):
            reader = NibabelReader(**kwargs)  # one each: it remembers the names between read and get_data
            return reader, reader.read(paths)
        try:
            return read_series([Path(path) for path in paths])
        except (ValueError, OSError) as error:
            return error  # raised where LoadImage does not go on to readers that take the file for something else

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        if isinstance(img, Exception):
            raise img
        if not isinstance(img, DicomScan):
            reader, image = img
            return reader.get_data(image)
        affine = np.array(assumed_affine(img) if img.affine is None else img.affine)
        inverted = [is_inverted(header) for header in img.headers]
        stored = np.where(inverted, sum(img.limits) - img.stored.astype(np.int64), img.stored)
        volumes = replace(img, stored=stored, valid=None).values()  # of padding too: MONAI's arrays have no mask
        several = len(volumes) > 1
        values = np.moveaxis(volumes, 0, -1) if several else volumes[0]
        return np.ascontiguousarray(values, np.float32), {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.SPATIAL_SHAPE: np.asarray(values.shape[:3]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if several else float("nan"),
        }


class VolumeWriter(NibabelWriter):
    """MONAI's writer of NIfTI files, by which a volume of one slice stays a volume."""

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        flat = data_array.ndim == 3
        super().set_data_array(data_array, channel_dim, flat, *args, **kwargs)
        if not flat and self.data_obj.shape[-1] == 1:
            self.data_obj = self.data_obj[..., 0]


def read_series(paths: Sequence[Path]) -> DicomScan:
    """Read the one DICOM series of a folder, or of files."""
    series, errors = group_folder(paths[0]) if paths[0].is_dir() else group_series(paths)
    damaged = [error for error in errors if isinstance(error, CorruptScan) or not series]
    if damaged:
        raise damaged[0]
    if len(series) != 1:
        raise ValueError(
            f"{paths[0]} holds {len(series)} DICOM image series; give one folder, or one list of files, each."
        )
    scan = read_dicom(series[0], ANY_SIZE)
    if len(scan.headers) > 1 and any(position_of(header) is None for header in scan.headers):
        raise ValueError(f"{paths[0]} belongs to a series without ImagePositionPatient; its slices cannot be sorted.")
    if len({distance for distance, _ in slice_keys(scan.headers)}) < len(scan.headers):
        raise ValueError(f"{paths[0]} has two slices at one position; give one list of files each.")
    for text in scan.warnings:
        logger.warning("%s: %s", paths[0], text)
    return scan


def group_folder(folder: Path) -> tuple[list[list[Path]], list[ScanError]]:
    """The files of every DICOM series directly in a folder, and why other files are none."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return group_series([path for path in files if kind_of(path) == "DICOM"])


def assumed_affine(scan: DicomScan) -> np.ndarray | None:
    """That of a series which does not say how far apart its pixels are, or of a slice without a position."""
    first, count = copy.deepcopy(scan.headers[0]), len(scan.headers)
    first.PixelSpacing = first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or [1, 1]
    first.ImagePositionPatient = first.get("ImagePositionPatient") or [0, 0, 0]
    places = [np.array(header.ImagePositionPatient, float) for header in (first, *scan.headers[1:])]
    return affine_of(first, None if count == 1 else (places[-1] - places[0]) / (count - 1))


def find_scans(folder: PathLike) -> list[dict[str, str | list[str]]]:
    """Every scan below a folder, as the data list of a bundle: NIfTI files, and folders that hold a DICOM series.

    A folder that holds several series gives one list of files for each. Scans whose outputs would share a name
    (``a.nii`` beside ``a.nii.gz``) are refused, and so is a folder without scans.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "scan.nii.gz").touch()
    ...     [os.path.basename(scan["image"]) for scan in find_scans(folder)]
    ['scan.nii.gz']
    """
    scans = all_scans(folder)
    if not scans:
        raise ValueError(f"dataset_dir={str(folder)!r} holds no NIfTI file and no DICOM image series.")
    stems = [scan_stem(scan) for scan in scans]
    twins = {stem for stem in stems if stems.count(stem) > 1}
    if twins:
        raise ValueError(f"dataset_dir={str(folder)!r} holds two scans named {min(twins)}; rename one of them.")
    return [{"image": scan} for scan in scans]


def all_scans(folder: PathLike) -> list[str | list[str]]:
    """Every NIfTI file below a folder, and every DICOM series: the folder that holds it, or its files among others."""
    scans: list[str | list[str]] = []
    top = Path(os.path.abspath(folder))
    for files, unseen in walk(top):
        for error in unseen:
            logger.warning("%s", error)
        named = [file for file in files if file.name.lower().endswith(nifti.SUFFIXES)]
        scans += [str(file) for file in named if is_image(file, top)]
        series = all_series(files[0].parent) if files else []
        scans += [str(files[0].parent)] if len(series) == 1 else series
    return scans


def is_image(file: Path, top: Path) -> bool:
    """Whether a file below a folder is neither a label map, by its name, nor a derivative; of those a log tells."""
    stem = stem_of(file.relative_to(top).as_posix())
    left_out = named_as_labels(f"{top.name}/{stem}") or is_derivative(stem, top)
    if left_out:
        logger.warning("%s: left out, a label map, mask or derivative by its name", file)
    return not left_out


def all_series(folder: Path) -> list[list[str]]:
    """The files of every DICOM series directly in a folder, sorted along their normal; other files are logged."""
    stacks, errors = group_folder(folder)
    for error in errors:
        logger.warning("%s", error)
    return sorted(sort_files(stack) for stack in stacks)


def sort_files(stack: Sequence[Path]) -> list[str]:
    keys = dict(zip(stack, slice_keys([read_header(path) for path in stack]), strict=True))
    return [str(path) for path in sorted(stack, key=keys.__getitem__)]


def read_volume(path: PathLike | Sequence[PathLike]) -> MetaTensor:
    """A scan as it is stored, (C, W, H, D), that of one slice and without a third axis too."""
    reader = ScanReader()
    try:
        image, meta = reader.get_data(reader.read(path))
    except (EOFError, zlib.error, BadGzipFile, ImageFileError, HeaderDataError) as error:
        raise CorruptScan(path, "is damaged, or no image: it cannot be read") from error
    scan: Any = EnsureChannelFirst()(MetaTensor.ensure_torch_and_prune_meta(image.astype(np.float32), meta))
    return scan if scan.ndim == 4 else scan[..., None]


def read_picture(path: PathLike) -> np.ndarray:
    """A PNG, TIFF or other picture as it is stored, (C, H, W): one channel, or three without transparency."""
    from skimage.io import imread

    picture = np.atleast_3d(imread(path))
    if picture.ndim > 3 or picture.shape[-1] > 4:
        raise ValueError(f"{path} holds several pictures; give one, or a scan.")
    return np.moveaxis(picture[..., : picture.shape[-1] - (picture.shape[-1] + 1) % 2], -1, 0)


def output_root(folder: PathLike) -> str:
    """The folder that outputs mirror: the given one, or the one above it if that is itself a DICOM series."""
    path = os.path.abspath(folder)
    return os.path.dirname(path) if os.path.isdir(path) and len(group_folder(Path(path))[0]) == 1 else path
