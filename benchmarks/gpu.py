"""What a GPU gives, in one prepared run: the same picture as the CPU, the same bits twice, and how long it takes.

    python benchmarks/gpu.py --output gpu_run --budget 800      # on the GPU: what is worth most comes first
    python benchmarks/gpu.py --output gpu_run --budget 800 --parts weights      # trains weights for correlated noise
    python benchmarks/gpu.py --publish gpu_run                  # later, anywhere

Every figure is a line of ``measured.jsonl`` as soon as it is there. A second call measures what is not there yet, and
what failed. ``--tiny`` rehearses all of it in seconds, without a GPU too. The folder has the weights that were trained,
and no file of more than 16 MB; checkpoints are beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from cases import COLOUR, CROP_TABLES, SIGMAS, WIDE, make_case, method
from publish import RESULTS, about, publish
from table_phases import publish_lines
from torch import Tensor
from train_phases import OBJECTIVES, trained

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dip import DeepImagePrior
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.denoisers.trained import Trained
from monai_dnaprior.fitting.batch import Batch
from monai_dnaprior.fitting.devices import PRECISIONS, convolving
from monai_dnaprior.fitting.threads import gradients_enabled, repeatable
from monai_dnaprior.noise.metrics import psnr, ssim
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.training.objectives import create_objective
from monai_dnaprior.training.unet import DenoisingUNet
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

Value = TypeVar("Value")
Figures = dict[str, Any]
Task = tuple[str, Callable[[], Figures]]  # a label of its own, and what measures
COLUMNS = ("dip-tv", "dna-prior-paper", "wire", "ds-n2n", "self2self")  # which take days on a CPU
TOGETHER = 24  # cells of the table
SKIP_NET = {"steps": 2, "width": 4, "scales": 2}
TINY: dict[str, Figures] = {  # of the methods that fit a network
    "dna-prior": {**SKIP_NET, "width": 8},
    "dip": SKIP_NET,
    "dip-tv": SKIP_NET,
    "dsp": SKIP_NET,
    "ds-n2n": {"steps": 2, "width": 4},
    "self2self": SKIP_NET,
    "wire": {"steps": 2, "hidden": 4},
}
LEAST_LEFT = 10  # seconds of the budget for which nothing is begun any more
GIGABYTE = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/gpu"), help="folder for the figures (demo/gpu)")
    parser.add_argument("--budget", type=float, default=800, help="seconds after which nothing is begun (800)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"), help="images of the table's crops")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images and few steps, on the CPU if there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these, in their order")
    parser.add_argument("--seconds", type=float, default=350, help="of each training (350)")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="only write what was measured there to results/")
    options = parser.parse_args()
    if options.publish:
        return publish_folder(options.publish)
    if options.device == "cuda" and not torch.cuda.is_available():
        if not options.tiny:
            raise SystemExit("gpu.py needs a CUDA device, and there is none; --tiny rehearses without.")
        options.device = "cpu"
    run = Run(torch.device(options.device), options.data, options.tiny, options.output, options.seconds)
    measure(run, options.output, time.monotonic() + options.budget, options.parts)


def measure(run: Run, folder: Path, until: float, parts: Sequence[str]) -> None:
    """Measure what is not in the folder yet, in order, until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "measured.jsonl"
    done = {(line["part"], line["label"]) for line in read(folder) if "error" not in line}
    with path.open("a", encoding="utf-8") as file:
        for part in parts:
            for label, task in PARTS[part](run):
                if (part, label) in done:
                    continue
                if time.monotonic() > until - LEAST_LEFT:
                    print(f"the time is over; the same command goes on with {part}: {label}")
                    return
                try:
                    figures = task()
                except Exception as error:  # the others are worth having
                    figures = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
                run.free()
                line = json.dumps({"part": part, "label": label, **figures}, ensure_ascii=False)
                print(line, flush=True)
                file.write(line + "\n")
                file.flush()


def read(folder: Path) -> list[Figures]:
    """What was measured; of each figure the last."""
    path = folder / "measured.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({(line["part"], line["label"]): line for line in map(json.loads, lines)}.values())


