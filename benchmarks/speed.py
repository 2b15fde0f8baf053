"""Seconds and memory: presets against the reference set-up of Deep Image Prior, a step against its convolutions alone.

Run it on a quiet machine. The reference's 3,000 steps are too long to wait for: a few are timed and multiplied. The
filter and volumes are timed in processor seconds of one thread, volumes by a few of their slices; ``--volumes``
measures these alone and keeps what was measured last of the others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gpu import phantom
from publish import RESULTS, publish
from skimage.io import imread
from torch import Tensor, nn

from monai_dnaprior.compare.run import peak_memory
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.nonlocal_bayes import Blocks, group_positions, refine, similar_blocks
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.denoisers.trained import Trained
from monai_dnaprior.fitting.batch import FitRequest
from monai_dnaprior.fitting.devices import PRECISIONS, convolving
from monai_dnaprior.fitting.fit import GeneratorObjective
from monai_dnaprior.fitting.threads import single_threaded_pool
from monai_dnaprior.noise.estimate import varying_pixels
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

IMAGE = "mri/pgbm002_t2_a.png"
SIDE = 256
REFERENCE_STEPS = 3000
LEVEL = 25 / 255
VOLUMES = ((256, 64, 8), (512, 256, 4))  # side, slices, and those of them that are timed
WAYS = {"one pass": (0, 0), "with a neighbour": (0, 1), "and `refinements=2`": (2, 1)}  # refinements, neighbours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="folder of the modalities")
    parser.add_argument("--volumes", action="store_true", help="measure the filter and volumes alone")
    options = parser.parse_args()
    clean = clean_slice(options.data / IMAGE)
    of_volumes = {
        "filter": [filter_round(clean, slices) for slices in (1, 3)],
        "volumes": [volume_by_iddp(noise, *size) for size in VOLUMES for noise in ("white", "correlated")],
    }
    if options.volumes:
        results = {**json.loads((RESULTS / "speed.json").read_text(encoding="utf-8")), **of_volumes}
    else:
        results = {**presets_and_steps(clean), **of_volumes}
    publish("speed", results, table(results))


def presets_and_steps(clean: Tensor) -> dict[str, Any]:
    DNAPrior(steps=2)(noisy(clean))  # the first call of a process takes a second or two more, for imports
    results: dict[str, Any] = {"image": f"{IMAGE}, {SIDE}×{SIDE} in the middle, Gaussian noise of sigma 25"}
    results["presets"] = {preset: one_slice(clean, preset) for preset in ("fast", "default")}
    results["default in bfloat16"] = one_slice(clean, "default", precision="bfloat16")
    reference = REFERENCE_STEPS * reference_step(clean)
    results["reference"] = {
        "what": "Deep Image Prior: 128 channels, 3,000 steps, contiguous float32, every thread; ten steps multiplied",
        "seconds": round(reference, 1),
        "times default": round(reference / results["presets"]["default"]["seconds"], 1),
        "times fast": round(reference / results["presets"]["fast"]["seconds"], 1),
    }
    results["reference in bfloat16"] = round(REFERENCE_STEPS * reference_step(clean, precision="bfloat16"), 1)
    results["throughput"] = [throughput(clean, count) for count in (1, 4, 16)]
    results["steps"] = {precision: step_against_convolutions(precision) for precision in PRECISIONS}
    return results


def table(results: dict[str, Any]) -> str:
    """What was measured, a line each."""
    reference, rounded = results["reference"], "… in bfloat16"
    presets = {f"one slice, preset `{preset}`": row for preset, row in results["presets"].items()}
    lines = [
        [label, f"{row['seconds']} s ({row['steps']} steps), {row['megabytes']} MB"]
        for label, row in [*presets.items(), (rounded, results["default in bfloat16"])]
    ]
    lines.append(["Deep Image Prior, 128 channels, 3,000 steps", f"{reference['seconds']} s, from ten steps"])
    lines.append(["… times `default`, times `fast`", f"{reference['times default']}, {reference['times fast']}"])
    lines.append([rounded, f"{results['reference in bfloat16']} s"])
    lines += [
        [f"{row['slices']} slices in one pass", f"{row['slices a minute']} a minute, {row['megabytes']} MB"]
        for row in results["throughput"]
    ]
    for precision, step in results["steps"].items():
        label = f"a step at {step['side']}×{step['side']}, one thread" if precision == "float32" else rounded
        lines.append([label, f"{step['milliseconds']} ms, {step['ratio']} times its convolutions alone"])
    for row in results["filter"]:
        label = "a last round of the filter" if row["slices"] == 1 else f"… for the middle of {row['slices']} slices"
        lines.append([label, f"{row['milliseconds']} ms, the search {row['share']} of it"])
    for row in results["volumes"]:
        ways = row["seconds a slice"].items()
        figures = [f"{way} {each} s a slice, {each * row['slices'] / 60:.1f} min" for way, each in ways]
        size = f"{row['side']}×{row['side']}×{row['slices']}"
        lines.append([f"{size} by `iddp`, {row['noise']} noise, one core", "; ".join(figures)])
    return markdown_table(["256×256, Gaussian noise of σ 25", ""], lines)


def clean_slice(path: Path) -> Tensor:
    image = np.atleast_3d(imread(path))[..., 0].astype(np.float64)
    top, left = ((side - SIDE) // 2 for side in image.shape)
    image = (image / np.percentile(image, 99.9)).clip(0, 1)[top : top + SIDE, left : left + SIDE]
    return torch.tensor(image, dtype=torch.float32)[None, None]


def noisy(clean: Tensor, seed: int = 0) -> Tensor:
    return add_noise(clean, "gaussian:25", seed=seed)


def one_slice(clean: Tensor, preset: str, *, precision: str = "float32") -> dict[str, Any]:
    """Wall time and memory of one slice."""
    denoiser = DNAPrior.from_preset(preset, precision=precision)
    started = time.perf_counter()
    with peak_memory() as peak:
        result = denoiser(noisy(clean))
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "steps": result.records[0].steps,
        "stop_reason": result.records[0].stop_reason,
        "psnr": round(psnr(result.image, clean), 2),
        "megabytes": round(peak[0] / 1e6),
    }


def throughput(clean: Tensor, count: int) -> dict[str, Any]:
    """So many slices in one pass, each with noise of its own."""
    denoiser = DNAPrior()
    batch = torch.cat([noisy(clean, seed) for seed in range(count)])
    started = time.perf_counter()
    with peak_memory() as peak:
        denoiser(batch)
    seconds = time.perf_counter() - started
    return {
        "slices": count,
        "slices a minute": round(60 * count / seconds, 2),
        "megabytes": round(peak[0] / 1e6),
    }


def reference_step(clean: Tensor, *, precision: str = "float32") -> float:
    """Seconds a step of the reference takes, with every thread; in float32 laid out as in its authors' code."""
    dip, image = DeepImagePrior(precision=precision), noisy(clean)
    request = next(dip.fit_tile(NoisyImage(image, varying_pixels(image), NoiseModel(0.1)), placed(dip), 0))
    if precision == "float32":
        request.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        objective = cast(GeneratorObjective, request.objective)
        request = replace(request, objective=replace(objective, z=objective.z.contiguous()))
    return timed(stepper(request), repeats=10)


