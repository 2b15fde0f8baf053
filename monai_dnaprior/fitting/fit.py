"""The one loop: a network, an objective, and rules that say when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .stack import Stack

CHECK_EVERY = 10  # steps between looks at the numbers, each of which waits for the device
TRACE_EVERY = 50

Objective = Callable[[Tensor, nn.Module], tuple[Tensor, Tensor]]
"""``objective(noisy, network) -> (loss, estimate)``: a scalar to descend, and the image that it scores."""


class JointObjective(Protocol):
    """An objective that scores several images at once: ``(noisy, network) -> (a loss for each, estimates)``."""

    def __call__(self, noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]: ...

    def joined(self, others: Sequence[Any]) -> JointObjective:
        """The objective of this image and of the others', in this order."""

    def kept(self, places: Sequence[int]) -> JointObjective:
        """The objective of the images at these places."""


class StoppingRule(Protocol):
    """A rule names its reason when the fit should end here, and gives None while it should go on.

    It sees the residual, RMS(noisy - average), and the latest and the averaged output.
    """

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None: ...


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves: the averaged image, the steps taken, why it ended, and (step, loss, residual) on the way."""

    image: Tensor
    steps: int
    stop_reason: str
    trace: tuple[tuple[int, float, float], ...]


def fit(
    network: nn.Module,
    noisy: Tensor,
    objective: Objective | JointObjective,
    *,
    steps: int,
    learning_rate: float,
    decay: Callable[[float], float] = lambda progress: 1.0,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    averaging: float = 0.99,
    stopping: Sequence[StoppingRule] = (),
    where: Tensor | None = None,
) -> FitResult:
    r"""Fit a network to one noisy image, and return the running average of its outputs.

    .. math:: \bar x_t = \bar x_{t-1} + w_t (\hat x_t - \bar x_{t-1}), \qquad w_t = \max(1 - a, 10 / (t + 9))

    so that the average covers the last tenth of a short fit and the last 1/(1 - a) steps of a long one.

    Args:
        network: fitted in place.
        noisy: what the objective compares with, (1, C, H, W).
        objective: gives the loss and the image that it scores, of the shape of ``noisy``.
        steps: at most this many.
        learning_rate: of the optimiser, at the first step.
        decay: what it is multiplied with, as a function of the progress from 0 to 1.
        optimizer: makes the optimiser from the parameters and ``lr``.
        averaging: a above; 0 returns the last output.
        stopping: rules asked every ten steps, in this order.
        where: the pixels over which the residual is taken; all by default.

    Returns:
        the average, with ``stop_reason`` from the rule that ended the fit, ``"steps"`` when none did, or
        ``"non-finite"`` when the loss was.
    """
    options: dict[str, Any] = {"decay": decay, "optimizer": optimizer, "averaging": averaging, "where": where}
    return fit_each(network, noisy, objective, [stopping], steps=steps, learning_rate=learning_rate, **options)[0]


def fit_each(
    network: nn.Module,
    noisy: Tensor,
    objective: Objective | JointObjective,
    stopping: Sequence[Sequence[StoppingRule]],
    *,
    steps: int,
    learning_rate: float,
    decay: Callable[[float], float],
    optimizer: Callable[..., torch.optim.Optimizer],
    averaging: float,
    where: Tensor | None,
) -> list[FitResult]:
    """:func:`fit` for noisy images (B, C, H, W) at once, each with rules, and a result, of its own.

    For more than one image the network is a :class:`~monai_dnaprior.fitting.stack.Stack`, the objective a
    :class:`JointObjective` that gives a loss for each. An image whose fit ends leaves the others.
    """
    descent = optimizer(network.parameters(), lr=learning_rate)
    average = torch.zeros_like(noisy)
    traces = [list[tuple[int, float, float]]() for _ in noisy]
    results: dict[int, FitResult] = {}
    fitting, step = list(range(len(noisy))), 0
    while fitting:
        for group in descent.param_groups:
            group["lr"] = learning_rate * decay(step / steps)
        step += 1
        descent.zero_grad()
        losses, estimate = objective(noisy, network)
        losses.sum().backward()
        descent.step()
        estimate = estimate.detach()
        average = torch.lerp(average, estimate, max(1 - averaging, 10 / (step + 9)))
        if step % CHECK_EVERY and step < steps:
            continue
        going_on: list[int] = []
        for place, (number, loss) in enumerate(zip(fitting, losses.detach().reshape(-1).tolist(), strict=True)):
            one = slice(place, place + 1)
            left_over = (noisy[one] - average[one])[... if where is None else where[one]]
            residual = root_mean_square(left_over)
            reason = reason_to_stop(loss, residual, estimate[one], average[one], stopping[number])
            if reason or step == steps or step % TRACE_EVERY == 0:
                traces[number].append((step, loss, residual))
            if reason or step == steps:
                results[number] = FitResult(average[one], step, reason or "steps", tuple(traces[number]))
            else:
                going_on.append(place)
        if going_on and len(going_on) < len(fitting):
            cast(Stack, network).keep(going_on, descent)
            objective = cast(JointObjective, objective).kept(going_on)
            noisy, average = noisy[going_on], average[going_on]
            where = None if where is None else where[going_on]
        fitting = [fitting[place] for place in going_on]
    return [results[number] for number in sorted(results)]


def reason_to_stop(
    loss: float, residual: float, estimate: Tensor, average: Tensor, rules: Sequence[StoppingRule]
) -> str | None:
    """What the first rule with a reason says, or ``"non-finite"`` of a fit that has failed."""
    if not (math.isfinite(loss) and math.isfinite(residual)):
        return "non-finite"
    return next(filter(None, (rule(residual, estimate, average) for rule in rules)), None)


@dataclass
class Discrepancy:
    """Stop when what the averaged output leaves over is as small as the noise, residual <= sigma, but not too early.

    The first ``warm_up`` looks do not count.

    Source: Morozov's discrepancy principle, Soviet Math. Doklady 7, 1966.
    """

    sigma: float
    warm_up: int = 0
    looks: int = 0

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None:
        self.looks += 1
        return "discrepancy" if self.looks > self.warm_up and residual <= self.sigma else None


@dataclass
class MovingVariance:
    """Stop when the outputs' moving variance has not fallen for ``patience`` looks: they have begun to fit noise.

    The first ``warm_up`` looks do not count, because the average still follows the outputs closely there.

    Source: Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, arXiv:2112.06074, its moving-average form,
    with the fit's own average in place of a second one. Needs no noise level.
    """

    patience: int = 20
    memory: float = 0.9
    warm_up: int = 10
    looks: int = 0
    variance: float | None = None
    lowest: float = float("inf")
    since: int = 0

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None:
        self.looks += 1
        if self.looks <= self.warm_up:
            return None
        latest = root_mean_square(estimate - average) ** 2
        self.variance = latest if self.variance is None else self.memory * self.variance + (1 - self.memory) * latest
        self.since = 0 if self.variance < self.lowest else self.since + 1
        self.lowest = min(self.lowest, self.variance)
        return "variance" if self.since >= self.patience else None


def root_mean_square(image: Tensor) -> float:
    return image.square().mean().sqrt().item()
