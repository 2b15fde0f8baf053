"""The frames of one DICOM file: what it says of each, and which stacks they form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset

from .dicom_geometry import affine_of, orientation_of, position_of, slice_keys, sorted_along_normal
from .dicom_headers import GROUPS, count_frames, is_in_colour
from .scan import CorruptScan

SCALING = ("RescaleSlope", "RescaleIntercept")
MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": SCALING,
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "DimensionIndexValues"),
}
SAID_OF_ALL = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *SCALING)  # or of none
FRAME_TYPE = "FrameTypeSequence"  # in the keyword of each kind of image
SAME_PLACE = 1e-3  # mm
NOWHERE = "does not say where its frames lie; each is one slice, in their order"
TILES = "its frames are tiles of one picture, each denoised by itself; their edges may show"
IRREGULAR = "its frames form no stacks of one size; each is one slice, in their order"
ELSEWHERE = "its stacks of frames do not lie at one place"
IN_COLOURS = "some of its numbers are shown in colours"


def frames_of(path: Path, header: Dataset) -> list[Dataset]:
    """For each frame of a file what the header of a single slice says of its place and scaling."""
    shared, each = (header.get(keyword) or [] for keyword in GROUPS)
    count = count_frames(header)
    if each and len(each) != count:
        raise CorruptScan(path, f"has {count} frames, and says of {len(each)} where they are")
    frames = [frame_of(path, header, [*shared, item]) for item in each or [Dataset()] * count]
    for keyword in SAID_OF_ALL:
        if len({keyword in frame for frame in frames}) > 1:
            raise CorruptScan(path, f"says the {keyword} of some frames, and not of the others")
    return frames


def frame_of(path: Path, header: Dataset, groups: Iterable[Dataset]) -> Dataset:
    frame = Dataset()
    frame.filename = path
    found: list[tuple[Dataset, tuple[str, ...]]] = [(header, SCALING)]
    for group in groups:
        found += [(item, keywords) for macro, keywords in MACROS.items() for item in group.get(macro) or []]
        found += [(item, ("FrameType",)) for item in frame_types(group)]
    for item, keywords in found:
        for keyword in keywords:
            if item.get(keyword) not in (None, ""):
                setattr(frame, keyword, item.get(keyword))
    return frame


def frame_types(group: Dataset) -> Iterator[Dataset]:
    """The items of a functional group that say what kind of frame it is."""
    for keyword in group.dir(FRAME_TYPE):
        yield from group[keyword].value


def arrange(
    path: Path, header: Dataset, frames: Sequence[Dataset]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The numbers of the frames of each stack, (stacks, slices), their affine if they have one, and what is unusual.

    Frames of one orientation and stack that lie behind each other are the slices of a volume. Several at one place
    (echoes, times, gradients) belong to as many volumes, told apart by their type and the file's own indices.
    """
    in_order = np.arange(len(frames))[None]
    cautions: tuple[str, ...] = (IN_COLOURS,) if "RedPaletteColorLookupTableData" in header else ()
    if "TotalPixelMatrixColumns" in header:
        return in_order, None, (*cautions, TILES)
    if any(position_of(frame) is None for frame in frames):
        return in_order, None, cautions if len(frames) == 1 else (*cautions, NOWHERE)
    stacks = stacks_of(frames)
    if len({len(stack) for stack in stacks}) != 1 or (is_in_colour(header) and len(stacks) > 1):
        return in_order, None, (*cautions, IRREGULAR)
    ordered, affines = [], []
    for stack in stacks:
        numbers, step, odd = sorted_along_normal(path, {number: frames[number] for number in stack})
        ordered.append(numbers)
        affines.append(affine_of(frames[numbers[0]], step))
        cautions += odd
    known = np.array([affine for affine in affines if affine is not None])
    together = len(known) > 0 and np.ptp(known, axis=0).max() <= SAME_PLACE
    cautions += () if together or not len(known) else (ELSEWHERE,)
    return np.array(ordered), known[0] if together else None, tuple(dict.fromkeys(cautions))


def stacks_of(frames: Sequence[Dataset]) -> list[list[int]]:
    """The numbers of the frames that form each stack; stacks of different length where a place lacks a frame."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        groups[str(frame.get("StackID")), tuple(np.round(orientation_of(frame), 3))].append(number)
    stacks: list[list[int]] = []
    for group in groups.values():
        places: dict[float, list[int]] = defaultdict(list)
        for number, (distance, _) in zip(group, slice_keys([frames[number] for number in group]), strict=True):
            places[distance].append(number)
        found: list[list[int]] = [[] for _ in range(max(map(len, places.values())))]
        for there in places.values():
            there.sort(key=lambda number: rank(frames[number], number))
            for stack, number in zip(found, there, strict=False):
                stack.append(number)
        stacks += found
    return sorted(stacks, key=min)


def rank(frame: Dataset, number: int) -> tuple:
    """What frames at one place are sorted by: their type, their time, the file's own indices, their number."""
    indices, kind = frame.get("DimensionIndexValues") or [], frame.get("FrameType") or ()
    others = [indices] if isinstance(indices, int) else list(map(int, indices))
    return tuple(map(str, kind)), int(frame.get("TemporalPositionIndex") or 0), others, number