def step_against_convolutions(precision: str, side: int = SIDE // 2) -> dict[str, Any]:
    """A step of the default, as one thread takes it, against its convolutions forward and backward."""
    prior = DNAPrior(precision=precision)
    image = noisy(torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)))
    request = next(prior.fit_small(NoisyImage(image, varying_pixels(image), NoiseModel(0.1)), placed(prior), 0, 2))
    seen: list[tuple[nn.Conv2d, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs[0].detach())))
        for module in request.network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    request.objective(request.noisy, request.network)
    for hook in hooks:
        hook.remove()

    def convolutions() -> None:
        for module, features in seen:
            with convolving(precision, features.device):
                output = module(features.requires_grad_())
            torch.autograd.grad(output, [features, *module.parameters()], torch.ones_like(output))

    with single_threaded_pool() as pool:
        step = pool.submit(timed, stepper(request), repeats=30).result()
        alone = pool.submit(timed, convolutions, repeats=30).result()
    return {
        "side": side,
        "milliseconds": round(1e3 * step, 2),
        "convolutions alone": round(1e3 * alone, 2),
        "ratio": round(step / alone, 2),
    }


def filter_round(clean: Tensor, slices: int) -> dict[str, Any]:
    """A last round of the non-local filter at full size, as one thread takes it, and the search's part of it."""
    images, blocks = torch.cat([noisy(clean, seed) for seed in range(slices)]), Blocks.within(slices, SIDE, SIDE)
    guides = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    places, middle = group_positions(SIDE - blocks.side + 1, blocks.stride), slices // 2
    one_round = partial(refine, images, guides, NoiseModel(0.1), rounds=1, middle=middle)
    search = partial(similar_blocks, guides, blocks, max(0, middle - blocks.depth // 2), places, places)
    with single_threaded_pool() as pool:
        whole, part = (
            pool.submit(timed, each, repeats=5, clock=time.process_time).result() for each in (one_round, search)
        )
    return {
        "slices": slices,
        "milliseconds": round(1e3 * whole),
        "search": round(1e3 * part),
        "share": round(part / whole, 2),
    }


def volume_by_iddp(noise: str, side: int, slices: int, tried: int) -> dict[str, Any]:
    """Processor seconds that a slice of a volume takes in one pass, with a neighbour, and refined too, from a few."""
    images = [phantom(side) + LEVEL * noise_of(noise, side, seed) for seed in range(tried)]
    volume = torch.cat(images, 1).movedim(1, -1)
    denoise_volume(volume[..., :1], Trained(refinements=2))  # the first call of a process takes longer
    clocks = [time.process_time()]
    for refinements, neighbours in WAYS.values():
        denoise_volume(volume, Trained(refinements=refinements), Slicing(neighbours=neighbours))
        clocks.append(time.process_time())
    seconds = [(end - start) / tried for start, end in pairwise(clocks)]
    return {
        "noise": noise,
        "side": side,
        "slices": slices,
        "tried": tried,
        "seconds a slice": {way: round(each, 2) for way, each in zip(WAYS, seconds, strict=True)},
    }


def noise_of(kind: str, side: int, seed: int) -> Tensor:
    """Noise (1, 1, side, side) of deviation 1: white, or the means of white noise over 2×2 pixels."""
    white = torch.randn(1, 1, side + 1, side + 1, generator=torch.Generator().manual_seed(seed))
    return white[..., 1:, 1:] if kind == "white" else 2 * torch.nn.functional.avg_pool2d(white, 2, 1)


def placed(prior: DeepImagePrior | DNAPrior) -> nn.Module:
    """The network of a method as a fit on the CPU takes it."""
    return prior.place_network(prior.network(), torch.device("cpu"))


def stepper(request: FitRequest) -> Callable[[], None]:
    """One step of a fit, as :func:`monai_dnaprior.fitting.fit.fit` takes it."""
    descent = request.optimizer(request.network.parameters(), lr=request.learning_rate)

    def step() -> None:
        descent.zero_grad()
        request.objective(request.noisy, request.network)[0].backward()
        descent.step()

    return step


def timed(function: Callable[[], Any], *, repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a call, after two that do not count."""
    for _ in range(2):
        function()
    started = clock()
    for _ in range(repeats):
        function()
    return (clock() - started) / repeats


if __name__ == "__main__":
    main()
