"""Fits of many images that meet, so that one call of the accelerator makes a step of all of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .fit import FitResult, JointObjective, Objective, StoppingRule, fit, fit_each
from .stack import Stack
from .threads import awaited_pool, gradients_enabled, repeatable, side_by_side

MADE_TOGETHER = ("cuda",)  # kinds of device that a single small image does not keep busy
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, eq=False)
class Request:
    """A fit that one image (1, C, H, W) needs; its parts are arguments of :func:`~monai_dnaprior.fitting.fit.fit`."""

    network: nn.Module
    noisy: Tensor
    objective: Objective | JointObjective
    stopping: Sequence[StoppingRule]
    where: Tensor
    options: dict[str, Any]

    def alone(self) -> FitResult:
        return fit(self.network, self.noisy, self.objective, stopping=self.stopping, where=self.where, **self.options)

    def suits(self, other: Request) -> bool:
        """Whether one call can make a step of both."""
        same = self.noisy.shape == other.noisy.shape and self.options == other.options
        return same and hasattr(self.objective, "joined") and type(self.objective) is type(other.objective)


Ask = Callable[[Request], FitResult]


def with_fits(function: Callable[..., Outcome], *arguments: Sequence[Any], device: torch.device) -> list[Outcome]:
    """Map ``function(ask, …)``, which may ask for fits, over its arguments, with gradients enabled.

    On a CPU in several threads, each with fits of its own: small images do not fill more than one, and the result has
    the same bits however many there are. On an accelerator the fits of all are made together.
    """
    if device.type in MADE_TOGETHER:
        with repeatable(device):
            return in_step(function, *arguments, device=device)
    return side_by_side(partial(function, Request.alone), *arguments, device=device)


def fit_together(requests: Sequence[Request]) -> list[FitResult]:
    """The fits of all requests, those that suit each other in one pass: what each is alone, but for rounding."""
    results: dict[int, FitResult] = {}
    left = list(range(len(requests)))
    while left:
        first = requests[left[0]]
        group = [number for number in left if number == left[0] or first.suits(requests[number])]
        left = [number for number in left if number not in group]
        results |= zip(group, fit_group([requests[number] for number in group]), strict=True)
    return [results[number] for number in range(len(requests))]


def fit_group(requests: Sequence[Request]) -> list[FitResult]:
    """The fits of requests that suit each other."""
    first, *others = requests
    if not others:
        return [first.alone()]
    return fit_each(
        Stack([request.network for request in requests]),
        torch.cat([request.noisy for request in requests]),
        cast(JointObjective, first.objective).joined([request.objective for request in others]),
        [request.stopping for request in requests],
        where=torch.cat([request.where for request in requests]),
        **first.options,
    )


Asked = tuple[int, Request, "Future[FitResult]"]


def in_step(function: Callable[..., Outcome], *arguments: Sequence[Any], device: torch.device) -> list[Outcome]:
    """Map ``function(ask, …)`` over its arguments; the fits that they ask for are made together.

    Each runs in a thread of its own, one at a time, up to its next ``ask(request)``. When all that have not ended wait
    for an answer, all are answered. So what does not depend on the other images is written as if there were none.
    """
    turn, events = threading.Lock(), queue.SimpleQueue[Asked | None]()

    def run(number: int, *values: Any) -> Outcome:
        def ask(request: Request) -> FitResult:
            future: Future[FitResult] = Future()
            events.put((number, request, future))
            turn.release()
            try:
                return future.result()
            finally:
                turn.acquire()

        with turn:
            try:
                with gradients_enabled(device):
                    return function(ask, *values)
            finally:
                events.put(None)

    calls = list(zip(*arguments, strict=True))
    with awaited_pool(len(calls)) as pool:
        outcomes = [pool.submit(run, number, *values) for number, values in enumerate(calls)]
        running, asked, interruption = len(calls), list[Asked](), None
        while running:
            try:
                event = events.get()
                running -= event is None
                asked += [] if event is None else [event]
                if asked and len(asked) == running:
                    answer(sorted(asked, key=lambda one: one[0]), device, interruption)
                    asked = []
            except KeyboardInterrupt as error:
                interruption = error
    return [outcome.result() for outcome in outcomes]


def answer(asked: Sequence[Asked], device: torch.device, interruption: BaseException | None) -> None:
    """Make the fits that were asked for; what goes wrong is raised where they were asked for."""
    try:
        if interruption is not None:
            raise interruption
        with gradients_enabled(device):
            results = fit_together([request for _, request, _ in asked])
    except BaseException as error:
        for _, _, future in asked:
            future.set_exception(error)
    else:
        for (_, _, future), result in zip(asked, results, strict=True):
            future.set_result(result)
