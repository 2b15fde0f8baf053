"""Volumes with and without their neighbouring slices, beside filters of other packages that see all three dimensions.

The middle of real volumes gets noise, of its own in every slice; three slices in the middle are compared. A cell is a
volume, a noise and a method; it is written as soon as it is measured, and a run skips those that are there.
``removed`` is the correlation of what was removed with a second noisy copy of the same volume: near 0 where it is noise
alone. ``--costs`` measures on one volume the processor seconds of a slice, and the most memory of a process that does
nothing else, with all that it loads. Filters of other packages are run by the Python that ``--python`` names, see
volume_filters.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clinical_noise import low_frequencies, realised, true_spectrum
from publish import RESULTS, publish
from skimage.metrics import structural_similarity
from volume_filters import FILTERS, peak_megabytes

from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.denoisers.registry import create_denoiser
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.scan import Caps
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_parts

SIDE, DEPTH, SCORED = 128, 9, 3
VOLUMES = {
    "CT 3.3 mm": "dicom/STS_008_CT",
    "CT 7 mm": "dicom/ge_head_CT_tilt",
    "MR 3.3 mm": "dicom/STS_008_MR_T1",
    "MR 1 mm": "volumes/Task04_Hippocampus/imagesTr/hippocampus_163.nii.gz",
    "MR 2 mm": "volumes/misc/anatomical.nii",
    "PET 3.4 mm": "dicom/qinhn0024_PET_head",
}
NOISES = {"white 15": ("white", 15), "white 25": ("white", 25), "fbp-hann 15": ("fbp-hann", 15)} | {
    "zero-filled 15": ("zero-filled", 15)
}
OURS: dict[str, tuple[str, dict[str, Any], int]] = {
    "bm3d": ("bm3d", {}, 0),
    "one pass 1": ("iddp", {}, 1),
    **{f"iddp {count}": ("iddp", {"refinements": 2}, count) for count in range(3)},
    **{f"default {count}": ("dna-prior", {}, count) for count in range(3)},
}
METHODS = ["noisy", *OURS, *FILTERS]
COSTS = "CT 3.3 mm", "white 15"  # where they are measured


def middle(volume: np.ndarray) -> np.ndarray:
    """The middle of a volume (H, W, D), its robust range scaled to [0, 1]."""
    low, high = np.nanpercentile(volume, (0.5, 99.5))
    starts = [max(0, (side - most) // 2) for side, most in zip(volume.shape, (SIDE, SIDE, DEPTH), strict=True)]
    place = tuple(slice(start, start + most) for start, most in zip(starts, (SIDE, SIDE, DEPTH), strict=True))
    return ((np.nan_to_num(volume[place], nan=low) - low) / (high - low)).clip(0, 1)


def clean_volume(data: Path, name: str, kind: str) -> np.ndarray:
    (source,), _ = find_sources(data / VOLUMES[name])
    clean = middle(source.read(Caps()).values()[0].astype(np.float64))
    return (
        np.stack([low_frequencies(image) for image in clean.T], -1).swapaxes(0, 1) if kind == "zero-filled" else clean
    )


def noise_field(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if kind == "white":
        return np.random.default_rng(seed).normal(size=shape)
    return np.stack([realised(kind, 100 * seed + index, shape[:2]) for index in range(shape[-1])], -1)


def ours(method: str, noisy: np.ndarray, wanted: range) -> np.ndarray:
    """Some slices of a volume, denoised."""
    name, options, neighbours = OURS[method]
    result, volume = noisy.astype(np.float32), torch.from_numpy(noisy).float()[None]
    done = set(range(noisy.shape[-1])).difference(wanted)
    for part in denoise_parts(volume, create_denoiser(name, **options), Slicing(neighbours=neighbours), done=done):
        result[part.place[1:]] -= part.residual[0].numpy()
    return result[..., wanted]


def cost_of_ours(method: str, noisy: np.ndarray) -> tuple[float, float]:
    started = time.process_time()
    ours(method, noisy, range(noisy.shape[-1]))
    return time.process_time() - started, peak_megabytes()


def others(method: str, noisy: np.ndarray, kind: str, sigma: float, python: str) -> tuple[np.ndarray, list[float]]:
    """What a filter of another package makes of a volume; its seconds and the megabytes of its process."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.npz"), Path(folder, "out.npy")
        power = np.zeros(0) if kind == "white" else true_spectrum(kind, noisy.shape[:2])
        np.savez(source, noisy=noisy, sigma=sigma, power=power)
        script = str(Path(__file__).with_name("volume_filters.py"))
        command = [python, script, method, str(source), str(output)]
        text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        return np.load(output), [float(word) for word in text.splitlines()[-1].split()]


