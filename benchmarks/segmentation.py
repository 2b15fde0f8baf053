"""Segmentation after denoising: Dice on clean and noisy images, with each denoiser in the same pre-processing chain.

A small U-Net is trained on clean slices and never sees noise. An interrupted run goes on: networks and cells are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import method
from clinical_noise import low_frequencies, realised
from monai import transforms
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from publish import publish
from torch import Tensor

from monai_dnaprior import Denoised
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.noise.models import add_noise

KEYS = ("image", "label")
NOT_DENOISED = "not denoised"
CLASSICAL = ("gaussian", "median", "nl-means", "tv", "bm3d")
LEARNT = ("iddp", "iddp-refined", "dna-prior-fast", "dna-prior")
METHODS = (*CLASSICAL, *LEARNT)
CLEAN = "clean"
GAUSSIAN = ("gaussian:15", "gaussian:25", "gaussian:50")
CORRELATED = ("fbp-hann:25", "zero-filled:25")
TILE = 128
CROP = 96
PIXELS = 4 * CROP**2  # of a batch
DRAWS = 10_000
LEAST_LOSS = 0.02  # of Dice: a share of less says nothing
Found = dict[tuple[str, str], NDArray[Any]]


class ForegroundSlicesd(transforms.MapTransform):
    """Every fourth of the slices that have a label, of volumes (1, W, H, D): neighbours tell much the same."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        chosen = d["label"].flatten(0, -2).any(0).nonzero().flatten()[::4]
        return d | {key: d[key][..., chosen] for key in self.key_iterator(d)}


class AddNoised(transforms.MapTransform):
    """The same noise for every method: its seed is the case's own."""

    def __init__(self, keys: str, noise: str) -> None:
        super().__init__(keys)
        self.noise = noise

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            clean = torch.as_tensor(d[key]).as_subclass(Tensor)  # type: ignore[arg-type]
            add = add_correlated if self.noise in CORRELATED else add_noise
            d[key] = convert_to_dst_type(add(clean, self.noise, seed=d["seed"]), dst=d[key])[0]
        return d


def add_correlated(volume: Tensor, noise: str, *, seed: int) -> Tensor:
    """Slices (1, W, H, D) with noise of their own each, of a kind of clinical_noise.py and this σ of 255.

    Zero-filled images lack the high frequencies themselves.
    """
    kind, _, sigma = noise.partition(":")
    slices = [image.numpy() for image in volume[0].double().unbind(-1)]
    if kind == "zero-filled":
        slices = [low_frequencies(image) for image in slices]
    noisy = [
        image + float(sigma) / 255 * field(kind, 1000 * seed + index, image.shape) for index, image in enumerate(slices)
    ]
    return torch.from_numpy(np.stack(noisy, -1))[None].to(volume)


field = cache(realised)


