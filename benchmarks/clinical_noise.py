"""Noise as scanners make it, simulated and real: what every method leaves of it, beside BM3D with its spectrum.

A cell is one image, one kind of noise, one strength and one method. Every cell is written as soon as it is measured; a
run skips those that are there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from cases import CROPS, HELD_OUT, MIDDLE, Crops
from publish import RESULTS, publish, show
from scipy.ndimage import gaussian_filter, rotate
from skimage.io import imread
from skimage.transform import iradon

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dnaprior import PRESETS
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.denoisers.safeguards import measure_beside
from monai_dnaprior.noise.intensity import intensity_range
from monai_dnaprior.noise.model import NoiseModel

SIDE = 192
SIGMAS = (8, 15, 30)
MODALITIES = ("mri", "ct", "ultrasound", "pet", "microscopy")
IMAGES: dict[str, Crops] = {
    "development": {name: CROPS[name] for name in MODALITIES},
    "held-out": {name: HELD_OUT[name] for name in MODALITIES},
}
METHODS = "noisy tv nl-means bm3d bm3d-measured bm3d-true instant fast default best iddp".split()
SEEDS = {"development": 7, "held-out": 11}
REALISATIONS = 32  # of noise, from which its true spectrum is known
KEPT = 0.6  # of the frequencies along each axis, in zero-filled images
WATER = (0.62, 0.42)  # half axes of the ellipse that is scanned, where the image reaches from -1 to 1
ATTENUATION = 3.0  # logarithm of how many times the variance behind its middle is that beside it

Field = Callable[[int, np.random.Generator], np.ndarray]


def white(side: int, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(side, side))


def backprojected(side: int, random: np.random.Generator, *, window: str, attenuation: float = 0) -> np.ndarray:
    """Filtered backprojection of white noise; of noise that is stronger where rays cross a long way of water."""
    whole, views = int(1.45 * side) + 8, int(1.5 * side)
    angles = np.linspace(0, 180, views, endpoint=False)
    sinogram = random.normal(size=(whole, views))
    if attenuation:
        (wide, high), ray = WATER, np.linspace(-1, 1, whole)[:, None]
        reach = (wide * np.cos(np.deg2rad(angles))) ** 2 + (high * np.sin(np.deg2rad(angles))) ** 2
        path = wide * high * np.sqrt((reach - ray**2).clip(min=0)) / reach
        sinogram *= np.exp(attenuation / 2 * path / path.max())
    image = iradon(sinogram, theta=angles, filter_name=window, output_size=whole, circle=True)
    return middle(image, side)


def zero_filled(side: int, random: np.random.Generator) -> np.ndarray:
    return low_frequencies(white(side, random))


def low_frequencies(image: np.ndarray) -> np.ndarray:
    """An image as a scanner shows it that has measured only the lowest frequencies."""
    rows, columns = (np.abs(np.fft.fftfreq(side)) < KEPT / 2 for side in image.shape)
    return np.fft.ifft2(np.fft.fft2(image) * np.outer(rows, columns)).real


def rotated(side: int, random: np.random.Generator) -> np.ndarray:
    return middle(rotate(white(3 * side // 2, random), 17, order=1, reshape=False), side)


def blurred(side: int, random: np.random.Generator, *, width: float = 0.8) -> np.ndarray:
    return middle(gaussian_filter(white(side + 20, random), width), side)


def mapped(side: int, random: np.random.Generator, *, field: Field = white, ratio: float = 4) -> np.ndarray:
    """Noise times a smooth map, whose 90th percentile is four times its 10th."""
    level = gaussian_filter(white(side, random), side / 8)
    low, high = np.quantile(level, (0.1, 0.9))
    noise = field(side, random)
    return np.exp(np.log(ratio) * (level - (low + high) / 2) / (high - low)) * noise / np.sqrt(np.mean(noise**2))


hann = partial(backprojected, window="hann")
FIELDS: dict[str, Field] = {
    "fbp-hann": hann,
    "fbp-ramlak": partial(backprojected, window="ramp", attenuation=ATTENUATION),
    "zero-filled": zero_filled,
    "rotated": rotated,
    "gaussian": blurred,
    "map": mapped,
    "map-hann": partial(mapped, field=hann),
}


def middle(image: np.ndarray, side: int) -> np.ndarray:
    row, column = ((size - side) // 2 for size in image.shape)
    return image[row : row + side, column : column + side]


def realised(kind: str, seed: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    """Noise of a kind, its mean square 1."""
    noise = FIELDS[kind](SIDE, np.random.default_rng(seed))[: shape[0], : shape[1]]
    return noise / np.sqrt(np.mean(noise**2))


@cache
def true_spectrum(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Power of noise of a kind, the mean over many realisations, of mean 1."""
    power = sum(np.abs(np.fft.fft2(realised(kind, 1000 + seed, shape))) ** 2 for seed in range(REALISATIONS))
    return np.asarray(power / np.mean(power))