@dataclass(frozen=True)
class Run:
    """Where it is measured, on which data, and whether only for trial; the folder, and the seconds of a training."""

    device: torch.device
    data: Path
    tiny: bool
    output: Path
    seconds: float

    def options(self, name: str) -> Figures:
        """Of a method, which make a trial short."""
        return TINY.get(name, {}) if self.tiny else {}

    def free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def gigabytes(self) -> float | None:
        """The most memory of the device that was held at once since it was last freed."""
        cuda = self.device.type == "cuda"
        return round(torch.cuda.max_memory_allocated() / GIGABYTE, 2) if cuda else None

    def timed(self, function: Callable[[], Value], repeats: int = 1) -> tuple[Value, float]:
        """What a function gives, and the seconds a call takes until the device has done it."""
        self.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            value = function()
        self.wait()
        return value, (time.perf_counter() - started) / repeats

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, function: Callable[[], Any]) -> float:
        """Of a call, after some that do not count."""
        for _ in range(1 if self.tiny else 3):
            function()
        return round(1e3 * self.timed(function, 2 if self.tiny else 20)[1], 3)


def environment(run: Run) -> Iterator[Task]:
    def device() -> Figures:
        small = torch.zeros(16, device=run.device)
        large, other = (torch.zeros(2 ** (12 if run.tiny else 28), device=run.device) for _ in range(2))
        side, rates = 64 if run.tiny else 8192, {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            matrix = torch.ones(side, side, device=run.device, dtype=dtype)
            rates[name] = round(2 * side**3 / run.milliseconds(lambda matrix=matrix: matrix @ matrix) / 1e9, 1)  # type: ignore[misc]
        return {
            **about(),
            "cores": os.cpu_count(),
            "cudnn": torch.backends.cudnn.version(),
            "tf32 convolutions": torch.backends.cudnn.allow_tf32,
            "microseconds an operation": round(1e3 * run.milliseconds(lambda: small.add_(1)), 1),
            "copied, GB/s": round(8 * large.numel() / run.milliseconds(lambda: other.copy_(large)) / 1e6, 1),
            "products of matrices, TFLOP/s": rates,
        }

    yield "device", device


def check(run: Run) -> Iterator[Task]:
    """The same picture as on the CPU, and the same bits twice."""
    clean = phantom(32 if run.tiny else 128)
    noisy = add_noise(clean, "gaussian:25")
    variants: list[tuple[str, Figures]] = [(name, {}) for name in ("iddp", *TINY)]
    variants += [("iddp", {"refinements": 2}), ("iddp", {"ensemble": True}), ("dna-prior", {"precision": "bfloat16"})]
    for name, own in variants:
        steps = {"steps": 20} if name in TINY and name != "dna-prior" else {}
        denoiser = create_denoiser(name, **{**steps, **own, **run.options(name)})

        def both(denoiser: Any = denoiser) -> Figures:
            (here, seconds), again = run.timed(lambda: denoiser(noisy.to(run.device))), denoiser(noisy.to(run.device))
            there = denoiser(noisy)
            return {
                "dB": decibels(here.image, clean),
                "dB on the CPU": decibels(there.image, clean),
                "largest difference": (here.image.cpu() - there.image).abs().max().item(),
                "same bits twice": torch.equal(here.image, again.image),
                "steps": here.records[0].steps,
                "seconds": round(seconds, 2),
            }

        yield f"{name} {json.dumps(own)}" if own else name, both


def volumes(run: Run) -> Iterator[Task]:
    """How long a volume takes, every slice by itself."""
    side, depth = (32, 3) if run.tiny else (256, 64)
    clean = phantom(side)
    volume = torch.cat([add_noise(clean, "gaussian:25", seed=seed) for seed in range(depth)], 1)[0].movedim(0, -1)

    def one(denoiser: Any, at_once: int, twice: bool) -> Figures:
        noisy = volume[None].to(run.device)
        slicing = Slicing(batch_size=at_once, neighbours=0)
        result, seconds = run.timed(lambda: denoise_volume(noisy, denoiser, slicing))
        figures = {
            "side": side,
            "slices": depth,
            "at once": at_once,
            "seconds": round(seconds, 2),
            "dB of the first": decibels(result.image[..., 0][None], clean),
            "GiB": run.gigabytes(),
            "steps": sorted({record.steps for record in result.records}),
        }
        if twice:
            again = denoise_volume(noisy, denoiser, slicing)
            figures["same bits twice"] = torch.equal(result.image, again.image)
        return figures

    short = run.options("dna-prior")
    yield "warm-up", lambda: one(DNAPrior(**{"steps": 2, **short}), depth, False)
    denoisers = {
        "`default`": DNAPrior(**short),
        "`fast`": DNAPrior.from_preset("fast", **short),
        "`iddp`": Trained(),
        "`iddp`, two refinements": Trained(refinements=2),
        "`default`, bfloat16": DNAPrior(precision="bfloat16", **short),
    }
    for label, denoiser in denoisers.items():
        yield label, lambda denoiser=denoiser, label=label: one(denoiser, depth, label == "`default`")  # type: ignore[misc]
    yield "`default`, 8 at once", lambda: one(DNAPrior(**short), 8, False)


def steps(run: Run) -> Iterator[Task]:
    """How long a step of some fits takes."""

    def one(preset: str, precision: str, count: int, side: int) -> Figures:
        prior = DNAPrior.from_preset(preset, precision=precision, tv_weight=0.1, **run.options("dna-prior"))
        with repeatable(run.device), gradients_enabled(run.device):
            network = prior.place_network(prior.network(), run.device)
            pixels = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)).to(run.device)
            images = [
                NoisyImage(each, torch.ones_like(each, dtype=torch.bool), NoiseModel(0.1)) for each in pixels.split(1)
            ]
            batch = Batch([next(prior.fit_small(image, network, seed, 2)) for seed, image in enumerate(images)])

            def step() -> None:
                batch.optimizer.zero_grad()
                batch.objective(batch.noisy, batch.network)[0].sum().backward()
                batch.optimizer.step()

            return {"milliseconds": run.milliseconds(step), "GiB": run.gigabytes()}

    for preset, counts, side in (("default", (64, 8, 1), 128), ("paper", (16, 1), 256)):
        for count in counts:
            for precision in PRECISIONS:
                size = (min(count, 2), 64) if run.tiny else (count, side)
                label = f"{preset}, {count} of {side}×{side}, {precision}"
                yield label, lambda one_of=(preset, precision, *size): one(*one_of)  # type: ignore[misc]


