"""What denoising takes that it should leave: faint lesions, fine texture, and pictures without noise.

Lesions: discs are put on images, with noise and the same noise without discs; what they add to the denoised image is
compared with what they added to the clean one. Textures: the denoised image is compared with the clean one by
frequency. Pictures: how much is removed where there is no noise, or film grain only. Each row is written as soon as it
is measured; a run skips those that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import MIDDLE
from clinical_noise import SIDE, Pair, clean_image, denoised, low_frequencies, realised, true_spectrum
from publish import RESULTS, publish
from scipy.ndimage import gaussian_filter
from skimage.data import shepp_logan_phantom
from skimage.io import imread
from skimage.measure import block_reduce

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.dnaprior import PRESETS
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.noise.metrics import correlation

METHODS = ("instant", "fast", "default", "iddp", "bm3d-true", "nl-means")
KINDS = ("fbp-hann", "zero-filled", "gaussian")
SIGMAS = (8, 15, 30)
DIAMETERS = (4, 8, 12, 20)
CONTRASTS = (0.5, 1, 2)  # times the deviation of the noise
GROUPS = list(product(DIAMETERS, CONTRASTS))
COPIES = 3  # of a disc in an image
CELL = 32  # side of the square in which a disc lies
GAP, RING = 2, 3  # between a disc and the ring that it is compared with, and the width of that
BACKGROUNDS = {  # images on which nothing else was chosen
    "flat": None,
    "mri": "mri/pgbm003_t1post_a.png",
    "ct": "ct/tcga_0058.png",
    "ultrasound": "ultrasound/busi_malignant_184.png",
}
TEXTURES = {  # image, corner of the crop, and in the crop the row, column and side of the square that is compared
    "lung": ("ct/tcga_0059.png", (200, 20), (80, 30, 96)),
    "trabeculae": ("ct/tcga_0059.png", (270, 160), (66, 73, 44)),
    "speckle": ("ultrasound/busi_normal_090.png", MIDDLE, (0, 0, SIDE)),
    "monuseg": ("histopathology/monuseg_A6_6782_01A_01_BS1.png", MIDDLE, (0, 0, SIDE)),
    "breakhis": ("histopathology/breakhis_B_TA_14_16184CD_400_024.png", MIDDLE, (0, 0, SIDE)),
}
TEXTURE_SIGMAS = (15,)
BANDS = ((1 / 32, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2))  # of frequency, in cycles a pixel
PICTURE_METHODS = ("instant", "fast", "default", "iddp", "nl-means")
GRAIN, GRAIN_WIDTH = 4 / 255, 0.6  # deviation where an image is brightest, and pixels by which the grain is blurred
DETAIL = 2.0  # pixels of the blur that leaves no detail

Row = dict[str, Any]
Case = tuple[str, Callable[[str], Row]]


@dataclass(frozen=True)
class Disc:
    """A lesion: its middle, diameter in pixels, and brightness over that of the background."""

    row: float
    column: float
    diameter: int
    contrast: float

    @property
    def distance(self) -> np.ndarray:
        rows, columns = np.ogrid[:SIDE, :SIDE]
        return np.hypot(rows - self.row, columns - self.column)

    def image(self) -> np.ndarray:
        return self.contrast * (self.diameter / 2 + 0.5 - self.distance).clip(0, 1)

    def contrast_in(self, image: np.ndarray) -> float:
        """Mean of the disc less the mean of the ring around it."""
        inner = self.diameter / 2 + GAP
        ring = (self.distance > inner) & (self.distance <= inner + RING)
        return float(image[self.distance < self.diameter / 2].mean() - image[ring].mean())


def place_discs(sigma: float, seed: int) -> list[list[Disc]]:
    """Bright and dark discs at random, a list for each of GROUPS."""
    random = np.random.default_rng(seed)
    cells = random.permutation(list(product(range(0, SIDE, CELL), repeat=2)))
    groups = []
    for index, (diameter, contrast) in enumerate(GROUPS):
        room = CELL / 2 - diameter / 2 - GAP - RING
        own = cells[COPIES * index : COPIES * (index + 1)] + CELL / 2 + random.uniform(-room, room, (COPIES, 2))
        added = contrast * sigma * random.choice([-1, 1], COPIES)
        groups.append([Disc(row, column, diameter, value) for (row, column), value in zip(own, added, strict=True)])
    return groups


def lesions(data: Path) -> Iterator[Case]:
    for kind, background, sigma in product(KINDS, BACKGROUNDS, SIGMAS):
        yield f"{kind} {background} {sigma}", partial(contrast_kept, data, kind, background, sigma)


def contrast_kept(data: Path, kind: str, background: str, sigma: int, method: str) -> Row:
    """The share of the discs' contrast that a method leaves, for each of GROUPS, and of the noise beside them."""
    seed, file = list(BACKGROUNDS).index(background), BACKGROUNDS[background]
    clean = np.full((SIDE, SIDE), 0.5) if file is None else clean_image(data, file)
    groups = place_discs(sigma / 255, seed)
    lesion = np.sum([disc.image() for group in groups for disc in group], axis=0)
    if kind == "zero-filled":
        clean, lesion = low_frequencies(clean), low_frequencies(lesion)
    without, with_lesion = (
        denoise_pair(method, kind, image, sigma, seed=100 + seed) for image in (clean, clean + lesion)
    )
    added = with_lesion - without
    kept = []
    for group in groups:
        shares = [[np.sign(disc.contrast) * disc.contrast_in(image) for disc in group] for image in (added, lesion)]
        kept.append(round(float(np.sum(shares[0]) / np.sum(shares[1])), 3))
    return {"kept": kept, "left": round(float(np.sqrt(np.mean((without - clean) ** 2))) * 255 / sigma, 3)}


