"""Training for correlated noise: what re-noising with random phases keeps, and the script from images to weights."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.io import imsave
from torch import Tensor

from monai_dnaprior import create_denoiser, load_weights
from monai_dnaprior.noise.metrics import correlation

ROOT = Path(__file__).parents[1]
COUNT, SIDE = 400, 64


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("training_noise")


@pytest.fixture
def residual() -> tuple[Tensor, Tensor]:
    """Blurred noise times a map of deviations that doubles from left to right, and the map."""
    drawn = torch.Generator().manual_seed(100)  # no seed of the phases
    frequency = torch.fft.fftfreq(SIDE)
    blur = (-20 * 0.8**2 * (frequency[:, None] ** 2 + frequency**2)).exp()
    white = torch.randn(COUNT, 1, SIDE, SIDE, generator=drawn)
    deviation = torch.linspace(0.05, 0.1, SIDE).expand(COUNT, 1, SIDE, SIDE)
    coloured = torch.fft.ifft2(torch.fft.fft2(white) * blur).real
    return coloured / coloured.std() * deviation, deviation


def renoised(noise: ModuleType, residual: tuple[Tensor, Tensor], kind: str = "phases", seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(noise, f"renoised_by_{kind}")(*residual)


def bands(noise: ModuleType, images: Tensor, deviation: Tensor) -> Tensor:
    """Mean power in eight rings of frequencies, of what is even."""
    even = images / deviation
    power = torch.fft.fft2(even * noise.taper(SIDE, even.device)).abs().square().mean((0, 1))
    frequency = torch.fft.fftfreq(SIDE)
    ring = (16 * torch.hypot(frequency[:, None], frequency)).long().clamp(max=7)
    return torch.stack([power[ring == number].mean() for number in range(8)])


def test_random_phases_keep_the_spectrum_where_signs_do_not(noise: ModuleType, residual: tuple[Tensor, Tensor]) -> None:
    before, after, signs = (
        bands(noise, images, residual[1])
        for images in (residual[0], renoised(noise, residual), renoised(noise, residual, "signs"))
    )
    carrying = before > 0.03 * before.max()  # below, what two tapers leak in is seen
    assert 3 < carrying.sum() < 8
    assert (after / before - 1)[carrying].abs().max() < 0.02
    assert (signs / before - 1)[carrying].abs().max() > 0.5
    assert signs[-1] > 10 * before[-1]  # white


def test_random_phases_keep_power_map_and_mean(noise: ModuleType, residual: tuple[Tensor, Tensor]) -> None:
    again = renoised(noise, residual)
    assert again.square().mean().item() == pytest.approx(residual[0].square().mean().item(), rel=0.02)
    inner = slice(8, -8)  # not in the reach of the taper
    columns = [images[:, 0, inner, inner].square().mean((0, 1)).sqrt() for images in (again, residual[0])]
    columns = [values.unflatten(0, (4, -1)).mean(1) for values in columns]  # over 12 columns: they vary from one to one
    assert (columns[0] / columns[1] - 1).abs().max() < 0.02
    assert again.mean().abs() < 0.01 * again.std()


def test_random_phases_are_drawn_anew_and_tell_nothing_of_the_residual(
    noise: ModuleType, residual: tuple[Tensor, Tensor]
) -> None:
    first, same, other = (renoised(noise, residual, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    for one in (first, other):
        assert abs(correlation(one, residual[0])) < 0.01  # some 100,000 independent places
    assert abs(correlation(first, other)) < 0.01


def test_recorrupted_images_have_independent_noise_of_the_law_that_is_told(noise: ModuleType) -> None:
    clean = torch.full((COUNT, 1, 32, 32), 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = noise.recorrupted(clean)
    first, second = ((image - clean) / pair.deviation for image in (pair.first, pair.second))
    assert first.std().item() == pytest.approx(1, rel=0.02)
    assert second.std().item() == pytest.approx(1, rel=0.02)
    assert abs(correlation(first, second)) < 0.02
    assert (pair.level * 255).min() >= 1.4
    assert (pair.level * 255).max() <= 64


def test_the_script_trains_weights_that_load(
    tmp_path: Path, clean_slice: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("benchmark", "allow_tf32"):  # the script sets them; put back afterwards
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    script, table = (importlib.import_module(name) for name in ("train_phases", "table_phases"))
    clock = SimpleNamespace(time=itertools.count(step=0.1).__next__)  # as many steps on any machine
    monkeypatch.setattr(script, "time", clock)
    pixels = (255 * clean_slice[0, 0]).to(torch.uint8).numpy()
    (tmp_path / "train" / "mr").mkdir(parents=True)
    for number in range(16):  # a tiny run takes every eighth
        name = f"{'held' if number == 8 else 'seen'}_{number:02}.png"
        turned = np.ascontiguousarray(np.rot90(pixels, number))
        imsave(tmp_path / "train" / "mr" / f"{number:02}_{name}", turned, check_contrast=False)
    with torch.random.fork_rng():
        script.main(["--device", "cpu", "--tiny", "--data", str(tmp_path), "--output", str(tmp_path), "--held", "08",
                     "--seconds", "2.5", "--reserve", "1"])  # fmt: skip
    trained = load_weights(tmp_path / "iddp.safetensors")
    assert trained.training["finished"]
    assert trained.training["steps"] > 5
    assert trained.training["renoise"] == "phases"
    result = create_denoiser("iddp", weights=str(tmp_path / "iddp.safetensors"), limited=False)(clean_slice)
    assert result.image.isfinite().all()
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (lines[0]["images"], lines[0]["held"]) == (1, 1)
    assert lines[-1]["end"]
    rows = table.table(lines).splitlines()
    assert len(rows) == 2 + len(table.NOISES)
    assert all(row.count("|") == rows[0].count("|") for row in rows)