def reference(run: Run) -> Iterator[Task]:
    """Deep Image Prior as it is printed, to its end."""

    def one() -> Figures:
        clean = phantom(32 if run.tiny else 256)
        noisy = add_noise(clean, "gaussian:25").to(run.device)
        result, seconds = run.timed(lambda: DeepImagePrior(**run.options("dip"))(noisy))
        return {
            "steps": result.records[0].steps,
            "seconds": round(seconds, 2),
            "dB of the first": decibels(result.image, clean),
        }

    yield "Deep Image Prior as printed", one


def table(run: Run) -> Iterator[Task]:
    """Columns of the table that take days on a CPU, many cells in one pass."""
    crops = {name: CROP_TABLES[name] for name in ("table1", "table1_held_out") if run.data.is_dir()}
    for label in COLUMNS[:1] if run.tiny else COLUMNS:
        for name, colour in ((name, colour) for name in crops for colour in (False, True)):
            cells = [(image, sigma) for sigma in SIGMAS for image in crops[name] if (image in COLOUR) == colour]
            for first in range(0, 2 if run.tiny else len(cells), TOGETHER):

                def one(label: str = label, name: str = name, part: Any = cells[first : first + TOGETHER]) -> Figures:
                    cases = [make_case(run.data, *cell, crops=crops[name]) for cell in part[: 2 if run.tiny else None]]
                    denoiser, options = method(label, 25, "bfloat16" if label in WIDE else "float32")
                    noisy = torch.cat([case.noisy for case in cases]).to(run.device)
                    made = create_denoiser(denoiser, **{**options, **run.options(denoiser)})
                    result, seconds = run.timed(lambda: made(noisy))
                    rows = []
                    for case, image, record in zip(cases, result.image.cpu().split(1), result.records, strict=True):
                        assert case.clean is not None
                        quality = {"psnr": decibels(image, case.clean), "ssim": round(ssim(image, case.clean), 4)}
                        ended = {"steps": record.steps, "stop_reason": record.stop_reason}
                        rows.append({"image": case.name, **quality, **ended})
                    return {"rows": rows, "seconds a cell": round(seconds / len(cases), 2), "options": options}

                yield f"{name}, {label}, {'colour' if colour else 'grey'}, from {first}", one


