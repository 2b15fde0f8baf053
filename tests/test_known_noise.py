"""Noise that is known: a number, a map or a model in place of what is measured, in every unit and by every way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import GUARDED
from torch import Tensor

from monai_dnaprior import Denoise, create_denoiser
from monai_dnaprior.__main__ import main
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.transforms.out_of_memory import denoise_tiles

pytestmark = GUARDED
FAST = {"preset": "fast", "steps": 10, "least_steps": 10}
METHODS: dict[str, dict[str, Any]] = {"dna-prior": FAST, "iddp": {}, "iddp refined": {"refinements": 1}, "nl-means": {}}


def denoiser_of(label: str) -> Any:
    return create_denoiser(label.split()[0], **METHODS[label])


def scene(side: int = 96) -> tuple[Tensor, Tensor]:
    """Clean and noisy image (1, side, side), in units of hundreds, whose noise is twice as strong on the right."""
    clean = 300 + 100 * torch.sin(torch.arange(side) / 9).expand(1, side, side)
    strength = torch.where(torch.arange(side) < side // 2, 20.0, 40.0)
    return clean, clean + strength * torch.randn(1, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("label", METHODS)
def test_a_number_is_the_level_in_the_units_of_the_image(label: str) -> None:
    _, noisy = scene()
    method, options = label.split()[0], METHODS[label]
    weak, strong = (Denoise(method, noise=level, residual=True, **options)(noisy)[1] for level in (8.0, 30.0))
    assert weak.std() < 0.7 * strong.std()
    again = Denoise(method, noise=64 * 30.0, **options)(64 * noisy)
    torch.testing.assert_close(again / 64, Denoise(method, noise=30.0, **options)(noisy), rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("label", ["iddp refined", "dna-prior"])
def test_a_map_says_where_noise_is_strong(label: str) -> None:
    clean, noisy = scene()
    strength = torch.where(torch.arange(96) < 48, 20.0, 40.0).expand(96, 96)
    method, options = label.split()[0], METHODS[label]
    image = Denoise(method, noise=strength.numpy(), **options)(noisy)
    errors = [(image - clean)[..., half].square().mean().sqrt() for half in (slice(0, 48), slice(48, None))]
    assert errors[0] < 0.5 * 20
    assert errors[1] < 0.5 * 40
    assert torch.equal(image, Denoise(method, noise=strength[None], **options)(noisy))


def test_a_model_says_all() -> None:
    noisy = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    correlation = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
    record = denoiser_of("dna-prior")(noisy, noise=[NoiseModel(0.07, correlation)]).records[0]
    assert record.sigma == pytest.approx(0.07)
    assert not [text for text in record.warnings if "correlated" in text]


def test_slices_of_a_volume_have_each_their_part_of_a_map() -> None:
    volume = torch.rand(1, 16, 20, 3, generator=torch.Generator().manual_seed(0))
    strength = torch.rand(16, 20, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    whole = Denoise("tv", noise=strength)(volume)
    for index in range(3):
        middle = Denoise("tv", noise=strength, slice_dim=-1)(volume[..., index : index + 1].expand_as(volume))
        torch.testing.assert_close(whole[..., index], middle[..., index], rtol=0.2, atol=0.2)


def test_tiles_have_their_part_of_a_map() -> None:
    seen: list[Tensor] = []

    def denoiser(noisy: Tensor, *, slice_indices: range, noise: list[Tensor]) -> Any:
        seen.append(noise[0])
        assert torch.equal(noise[0], noisy)
        return create_denoiser("identity")(noisy)

    image = torch.rand(1, 1, 128, 300, generator=torch.Generator().manual_seed(0))
    denoise_tiles(denoiser, image, range(1), [image], 128)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.ones((4, 4)), r"noise.shape=\(4, 4\) is not that of the image, \(16, 16\)"),
        (-1.0, "must be positive and finite"),
        (np.full((16, 16), np.nan), "must be positive and finite"),
    ],
)
def test_what_is_no_noise_of_the_image_is_refused(noise: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoise("tv", noise=noise)(torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_the_command_takes_a_number_or_a_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, noisy = scene(32)
    nibabel.save(nibabel.Nifti1Image(noisy[0, ..., None].numpy(), np.eye(4)), tmp_path / "in.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((32, 32, 1), 30, np.float32), np.eye(4)), tmp_path / "map.nii")
    for name, noise in (("number", "30"), ("map", str(tmp_path / "map.nii"))):
        out = tmp_path / f"{name}-out.nii"
        assert main(["denoise", str(tmp_path / "in.nii"), str(out), "--method", "nl-means", "--noise", noise]) == 0
    number, map_ = (nibabel.load(tmp_path / f"{name}-out.nii").get_fdata() for name in ("number", "map"))
    np.testing.assert_allclose(number, map_, rtol=1e-4)
    report = json.loads((tmp_path / "number-out.json").read_text(encoding="utf-8"))
    assert report["configuration"]["noise"] == 30.0
    assert main(["denoise", str(tmp_path / "in.nii"), str(tmp_path / "no.nii"), "--noise", "nowhere.nii"]) == 2
    assert "noise='nowhere.nii' does not exist" in capsys.readouterr().err
