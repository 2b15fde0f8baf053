"""Parameters out of their range, refused in one line that names them."""

from __future__ import annotations

import math
from typing import Any


def check_not_negative(**values: float | None) -> None:
    """Refuse a number that is negative or not finite, naming it; None stands for a rule and passes.

    >>> check_not_negative(weight=-1)
    Traceback (most recent call last):
    ValueError: weight=-1 must be a finite number, 0 or more.
    """
    for name, value in values.items():
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value} must be a finite number, 0 or more.")


def check_whole(least: int, **values: Any) -> None:
    """Refuse what is no whole number or less than the least, naming it.

    >>> check_whole(1, steps=0)
    Traceback (most recent call last):
    ValueError: steps=0 must be a whole number, at least 1.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}.")
