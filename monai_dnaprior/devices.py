"""Devices to compute on, by name."""

from __future__ import annotations

import multiprocessing

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
