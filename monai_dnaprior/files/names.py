"""Names of files: what suffixes say, and what outputs are called, as BIDS has it where that is how scans are named."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from . import itk, nifti
from .disk import write_json, write_whole

SUFFIXES = (*nifti.SUFFIXES, *itk.SUFFIXES, ".dcm")


def suffix_of(name: str) -> str:
    """The suffix that says what a file is; none if there is no such."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")


def stem_of(name: str) -> str:
    """The name of a file without the suffix that says what it is.

    >>> stem_of("1.2.840.nii.gz")
    '1.2.840'
    """
    return name[: len(name) - len(suffix_of(name))]


NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*?)(?:_desc-[A-Za-z0-9]+)?(_[A-Za-z0-9]+)")
DESCRIPTION = "dataset_description.json"
IGNORED = ("manifest.json", "*.html", "*.partial")
DESCRIPTIONS = {
    "denoised": "The scan after denoising.",
    "residual": "What was removed from the scan, input minus output, in its units.",
    "spread": "Standard deviation over restarts of the fit, in the units of the scan: not an error.",
}


def named(stem: str, what: str) -> str:
    """The name of what is made of a scan.

    >>> named("sub-01_T1w", "denoised"), named("sub-01_desc-denoised_T1w", "residual"), named("scan", "denoised")
    ('sub-01_desc-denoised_T1w', 'sub-01_desc-residual_T1w', 'scan_denoised')
    """
    folder, name = os.path.split(stem)
    match, plain = NAME.fullmatch(name), name.removesuffix("_denoised")
    return os.path.join(folder, f"{match[1]}_desc-{what}{match[2]}" if match else f"{plain}_{what}")


def fields(stem: str, what: str) -> dict[str, Any]:
    """What BIDS wants in the sidecar of a derivative; nothing for other names."""
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


@dataclass(frozen=True)
class Outputs:
    """Where the files of one denoised scan go: their names follow from the image's."""

    image: Path
    values_suffix: str

    def values(self, what: str) -> Path:
        """Of the residual, or of the spread."""
        name = named(stem_of(self.image.name), what)
        return self.image.with_name(name + self.values_suffix)

    @property
    def sidecar(self) -> Path:
        return sidecar_of(self.image)


def sidecar_of(image: Path) -> Path:
    return image.with_name(stem_of(image.name) + ".json")
