"""The classical filters against the packages that they come from."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from skimage import restoration
from torch import Tensor

from monai_dnaprior import create_denoiser
from monai_dnaprior.noise.estimate import estimate_sigma


def reference(name: str, image: np.ndarray, sigma: float) -> np.ndarray:
    """The filter called as its own package documents it, on a grey image (H, W)."""
    if name == "tv":
        return restoration.denoise_tv_chambolle(image, weight=sigma)
    if name == "nl-means":
        return restoration.denoise_nl_means(image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma)
    options = {"sigma": sigma, "wavelet": "db2", "method": "BayesShrink", "mode": "soft"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return restoration.cycle_spin(image, restoration.denoise_wavelet, max_shifts=3, func_kw=options)


@pytest.mark.parametrize("name", ["tv", "nl-means", "wavelet"])
@pytest.mark.parametrize("sigma", [None, 0.1])
def test_equals_scikit_image(name: str, sigma: float | None, noisy_slice: Tensor) -> None:
    used = estimate_sigma(noisy_slice).item() if sigma is None else sigma
    result = create_denoiser(name, sigma=sigma)(noisy_slice)
    expected = reference(name, noisy_slice[0, 0].numpy(), used)
    np.testing.assert_allclose(result.image[0, 0].numpy(), expected, atol=1e-5)
    assert result.records[0].sigma == pytest.approx(used)


@pytest.mark.parametrize("channels", [1, 3])
def test_bm3d_equals_its_package(channels: int, noisy_slice: Tensor) -> None:
    bm3d = pytest.importorskip("bm3d")
    noisy = noisy_slice.expand(1, channels, -1, -1) + torch.arange(channels)[:, None, None] / 10
    image = noisy[0].movedim(0, -1).numpy()
    expected = bm3d.bm3d_rgb(image, 0.1) if channels == 3 else bm3d.bm3d(image[..., 0], 0.1)[..., None]
    output = create_denoiser("bm3d", sigma=0.1)(noisy).image[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_a_missing_extra_gives_the_install_hint_and_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(
        ImportError, match=r"non-commercial use only: pip install 'monai-dnaprior\[baselines\]'"
    ) as caught:
        create_denoiser("bm3d")(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tv", "nl-means", "wavelet", "bm3d", "nl-ridge", "lichi"])
def test_more_noise_given_means_more_removed(name: str, noisy_slice: Tensor) -> None:
    residuals = [create_denoiser(name, sigma=sigma)(noisy_slice).records[0].residual for sigma in (0.02, 0.2)]
    assert residuals[0] < residuals[1]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("tv", {"sigma": -1.0}, ValueError, "sigma=-1.0 must be positive; leave it out to have it estimated"),
        ("tv", {"sigma": "some"}, ValueError, "sigma='some' must be a finite number or None"),
        ("tv", {"weight": 1.0}, TypeError, "weight is no option of tv; it has sigma, weight_per_sigma"),
        ("median", {"width": 1}, TypeError, "width is no option of median; it has sigma, size"),
    ],
)
def test_bad_options_name_themselves(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_denoiser(name, **options)