@dataclass(frozen=True, eq=False)
class Pair:
    """A noisy image and a better one, (H, W), in [0, 1] or about it, and how they are compared.

    Attributes:
        mask: pixels that count.
        peak: of the signal-to-noise ratio.
        left: variance of the noise that the better image has itself, independent of the noisy one's.
        sigma: standard deviation of the noise, if it is known.
        spectrum: its true power, if it is known.
    """

    name: str
    noisy: np.ndarray
    clean: np.ndarray
    mask: np.ndarray
    peak: float = 1.0
    left: float = 0.0
    sigma: float | None = None
    spectrum: np.ndarray | None = None

    def decibels(self, image: np.ndarray) -> float:
        error = float(np.mean((image - self.clean)[self.mask] ** 2)) - self.left
        return float(10 * np.log10(self.peak**2 / max(error, 1e-12)))


def simulated(data: Path, images: str, kinds: list[str], names: list[str], sigmas: list[int]) -> Iterator[Pair]:
    for kind in kinds:
        for name in names:
            clean = clean_image(data, *IMAGES[images][name])
            clean = low_frequencies(clean) if kind == "zero-filled" else clean
            noise = realised(kind, SEEDS[images], clean.shape)
            spectrum = true_spectrum(kind, clean.shape)
            for sigma in sigmas:
                noisy = clean + sigma / 255 * noise
                everywhere = np.ones(clean.shape, bool)
                yield Pair(f"{kind} {name} {sigma}", noisy, clean, everywhere, sigma=sigma / 255, spectrum=spectrum)


