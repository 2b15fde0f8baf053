"""The range of intensities of an image in any units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PERCENTILES = (0.5, 99.5)
SAMPLE = 2**20  # voxels whose percentiles are taken for those of a larger volume


def intensity_range(volume: Tensor) -> tuple[float, float]:
    """Offset and span of the map to about [0, 1]: from robust percentiles, else from the extremes, else the identity.

    Of a large volume the percentiles are those of a million voxels, always the same ones.

    >>> intensity_range(torch.linspace(100, 300, 201))
    (101.0, 198.0)
    """
    values = volume.flatten()
    if len(values) > SAMPLE:
        places = torch.randint(len(values), (SAMPLE,), generator=torch.Generator().manual_seed(0), device="cpu")
        values = values[places.to(values.device)]
    values = values[values.isfinite()].double()
    low, high = np.percentile(values.cpu().numpy(), PERCENTILES) if len(values) else (0.0, 0.0)
    if high <= low:
        values = volume[volume.isfinite()].double()
        low, high = (values.min().item(), values.max().item()) if len(values) else (0.0, 0.0)
    return float(low), float(high - low) if high > low else 1.0
