"""Parameters out of their range, refused in one line that names them."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and neither True nor False."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_flag(**values: Any) -> None:
    """Refuse what is neither True nor False, naming it.

    >>> check_flag(rician="false")
    Traceback (most recent call last):
    ValueError: rician='false' must be True or False.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be True or False.")


def check_positive(**values: Any) -> None:
    """Refuse what is no finite number over 0, naming it.

    >>> check_positive(learning_rate="fast")
    Traceback (most recent call last):
    ValueError: learning_rate=fast must be a positive number.
    """
    for name, value in values.items():
        if not (is_number(value) and value > 0):
            raise ValueError(f"{name}={value} must be a positive number.")


def check_not_negative(**values: Any) -> None:
    """Refuse what is no finite number from 0 up, naming it; None stands for a rule and passes.

    >>> check_not_negative(weight=-1)
    Traceback (most recent call last):
    ValueError: weight=-1 must be a finite number, 0 or more.
    """
    for name, value in values.items():
        if value is not None and not (is_number(value) and value >= 0):
            raise ValueError(f"{name}={value} must be a finite number, 0 or more.")


def check_part(**values: Any) -> None:
    """Refuse what does not lie between 0 and 1, naming it.

    >>> check_part(hidden=1)
    Traceback (most recent call last):
    ValueError: hidden=1 must lie between 0 and 1.
    """
    for name, value in values.items():
        if not (is_number(value) and 0 < value < 1):
            raise ValueError(f"{name}={value} must lie between 0 and 1.")


def check_whole(least: int, **values: Any) -> None:
    """Refuse what is no whole number or less than the least, naming it.

    >>> check_whole(1, steps=0)
    Traceback (most recent call last):
    ValueError: steps=0 must be a whole number, at least 1.
    """
    for name, value in values.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}.")
