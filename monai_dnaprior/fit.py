"""The one loop: a network, an objective, and rules that say when to stop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

CHECK_EVERY = 10  # steps between looks at the numbers, each of which waits for the device
TRACE_EVERY = 50
Outcome = TypeVar("Outcome")

Objective = Callable[[Tensor, nn.Module], tuple[Tensor, Tensor]]
"""``objective(noisy, network) -> (loss, estimate)``: a scalar to descend, and the image that it scores."""


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
    objective: Objective,
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
    descent = optimizer(network.parameters(), lr=learning_rate)
    average = torch.zeros_like(noisy)
    trace: list[tuple[int, float, float]] = []
    reason, step = None, 0
    while reason is None and step < steps:
        for group in descent.param_groups:
            group["lr"] = learning_rate * decay(step / steps)
        step += 1
        descent.zero_grad()
        loss, estimate = objective(noisy, network)
        loss.backward()
        descent.step()
        estimate = estimate.detach()
        average = torch.lerp(average, estimate, max(1 - averaging, 10 / (step + 9)))
        if step % CHECK_EVERY and step < steps:
            continue
        residual = root_mean_square(noisy - average if where is None else (noisy - average)[where])
        if math.isfinite(loss.item()) and math.isfinite(residual):
            reason = next(filter(None, (rule(residual, estimate, average) for rule in stopping)), None)
        else:
            reason = "non-finite"
        if reason or step == steps or step % TRACE_EVERY == 0:
            trace.append((step, loss.item(), residual))
    return FitResult(average, step, reason or "steps", tuple(trace))


@dataclass
class Discrepancy:
    """Stop when what the averaged output leaves over is as small as the noise: residual <= sigma.

    Source: Morozov's discrepancy principle, Soviet Math. Doklady 7, 1966.
    """

    sigma: float

    def __call__(self, residual: float, estimate: Tensor, average: Tensor) -> str | None:
        return "discrepancy" if residual <= self.sigma else None


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


@contextmanager
def gradients_enabled(device: torch.device) -> Iterator[None]:
    """Gradients in full precision, whatever context the caller runs in: no_grad, inference_mode or autocast.

    Tensors made outside under ``inference_mode`` must be cloned inside before they enter a graph.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


def side_by_side(function: Callable[..., Outcome], *arguments: Sequence[Any], device: torch.device) -> list[Outcome]:
    """Map a function that fits over its arguments, with gradients enabled; on a CPU in several threads.

    There are as many threads as PyTorch may use, each computing with one: small images do not fill more, and the
    result has the same bits however many there are.
    """

    def fit_one(*values: Any) -> Outcome:
        with gradients_enabled(device):
            return function(*values)

    if device.type != "cpu":
        return [fit_one(*values) for values in zip(*arguments, strict=True)]
    with single_threaded_pool() as pool:
        futures = [pool.submit(fit_one, *values) for values in zip(*arguments, strict=True)]
        return [future.result() for future in futures]


class ThreadCount:
    """PyTorch's number of threads, which pools lower for their own threads and the last one out restores.

    Setting it in one thread also sets it for threads that start later, hence the restoration.
    """

    lock = threading.Lock()
    pools = 0
    before = 1


@contextmanager
def single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """As many threads as PyTorch may use, each of which computes with one."""
    with ThreadCount.lock:
        if ThreadCount.pools == 0:
            ThreadCount.before = torch.get_num_threads()
        ThreadCount.pools += 1
    pool = ThreadPoolExecutor(ThreadCount.before, initializer=torch.set_num_threads, initargs=(1,))
    ended = False
    try:
        yield pool
    except (KeyboardInterrupt, SystemExit):
        ended = True
        raise
    finally:
        pool.shutdown(wait=not ended, cancel_futures=True)  # who ends a run does not wait for the fits under way
        with ThreadCount.lock:
            ThreadCount.pools -= 1
            if ThreadCount.pools == 0:
                torch.set_num_threads(ThreadCount.before)
