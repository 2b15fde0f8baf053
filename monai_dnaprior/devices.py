"""Devices to compute on, by name."""

from __future__ import annotations

import torch


def device_name(device: str | torch.device) -> str:
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no torch device; choose for instance 'cpu' or 'cuda'.") from error


def computing_device(device: str | torch.device) -> torch.device:
    """The device, if it can be used from here."""
    device = torch.device(device)
    if device.type == "cuda" and torch.utils.data.get_worker_info() is not None:
        raise RuntimeError(
            "device='cuda' cannot be used inside a DataLoader worker; set num_workers=0, or use monai.data."
            "ThreadDataLoader, whose workers are threads."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"device={str(device)!r} is not available on this machine; use device='cpu'.")
    return device
