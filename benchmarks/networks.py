"""Which network makes most of its time: several, each trained for the same processor seconds by the same objective.

    python benchmarks/networks.py --networks today,wider --seconds 480

All are trained on one thread, by the fidelity of IDDP with phases alone (recorrupted images), which one pass a step
gives to each alike. Networks that know the noise are told its map in training, where it is made; when they are measured
they are given what is measured of each image. A network that was trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from publish import publish
from table_phases import HELD_BACK, NOISES, held_images, on_held_back
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.trained import SURROUNDINGS
from monai_dnaprior.noise.estimate import local_noise
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.training.budget import Budget, warm_up_then_cosine
from monai_dnaprior.training.data import load_images
from monai_dnaprior.training.objectives import create_objective
from monai_dnaprior.training.pool import RecorruptedCrops
from monai_dnaprior.training.trainer import GradientLimit
from monai_dnaprior.training.unet import DenoisingUNet

SMALL, WIDE = (32, 64, 128, 128), (24, 48, 96, 160, 224)
SCALES = 3  # of the guide's differences
THRESHOLD = 2.0  # of a difference, over the deviation that the noise gives it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with train")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="with commas")
    parser.add_argument("--seconds", type=float, default=480, help="of the processor, for each training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="of a crop in pixels")
    parser.add_argument("--output", type=Path, default=Path("demo/networks"), help="folder for what was measured")
    parser.add_argument("--publish", action="store_true", help="write the table of all that was measured there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in () if options.publish else options.networks.split(","):
        path = options.output / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measured(name, options)), encoding="utf-8")
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.output.glob("*.json"))]
    if options.publish:
        publish("networks", {"rows": rows}, table(rows))


class ToldOfNoise(nn.Module):
    """A U-Net that sees the map of the noise's deviation, and, with a guide, that as well and removes from it."""

    def __init__(self, *, guided: bool = False) -> None:
        super().__init__()
        self.guided = guided
        self.network = DenoisingUNet(channels=3 if guided else 2, features=SMALL)

    def forward(self, noisy: Tensor, deviation: Tensor) -> Tensor:
        shown = [guide(noisy, deviation)] if self.guided else []
        return self.network(torch.cat([*shown, noisy, deviation], 1))[:, :1]


class Alone(nn.Module):
    """A U-Net that sees the image alone."""

    def __init__(self, *, bias: bool = True, **options: Any) -> None:
        super().__init__()
        self.network = DenoisingUNet(**options)
        if not bias:
            for module in self.network.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    module.bias = None

    def forward(self, noisy: Tensor, deviation: Tensor) -> Tensor:
        return self.network(noisy)


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "today": ("the U-Net of the weights for white noise", partial(Alone, features=SMALL)),
    "wider": ("that of the weights for correlated noise", partial(Alone, features=WIDE, residual_units=2)),
    "bias-free": ("the first without biases", partial(Alone, features=SMALL, bias=False)),
    "level": ("the first, shown σ(p) as well", ToldOfNoise),
    "guided": (
        "the first, shown a guide and σ(p), its output is added to the guide",
        partial(ToldOfNoise, guided=True),
    ),
}


def guide(noisy: Tensor, deviation: Tensor) -> Tensor:
    """Soft thresholds on the differences of ever wider means: what can be had in the time of a pass."""
    coarse, left = noisy, torch.zeros_like(noisy)
    share = 1.0  # of the noise's variance in what is still to be split
    for scale in range(SCALES):
        kernel = noisy.new_tensor([0.25, 0.5, 0.25])
        smooth = coarse
        for axis, shape in ((-2, (3, 1)), (-1, (1, 3))):
            reach = 2**scale
            around = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
            smooth = conv2d(pad(smooth, around, "replicate"), kernel.view(1, 1, *shape), dilation=reach)
        least = THRESHOLD * deviation * share**0.5
        fine = coarse - smooth
        left = left + fine.sign() * (fine.abs() - least).clamp(min=0)
        coarse, share = smooth, share * 0.14  # the squares of the kernel's weights
    return coarse + left


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network, and measure it on what was held back."""
    network, path = NETWORKS[name][1](), options.output / f"{name}.pt"
    if not path.exists():
        torch.save({"steps": train(network, options), "weights": network.state_dict()}, path)
    trained = torch.load(path, weights_only=True)
    network.load_state_dict(trained["weights"])
    network.eval().requires_grad_(False)

    def denoise(noisy: Tensor) -> Tensor:
        if isinstance(network, ToldOfNoise):
            return torch.cat([network(image, told(image)) for image in noisy.split(1)])
        return network(noisy, noisy)

    held = held_images(options.data / "train")
    scores = {
        line["noise"]: [line["noisy"], line[name]]
        for line in on_held_back({"noisy": lambda noisy: noisy, name: denoise}, held, lambda one, noisy: one(noisy))
    }
    return {
        "name": name,
        "weights": sum(parameter.numel() for parameter in network.parameters()),
        "steps": trained["steps"],
        "seconds": options.seconds,
        "batch": options.batch,
        "side": options.side,
        "milliseconds": milliseconds(network),
        "scores": scores,
    }


def told(image: Tensor) -> Tensor:
    """The deviation at each pixel, as it is measured; of white noise by the differences around it."""
    noise = NoiseModel.of(image)
    variance = local_noise(image, SURROUNDINGS) if noise.is_white else noise.variance(image)
    return variance.sqrt().expand_as(image).float()


def train(network: nn.Module, options: argparse.Namespace) -> int:
    """By the processor's clock; the number of steps."""
    objective = create_objective("iddp-phases", warm_up=1.0)
    images = load_images(options.data / "train", without=HELD_BACK)
    crops = RecorruptedCrops(images, needs=objective.needs, side=options.side, batch_size=options.batch)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    limit, generator = GradientLimit(), torch.Generator()
    budget, step, began = Budget(steps=10**9, seconds=options.seconds), 0, time.process_time()
    while budget.now < 1:
        batch = crops[step]
        noisy, target = batch["image"], batch["label"]
        optimizer.param_groups[0]["lr"] = 1e-3 * warm_up_then_cosine(step, budget=budget)
        optimizer.zero_grad()
        see = partial(network, deviation=target[:, 1:])
        objective(noisy, see, target=target, progress=0.0, generator=generator).backward()
        limit(network.parameters())
        optimizer.step()
        step += 1
        budget.elapsed = time.process_time() - began
        budget.passed(step)
    return step


def milliseconds(network: nn.Module, side: int = 256, repeats: int = 20) -> float:
    """Of the processor, for a pass."""
    image = torch.rand(1, 1, side, side)
    network(image, image)
    began = time.process_time()
    for _ in range(repeats):
        network(image, image)
    return round(1e3 * (time.process_time() - began) / repeats, 1)


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR in dB: a row a network, a column a noise."""
    header = ["network", "weights", "ms a pass", "steps", *NOISES.values()]
    by_name = {row["name"]: row for row in rows}
    lines: list[list[Any]] = [["noisy", "", "", "", *(f"{rows[0]['scores'][kind][0]:.2f}" for kind in NOISES)]]
    for name, (words, _) in NETWORKS.items():
        if name in by_name:
            row = by_name[name]
            scores = (f"{row['scores'][kind][1]:.2f}" for kind in NOISES)
            lines.append([words, f"{row['weights']:,}", row["milliseconds"], row["steps"], *scores])
    return markdown_table(header, lines)


if __name__ == "__main__":
    main()
