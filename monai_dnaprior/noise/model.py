"""What the noise of an image is like: how strong, how correlated, how uneven."""

from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import Tensor
from .estimate import estimate_sigma


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """stub until it is measured"""

    sigma: float
    correlation: Tensor | None = None
    deviation: Tensor | None = None

    @property
    def is_white(self) -> bool:
        return self.correlation is None

    @classmethod
    def of(cls, noisy: Tensor) -> NoiseModel:
        return cls(estimate_sigma(noisy).item())

    def spectrum(self, height: int, width: int) -> Tensor:
        rho = self.correlation
        reach = len(rho) // 2
        big = torch.zeros(height, width, dtype=torch.float64)
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                big[i % height, j % width] += rho[i + reach, j + reach]
        p = torch.fft.fft2(big).real.clamp(min=0)
        return p / p.mean()

    def covariance(self, side: int) -> Tensor:
        reach = len(self.correlation) // 2
        idx = torch.arange(side)
        yy, xx = torch.meshgrid(idx, idx, indexing="ij")
        p = torch.stack([yy.flatten(), xx.flatten()], 1)
        d = p[:, None] - p[None] + reach
        return self.correlation.double()[d[..., 0], d[..., 1]]

    def shrink(self, factor: int) -> NoiseModel:
        if self.is_white and self.deviation is None:
            return NoiseModel(self.sigma / factor)
        raise NotImplementedError