def denoise_pair(method: str, kind: str, clean: np.ndarray, sigma: int, *, seed: int) -> np.ndarray:
    noisy = clean + sigma / 255 * realised(kind, seed, clean.shape)
    spectrum = true_spectrum(kind, clean.shape)
    result = denoised(method, Pair("", noisy, clean, np.ones(clean.shape, bool), sigma=sigma / 255, spectrum=spectrum))
    assert result is not None
    return result


def textures(data: Path) -> Iterator[Case]:
    for kind, texture, sigma in product(KINDS, TEXTURES, TEXTURE_SIGMAS):
        yield f"{kind} {texture} {sigma}", partial(texture_kept, data, kind, texture, sigma)


def texture_kept(data: Path, kind: str, texture: str, sigma: int, method: str) -> Row:
    """By band of frequency: the share of the clean image in the denoised one, and their power's ratio."""
    file, corner, (row, column, side) = TEXTURES[texture]
    clean = clean_image(data, file, corner)
    clean = low_frequencies(clean) if kind == "zero-filled" else clean
    result = denoise_pair(method, kind, clean, sigma, seed=200)
    true, found = (spectrum_of(image[row : row + side, column : column + side]) for image in (clean, result))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    bands = [(frequency >= low) & (frequency < high) for low, high in BANDS]
    power = [float(np.sum(np.abs(true[band]) ** 2)) for band in bands]
    return {
        "kept": [
            round(float(np.sum((found * true.conj()).real[band])) / total, 3)
            for band, total in zip(bands, power, strict=True)
        ],
        "power": [
            round(float(np.sum(np.abs(found[band]) ** 2)) / total, 3) for band, total in zip(bands, power, strict=True)
        ],
    }


def spectrum_of(image: np.ndarray) -> np.ndarray:
    window = np.hanning(len(image) + 2)[1:-1]
    return np.fft.fft2((image - image.mean()) * np.outer(window, window))


