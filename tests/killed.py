"""A process that is killed at a given point, whatever else the machine does."""

from __future__ import annotations

import os
import signal
from typing import Any

from ignite.engine import Events


class Killed:
    """A MONAI handler by which a training is killed after this many of its steps."""

    def __init__(self, *, steps: int) -> None:
        self.steps = steps

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.steps), self.kill)

    def kill(self, engine: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
