"""Filters of other packages for volumes, each run as ``python volume_filters.py METHOD IN.npz OUT.npy``.

They need an environment of their own, with NumPy older than 2.4:
``pip install 'numpy<2.4' bm4d dipy antspyx SimpleITK``. IN.npz holds ``noisy`` (H, W, D), ``sigma``, and ``power``, the
spectrum of the noise (H, W) if it is not white. The processor seconds that the filter takes, and the most memory of the
process in megabytes, are printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def bm4d(noisy: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    """Given the noise level and, where it is not white, the spectrum."""
    import bm4d

    sigma, power = float(given["sigma"]), given["power"]
    if power.size:
        return bm4d.bm4d(noisy, np.repeat(power[..., None], noisy.shape[-1], -1) * sigma**2 * noisy.size)
    return bm4d.bm4d(noisy, sigma)


def nl_means(noisy: np.ndarray, given: Mapping[str, Any], *, rician: bool = False) -> np.ndarray:
    from dipy.denoise.nlmeans import nlmeans
    from dipy.denoise.noise_estimate import estimate_sigma

    sigma = estimate_sigma(noisy, N=0)
    return nlmeans(noisy, sigma=sigma, patch_radius=1, block_radius=5, rician=rician, num_threads=1)


def nl_means_rician(noisy: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    return nl_means(noisy, given, rician=True)


def ants(noisy: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    import ants

    return ants.denoise_image(ants.from_numpy(noisy), noise_model="Gaussian").numpy()


def curvature_flow(noisy: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(noisy.astype(np.float32))
    return SimpleITK.GetArrayFromImage(SimpleITK.CurvatureFlow(image, timeStep=0.0625, numberOfIterations=10))


FILTERS: dict[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
    "bm4d-given": bm4d,
    "nl-means-3d": nl_means,
    "nl-means-3d-rician": nl_means_rician,
    "ants": ants,
    "curvature-flow": curvature_flow,
}


def peak_megabytes() -> float:
    """The most memory that this process has held so far, where Linux tells."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    method, source, output = sys.argv[1:]
    given = np.load(source)
    started = time.process_time()
    filtered = FILTERS[method](given["noisy"], given)
    print(time.process_time() - started, peak_megabytes())
    np.save(output, filtered)
