"""The options that a method has: their names, and the kind of value that each takes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..checks import is_number, is_whole

METHODS = Path(__file__).with_name("methods.json")  # every method in words, as benchmarks/methods.py writes it
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": ("a whole number", is_whole),
    "float": ("a finite number", lambda value: is_number(value) and not isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "PathLike": ("a path", lambda value: isinstance(value, os.PathLike)),
    "None": ("None", lambda value: value is None),
}


def options_of(create: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a denoiser can be told by keyword; a function's ``**options`` are the fields of its class."""
    found = dict(inspect.signature(create).parameters)
    if found.pop("options", None):
        found |= inspect.signature(create.__self__).parameters  # type: ignore[attr-defined]
    return found


def check_options(method: str, create: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse what a method has no option for, naming those it has, and a value of another kind than the option's.

    >>> def blur(*, width: "float" = 1.0): ...
    >>> check_options("blur", blur, {"widht": 2})
    Traceback (most recent call last):
    TypeError: widht is no option of blur; it has width. Did you mean width?
    """
    known = options_of(create)
    check_names(method, options, known)
    for name, value in options.items():
        kinds = known[name].annotation.split(" | ")
        if value is None and "preset" in known:
            continue  # the preset's
        if set(kinds) <= set(KINDS) and not any(KINDS[kind][1](value) for kind in kinds):
            raise ValueError(f"{name}={value!r} must be {' or '.join(KINDS[kind][0] for kind in kinds)}.")


def check_names(owner: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a name that is none of those known, naming all and the nearest."""
    for name in names:
        if name not in known:
            raise TypeError(f"{name} is no option of {owner}; it has {', '.join(known)}.{suggest(name, known)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """A question for what comes close to a word, if anything does.

    >>> suggest("nlmeans", ["tv", "nl-means"])
    ' Did you mean nl-means?'
    """
    near = get_close_matches(word.lower().replace("_", "-"), [*known], 1) or get_close_matches(word, [*known], 1)
    return f" Did you mean {near[0]}?" if near else ""
