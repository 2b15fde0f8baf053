"""Parameters that a constructor takes over from another, so that each is written down once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..denoisers.options import check_names

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def takes_parameters_of(other: type, *, without: Sequence[str] = ()) -> Callable[[Constructor], Constructor]:
    """Let ``**others`` of a constructor stand for the parameters of another class, except some of them.

    ``inspect.signature`` shows all of them, with their defaults and annotations, and the constructor refuses any more.

    >>> class Volume:
    ...     def __init__(self, *, depth: int = 3) -> None: ...
    >>> class Image(Volume):
    ...     @takes_parameters_of(Volume)
    ...     def __init__(self, width: int, **others: Any) -> None: ...
    >>> list(inspect.signature(Image).parameters)
    ['width', 'depth']
    """

    def decorate(constructor: Constructor) -> Constructor:
        own = inspect.signature(constructor)
        named = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        taken = [parameter for name, parameter in inspect.signature(other).parameters.items() if name not in without]
        signature = own.replace(parameters=[*named, *taken])

        @functools.wraps(constructor)
        def checked(self: Any, *arguments: Any, **others: Any) -> None:
            check_names(type(self).__name__, others, [name for name in signature.parameters if name != "self"])
            constructor(self, *arguments, **others)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def with_keys(array: type) -> inspect.Signature:
    """The parameters of an array transform between ``keys`` and ``allow_missing_keys``, as MONAI orders them."""
    keys = inspect.Parameter("keys", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="KeysCollection")
    missing = inspect.Parameter("allow_missing_keys", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")
    own = inspect.signature(array)
    parameters = sorted([keys, *own.parameters.values(), missing], key=lambda parameter: parameter.kind)
    return own.replace(parameters=parameters)