def train(run: Run) -> Iterator[Task]:
    """How many steps a second a training takes that waits for no data."""

    def one(features: Sequence[int], units: int, batch: int, side: int, precision: str) -> Figures:
        objective = create_objective("iddp")
        network = DenoisingUNet(features=features, residual_units=units, heads=objective.heads).to(run.device)
        descent = torch.optim.Adam(network.parameters(), 1e-3)
        noisy = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0)).to(run.device)
        generator = torch.Generator(run.device).manual_seed(0)

        def apply(images: Tensor) -> Tensor:
            with convolving(precision, run.device):
                return network(images)

        def step() -> None:
            descent.zero_grad()
            objective(noisy, apply, target=None, progress=0.5, generator=generator).backward()
            descent.step()

        return {"milliseconds": run.milliseconds(step), "GiB": run.gigabytes()}

    kinds: list[tuple[Sequence[int], int, int, int]] = [
        ((32, 64, 128, 128), 0, 4, 64),
        ((64, 128, 256, 256), 2, 32, 96),
    ]
    for features, units, batch, side in [((4, 8), 0, 2, 32)] if run.tiny else kinds:
        for precision in PRECISIONS:
            label = f"features {features}, {batch} crops of {side}×{side}, {precision}"
            yield label, lambda one_of=(features, units, batch, side, precision): one(*one_of)  # type: ignore[misc]


def weights(run: Run) -> Iterator[Task]:
    """Weights for correlated noise, and those of the same network with clean targets, as table_phases.py has them."""
    checkpoints = run.output.with_name(f"{run.output.name}_checkpoints")
    for objective in OBJECTIVES if (run.data.parent / "train").is_dir() else ():

        def one(objective: str = objective) -> Figures:
            folders = run.data.parent, run.output, checkpoints
            lines = trained(objective, *folders, seconds=run.seconds, on=str(run.device), tiny=run.tiny)
            return {"lines": lines}

        yield objective, one


PARTS: dict[str, Callable[[Run], Iterator[Task]]] = {
    "environment": environment,
    "check": check,
    "volume": volumes,
    "steps": steps,
    "reference": reference,
    "table": table,
    "train": train,
    "weights": weights,
}


def decibels(image: Tensor, clean: Tensor) -> float:
    return round(psnr(image.cpu(), clean), 2)


def phantom(side: int) -> Tensor:
    """A slice with edges, gradients and fine stripes, (1, 1, side, side) in [0, 1]."""
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    head = ((rows / 0.9) ** 2 + (columns / 0.7) ** 2 < 1).float()
    lesion = ((rows - 0.3) ** 2 + (columns + 0.2) ** 2 < 0.03).float()
    stripes = (columns > 0) * torch.sin(60 * rows) ** 2
    return (head * (0.4 + 0.2 * rows + 0.2 * stripes + 0.3 * lesion)).clamp(0, 1)[None, None]


def publish_folder(folder: Path) -> None:
    """Write what was measured in a folder to the results, which keep what was measured before."""
    lines = read(folder)
    parts = {part: [line for line in lines if line["part"] == part] for part in PARTS}
    measured = [line for each in parts.pop("weights", []) if "error" not in each for line in each["lines"]]
    if measured:
        publish_lines(measured)
    if not parts["environment"]:  # weights alone were asked for
        return
    path = RESULTS / "gpu.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    environment = parts.pop("environment")[0]
    machine = {name: environment[name] for name in ("machine", "versions")}
    publish("gpu", {**machine, "environment": environment, **parts, "before": before}, show_table(parts))


def show_table(parts: dict[str, list[Figures]]) -> str:
    """Seconds of volumes, and of the reference."""
    rows = [line for line in parts["volume"] if line["label"] != "warm-up" and "error" not in line]
    header = "slices at once", "seconds", "seconds a slice", "PSNR of the first, dB", "memory, GiB"
    lines = [
        [
            row["label"],
            row["at once"],
            row["seconds"],
            round(row["seconds"] / row["slices"], 3),
            row["dB of the first"],
            row["GiB"] or "",
        ]
        for row in rows
    ]
    for row in parts["reference"]:
        if "error" not in row:
            lines.append([f"{row['label']}, {row['steps']} steps", 1, "", row["seconds"], row["dB of the first"], ""])
    size = f"{rows[0]['slices']} slices of {rows[0]['side']}×{rows[0]['side']}" if rows else "volume"
    return markdown_table([size, *header], lines)


if __name__ == "__main__":
    main()
