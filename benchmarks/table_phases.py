"""What a network trained with random phases does to noise of many kinds, from the log of its training.

    python benchmarks/table_phases.py --log demo/phases/train.jsonl

train_phases.py measures and writes the log: images that were held back, with white noise and with that of scanners' own
software; the crops of the comparison, white noise; pairs of real noise.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CROP_TABLES, SIGMAS, make_case
from publish import publish
from scipy.ndimage import gaussian_filter
from skimage.transform import iradon
from torch import Tensor

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.files.reader import read_picture
from monai_dnaprior.noise.intensity import intensity_range
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.training.data import clean_middle, load_images

Denoise = Callable[[Tensor], Tensor]
SIDE = 128
FIELDS = 6  # of every kind of noise, each on every sixth image
IMAGES = 6  # of every modality
CONFIGS = Path(__file__).parents[1] / "bundles" / "iddp_denoise" / "configs"
HELD_BACK = json.loads((CONFIGS / "train_correlated.json").read_text(encoding="utf-8"))["held_back"]
NOISES = {
    "white15": "white, σ 15",
    "white25": "white, σ 25",
    "white50": "white, σ 50",
    "hann15": "filtered back-projection (Hann), σ 15",
    "zerofilled15": "zero filling to 0.6 of the frequencies, σ 15",
    "gauss15": "Gaussian blur of 0.8 pixels, σ 15",
    "uneven15": "white, uneven, σ 15",
}
TABLES = {"table1": "the comparison's crops", "table1_held_out": "crops on which nothing was chosen"}
COLUMNS = {"noisy": "noisy", "shipped": "`iddp` as shipped", "iddp": "`iddp`, phases", "supervised": "supervised"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=Path("demo/phases/train.jsonl"), help="that train_phases.py wrote")
    text = parser.parse_args().log.read_text(encoding="utf-8")
    publish_lines(list(map(json.loads, text.splitlines())))


def publish_lines(lines: list[dict[str, Any]]) -> None:
    """Write what train_phases.py measured to the results, with device and versions of the training."""
    (one, *_) = (line for line in lines if "trained" in line)
    data = {"machine": {"device": one["device"]}, "versions": one["versions"], "log": lines}
    publish("iddp_phases", data, table(lines))


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """PSNR in dB: a row a noise, a column a network."""
    cells: dict[str, dict[str, float]] = {}
    for line in lines:
        if "validation" in line:
            row = cells.setdefault(spoken(line), {})
            row.update({column: line[column] for column in COLUMNS if column in line})
    for words in TABLES.values():
        rows = [row for name, row in cells.items() if name.startswith(words)]
        cells[f"{words}, mean"] = {
            column: sum(row[column] for row in rows) / len(rows)
            for column in COLUMNS
            if rows and all(column in row for row in rows)
        }
    beginnings = [*NOISES.values(), *TABLES.values(), "real"]
    order = sorted(cells, key=lambda name: [name.startswith(one) for one in beginnings], reverse=True)
    rows_of_text = [
        [name, *(f"{cells[name][column]:.2f}" if column in cells[name] else "" for column in COLUMNS)]
        for name in order
        if cells[name]
    ]
    return markdown_table(["noise", *COLUMNS.values()], rows_of_text)


def spoken(line: Mapping[str, Any]) -> str:
    """The name of a line's row."""
    if line["validation"] == "held":
        return NOISES[line["noise"]]
    if line["validation"] == "real":
        return f"real, {line['pair']}"
    return f"{TABLES[line['validation']]}, σ {line['sigma']}"


def held_images(folder: Path) -> dict[str, Tensor]:
    """The images (H, W) that are never trained on, by modality and number."""
    return {
        f"{modality.name}/{number:03}": image[0]
        for modality in sorted(path for path in folder.iterdir() if path.is_dir())
        for number, image in enumerate(load_images(modality, only=HELD_BACK))
    }


