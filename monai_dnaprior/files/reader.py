"""Scans in a folder, for MONAI's LoadImage: NIfTI files and DICOM series."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor, NibabelReader, NibabelWriter
from monai.data.utils import orientation_ras_lps
from monai.transforms import LoadImage
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple
from nibabel.filebasedimages import ImageFileError

from .scan import CorruptScan

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
IMAGE_POSITION_PATIENT, PHOTOMETRIC_INTERPRETATION = "0020|0032", "0028|0004"
SPACING_TOLERANCE = 0.01  # of the mean distance between slices
logger = logging.getLogger(__name__)


class ScanReader(ImageReader):
    """Read a NIfTI file, or a DICOM series sorted by the position of its slices, with the affine of the scan.

    NIfTI files go to MONAI's ``NibabelReader``. A DICOM series, given as its folder, its files, or one file, goes to
    SimpleITK: slices are sorted along their normal, each with its own rescale slope and intercept, and the affine is
    taken from the positions of the first and last slice, so that a gantry tilt is kept. Arrays are (W, H, D), affines
    RAS, as everywhere in MONAI. Unequal spacing between slices is logged as a warning.

    Raises:
        ValueError: a folder with no DICOM series or with several, a series without pixels, in colour, of several frames
            a file, or that cannot be sorted. ``get_data`` raises it: what ``read`` raises LoadImage does not heed.

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
        if paths[0].lower().endswith(NIFTI_SUFFIXES):
            nifti = NibabelReader(**kwargs)  # one each: it remembers the names between read and get_data
            return nifti, nifti.read(paths)
        try:
            return read_series(series_of_folder(paths[0]) if len(paths) == 1 and os.path.isdir(paths[0]) else paths)
        except ValueError as error:
            return error  # raised where LoadImage does not go on to readers that take the file for something else

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        if isinstance(img, ValueError):
            raise img
        if not isinstance(img, DicomSeries):
            nifti, image = img
            return nifti.get_data(image)
        return img.array, {
            MetaKeys.AFFINE: img.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: img.affine,
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.array.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
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


class DicomSeries:
    """The array (W, H, D) and the RAS affine of one series."""

    def __init__(self, array: np.ndarray, affine: np.ndarray) -> None:
        self.array, self.affine = array, affine


def series_of_folder(folder: str) -> list[str]:
    """The files of the one DICOM series in a folder, sorted along its normal."""
    series = all_series(folder)
    if len(series) != 1:
        raise ValueError(
            f"{folder} holds {len(series)} DICOM image series; give one folder, or one list of files, each."
        )
    return series[0]


def all_series(folder: str) -> list[list[str]]:
    """The files of every DICOM image series directly in a folder, each sorted along its normal."""
    if not any(is_dicom(path) for path in Path(folder).iterdir()):
        return []
    identifiers = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(folder)
    series = (SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder, identifier) for identifier in identifiers)
    return sorted(list(files) for files in series if has_pixels(files[0]))


def read_series(files: Sequence[str]) -> DicomSeries:
    """Read the sorted files of one greyscale series of single frames."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{files[0]} is not part of a readable greyscale DICOM series: {reason}") from error
    photometric = reader.GetMetaData(0, PHOTOMETRIC_INTERPRETATION).strip()
    if not photometric.startswith("MONOCHROME"):
        raise ValueError(f"{files[0]} is a {photometric} DICOM file; only greyscale is supported.")
    if image.GetDimension() != 3 or image.GetSize()[2] != len(files):
        raise ValueError(f"{files[0]} is a multi-frame DICOM file; only series of single frames are supported.")
    direction = np.reshape(image.GetDirection(), (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = direction * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    if len(files) > 1:
        affine[:3, 2] = slice_step(reader, files, normal=direction[:, 2])
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    return DicomSeries(np.ascontiguousarray(array), orientation_ras_lps(affine))


def slice_step(reader: SimpleITK.ImageSeriesReader, files: Sequence[str], *, normal: np.ndarray) -> np.ndarray:
    """The vector from each slice to the next (LPS, mm), from the positions of the first and the last."""
    if not all(reader.HasMetaDataKey(index, IMAGE_POSITION_PATIENT) for index in range(len(files))):
        raise ValueError(f"{files[0]} belongs to a series without ImagePositionPatient; its slices cannot be sorted.")
    texts = (reader.GetMetaData(index, IMAGE_POSITION_PATIENT) for index in range(len(files)))
    positions = np.array([[float(number) for number in text.split("\\")] for text in texts])
    distances = np.abs(np.diff(positions @ normal))
    if distances.min() == 0:
        raise ValueError(
            f"{files[0]} belongs to a series with two slices at one position; give one list of files each."
        )
    if np.ptp(distances) > SPACING_TOLERANCE * distances.mean():
        logger.warning("slices are %.3f to %.3f mm apart; the affine has their mean", distances.min(), distances.max())
    return (positions[-1] - positions[0]) / (len(files) - 1)


def is_dicom(path: Path) -> bool:
    return path.is_file() and not path.name.lower().endswith(NIFTI_SUFFIXES) and pydicom.misc.is_dicom(path)


def has_pixels(path: str) -> bool:
    return "Rows" in pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows"])


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
    for root, _, names in sorted(os.walk(os.path.abspath(folder))):
        scans += sorted(os.path.join(root, name) for name in names if name.lower().endswith(NIFTI_SUFFIXES))
        series = all_series(root)
        scans += [root] if len(series) == 1 else series
    return scans


def read_volume(path: PathLike | Sequence[PathLike]) -> MetaTensor:
    """A scan as it is stored, (C, W, H, D), that of one slice and without a third axis too."""
    try:
        scan = LoadImage(reader=ScanReader(), ensure_channel_first=True)(path)
    except (EOFError, zlib.error, RuntimeError, ImageFileError) as error:
        raise CorruptScan(path, "is damaged, or no image: it cannot be read") from error
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
    return os.path.dirname(path) if os.path.isdir(path) and len(all_series(path)) == 1 else path


def output_name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """SaveImage's name of an output: the scan's path, whose dots (as in 1.2.840.7) are no suffix to be cut off."""
    return {"subject": scan_stem(meta[ImageMetaKey.FILENAME_OR_OBJ]) + ".nii", "idx": None}


def scan_stem(scan: str | list[str]) -> str:
    """The path of a scan, or of its first file, without the suffixes .nii, .nii.gz and .dcm."""
    path = scan if isinstance(scan, str) else scan[0]
    return re.sub(r"(\.nii(\.gz)?|\.dcm)$", "", path, flags=re.IGNORECASE)
