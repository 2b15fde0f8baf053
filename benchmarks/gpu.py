"""What a GPU gives: the same picture as the CPU, the same bits twice, seconds a volume, seconds against the reference.

The reference is Deep Image Prior as it is printed, a slice at a time in float32. The preset ``paper`` has its network
and its steps; many of its slices are fitted in one pass, in float32 and in bfloat16.

One command on a machine with a GPU; without one it says so. The table at full size follows with
``python benchmarks/table1.py --full --device cuda``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from publish import publish
from torch import Tensor

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.result import Result
from monai_dnaprior.fitting.devices import PRECISIONS
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_parts, denoise_volume

PRESETS = ("fast", "default", "best")
BATCH = 64  # slices made together
PAPER_BATCH = 16  # … with the network of 128 channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="of a slice (256)")
    parser.add_argument("--slices", type=int, default=64, help="of the volume (64)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py needs a CUDA device, and there is none.")
    results = measure("cuda", options.side, options.slices, {preset: {} for preset in PRESETS}, paper={})
    publish("gpu", results, table(results))


def measure(
    device: str, side: int, slices: int, presets: dict[str, dict[str, Any]], *, paper: dict[str, Any]
) -> dict[str, Any]:
    """All figures for one device; the options of the presets, and of the preset ``paper``, shorten a trial."""
    clean, noisy = phantom(side), add_noise(phantom(side), "gaussian:25")
    DNAPrior(steps=2)(noisy.to(device))  # libraries are loaded by the first call
    rows = {}
    for preset, options in presets.items():
        denoiser = DNAPrior.from_preset(preset, **options)
        here, seconds = timed(lambda denoiser=denoiser: denoiser(noisy.to(device)))  # type: ignore[misc]
        again, there = denoiser(noisy.to(device)), denoiser(noisy)
        rows[preset] = {
            "psnr": round(psnr(here.image.cpu(), clean), 2),
            "psnr on the CPU": round(psnr(there.image, clean), 2),
            "steps": here.records[0].steps,
            "same bits twice": torch.equal(here.image, again.image),
            "seconds": round(seconds, 2),
        }
    volume = torch.cat([add_noise(clean, "gaussian:25", seed=seed) for seed in range(slices)], 1)[0].movedim(0, -1)
    prior = DNAPrior.from_preset("default", **presets["default"])
    first, seconds = timed(lambda: denoise_volume(volume[None].to(device), prior, Slicing(batch_size=BATCH)))
    second = denoise_volume(volume[None].to(device), prior, Slicing(batch_size=BATCH))
    (one,) = denoise_parts(volume[None], prior, Slicing(), done=range(1, slices))  # the first slice, on the CPU
    on_cpu = volume[None, ..., :1] - one.residual
    here_psnr, there_psnr = (round(psnr(image[..., 0].cpu()[None], clean), 2) for image in (first.image, on_cpu))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "side": side,
        "presets": rows,
        "volume": {
            "slices": slices,
            "seconds": round(seconds, 1),
            "same bits twice": torch.equal(first.image, second.image),
            "psnr of the first": here_psnr,
            "psnr of the first on the CPU": there_psnr,
        },
        "paper": against_the_reference(device, clean, min(slices, PAPER_BATCH), paper),
    }


def against_the_reference(device: str, clean: Tensor, slices: int, options: dict[str, Any]) -> dict[str, Any]:
    """PSNR and seconds a slice of the reference, and of the preset ``paper`` for so many slices in one pass."""
    noisy = torch.cat([add_noise(clean, "gaussian:25", seed=seed) for seed in range(slices)]).to(device)
    reference, seconds = timed(lambda: DeepImagePrior(**options)(noisy[:1]))
    rows = {"reference": {"psnr": round(psnr(reference.image.cpu(), clean), 2), "seconds": round(seconds, 2)}}
    for precision in PRECISIONS:
        prior = DNAPrior.from_preset("paper", precision=precision, **options)
        result, whole = timed(lambda prior=prior: prior(noisy))  # type: ignore[misc]
        rows[f"paper, {precision}, {slices} slices"] = {
            "psnr": round(psnr(result.image[:1].cpu(), clean), 2),
            "seconds": round(whole / slices, 2),
            "times faster": round(seconds * slices / whole, 1),
        }
    return rows


def phantom(side: int) -> Tensor:
    """A slice with edges, gradients and fine stripes, (1, 1, side, side) in [0, 1]."""
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    head = ((rows / 0.9) ** 2 + (columns / 0.7) ** 2 < 1).float()
    lesion = ((rows - 0.3) ** 2 + (columns + 0.2) ** 2 < 0.03).float()
    stripes = (columns > 0) * torch.sin(60 * rows) ** 2
    return (head * (0.4 + 0.2 * rows + 0.2 * stripes + 0.3 * lesion)).clamp(0, 1)[None, None]


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """What a function gives, and the seconds that it took."""
    started = time.perf_counter()
    result = function()
    if result.image.is_cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def table(results: dict[str, Any]) -> str:
    lines = [[f"preset `{preset}`", *row.values()] for preset, row in results["presets"].items()]
    text = markdown_table([results["device"], *next(iter(results["presets"].values()))], lines)
    volume = results["volume"]
    lines = [[name, *row.values(), *[""] * (3 - len(row))] for name, row in results["paper"].items()]
    return "\n".join(
        [
            text,
            "",
            f"- {volume['slices']} slices of {results['side']}×{results['side']}, `default`: {volume['seconds']} s; "
            f"same bits twice: {volume['same bits twice']}; the first {volume['psnr of the first']} dB, "
            f"on the CPU {volume['psnr of the first on the CPU']} dB",
            "",
            markdown_table(["3,000 steps", "PSNR, dB", "seconds a slice", "times faster"], lines),
        ]
    )


if __name__ == "__main__":
    main()