def measure(
    denoisers: Mapping[str, Denoise], held: Mapping[str, Tensor], data: Path, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Lines of a log: PSNR in dB by the names of the denoisers, which take and give (B, C, H, W).

    Args:
        denoisers: by name; each sees the same noise.
        held: images (H, W) that were held back from the training; a name begins with the modality.
        data: folder with ``images`` and ``pairs_real``; what is not there is left out.
        device: where the denoisers compute.
    """

    def through(denoise: Denoise, noisy: Tensor) -> Tensor:
        with torch.no_grad():
            return denoise(noisy.to(device)).cpu()

    named = {"noisy": lambda noisy: noisy, **denoisers}
    yield from on_held_back(named, held, through)
    if (data / "images").is_dir():
        yield from on_crops(named, data / "images", through)
    if (data / "pairs_real").is_dir():
        yield from on_real_pairs(named, data / "pairs_real", through)


def on_held_back(
    denoisers: Mapping[str, Denoise], held: Mapping[str, Tensor], through: Callable[[Denoise, Tensor], Tensor]
) -> Iterator[dict[str, Any]]:
    groups: dict[str, list[Tensor]] = {}
    for name, image in held.items():
        groups.setdefault(name.split("/")[0], []).append(image)
    chosen = [image for images in groups.values() for image in images[:: max(1, len(images) // IMAGES)][:IMAGES]]
    if not chosen:
        return
    clean = torch.cat([clean_middle(mirrored(image)[None], SIDE) for image in chosen])
    for kind in NOISES:
        fields = torch.tensor(np.stack([field(kind, 100 + i) for i in range(FIELDS)]), dtype=torch.float32)
        noisy = clean + int(kind[-2:]) / 255 * fields[torch.arange(len(clean)) % FIELDS][:, None]
        scores = {name: mean_decibels(through(one, noisy), clean) for name, one in denoisers.items()}
        yield {"validation": "held", "noise": kind, "images": len(clean), **scores}


def mirrored(image: Tensor) -> Tensor:
    """An image of at least the side of what is measured."""
    padding = [(0, max(0, SIDE - size)) for size in image.shape]
    return torch.from_numpy(np.pad(image.numpy(), padding, mode="symmetric"))


def mean_decibels(images: Tensor, clean: Tensor) -> float:
    return round(float(np.mean([psnr(*pair) for pair in zip(images, clean, strict=True)])), 3)


def field(kind: str, number: int) -> np.ndarray:
    """Noise (SIDE, SIDE) of unit power."""
    rng, n = np.random.default_rng(number), SIDE
    white = rng.normal(size=(n, n)) if not kind.startswith(("hann", "gauss")) else np.empty(0)
    if kind.startswith("hann"):
        big, angles = int(n * 1.45) + 8, int(n * 1.5)
        theta, start = np.linspace(0, 180, angles, endpoint=False), (big - n) // 2
        image = iradon(rng.normal(size=(big, angles)), theta, output_size=big, filter_name="hann", circle=True)
        return unit(image[start : start + n, start : start + n])
    if kind.startswith("zerofilled"):
        places = np.abs(np.fft.fftfreq(n) * n + 0.5) < int(n * 0.6 / 2)
        return unit(np.fft.ifft2(np.fft.fft2(white) * places[:, None] * places).real)
    if kind.startswith("gauss"):
        return unit(gaussian_filter(rng.normal(size=(n + 20, n + 20)), 0.8)[10:-10, 10:-10])
    if kind.startswith("uneven"):
        gain = np.exp(0.72 * unit(gaussian_filter(white, n / 8)))
        return rng.normal(size=(n, n)) * gain / np.sqrt((gain**2).mean())
    return white


def unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def on_crops(
    denoisers: Mapping[str, Denoise], folder: Path, through: Callable[[Denoise, Tensor], Tensor]
) -> Iterator[dict[str, Any]]:
    for name in TABLES:
        for sigma in SIGMAS:
            crops = CROP_TABLES[name]
            cases = [make_case(folder, modality, sigma, crops=crops) for modality in crops]
            cells = {
                label: [
                    round(psnr(through(one, case.noisy), case.clean), 2) for case in cases if case.clean is not None
                ]
                for label, one in denoisers.items()
            }
            means = {label: round(float(np.mean(values)), 3) for label, values in cells.items()}
            yield {"validation": name, "sigma": sigma, **means, "order": list(crops), "cells": cells}


def on_real_pairs(
    denoisers: Mapping[str, Denoise], folder: Path, through: Callable[[Denoise, Tensor], Tensor]
) -> Iterator[dict[str, Any]]:
    """Inside the mask, at the pair's own peak; where the reference is noisy too, its noise is taken off."""
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["use"] in ("corrected", "PSNR")]
    for row in rows:
        pair = row["file"].split("/", 1)[1].split("_{")[0]
        suffix = ".nii.gz" if ".nii.gz" in row["file"] else ".png"
        noisy, clean = (read_part(folder / f"{pair}_{part}{suffix}") for part in ("noisy", "clean"))
        mask = read_part(folder / f"{pair}_mask.png") > 0
        floor = float(row["sigma_ref"]) ** 2 if row["use"] == "corrected" else 0
        offset, span = intensity_range(noisy)
        scores = {}
        for label, one in denoisers.items():
            image = through(one, ((noisy - offset) / span).float()[None, None])[0, 0].double() * span + offset
            error = (image - clean)[mask].square().mean().item() - floor
            scores[label] = round(10 * math.log10(float(row["peak"]) ** 2 / max(error, 1e-9)), 2)
        yield {"validation": "real", "pair": pair, **scores}


def read_part(path: Path) -> Tensor:
    """(H, W), float64: a picture, or a NIfTI slice laid out as the mask's picture."""
    if path.suffix == ".png":
        return torch.tensor(read_picture(path)[0].astype(np.float64))
    import nibabel

    return torch.tensor(
        np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj, dtype=np.float64).squeeze()[:, ::-1].T.copy()
    )


if __name__ == "__main__":
    main()