def pictures(data: Path) -> Iterator[Case]:
    without_noise = {**made_pictures(), **photographs(data)}
    for name, image in without_noise.items():
        yield f"none {name}", partial(removal, image, image)
        yield f"grain {name}", partial(removal, with_grain(image), image)
    for path in sorted((data / "images" / "histopathology").glob("*.png")):
        if "mask" not in path.name:
            image = middle_in_colour(path)
            yield f"colour {path.stem}", partial(removal, image, image)
            grey = image.mean(0, keepdims=True)
            yield f"grey {path.stem}", partial(removal, grey, grey)


def made_pictures() -> dict[str, np.ndarray]:
    """Images (1, H, W) in [0, 1]: a phantom, rings that get finer outwards, and fine bars on a slope."""
    axis = np.linspace(-1, 1, SIDE)
    rings = 0.5 + 0.4 * np.cos(40 * np.pi * (axis[:, None] ** 2 + axis**2) / 2)
    bars = 0.3 + 0.2 * axis[:, None] + 0.1 * (np.arange(SIDE) // 3 % 2) * (np.abs(axis[:, None]) < 0.4)
    phantom = block_reduce(shepp_logan_phantom(), 2, np.mean)
    return {"phantom": phantom[None], "rings": rings[None], "bars": bars[None]}


def photographs(data: Path) -> dict[str, np.ndarray]:
    """Photographs (1, H, W) in [0, 1] at half their size, which leaves hardly any of their noise."""
    result = {}
    for path in sorted((data / "natural").glob("*.png")):
        image = np.asarray(imread(path), dtype=np.float64) / 255
        even = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
        result[path.stem] = block_reduce(even, 2, np.mean)[None]
    return result


def middle_in_colour(path: Path) -> np.ndarray:
    image = np.moveaxis(imread(path)[..., :3].astype(np.float64) / 255, -1, 0)
    row, column = ((side - SIDE) // 2 for side in image.shape[1:])
    return image[:, row : row + SIDE, column : column + SIDE]


def with_grain(image: np.ndarray) -> np.ndarray:
    """The image with blurred grain, the stronger the brighter."""
    grain = gaussian_filter(np.random.default_rng(300).normal(size=image.shape[1:]), GRAIN_WIDTH)
    return image + GRAIN * image * grain / grain.std()


def removal(image: np.ndarray, clean: np.ndarray, method: str) -> Row:
    """What a method removes from a picture (C, H, W): its size, and how much of the picture's detail is in it."""
    noisy = torch.from_numpy(image).float()[None]
    result = (create_denoiser("dna-prior", preset=method) if method in PRESETS else create_denoiser(method))(noisy)
    removed = (noisy - result.image)[0].double()
    detail = torch.from_numpy(clean - gaussian_filter(clean, (0, DETAIL, DETAIL)))
    grain = torch.from_numpy(image - clean)
    row = {
        "sigma": 255 * result.records[0].sigma,
        "removed": 255 * removed.square().mean().sqrt().item(),
        "correlation": correlation(removed, detail),
        "detail": ((removed * detail).sum() / detail.square().sum()).item(),
    }
    if grain.any():
        row["grain"] = ((removed * grain).sum() / grain.square().sum()).item()
    return {key: round(value, 3) for key, value in row.items()} | {"reason": result.records[0].stop_reason}


PARTS: dict[str, tuple[Callable[[Path], Iterator[Case]], tuple[str, ...]]] = {
    "lesions": (lesions, METHODS),
    "textures": (textures, METHODS),
    "pictures": (pictures, PICTURE_METHODS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of images and natural")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="columns to measure, with commas")
    parser.add_argument("--again", action="store_true", help="measure these rows anew")
    options = parser.parse_args()
    wanted = options.methods.split(",")
    for part in options.parts.split(","):
        cases, methods = PARTS[part]
        rows = read(part)
        for case, measure in cases(options.data):
            for method in (method for method in methods if method in wanted):
                if options.again or (case, method) not in rows:
                    rows[case, method] = {"case": case, "method": method, **measure(method)}
                    publish(f"harm_{part}", {"rows": [*rows.values()]}, TABLES[part]([*rows.values()]))
                    print(part, case, method, flush=True)


def read(part: str) -> dict[tuple[str, str], Row]:
    path = RESULTS / f"harm_{part}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {(row["case"], row["method"]): row for row in rows}


def lesions_table(rows: list[Row]) -> str:
    """The mean share of contrast kept, in %, with its standard error over images, of all discs and of some."""
    every = range(len(GROUPS))
    lines: list[tuple[str, Callable[[Row], bool], list[int]]] = [("all", lambda row: True, [*every])]
    for place, values in enumerate((KINDS, BACKGROUNDS, SIGMAS)):
        for value in values:
            lines.append((f"σ {value}" if place == 2 else str(value), partial(is_of, place, str(value)), [*every]))
    for diameter, contrast in GROUPS:
        lines.append((f"{diameter} pixels, {contrast} σ", lambda row: True, [GROUPS.index((diameter, contrast))]))
    faint = [index for index in every if GROUPS[index][1] == min(CONTRASTS)]
    lines.append((f"{min(CONTRASTS)} σ at σ {max(SIGMAS)}", partial(is_of, 2, str(max(SIGMAS))), faint))
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    texts = [
        [title, *(share([r for r in rows if r["method"] == method and chosen(r)], groups) for method in methods)]
        for title, chosen, groups in lines
    ]
    for sigma in SIGMAS:
        left = (
            [100 * row["left"] for row in rows if row["method"] == method and is_of(2, str(sigma), row)]
            for method in methods
        )
        texts.append(
            [f"error left of the noise at σ {sigma}, %", *(f"{np.mean(values or [np.nan]):.0f}" for values in left)]
        )
    return markdown_table(["contrast kept, %", *methods], texts)


def is_of(place: int, value: str, row: Row) -> bool:
    return bool(row["case"].split(" ")[place] == value)


def share(rows: list[Row], groups: list[int]) -> str:
    """The mean and its error; strengths of the noise count as one, since it is the same noise."""
    images: dict[str, list[float]] = {}
    for row in rows:
        images.setdefault(row["case"].rpartition(" ")[0], []).append(100 * float(np.mean(np.take(row["kept"], groups))))
    values = [np.mean(own) for own in images.values()]
    if len(values) < 2:
        return ""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f}"


def textures_table(rows: list[Row]) -> str:
    """By texture, strength and band: the share of the clean image kept, and the ratio of power, means over kinds."""
    lines = []
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    for texture, sigma, (band, (low, high)) in product(TEXTURES, TEXTURE_SIGMAS, enumerate(BANDS)):
        cells = []
        for method in methods:
            own = [r for r in rows if r["method"] == method and r["case"].split(" ")[1:] == [texture, str(sigma)]]
            kept, power = (100 * np.mean([row[key][band] for row in own] or [np.nan]) for key in ("kept", "power"))
            cells.append(f"{kept:.0f} ({power:.0f})" if own else "")
        lines.append([texture, str(sigma), f"{1 / high:.0f} to {1 / low:.0f}", *cells])
    return markdown_table(["texture", "σ", "period, pixels", *methods], lines)


def pictures_table(rows: list[Row]) -> str:
    """A line a picture: what each method removes, of 255, and the correlation of that with the picture's detail."""
    methods = [method for method in PICTURE_METHODS if any(row["method"] == method for row in rows)]
    cells = {(row["case"], row["method"]): row for row in rows}
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [cells.get((case, method)) for method in methods]
        lines.append([*case.split(" "), *("" if row is None else removal_cell(row) for row in own)])
    return markdown_table(["noise", "picture", *methods], lines)


def removal_cell(row: Row) -> str:
    if row["removed"] == 0:
        return "0"
    grain = f", {100 * row['grain']:.0f} %" if "grain" in row else ""
    return f"{row['removed']:.2f} ({row['correlation']:.2f}{grain})"


TABLES = {"lesions": lesions_table, "textures": textures_table, "pictures": pictures_table}


if __name__ == "__main__":
    main()