def noisy_volume(data: Path, name: str, noise: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume, and the same with noise."""
    kind, level = NOISES[noise]
    clean = clean_volume(data, name, kind)
    return clean, clean + level / 255 * noise_field(kind, clean.shape, seed)


def measure(data: Path, name: str, noise: str, method: str, python: str) -> dict[str, Any]:
    kind, level = NOISES[noise]
    (clean, noisy), (_, other) = (noisy_volume(data, name, noise, seed) for seed in (1, 2))
    depth = noisy.shape[-1]
    scored = range((depth - SCORED) // 2, (depth + SCORED) // 2)
    if method in OURS:
        result = ours(method, noisy, scored)
    else:
        result = (noisy if method == "noisy" else others(method, noisy, kind, level / 255, python)[0])[..., scored]
    clean, noisy, other = (volume[..., scored] for volume in (clean, noisy, other))
    result = result.clip(0, 1)
    removed = np.corrcoef((noisy - result).ravel(), other.ravel())[0, 1] if method != "noisy" else 0.0
    similar = [structural_similarity(clean[..., k], result[..., k], data_range=1) for k in range(SCORED)]
    return {
        "volume": name,
        "noise": noise,
        "method": method,
        "psnr": round(float(-10 * np.log10(np.mean((result - clean) ** 2))), 2),
        "ssim": round(float(np.mean(similar)), 4),
        "removed": round(float(removed), 3),
    }


def measure_cost(data: Path, method: str, python: str) -> dict[str, Any]:
    """What a method takes for a whole volume, in a process of its own."""
    kind, level = NOISES[COSTS[1]]
    _, noisy = noisy_volume(data, *COSTS, seed=1)
    if method in OURS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, megabytes = pool.submit(cost_of_ours, method, noisy).result()
    else:
        _, (seconds, megabytes) = others(method, noisy, kind, level / 255, python)
    return {"method": method, "seconds": round(seconds / noisy.shape[-1], 2), "megabytes": round(megabytes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of volumes and DICOM series")
    parser.add_argument("--python", default="", help="that has the other packages; their methods are skipped without")
    parser.add_argument("--volumes", default=",".join(VOLUMES), help="with commas")
    parser.add_argument("--noises", default=",".join(NOISES), help="with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--costs", action="store_true", help="measure seconds and memory, and nothing else")
    options = parser.parse_args()
    wanted = [method for method in options.methods.split(",") if options.python or method not in FILTERS]
    if options.costs:
        rows = [measure_cost(options.data, method, options.python) for method in wanted if method != "noisy"]
        publish("volumes_costs", {"volume": ", ".join(COSTS), "rows": rows}, cost_table(rows))
        return
    for name in options.volumes.split(","):
        for noise in options.noises.split(","):
            for method in wanted:
                if (name, noise, method) not in (cells := measured()):
                    write({**cells, (name, noise, method): measure(options.data, name, noise, method, options.python)})


def measured() -> dict[tuple[str, str, str], dict[str, Any]]:
    path = RESULTS / "volumes.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {(row["volume"], row["noise"], row["method"]): row for row in rows}


def write(cells: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    rows = sorted(cells.values(), key=lambda row: (list(VOLUMES).index(row["volume"]), row["noise"], row["method"]))
    publish("volumes", {"rows": rows}, table(rows))


def cost_table(rows: list[dict[str, Any]]) -> str:
    lines = [[row["method"], f"{row['seconds']:.2f}", str(row["megabytes"])] for row in rows]
    return markdown_table(["method", "processor seconds a slice", "peak memory of the process, MB"], lines)


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR in dB, a row a volume and noise, a column a method; then the means, where all is measured."""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    cells = {(row["volume"], row["noise"], row["method"]): row for row in rows}
    lines = []
    for name, noise in dict.fromkeys((row["volume"], row["noise"]) for row in rows):
        values = [cells.get((name, noise, method)) for method in methods]
        lines.append([name, noise, *("" if value is None else f"{value['psnr']:.2f}" for value in values)])
    for noise in NOISES:
        means = []
        for method in methods:
            figures = [cells[name, noise, method]["psnr"] for name in VOLUMES if (name, noise, method) in cells]
            means.append(f"{np.mean(figures):.2f}" if len(figures) == len(VOLUMES) else "")
        lines.append(["mean", noise, *means])
    return markdown_table(["volume", "noise", *methods], lines)


if __name__ == "__main__":
    main()
