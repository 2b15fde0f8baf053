"""Train the network for correlated, uneven noise by the bundle's command, and measure it on noise of many kinds.

    python benchmarks/train_phases.py --objective iddp-phases --seconds 420 --output demo/phases

A GPU of 2024 needs six minutes for weights like those that are shipped. Writes OUTPUT/OBJECTIVE.safetensors, the
training's log.csv, and lines of train.jsonl, which table_phases.py reads. A training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from publish import ROOT
from table_phases import CONFIGS, held_images, measure
from torch import Tensor, device

from monai_dnaprior import create_denoiser, load_weights

OBJECTIVES = {"iddp-phases": "iddp", "supervised": "supervised"}  # and the columns of the table
TINY = {"features": [4, 8], "residual_units": 0, "batch_size": 2, "side": 32, "cut": 64, "steps_per_epoch": 5}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", default="iddp-phases", choices=OBJECTIVES)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with train, images and pairs_real")
    parser.add_argument("--output", type=Path, default=Path("demo/phases"), help="folder of weights and log")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("demo/phases_checkpoints"), help="folder to go on from"
    )
    parser.add_argument("--seconds", type=float, default=420, help="of the training")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    options = parser.parse_args(arguments)
    for line in trained(options.objective, options.data, options.output, options.checkpoints,
                        seconds=options.seconds, on=options.device, tiny=options.tiny):  # fmt: skip
        print(json.dumps(line), flush=True)


def trained(
    objective: str, data: Path, output: Path, checkpoints: Path, *, seconds: float, on: str, tiny: bool
) -> list[dict[str, Any]]:
    """Train for so many seconds, measure, and give the lines that were written: of the training, then of the noises."""
    column, folder = OBJECTIVES[objective], checkpoints / objective
    configs = [str(CONFIGS / f"{name}.json") for name in ("train", "train_correlated")]
    options: dict[str, Any] = {
        "bundle_root": CONFIGS.parent, "dataset_dir": data / "train", "ckpt_dir": folder, "device": on,
        "seconds": seconds, "objective_name": objective, **(TINY if tiny else {}),
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *words]
    subprocess.run(command, check=True, cwd=ROOT)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{column}.safetensors"
    shutil.copyfile(folder / "weights.safetensors", weights)
    shutil.copyfile(folder / "log.csv", output / f"{column}.csv")
    network = load_weights(weights)
    lines = [{"trained": True, "weights": sum(each.numel() for each in network.network.parameters()),
              **network.network.configuration, **network.training}]  # fmt: skip
    denoisers = {"shipped": denoiser(None), column: denoiser(str(weights))}
    lines += measure(denoisers, held_images(data / "train"), data, device(on))
    lines = [{"run": column, **line} for line in lines]
    with (output / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def denoiser(weights: str | None) -> Callable[[Tensor], Tensor]:
    """The network alone, on images of any noise level."""
    made = create_denoiser("iddp", weights=weights, limited=False, clean_sigma=0)
    return lambda noisy: made(noisy).image


if __name__ == "__main__":
    main()