def clean_image(data: Path, file: str, corner: tuple[int, int] | None = MIDDLE) -> np.ndarray:
    """A crop in [0, 1], grey."""
    image = np.atleast_3d(imread(data / "images" / file))[..., :3].astype(np.float64).mean(-1)
    if file.startswith("ct/"):
        image = (image - 1024 + 1000) / 1400  # Hounsfield units from -1000 to 400
    elif file.startswith(("mri/", "pet/")):
        image = image / np.percentile(image, 99.9)
    else:
        image = image / 255
    room = [max(0, side - SIDE) for side in image.shape]
    row, column = (min(*ends) for ends in zip(corner or [side // 2 for side in room], room, strict=True))
    return image[row : row + SIDE, column : column + SIDE].clip(0, 1)


def real(data: Path) -> Iterator[Pair]:
    """Pairs of scans, scaled to about [0, 1] by percentiles of the noisy one."""
    folder = data / "pairs_real"
    for row in csv.DictReader((folder / "pairs.csv").open(encoding="utf-8")):
        yield real_pair(folder, row)


def real_pair(folder: Path, row: dict[str, str]) -> Pair:
    stem = row["file"].removeprefix("pairs/").split("_{")[0]
    suffix = ".nii.gz" if ".nii.gz" in row["file"] else ".png"
    noisy, clean = (read(folder / f"{stem}_{end}{suffix}") for end in ("noisy", "clean"))
    mask = np.asarray(imread(folder / f"{stem}_mask.png")) > 0
    offset, span = intensity_range(torch.from_numpy(noisy))
    left = (float(row["sigma_ref"]) / span) ** 2 if row["use"] == "corrected" else 0.0
    name = f"real {row['kind']} {Path(stem).name}"
    return Pair(name, (noisy - offset) / span, (clean - offset) / span, mask, float(row["peak"]) / span, left)


def read(path: Path) -> np.ndarray:
    if path.name.endswith(".nii.gz"):
        return cast(nib.Nifti1Image, nib.load(path)).get_fdata()[:, ::-1, 0].T.copy()
    return np.asarray(imread(path), dtype=np.float64)


def denoised(method: str, pair: Pair) -> np.ndarray | None:
    """What a method makes of the noisy image; None where it needs to know what is not known."""
    noisy = torch.from_numpy(pair.noisy).float()[None, None]
    if method == "noisy":
        return pair.noisy
    if method == "bm3d-true":
        if pair.spectrum is None or pair.sigma is None:
            return None
        return bm3d_of_spectrum(pair.noisy, pair.sigma**2 * pair.spectrum)
    if method == "bm3d-measured":
        model = measure_beside(noisy, NoiseModel.of(noisy))
        deviation = 1.0 if model.deviation is None else model.deviation[0, 0].double().numpy()
        power = model.sigma**2 * model.spectrum(*pair.noisy.shape).numpy()
        return deviation * bm3d_of_spectrum(pair.noisy / deviation, power)
    if method in PRESETS:
        return create_denoiser("dna-prior", preset=method)(noisy).image[0, 0].double().numpy()
    return create_denoiser(method)(noisy).image[0, 0].double().numpy()


def bm3d_of_spectrum(noisy: np.ndarray, power: np.ndarray) -> np.ndarray:
    """BM3D that is given the spectrum of the noise, of the mean of its variance."""
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # NumPy 2.4 has dropped what bm4d, which bm3d calls, uses
    import bm3d

    return np.asarray(bm3d.bm3d(noisy, power * noisy.size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of images and pairs_real")
    parser.add_argument("--methods", default=",".join(METHODS), help="columns to measure, with commas")
    parser.add_argument("--images", default="development", choices=[*IMAGES, "real"], help="which images")
    parser.add_argument("--kinds", default=",".join(FIELDS), help="of noise, with commas")
    parser.add_argument("--modalities", default=",".join(MODALITIES), help="with commas")
    parser.add_argument("--sigmas", default=",".join(map(str, SIGMAS)), help="noise levels of 255, with commas")
    parser.add_argument("--again", action="store_true", help="measure these cells anew")
    options = parser.parse_args()
    name = "clinical_noise" + {"development": "", "held-out": "_held_out", "real": "_real"}[options.images]
    wanted = options.methods.split(",")
    cells = measured(name)
    if options.images == "real":
        pairs = real(options.data)
    else:
        lists = (options.kinds.split(","), options.modalities.split(","), [int(s) for s in options.sigmas.split(",")])
        pairs = simulated(options.data, options.images, *lists)
    for pair in pairs:
        for method in wanted:
            if (pair.name, method) in cells and not options.again:
                continue
            started = time.perf_counter()
            image = denoised(method, pair)
            if image is None:
                continue
            seconds = round(time.perf_counter() - started, 2)
            row = {"image": pair.name, "method": method, "psnr": round(pair.decibels(image), 2), "seconds": seconds}
            cells = {**measured(name), (pair.name, method): row}  # joined to what another run may have written
            write(name, cells)


def measured(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {(row["image"], row["method"]): row for row in rows}


def write(name: str, cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Publish all cells; the numbers replace those on disk at once, or not at all."""
    rows = sorted(cells.values(), key=lambda row: (order(row["image"]), METHODS.index(row["method"])))
    waiting = f"{name}.{os.getpid()}"
    publish(waiting, {"rows": rows}, table(rows))
    for suffix in (".json", ".md"):
        (RESULTS / f"{waiting}{suffix}").replace(RESULTS / f"{name}{suffix}")
    show(name)
    publish_means(name, rows)


def publish_means(name: str, rows: list[dict[str, Any]]) -> None:
    publish(f"{name}_means", {"means": (means := kind_means(rows))}, means_table(means))


def order(image: str) -> tuple[Any, ...]:
    kind, name, last = image.split(" ")
    if kind == "real":
        return (len(FIELDS), name, last)
    return (list(FIELDS).index(kind), MODALITIES.index(name), int(last))


def columns(rows: list[dict[str, Any]]) -> list[str]:
    return [method for method in METHODS if any(row["method"] == method for row in rows)]


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR in dB, a row an image, a column a method."""
    cells = {(row["image"], row["method"]): row["psnr"] for row in rows}
    lines = []
    for image in dict.fromkeys(row["image"] for row in rows):
        values = [cells.get((image, method)) for method in columns(rows)]
        lines.append([*image.split(" "), *("" if value is None else f"{value:.2f}" for value in values)])
    return markdown_table(["noise", "image", "σ", *columns(rows)], lines)


def kind_means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean PSNR by kind of noise and method, over the images on which all methods of the kind were measured."""
    result: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(group(row) for row in rows):
        own = [row for row in rows if group(row) == kind]
        methods = columns(own)
        images = [
            image
            for image in dict.fromkeys(row["image"] for row in own)
            if sum(row["image"] == image for row in own) == len(methods)
        ]
        if images:
            result[f"{kind} ({len(images)})"] = {
                method: round(
                    float(np.mean([row["psnr"] for row in own if row["method"] == method and row["image"] in images])),
                    2,
                )
                for method in methods
            }
    return result


def group(row: dict[str, Any]) -> str:
    kind, name, _ = row["image"].split(" ")
    return f"real {name}" if kind == "real" else str(kind)


def means_table(means: dict[str, dict[str, float]]) -> str:
    methods = [method for method in METHODS if any(method in line for line in means.values())]
    lines = [
        [kind, *(f"{line[method]:.2f}" if method in line else "" for method in methods)] for kind, line in means.items()
    ]
    return markdown_table(["noise (images)", *methods], lines)


if __name__ == "__main__":
    main()
