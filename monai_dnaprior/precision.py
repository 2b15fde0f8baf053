"""Convolutions in fewer bits, for processors that are made for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = ("float32", "bfloat16")


def check_precision(precision: Any) -> None:
    """Refuse what is no precision.

    >>> check_precision("half")
    Traceback (most recent call last):
    ValueError: precision='half' is unknown; choose one of float32, bfloat16.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")


def convolving(precision: str, device: torch.device) -> AbstractContextManager:
    """A block whose convolutions round what they take and give to this precision; weights and sums stay as they are.

    Rounded weights are not kept: inside another autocast PyTorch would keep them for all steps.

    >>> convolution, image = torch.nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
    >>> with convolving("bfloat16", image.device):
    ...     convolution(image).dtype
    torch.bfloat16
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
