"""How long a training takes, in steps or seconds, and the learning rates over it."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from ..checks import check_positive, check_whole


class Budget:
    """A MONAI handler that knows what part of a training lies behind, and ends it when its seconds are over.

    Those of a training that was interrupted are counted as far as its last checkpoint. Several processes go by the
    clock of the first.

    Args:
        steps: of the whole training.
        seconds: after which it ends, if they are over first; None for as many as the steps take.

    Attributes:
        now: from 0 to 1, the larger one of the parts of the steps and of the seconds.
        elapsed: seconds so far.

    >>> budget = Budget(steps=100)
    >>> budget.passed(25)
    >>> budget.now
    0.25
    """

    def __init__(self, *, steps: int, seconds: float | None = None) -> None:
        check_whole(1, steps=steps)
        if seconds is not None:
            check_positive(seconds=seconds)
        self.steps, self.seconds = steps, seconds
        self.now = self.elapsed = self.before = 0.0
        self.began = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_time)

    def start(self) -> None:
        self.began = time.monotonic()

    def stop_in_time(self, engine: Any) -> None:
        """Look at the clock after a step."""
        elapsed = torch.tensor(self.before + time.monotonic() - self.began, dtype=torch.float64)
        if dist.is_initialized():
            shared = elapsed.to(engine.state.device)
            dist.broadcast(shared, 0)
            elapsed = shared
        self.elapsed = elapsed.item()
        self.passed(engine.state.iteration)
        if self.seconds is not None and self.elapsed >= self.seconds:
            engine.terminate()

    def passed(self, steps: int) -> None:
        """So many steps are done."""
        self.now = min(1.0, max(steps / self.steps, self.elapsed / self.seconds if self.seconds is not None else 0.0))

    def state_dict(self) -> dict[str, float]:
        return {"now": self.now, "elapsed": self.elapsed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.now, self.elapsed, self.before = state["now"], state["elapsed"], state["elapsed"]


def plateau_then_linear(step: int, *, budget: Budget, plateau: float = 0.5) -> float:
    """What the learning rate is multiplied with: 1 for the first part of a training, then falling linearly to 0.

    Args:
        step: PyTorch's count, which says nothing of seconds.
        budget: says what part lies behind.
        plateau: the first part.

    >>> budget = Budget(steps=100)
    >>> for step in (0, 50, 75, 100):
    ...     budget.passed(step)
    ...     plateau_then_linear(step, budget=budget)
    1.0
    1.0
    0.5
    0.0
    """
    return float(min(1.0, max(0.0, (1 - budget.now) / (1 - plateau))))


def warm_up_then_cosine(step: int, *, budget: Budget, warm_up: float = 0.02, least: float = 0.001) -> float:
    """The same, growing to 1 over the first part of a training, then falling to the least along a cosine.

    >>> budget = Budget(steps=100)
    >>> for step in (0, 2, 50, 100):
    ...     budget.passed(step)
    ...     print(round(warm_up_then_cosine(step, budget=budget), 3))
    0.011
    1.0
    0.501
    0.001
    """
    return min(1.0, budget.now / warm_up + 0.01) * (0.5 + 0.5 * math.cos(math.pi * budget.now)) + least
