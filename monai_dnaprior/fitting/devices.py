"""Devices to compute on, by name, and the precision of convolutions on them."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

AUTO = "auto"
KINDS = ("cpu", "cuda")  # on which every operation is known to work
BYTES_A_PIXEL = 2000  # of an image that is fitted with others: 1,300 were measured


def device_name(device: str | torch.device) -> str:
    """The name of a device that may be asked for.

    >>> device_name("mps")
    Traceback (most recent call last):
    ValueError: device='mps' is not supported; choose 'auto' (CUDA where there is a GPU, else the CPU), 'cpu' or 'cuda'.
    """
    try:
        known = device == AUTO or torch.device(device).type in KINDS
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise ValueError(
            f"device={str(device)!r} is not supported; choose 'auto' (CUDA where there is a GPU, else the CPU), 'cpu' "
            "or 'cuda'."
        )
    return str(device)


def computing_device(device: str | torch.device = AUTO, *, near: torch.device | None = None) -> torch.device:
    """The device that a name stands for, if it can be used from here.

    ``"auto"`` is where the image lies (``near``) if that is a GPU; else a GPU, of several that of ``LOCAL_RANK``; and
    the CPU where there is none, and inside the worker process of a DataLoader.
    """
    name = device_name(device)
    in_worker = torch.utils.data.get_worker_info() is not None and multiprocessing.parent_process() is not None
    if name == AUTO:
        if near is not None and near.type == "cuda":
            return near
        count = 0 if in_worker else torch.cuda.device_count()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % count) if count else torch.device("cpu")
    chosen = torch.device(name)
    if chosen.type == "cuda" and in_worker:
        raise RuntimeError(
            "device='cuda' cannot be used inside a DataLoader's worker process; set num_workers=0, or use monai.data."
            "ThreadDataLoader with use_thread_workers=True."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"device={name!r} is not available on this machine; use device='cpu'.")
    return chosen


def images_at_once(device: torch.device, pixels: int) -> int:
    """How many images of so many values each, channels included, a device is handed at once, if nobody says.

    A GPU gets as many as fits of ``default`` take half of its memory, 64 at most; a CPU gets 8.

    >>> images_at_once(torch.device("cpu"), 256 * 256)
    8
    """
    if device.type != "cuda":
        return 8
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, min(64, memory // 2 // (BYTES_A_PIXEL * pixels)))


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
    """Compute the convolutions inside a block in this precision; weights and sums stay as they are.

    Weights are rounded anew each time: inside another autocast PyTorch would keep the rounded ones for all steps.

    >>> convolution, image = torch.nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
    >>> with convolving("bfloat16", image.device):
    ...     convolution(image).dtype
    torch.bfloat16
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
