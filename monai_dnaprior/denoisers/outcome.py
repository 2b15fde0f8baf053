"""What became of the slices of a volume, counted and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LEFT_ALONE = {"clean": "hardly any noise", "constant": "nothing to fit"}
FALLBACK = "non-finite"
UNTREATED = (*LEFT_ALONE, FALLBACK)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How many slices were denoised, how many left alone, by the reason, and how many are the input's after a failure.

    >>> print(Outcome.of(["discrepancy", "clean", "clean", "non-finite"]))
    1 of 4 slices denoised; 2 left alone: hardly any noise; 1 as it came: the fit failed twice
    """

    denoised: int = 0
    left_alone: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0

    @classmethod
    def of(cls, stop_reasons: Iterable[str]) -> Outcome:
        counts = Counter(stop_reasons)
        left = {reason: counts.pop(reason) for reason in LEFT_ALONE if reason in counts}
        failed = counts.pop(FALLBACK, 0)
        return cls(denoised=counts.total(), left_alone=left, fallbacks=failed)

    @property
    def total(self) -> int:
        return self.denoised + sum(self.left_alone.values()) + self.fallbacks

    @property
    def untreated(self) -> str:
        """The slices that are as they came, and why; empty if there are none."""
        parts = [f"{count} left alone: {LEFT_ALONE[reason]}" for reason, count in self.left_alone.items()]
        parts += [f"{self.fallbacks} as it came: the fit failed twice"] if self.fallbacks else []
        return "; ".join(parts)

    def __str__(self) -> str:
        of = "" if self.denoised == self.total else f" of {self.total}"
        text = f"{self.denoised or 'none'}{of} slice{'' if self.total == 1 else 's'} denoised"
        return f"{text}; {self.untreated}" if self.untreated else text


def count_warnings(warnings: Sequence[Iterable[str]]) -> list[str]:
    """The warnings of slices, each with in how many of them it is.

    >>> count_warnings([["too dark"], [], ["too dark"]])
    ['in 2 of 3 slices: too dark']
    """
    counts = Counter(text for texts in warnings for text in dict.fromkeys(texts))
    return [f"in {count} of {len(warnings)} slices: {text}" for text, count in counts.items()]


def along_axis(axis: int) -> str:
    """Along which spatial axis a volume was cut, where it is not the last."""
    return "" if axis in (-1, 2) else f"; cut along axis {axis}"
