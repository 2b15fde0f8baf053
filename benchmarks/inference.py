"""IDDP's transform on a volume against its networks alone: slices a second, and memory over the depth."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product

import torch
from publish import publish
from torch import Tensor

from monai_dnaprior import IDDPDenoise, load_weights
from monai_dnaprior.compare.run import peak_memory
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.training.weights import SHIPPED_CORRELATED

SIDE, DEPTH, BATCH = 256, 64, 8
DEPTHS = (16, 64, 128)
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    volume = noise(DEPTH).to(device)
    transform = IDDPDenoise()
    networks = [load_weights(*path).network.to(device) for path in ((), (SHIPPED_CORRELATED,))]

    def alone() -> None:
        with torch.no_grad():
            for batch, network in product(volume.movedim(-1, 0).split(BATCH), networks):
                network(batch)

    speeds = {
        "networks alone": DEPTH / least_time(alone, device),
        "transform": DEPTH / least_time(lambda: transform(volume), device),
    }
    memory = {depth: beyond_the_volume(transform, noise(depth).to(device)) for depth in DEPTHS}
    results = {
        "volume": f"{SIDE}×{SIDE}×{DEPTH}",
        "device": device,
        "slices a second": {name: round(speed, 2) for name, speed in speeds.items()},
        "part": round(speeds["transform"] / speeds["networks alone"], 3),
        "megabytes beyond input and output": memory,
    }
    publish("inference", results, table(results))


def noise(depth: int) -> Tensor:
    return torch.rand(1, SIDE, SIDE, depth, generator=torch.Generator().manual_seed(0))


def least_time(run: Callable[[], object], device: str) -> float:
    """The shortest time of several runs, after one that does not count.

    On a CPU the processor's, on one thread, else that until the device has done them.
    """
    times, clock = [], time.process_time if device == "cpu" else time.perf_counter
    for _ in range(1 + REPEATS):
        started = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return min(times[1:])


def beyond_the_volume(transform: IDDPDenoise, volume: Tensor) -> int:
    """The peak of memory above the start, less an output, in megabytes."""
    with peak_memory(volume.device) as peak:
        transform(volume)
    return round(peak[0] / 1e6 - volume.numel() * 4 / 1e6)


def table(results: dict) -> str:
    speeds, memory = results["slices a second"], results["megabytes beyond input and output"]
    of = " of a core" if results["device"] == "cpu" else ""
    lines = [[name, f"{speed} slices a second{of}"] for name, speed in speeds.items()]
    lines.append(["part of the networks' own speed", f"{100 * results['part']:.0f} %"])
    lines += [[f"memory beyond input and output, {depth} slices", f"{size} MB"] for depth, size in memory.items()]
    return markdown_table([f"{results['volume']}, {results['device']}", ""], lines)


if __name__ == "__main__":
    main()
