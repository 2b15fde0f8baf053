"""The range of intensities of an image in any units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PERCENTILES = (0.5, 99.5)
FILL = 0.01  # of the voxels that have the least or the greatest value, from which it is no intensity but a fill
SAMPLE = 2**20  # voxels whose percentiles are taken for those of a larger volume


def intensity_range(volume: Tensor) -> tuple[float, float]:
    """Offset and span of the map to about [0, 1]: from robust percentiles, else from the extremes, else the identity.

    A fill does not count, as around a round field of view or a brain that was cut out: the least or greatest value, if
    a hundredth of the voxels have it. Of a large volume the percentiles are those of a million voxels, always the same.

    >>> values = torch.linspace(100, 300, 201)
    >>> intensity_range(values), intensity_range(torch.cat((values, torch.full((50,), -3024.0))))
    ((101.0, 198.0), (101.0, 198.0))
    """
    values = volume.flatten()
    if len(values) > SAMPLE:
        places = torch.randint(len(values), (SAMPLE,), generator=torch.Generator().manual_seed(0), device="cpu")
        values = values[places.to(values.device)]
    values = values[values.isfinite()].double()
    low, high = np.percentile(without_fill(values.cpu().numpy()), PERCENTILES) if len(values) else (0.0, 0.0)
    if high <= low:
        values = volume[volume.isfinite()].double()
        low, high = (values.min().item(), values.max().item()) if len(values) else (0.0, 0.0)
    return float(low), float(high - low) if high > low else 1.0


def without_fill(values: np.ndarray) -> np.ndarray:
    """The values but for the least and the greatest, where many have it; all, if only such are left."""
    kept = np.ones(len(values), bool)
    for extreme in (values.min(), values.max()):
        equal = values == extreme
        kept &= ~equal if equal.mean() > FILL else True
    return values[kept] if kept.any() else values
