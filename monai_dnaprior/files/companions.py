"""What lies beside a scan and belongs to it: gradients of diffusion, and what BIDS says of how it was acquired."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .names import DESCRIPTION, NAME, stem_of

GRADIENTS = (".bval", ".bvec")
TEXTS = {
    "TaskName", "Units", "PhaseEncodingDirection", "SliceEncodingDirection", "MRAcquisitionType", "PulseSequenceType",
    "ArterialSpinLabelingType", "CASLType", "PASLType", "PCASLType", "BolusCutOffTechnique", "M0Type", "TracerName",
    "TracerRadionuclide", "InjectedRadioactivityUnits", "InjectedMassUnits", "SpecificRadioactivityUnits",
    "ModeOfAdministration", "TimeZero", "AcquisitionMode", "ReconMethodName", "ReconMethodParameterLabels",
    "ReconMethodParameterUnits", "ReconFilterType", "AttenuationCorrection",
}  # fmt: skip
PERSONAL = re.compile(r"Patient|Subject|Participant|Birth|Date|Age$|Weight|Sex|Serial|ID$|UID|Number$")


def files_for(scan: Path, suffix: str) -> list[Path]:
    """The files of this suffix that apply to a scan, the nearest last: of its name, in BIDS also of a part of it.

    In a BIDS dataset files farther up apply too, if all that their names say is said by the scan's.
    """
    parts = stem_of(scan.name).split("_")
    if not NAME.fullmatch(stem_of(scan.name)):
        return [file for file in (scan.with_name(stem_of(scan.name) + suffix),) if file.is_file()]
    found: list[Path] = []
    for folder in folders_of(scan):
        files = (file for file in folder.glob(f"*{parts[-1]}{suffix}") if file.is_file())
        named = [(file.name.removesuffix(suffix).split("_"), file) for file in files]
        found += [file for words, file in sorted(named, key=lambda one: len(one[0])) if is_part(words, parts)]
    return found


def folders_of(scan: Path) -> Iterator[Path]:
    """The folder of a scan, and in a dataset those above it, the uppermost first."""
    above = scan.absolute().parents
    top = next((number for number, folder in enumerate(above) if (folder / DESCRIPTION).is_file()), 0)
    yield from reversed(above[: top + 1])


def is_part(words: list[str], parts: list[str]) -> bool:
    return words[-1] == parts[-1] and set(words) <= set(parts)


def gradients_of(scan: Path) -> dict[str, Path]:
    """The files of a diffusion scan's gradients, by their suffixes."""
    files = {suffix: files_for(scan, suffix) for suffix in GRADIENTS}
    return {suffix: found[-1] for suffix, found in files.items() if found}


def gradient_file(image: Path, suffix: str) -> Path:
    """The file beside an image that holds its gradients; BIDS names it without the description of a derivative."""
    stem = stem_of(image.name)
    match = NAME.fullmatch(stem)
    return image.with_name((f"{match[1]}{match[2]}" if match else stem) + suffix)


def copy_gradients(gradients: Mapping[str, Path], image: Path) -> None:
    for suffix, file in gradients.items():
        shutil.copyfile(file, gradient_file(image, suffix))


def acquisition_of(scan: Path) -> dict[str, Any]:
    """How a BIDS scan was acquired, as JSON files beside and above it say: numbers, and texts that name no person."""
    said: dict[str, Any] = {}
    if not NAME.fullmatch(stem_of(scan.name)):
        return said
    for file in files_for(scan, ".json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        said |= content if isinstance(content, dict) else {}
    return {name: value for name, value in said.items() if name in TEXTS or is_measured(name, value)}


def is_measured(name: str, value: Any) -> bool:
    """Whether an entry is of numbers that say nothing of a person."""
    values = value if isinstance(value, list) else [value]
    numbers = bool(values) and all(isinstance(one, (int, float)) for one in values)
    return numbers and name[:1].isupper() and not PERSONAL.search(name)