def middle_tiles(image: Tensor, *, tiles: int) -> Tensor:
    """So many by so many tiles about the middle of an image (1, W, H), as the slices of a volume."""
    row, column = (max(0, side - tiles * TILE) // 2 for side in image.shape[1:])
    corners = [(row + i * TILE, column + j * TILE) for i in range(tiles) for j in range(tiles)]
    return torch.stack([image[:, r : r + TILE, c : c + TILE] for r, c in corners], -1)


@dataclass(frozen=True)
class Task:
    """What is segmented: files, what becomes of an image before noise is added, and the noise.

    ``split`` makes of the cases' names pairs of those to train with and those to test on; ``train`` and ``test`` make
    volumes of slices (1, W, H, D) of what was loaded. A slice mirrored along ``flips`` is as good to train with: not
    along the hippocampus, whose labels lie one in front of the other. ``side``: what slices are padded to in the end.
    """

    images: str
    split: Callable[[list[str]], list[tuple[list[str], list[str]]]]
    train: tuple[Any, ...]
    test: tuple[Any, ...]
    noises: tuple[str, ...]
    side: int
    label: Callable[[Path], Path] = lambda path: path.with_name(f"{path.stem}_mask.png")
    classes: int = 2
    flips: tuple[int, ...] = (-2, -1)


def last_six(names: list[str]) -> list[tuple[list[str], list[str]]]:
    return [(names[:-6], names[-6:])]


def thirds(names: list[str]) -> list[tuple[list[str], list[str]]]:
    """Every third one is tested on, in turn; images without anything to find only serve to train."""
    found = [name for name in names if "normal" not in name]
    return [([name for name in names if name not in found[part::3]], found[part::3]) for part in range(3)]


BINARY = transforms.Lambdad("label", lambda label: (label > 0).float())
SMALL = (
    transforms.Resized(KEYS, CROP, size_mode="longest", mode=("area", "nearest")),
    transforms.Lambdad(KEYS, lambda x: x[..., None]),
)
TASKS = {
    "hippocampus": Task(
        images="volumes/Task04_Hippocampus/imagesTr/*.nii.gz",
        label=lambda path: path.parents[1] / "labelsTr" / path.name,
        split=last_six,
        train=(),
        test=(ForegroundSlicesd(KEYS),),
        noises=(*GAUSSIAN, "rician:15", "rician:25", "rician:50"),
        classes=3,
        flips=(-2,),
        side=64,
    ),
    "nuclei": Task(
        images="images/microscopy/*.png",
        split=thirds,
        train=(BINARY, transforms.Lambdad(KEYS, partial(middle_tiles, tiles=2))),
        test=(BINARY, transforms.Lambdad(KEYS, partial(middle_tiles, tiles=1))),
        noises=(*GAUSSIAN, "poisson:30"),
        side=TILE,
    ),
    "ultrasound": Task(
        images="images/ultrasound/*.png",
        split=thirds,
        train=(BINARY, *SMALL),
        test=(BINARY, *SMALL),
        noises=(*GAUSSIAN, "speckle:0.1"),
        side=CROP,
    ),
}
COLOURED = ("dsb_3bfa8b3b", "dsb_708eb41a")  # stained, in bright field: two are too few to learn from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with images and volumes")
    parser.add_argument("--tasks", default=",".join(TASKS), help="with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="columns to measure, with commas")
    parser.add_argument(
        "--correlated", action="store_true", help="with noise as scanners make it, in a table of its own"
    )
    parser.add_argument("--steps", type=int, default=600, help="of every training")
    parser.add_argument("--output", type=Path, default=Path("demo/segmentation"), help="folder for networks and cells")
    options = parser.parse_args()
    folder = options.output / str(options.steps)
    result, path = ("segmentation", folder / "cells.json")
    if options.correlated:
        result, path = ("segmentation_correlated", folder / "correlated.json")
    for label in (NOT_DENOISED, *options.methods.split(",")):
        for name in options.tasks.split(","):
            noises = CORRELATED if options.correlated else TASKS[name].noises
            measure(name, label, (CLEAN, *noises), data=options.data, path=path, steps=options.steps)
            cells = read(path)
            publish(result, {"steps": options.steps, "dice": cells}, tables(cells))


def measure(name: str, label: str, noises: tuple[str, ...], *, data: Path, path: Path, steps: int) -> None:
    """Dice of every case of a task, with each noise, after one method; cells lie beside the networks."""
    task, cases = TASKS[name], find_cases(TASKS[name], data)
    for part, (known, unknown) in enumerate(task.split(list(cases))):
        weights = path.parent / f"{name}-{part}.pt"
        if not weights.exists():
            weights.parent.mkdir(parents=True, exist_ok=True)
            clean = chain(task, task.train)([cases[case] for case in known])
            images, labels = (torch.cat([pair[key].as_tensor() for pair in clean]) for key in KEYS)
            torch.save(train(images, labels, task=task, steps=steps).state_dict(), weights)
        network = create_network(task.classes)
        network.load_state_dict(torch.load(weights, weights_only=True))
        for noise in noises:
            prepare = chain(task, task.test, noise=noise, label=label)
            for case in unknown:
                cells = read(path)
                cell = cells.setdefault(name, {}).setdefault(noise, {}).setdefault(label, {})
                if case not in cell:
                    prepared = prepare(cases[case])
                    cell[case] = dice(segment(network, prepared["image"]), prepared["label"].as_tensor(), task.classes)
                    write(path, cells)
            print(name, noise, label, part, flush=True)


def find_cases(task: Task, data: Path) -> dict[str, dict[str, Any]]:
    """The images and their labels by name, in alphabetical order, each with a seed for its noise."""
    paths = [path for path in sorted(data.glob(task.images)) if task.label(path).exists() and path.stem not in COLOURED]
    names = [path.name.partition(".")[0] for path in paths]
    return {
        name: {"image": str(path), "label": str(task.label(path)), "seed": seed}
        for seed, (name, path) in enumerate(zip(names, paths, strict=True))
    }


def chain(task: Task, slices: tuple[Any, ...], *, noise: str = CLEAN, label: str = NOT_DENOISED) -> transforms.Compose:
    """The pre-processing: only the denoiser is not in all of them; slices come out as (D, W, H).

    Noise is added to images at the size and in the range at which they are segmented: what resampled or clipped it
    would change what there is to remove.
    """
    name, options = (None, {}) if label == NOT_DENOISED else method(label, 0)
    return transforms.Compose(
        [
            transforms.LoadImaged(KEYS),
            transforms.EnsureChannelFirstd(KEYS),
            *slices,
            transforms.ScaleIntensityRangePercentilesd("image", lower=0.5, upper=99.5, b_min=0, b_max=1, clip=True),
            *([AddNoised("image", noise)] if noise != CLEAN else []),
            *([Denoised("image", name, neighbours=0, **options)] if name else []),
            transforms.Lambdad(KEYS, lambda volume: volume[0].movedim(-1, 0)),
            transforms.NormalizeIntensityd("image", channel_wise=True),
            transforms.SpatialPadd(KEYS, (task.side, task.side)),
        ]
    )


def create_network(classes: int) -> UNet:
    return UNet(2, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=0)


def train(images: Tensor, labels: Tensor, *, task: Task, steps: int, seed: int = 0) -> UNet:
    """A network fitted to clean slices (N, W, H), flipped and with shifted intensities, but without noise."""
    side = min(CROP, *images.shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = create_network(task.classes)
        loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (PIXELS // side**2,))
            flipped = [dim for dim in task.flips if torch.rand(()) < 0.5]
            row, column = (int(torch.randint(length - side + 1, ())) for length in images.shape[1:])
            image, label = (
                values[chosen, None, row : row + side, column : column + side].flip(flipped)
                for values in (images, labels)
            )
            scale, shift = 1 + 0.1 * torch.randn(2, len(chosen), 1, 1, 1)
            loss = loss_function(network(image * scale + shift - 1), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def segment(network: UNet, image: Tensor) -> Tensor:
    """The likeliest class of every pixel of slices (D, W, H)."""
    with torch.inference_mode():
        return network.eval()(torch.as_tensor(image).as_subclass(Tensor)[:, None]).argmax(1)  # type: ignore[arg-type]


def dice(found: Tensor, truth: Tensor, classes: int) -> float:
    """The overlap with the truth over all slices of a case, mean over the classes but the background."""
    scores = []
    for number in range(1, classes):
        one, other = found == number, truth == number
        total = one.sum() + other.sum()
        scores.append(float(2 * (one & other).sum() / total) if total else 1.0)
    return sum(scores) / len(scores)


def interval(*values: NDArray[Any], statistic: Callable[..., Any] = lambda mean: mean) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic of the means over cases, all drawn alike: a paired comparison."""
    cases = len(values[0])
    drawn = np.random.default_rng(0).integers(cases, size=(DRAWS, cases))
    low, high = np.percentile(statistic(*(np.asarray(value)[drawn].mean(1) for value in values)), [2.5, 97.5])
    return float(low), float(high)


def with_width(values: NDArray[Any]) -> str:
    low, high = interval(values)
    return f"{values.mean():.3f} ± {(high - low) / 2:.3f}"


def recovered(denoised: Any, noisy: Any, clean: Any) -> Any:
    """How much of the Dice that noise has cost came back, in %."""
    return 100 * (denoised - noisy) / (clean - noisy)


def tables(cells: dict[str, Any]) -> str:
    """Three tables a task; only of what every case was measured for."""
    texts = []
    for name, noises in cells.items():
        found = complete(noises)
        columns = [label for label in (NOT_DENOISED, *METHODS) if any(label == other for _, other in found)]
        learnt = [label for label in columns if label in LEARNT]
        for title, labels, cell in (
            (f"{len(found[CLEAN, NOT_DENOISED])} cases: Dice, ± half of the 95 % interval", columns, dice_cell),
            ("change on clean images; % of the Dice lost to noise that came back (95 % interval)", columns, share_cell),
            ("Dice less that of the classical filter that did best", ["best filter", *learnt], lead_cell),
        ):
            lines = [[noise.replace(":", " "), *(cell(found, noise, label) for label in labels)] for noise in noises]
            texts += [f"**{name}**, {title}", markdown_table(["noise", *labels], lines)]
    return "\n\n".join(texts)


def complete(noises: dict[str, Any]) -> Found:
    """Dice of all cases, in one order, by noise and method; without what was not measured for every case."""
    whole = list(noises[CLEAN][NOT_DENOISED])
    return {
        (noise, label): np.array([cell[case] for case in whole])
        for noise, labels in noises.items()
        for label, cell in labels.items()
        if set(whole) <= set(cell)
    }


def dice_cell(found: Found, noise: str, label: str) -> str:
    return with_width(found[noise, label]) if (noise, label) in found else ""


def share_cell(found: Found, noise: str, label: str) -> str:
    """What was lost, or which share of it came back, if it is enough to take a share of."""
    clean, noisy, cell = (found.get(key) for key in ((CLEAN, NOT_DENOISED), (noise, NOT_DENOISED), (noise, label)))
    if clean is None or noisy is None or cell is None:
        return ""
    loss = clean.mean() - noisy.mean()
    if noise == CLEAN:
        return "" if label == NOT_DENOISED else with_width(cell - clean)
    if label == NOT_DENOISED:
        return f"{loss:.3f} lost"
    low, high = interval(cell, noisy, clean, statistic=recovered)
    share = recovered(cell.mean(), noisy.mean(), clean.mean())
    return f"{share:.0f} ({low:.0f} to {high:.0f})" if loss >= LEAST_LOSS else ""


def lead_cell(found: Found, noise: str, label: str) -> str:
    """The filter is chosen after the fact, row by row: that is to its advantage."""
    filters = {name: found[noise, name] for name in CLASSICAL if (noise, name) in found}
    best = max(filters, key=lambda name: filters[name].mean(), default=None)
    if best is None or label == "best filter":
        return best or ""
    return with_width(found[noise, label] - filters[best]) if (noise, label) in found else ""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, cells: dict[str, Any]) -> None:
    """Replace the file in one go, so that an interruption leaves a whole one."""
    path.with_suffix(".part").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
