"""What denoising must leave: lesions under correlated noise, edges, and pictures without noise."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_noise_model import correlated, scene, white
from torch import Tensor

from monai_dnaprior import Denoise, create_denoiser
from monai_dnaprior.denoisers.result import Denoiser
from monai_dnaprior.noise.metrics import correlation

SIDE, RADIUS, SIGMA, CONTRAST = 96, 10, 0.04, 3
MIDDLES = [(24, 24, 1), (24, 72, -1), (72, 24, -1), (72, 72, 1)]  # row, column and sign of the lesions
METHODS = {"fast": ("dna-prior", {"preset": "fast"}), "iddp": ("iddp", {})}


def distance(row: int, column: int) -> Tensor:
    axis = torch.arange(SIDE, dtype=torch.float32)
    return torch.hypot(axis[:, None] - row, axis - column)


def contrast(image: Tensor) -> float:
    """The mean of the lesions' insides less the rings around them, without the edges."""
    values = []
    for row, column, sign in MIDDLES:
        inside, ring = distance(row, column) < RADIUS - 4, (distance(row, column) - RADIUS - 6).abs() < 2
        values.append(sign * (image[..., inside].mean() - image[..., ring].mean()).item())
    return sum(values) / len(values)


def blurred(image: Tensor, width: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, 0, width, width)))


@dataclass(frozen=True)
class Removed:
    """What lesions add to a denoised image, and what is removed from the image without them."""

    added: Tensor
    removed: Tensor


LESIONS = sum(sign * (RADIUS + 0.5 - distance(row, column)).clamp(0, 1) for row, column, sign in MIDDLES)


@pytest.fixture(scope="module", params=METHODS)
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    name, options = METHODS[request.param]
    return create_denoiser(name, **options)


@pytest.fixture(scope="module")
def outcome(denoiser: Denoiser) -> Removed:
    noisy = scene(SIDE) + SIGMA * correlated(SIDE)
    without, with_lesions = (denoiser(image).image for image in (noisy, noisy + CONTRAST * SIGMA * LESIONS))
    return Removed(with_lesions - without, noisy - without)


def test_lesions_under_correlated_noise_keep_their_contrast(outcome: Removed) -> None:
    assert contrast(outcome.added) == pytest.approx(CONTRAST * SIGMA, rel=0.05)


def test_what_is_removed_is_the_noise(outcome: Removed) -> None:
    assert correlation(outcome.removed, correlated(SIDE)) > 0.8
    assert abs(correlation(outcome.removed, scene(SIDE))) < 0.05


@pytest.mark.parametrize("grain", [0, 1])
def test_pictures_without_noise_or_with_faint_grain_come_back_as_they_were(denoiser: Denoiser, grain: int) -> None:
    clean = blurred(scene(SIDE), 1.0)
    specks = blurred(white(1, 1, SIDE, SIDE), 0.6)
    image = clean + grain / 255 * clean * specks / specks.std()
    assert torch.equal(denoiser(image).image, image)


@pytest.fixture
def harm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("harm")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_benchmark_finds_the_share_that_is_kept(
    harm: ModuleType, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(harm, "denoise_pair", lambda method, kind, clean, sigma, *, seed: 0.3 + share * clean)
    row = harm.contrast_kept(Path(), "gaussian", "flat", 15, "any")
    assert row["kept"] == pytest.approx([share] * len(harm.GROUPS))
    monkeypatch.setattr(harm, "clean_image", lambda *_: np.random.default_rng(0).random((harm.SIDE, harm.SIDE)))
    row = harm.texture_kept(Path(), "gaussian", "lung", 15, "any")
    assert row["kept"] == pytest.approx([share] * len(harm.BANDS))
    assert row["power"] == pytest.approx([share**2] * len(harm.BANDS))


def test_discs_of_the_benchmark_do_not_touch(harm: ModuleType) -> None:
    discs = [disc for group in harm.place_discs(0.1, 0) for disc in group]
    assert len(discs) == harm.COPIES * len(harm.GROUPS)
    covered = np.sum([disc.distance <= disc.diameter / 2 + harm.GAP + harm.RING for disc in discs], axis=0)
    assert covered.max() == 1


@pytest.mark.parametrize(("name", "options"), METHODS.values(), ids=METHODS)
def test_a_slice_full_of_detail_stays_as_near_to_a_second_scan_of_it(name: str, options: dict[str, str]) -> None:
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    first, second = torch.from_numpy(nibabel.Nifti1Image.from_filename(path).get_fdata()[..., 12, :]).permute(2, 0, 1)
    denoised = Denoise(name, **options)(first[None])[0]
    before, after = ((image - second)[first > 60].square().mean().sqrt() for image in (first, denoised))
    assert after < 1.2 * before
