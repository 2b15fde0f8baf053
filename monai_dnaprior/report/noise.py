"""The noise of a scan, measured in some of its noisy slices, to compare with what was removed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..denoisers.safeguards import LEAST_SIDE
from ..fitting.threads import side_by_side
from ..noise.background import fill_background
from ..noise.model import NoiseModel, spaced
from .charts import number
from .measures import Measures, changed_pixels
from .pictures import Shown

SLICES, PIXELS = 4, 2**18  # in which the noise is measured: four slices of 256×256, one of 512×512
LARGEST = 512  # side of the middle of a slice that is measured


@dataclass(frozen=True, eq=False)
class ScanNoise:
    """The noise that some noisy slices have in common, measured without what was removed.

    Attributes:
        count: how many slices they are.
        model: what they share, in the scan's units.
        sigma_range: 10th and 90th percentile of the standard deviation over their pixels, the median of each.
        label: name of the middle one.
        strength: standard deviation at the pixels of that, (1, rows, columns); None where the noise is even, or only
            the middle of the slice was measured.
    """

    count: int
    model: NoiseModel
    sigma_range: tuple[float, float]
    label: str
    strength: np.ndarray | None

    @classmethod
    def of(cls, slices: Sequence[Shown]) -> ScanNoise | None:
        """Measure it where something was changed; None in slices that are too small for that, or hold none."""
        changed = [one for one in slices if one.removed.any()]
        if not changed or min(changed[0].before.shape[1:]) < LEAST_SIDE:
            return None
        area = math.prod(min(side, LARGEST) for side in changed[0].before.shape[1:])
        chosen = [changed[index] for index in spaced(len(changed), max(1, min(SLICES, PIXELS // area)))]
        models = side_by_side(measure_slice, chosen, device=torch.device("cpu"))
        low, high = np.median([model.sigma_range for model in models], 0).tolist()
        if high == 0:
            return None
        middle, model = chosen[len(chosen) // 2], models[len(chosen) // 2]
        strength = None
        if model.deviation is not None and model.deviation.shape[2:] == middle.before.shape[1:]:
            strength = (model.sigma * model.deviation[0]).numpy()
        return cls(len(chosen), mean_model(models), (low, high), middle.label, strength)

    @property
    def alike(self) -> float:
        """The mean correlation of neighbours."""
        return sum(self.model.neighbours) / 2

    def correlation(self) -> list[list[float]]:
        """Over distances from 0, along columns and along rows."""
        rho = self.model.correlation
        if rho is None:
            return [[1.0, 0.0]] * 2
        centre = len(rho) // 2
        return [rho[centre:, centre].tolist(), rho[centre, centre:].tolist()]

    def compared(self, measures: Measures, spacing: Sequence[float] | None) -> Iterator[tuple[str, str, str]]:
        """Rows of a table: a quantity, of the noise, and of what was removed.

        ``spacing`` is the distance between rows and between columns in millimetres, if that is known.
        """
        yield "Standard deviation", number(self.model.sigma), number(measures.deviation)
        yield "10th to 90th percentile of it over the slice", " to ".join(map(number, self.sigma_range)), ""
        unit, distances = ("pixels", (1.0, 1.0)) if spacing is None else ("mm", spacing)
        noise, removed = self.correlation(), measures.autocorrelation.T.tolist()
        for axis, name in ((1, "rows"), (0, "columns")):
            near = [f"{part[axis][1]:.2f}".replace("-", "−") for part in (noise, removed)]
            far = [number(distances[axis] * correlation_length(part[axis])) for part in (noise, removed)]
            yield f"Correlation of neighbours along {name}", near[0], near[1]
            yield f"Correlation length along {name}, {unit}", far[0], far[1]


def measure_slice(shown: Shown) -> NoiseModel:
    """The noise of one slice, or of the middle of a large one, where something was changed."""
    starts = [max(0, (side - LARGEST) // 2) for side in shown.before.shape[1:]]
    place = (slice(None), *(slice(start, start + LARGEST) for start in starts))
    seen = changed_pixels(shown)[place].all(0, keepdims=True)
    image = np.where(seen, shown.before[place].astype(np.float64), np.nan)
    low, high = (np.nanmin(image), np.nanmax(image)) if seen.any() else (0, 0)
    if low == high:
        return NoiseModel(0)
    scaled = torch.from_numpy(np.nan_to_num((image - low) / (high - low)))[None].float()
    return NoiseModel.of(fill_background(scaled, torch.from_numpy(~seen)[None])).scale(high - low)


def mean_model(models: list[NoiseModel]) -> NoiseModel:
    """Mean power of the noise of several slices, and the mean correlation if most are correlated."""
    sigma = (sum(model.sigma**2 for model in models) / len(models)) ** 0.5
    known = [model.correlation for model in models if model.correlation is not None]
    return NoiseModel(sigma, torch.stack(known).mean(0) if 2 * len(known) > len(models) else None)


def correlation_length(correlation: Sequence[float]) -> float:
    """The distance at which a correlation over distances 0, 1, … has fallen to 1/e; beyond the last it is 0.

    Between the distances it is taken to be straight, so that the length of white noise is 0.63.

    >>> round(correlation_length([1, 0, 0]), 2), round(correlation_length([1, 0.5]), 2)
    (0.63, 1.26)
    """
    steps = enumerate(pairwise([1.0, *correlation[1:], 0.0]))
    return next(step + (near - 1 / math.e) / (near - far) for step, (near, far) in steps if far <= 1 / math.e)
