"""Names of files: what suffixes say, and what outputs are called, as BIDS has it where that is how scans are named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from . import itk, nifti, png, tiff
from .disk import write_json, write_whole

OUTPUT_SUFFIXES = {
    "NIfTI": nifti.SUFFIXES, "ITK": itk.SUFFIXES, "PNG": png.SUFFIXES, "TIFF": tiff.SUFFIXES, "DICOM": (".dcm",)
}  # fmt: skip
SUFFIXES = tuple(suffix for suffixes in OUTPUT_SUFFIXES.values() for suffix in suffixes)
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
CHECKPOINT_SUFFIX = ".partial"
MANIFEST, INDEX, DESCRIPTION = "manifest.json", "index.html", "dataset_description.json"
IGNORED = (MANIFEST, "*.html", "*" + CHECKPOINT_SUFFIX)  # by BIDS
NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*?)(?:_desc-[A-Za-z0-9]+)?(_[A-Za-z0-9]+)")
DESCRIPTIONS = {
    "denoised": "The scan after denoising.",
    "residual": "What was removed from the scan, input minus output, in its units.",
    "spread": "Standard deviation over restarts of the fit, in the units of the scan: not an error.",
}


def suffix_of(name: str) -> str:
    """The suffix that says what a file is; none if there is no such."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")


def stem_of(name: str) -> str:
    """The name of a file without the suffix that says what it is.

    >>> stem_of("1.2.840.nii.gz")
    '1.2.840'
    """
    return name[: len(name) - len(suffix_of(name))]


def scan_stem(scan: str | list[str]) -> str:
    """The path of a scan, or of its first file, without that suffix."""
    return stem_of(scan if isinstance(scan, str) else scan[0])


def name_output(stem: str, what: str) -> str:
    """The name of what is made of a scan.

    >>> name_output("sub-01_T1w", "denoised"), name_output("sub-01_desc-denoised_T1w", "residual")
    ('sub-01_desc-denoised_T1w', 'sub-01_desc-residual_T1w')
    >>> name_output("scan", "denoised")
    'scan_denoised'
    """
    folder, name = os.path.split(stem)
    match, plain = NAME.fullmatch(name), name.removesuffix("_denoised")
    return os.path.join(folder, f"{match[1]}_desc-{what}{match[2]}" if match else f"{plain}_{what}")


def output_name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """SaveImage's name of an output: the scan's path, whose dots (as in 1.2.840.7) are no suffix to be cut off."""
    return {"subject": scan_stem(meta["filename_or_obj"]) + ".nii", "idx": None}


def output_for(name: str, path: Path, output: Path, *, alone: bool) -> Path:
    """Where a denoised scan of this name goes, if a path and an output were given: there, or below it."""
    below = not alone or (path.is_file() and output.is_dir())
    return output / name if below else output


def output_of(name: str, path: Path, output: Path) -> Path:
    """Where the denoised scan is: what was named, or the file in the folder that was named."""
    return output if sidecar_of(output).is_file() else output_for(name, path, output, alone=True)


def sidecar_of(image: Path) -> Path:
    """The JSON file beside an image."""
    return image.with_name(stem_of(image.name) + ".json")


def report_of(image: Path) -> Path:
    """The page beside a denoised scan that shows what was removed."""
    return image.with_name(stem_of(image.name) + ".html")


@dataclass(frozen=True)
class Outputs:
    """Where the files of one denoised scan go: their names follow from the image's."""

    image: Path
    values_suffix: str

    @property
    def sidecar(self) -> Path:
        return sidecar_of(self.image)

    def values(self, what: str) -> Path:
        """Of the residual, or of the spread."""
        return self.image.with_name(name_output(stem_of(self.image.name), what) + self.values_suffix)


def bids_fields(stem: str, what: str) -> dict[str, Any]:
    """The fields that BIDS requires in the sidecar of a derivative; none for other names."""
    if not NAME.fullmatch(os.path.basename(stem)):
        return {}
    return {"Description": DESCRIPTIONS[what], "SkullStripped": False}  # by us, that is


def describe_dataset(source: Path, output: Path) -> None:
    """Write the description of a derivative dataset, if the source is a dataset with one."""
    try:
        described = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
        name, standard = str(described["Name"]), str(described["BIDSVersion"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    origin = {"DOI": described["DatasetDOI"]} if "DatasetDOI" in described else {"URL": source.absolute().as_uri()}
    derivative = {
        "Name": f"{name}, denoised",
        "BIDSVersion": standard,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "monai-dnaprior", "Version": __version__}],
        "SourceDatasets": [origin],
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / DESCRIPTION, derivative)
    write_whole(output / ".bidsignore", ("\n".join(IGNORED) + "\n").encode())
