"""Devices to compute on, by name, and the precision of convolutions on them."""

from __future__ import annotations

import multiprocessing
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def device_name(device: str | torch.device) -> str:
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no torch device; choose for instance 'cpu' or 'cuda'.") from error


def computing_device(device: str | torch.device) -> torch.device:
    """The device, if it can be used from here."""
    device = torch.device(device)
    in_worker = torch.utils.data.get_worker_info() is not None and multiprocessing.parent_process() is not None
    if device.type == "cuda" and in_worker:
        raise RuntimeError(
            "device='cuda' cannot be used inside a DataLoader's worker process; set num_workers=0, or use monai.data."
            "ThreadDataLoader with use_thread_workers=True."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"device={str(device)!r} is not available on this machine; use device='cpu'.")
    return device


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
