"""Threads that each compute with one of the processor's, so that results have the same bits however many there are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Outcome = TypeVar("Outcome")
PATIENCE = 1.0  # seconds at most that the end of threads is waited for


@contextmanager
def gradients_enabled(device: torch.device) -> Iterator[None]:
    """Gradients, not in half precision, whatever context the caller runs in: no_grad, inference_mode or autocast.

    Tensors made outside under ``inference_mode`` must be cloned inside before they enter a graph.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


def side_by_side(function: Callable[..., Outcome], *items: Iterable[Any], device: torch.device) -> list[Outcome]:
    """Map a function that fits over some items, with gradients enabled; on a CPU in several threads.

    There are as many threads as PyTorch may use, each computing with one: small images do not fill more, and the
    result has the same bits however many there are.
    """

    def fit_one(*item: Any) -> Outcome:
        with gradients_enabled(device):
            return function(*item)

    if device.type != "cpu":
        with repeatable(device):
            return list(map(fit_one, *items))
    with single_threaded_pool() as pool:
        return list(pool.map(fit_one, *items))


class Restored:
    """A setting of the whole process that blocks may change at once; the last of them to end restores it."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.read, self.write = read, write
        self.lock, self.blocks, self.before = threading.Lock(), 0, None

    @contextmanager
    def afterwards(self) -> Iterator[Any]:
        """Gives what it was before the first block."""
        with self.lock:
            if self.blocks == 0:
                self.before = self.read()
            self.blocks += 1
        try:
            yield self.before
        finally:
            with self.lock:
                self.blocks -= 1
                if self.blocks == 0:
                    self.write(self.before)


def convolution_choice() -> tuple[bool, bool]:
    return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


def choose_convolutions(choice: tuple[bool, bool]) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = choice


CONVOLUTIONS = Restored(convolution_choice, choose_convolutions)
THREADS = Restored(torch.get_num_threads, torch.set_num_threads)  # set in one thread, it is set in those that follow


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """The same bits for the same input on an accelerator: no convolution sums in an order that varies."""
    if device.type != "cuda":
        yield
        return
    with CONVOLUTIONS.afterwards():
        choose_convolutions((True, False))
        yield


@contextmanager
def single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """As many threads as PyTorch may use, each of which computes with one.

    Afterwards they have ended for Linux too, unless it is the user who ends the run: then nothing is waited for.
    """
    threads: list[int] = []

    def begin() -> None:
        threads.append(threading.get_native_id())
        torch.set_num_threads(1)

    with THREADS.afterwards() as count:
        pool, ended = ThreadPoolExecutor(count, initializer=begin), False
        try:
            yield pool
        except (KeyboardInterrupt, SystemExit):
            ended = True
            raise
        finally:
            pool.shutdown(wait=not ended, cancel_futures=True)
            wait_for_the_end([] if ended else threads)


def wait_for_the_end(threads: Sequence[int]) -> None:
    """Wait until Linux has ended threads that Python has: they still put away the memory of MKL.

    A process that is forked meanwhile, such as a DataLoader's worker, takes over half of that, and hangs at its first
    product of matrices.
    """
    until = time.monotonic() + PATIENCE
    while any(os.path.exists(f"/proc/self/task/{thread}") for thread in threads) and time.monotonic() < until:
        time.sleep(1e-4)
