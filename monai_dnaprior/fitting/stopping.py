"""When a fit ends: rules that look at it every few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

StoppingRule = Callable[[float, Tensor, Tensor], str | None]
"""``rule(residual, estimate, average)`` names its reason when a fit should end, and gives None while it should go on.

It is asked at every check of one fit: the residual is RMS(noisy - average), the images are the latest output and the
averaged one.
"""


@dataclass
class Discrepancy:
    r"""Stop when the residual of the averaged output is as small as the noise, but not too early.

    .. math:: \mathrm{RMS}(y - \bar x) \le \sigma

    Args:
        sigma: standard deviation of the noise.
        warm_up: so many checks at the beginning do not count.

    Source: Morozov's discrepancy principle, Soviet Math. Doklady 7, 1966.
    """

    sigma: float
    warm_up: int = 0
    checks: int = 0

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None:
        self.checks += 1
        return "discrepancy" if self.checks > self.warm_up and residual <= self.sigma else None


@dataclass
class MovingVariance:
    """Stop when the moving variance of the outputs no longer falls: they have begun to fit the noise.

    Args:
        patience: so many checks without a new minimum end the fit.
        memory: of the moving average of the variance.
        warm_up: so many checks at the beginning do not count, because the average still follows the outputs closely.

    Source: Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, arXiv:2112.06074, its moving-average form,
    with the fit's own average in place of a second one. Needs no noise level.
    """

    patience: int = 20
    memory: float = 0.9
    warm_up: int = 10
    checks: int = 0
    variance: float | None = None
    lowest: float = float("inf")
    since: int = 0

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None:
        self.checks += 1
        if self.checks <= self.warm_up:
            return None
        latest = root_mean_square(estimate - average) ** 2
        self.variance = latest if self.variance is None else self.memory * self.variance + (1 - self.memory) * latest
        self.since = 0 if self.variance < self.lowest else self.since + 1
        self.lowest = min(self.lowest, self.variance)
        return "variance" if self.since >= self.patience else None


def root_mean_square(image: Tensor) -> float:
    return image.square().mean().sqrt().item()
