"""How far a run has come: a bar where somebody watches, else a line for every tenth, so that a log stays short."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


class Progress:
    """Counts what is done of a total, on the standard error.

    Args:
        total: how many there are.
        unit: what they are called, one of them.
        name: of what is done to them.
        shown: False says nothing.
    """

    def __init__(self, total: int, *, unit: str, name: str, shown: bool = True) -> None:
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.total, self.unit, self.name = total, unit, name
        self.logged = shown and not watched
        self.done, self.tenths = 0, -1
        self.bar = tqdm(total=total, unit=unit, desc=name, disable=not (shown and watched))
        self.advance(0)

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self.bar.update(count)
        tenths = 10 * self.done // max(self.total, 1)
        if self.logged and tenths > self.tenths:
            print(f"{self.name}: {self.done} of {self.total} {self.unit}s", file=sys.stderr, flush=True)
        self.tenths = max(tenths, self.tenths)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


def follow(items: Sequence[Item], *, unit: str, name: str, shown: bool = True) -> Iterator[Item]:
    """The items, one after the other, with their progress.

    >>> list(follow([3, 4], unit="slice", name="scan", shown=False))
    [3, 4]
    """
    with Progress(len(items), unit=unit, name=name, shown=shown) as progress:
        for item in items:
            yield item
            progress.advance()
