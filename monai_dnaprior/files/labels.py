"""Label maps and masks, whose numbers are names: told by what they and their folders are called, header, and voxels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .names import DESCRIPTION
from .scan import Scan

FOLDER = re.compile(
    r"(labels?|masks?|segs?|segmentations?|gts?|ground[-_ ]?truths?|annotations?)"
    r"([-_ ]?(tr|ts|te|va|val|train(ing)?|test(ing)?|validation))?"
)
WORDS = {
    "dseg", "probseg", "seg", "segs", "segmentation", "segmentations", "label", "labels", "labelmap", "mask", "masks",
    "gt", "groundtruth", "roi", "rois", "aseg", "wmparc",
}  # fmt: skip
MOST = 256  # labels
FLAT = 0.5  # of the neighbours in and around labels that are alike, at least: real ones have 0.64, noise 0.2 at most
FEWEST = 64  # such pairs of neighbours
SAMPLE = 2**22  # voxels that are looked at


def named_as_labels(stem: str) -> bool:
    """Whether a scan's name, or that of a folder it is in, is one of label maps.

    >>> [named_as_labels(stem) for stem in ("labelsTr/case_001", "sub-01_dseg", "segmentation-7", "sub-01_T1w")]
    [True, True, True, False]
    """
    *folders, name = stem.lower().split("/")
    words = [word for word in re.split(r"[-_.+ ]+", name) if word and not word.isdigit()]
    ends = {words[0], words[-1]} if words else set()
    return bool(ends & WORDS) or any(FOLDER.fullmatch(folder) for folder in folders)


def is_derivative(stem: str, dataset: Path) -> bool:
    """Whether a scan is among the derivatives of a BIDS dataset, which are not the dataset's own images."""
    return stem.split("/")[0] == "derivatives" and (dataset / DESCRIPTION).is_file()


def labels_in(scan: Scan) -> str:
    """Why a scan is taken for a label map; empty if it is not."""
    if scan.marked_as_labels:
        return "its header says so"
    return "it holds few whole numbers in flat areas" if holds_labels(scan.stored) else ""


def holds_labels(volume: np.ndarray) -> bool:
    """Whether a volume (C, W, H[, D]) holds few different whole numbers, most of them beside their like.

    >>> labels = np.zeros((1, 40, 40), np.uint8)
    >>> labels[:, 9:30, 9:30] = 4
    >>> noise = np.random.default_rng(0).integers(0, 5, (1, 40, 40))
    >>> holds_labels(labels), holds_labels(noise)
    (True, False)
    """
    part = volume[len(volume) // 2]
    middle = part[len(part) // 2]
    if middle.dtype.kind == "f" and (middle != np.rint(middle)).any():
        return False
    first, second = np.argsort(part.shape, kind="stable")[-2:]
    return all(has_flat_lines(np.moveaxis(part, axis, -1).reshape(-1, part.shape[axis])) for axis in (first, second))


def has_flat_lines(lines: np.ndarray) -> bool:
    lines = lines[:: -(-lines.size // SAMPLE)]
    low, high = float(lines.min()), float(lines.max())
    if not 0 < high - low < 2**16 or (lines.dtype.kind == "f" and (lines != np.rint(lines)).any()):
        return False
    numbers = (lines.astype(np.float64) - low).astype(np.int64)
    counts = np.bincount(numbers.ravel())
    if np.count_nonzero(counts) > MOST:
        return False
    here, there = numbers[:, :-1], numbers[:, 1:]
    around = (here != counts.argmax()) | (there != counts.argmax())
    return bool(around.sum() >= FEWEST and (here == there)[around].mean() >= FLAT)
