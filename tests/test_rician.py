"""What Rician noise adds to the mean of magnitudes, and that it is taken away."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_dnaprior import DNAPriorDenoise, DNAPriorInferer, create_denoiser, denoising_records
from monai_dnaprior.__main__ import main
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.noise.rician import HIGHEST, signal_of, table, without_rician_bias
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

UNIT = 0.1  # sigma of 25.5 on the 8-bit scale


def rician(signal: Tensor, seed: int = 0) -> Tensor:
    return add_noise(signal, f"rician:{255 * UNIT}", seed=seed)


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0, 3.0, 20.0])
def test_the_table_is_what_magnitudes_have(signal: float) -> None:
    signals, means, deviations = table()
    drawn = rician(torch.full((1000, 1000), signal * UNIT, dtype=torch.float64)) / UNIT
    assert np.interp(signal, signals, means) == pytest.approx(drawn.mean().item(), abs=0.005)
    assert np.interp(signal, signals, deviations) == pytest.approx(drawn.std().item(), abs=0.005)


def test_air_has_the_mean_and_the_deviation_of_rayleigh() -> None:
    _, means, deviations = table()
    assert means[0] == pytest.approx(np.sqrt(np.pi / 2))
    assert deviations[0] == pytest.approx(np.sqrt(2 - np.pi / 2))


def test_the_signal_of_a_mean_is_where_it_came_from() -> None:
    signals, means, _ = table()
    np.testing.assert_allclose(signal_of(means * UNIT, UNIT), signals * UNIT, atol=1e-9)
    above = means[-1] + np.array([1e-6, 1.0])  # beyond the table it goes on without a step
    np.testing.assert_allclose(signal_of(above, 1.0), HIGHEST + np.array([0.0, 1.0]), atol=1e-3)
    assert signal_of(np.array([0.0, 1.0]), 1.0).tolist() == [0.0, 0.0]  # less than the mean of air


@pytest.mark.parametrize("signal", [0.0, 0.1, 0.2, 1.0])
def test_sigma_is_that_of_either_part_at_any_signal(signal: float) -> None:
    noisy = rician(torch.full((1, 1, 256, 256), signal))
    corrected, sigmas = without_rician_bias(noisy, noisy.mean().expand(noisy.shape))
    assert sigmas == [pytest.approx(UNIT, rel=0.08)]  # least sure in air
    assert corrected.mean().item() == pytest.approx(signal, abs=0.06 if signal == 0 else 0.01)


@pytest.mark.parametrize("air", [0.25, 0.5, 0.75])
def test_sigma_is_that_of_either_part_with_any_share_of_air(air: float) -> None:
    clean = torch.where(torch.arange(256) < 256 * air, 0.0, 0.4).expand(1, 1, 256, 256)
    denoised = torch.where(clean > 0, 0.41287, UNIT * np.sqrt(np.pi / 2)).float()  # the means that belong to them
    assert without_rician_bias(rician(clean), denoised)[1] == [pytest.approx(UNIT, rel=0.03)]


def test_the_mean_of_an_image_comes_nearer(clean_slice: Tensor) -> None:
    noisy = rician(clean_slice)
    denoised = create_denoiser("gaussian")(noisy).image
    corrected, _ = without_rician_bias(noisy, denoised)
    assert psnr(corrected, clean_slice) > psnr(denoised, clean_slice) + 1


def test_pixels_in_which_no_noise_is_seen_and_other_images_do_not_matter() -> None:
    noisy = rician(torch.full((2, 1, 64, 64), 0.2))
    noisy[:, :, :20] = 0.7
    noisy[1] *= 3
    corrected, sigmas = without_rician_bias(noisy, noisy.clone())
    assert torch.equal(corrected[:, :, :19], noisy[:, :, :19])
    assert not torch.equal(corrected[:, :, 21:], noisy[:, :, 21:])
    alone, sigma = without_rician_bias(noisy[1:], noisy[1:])
    assert torch.equal(alone, corrected[1:])
    assert sigma == sigmas[1:]


@pytest.mark.parametrize("scale", [1.0, 4000.0])
def test_a_volume_is_corrected_in_its_own_units(clean_slice: Tensor, scale: float) -> None:
    noisy = scale * rician(clean_slice[0])
    plain = denoise_volume(noisy, create_denoiser("gaussian"))
    result = denoise_volume(noisy, create_denoiser("gaussian"), Slicing(rician=True))
    corrected, _ = without_rician_bias(noisy[None], plain.image[None])
    torch.testing.assert_close(result.image, corrected[0], atol=1e-4 * scale, rtol=0)
    assert plain.records[0].rician_sigma is None
    assert result.image.min() >= -1e-6 * scale


def test_slices_without_noise_come_back_as_they_are(clean_slice: Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(clean_slice[0], 7, 1, 3)
    volume = torch.stack([smooth, torch.full_like(smooth, 0.3)], -1)
    result = denoise_volume(volume, DNAPrior(steps=2), Slicing(rician=True))
    assert [record.stop_reason for record in result.records] == ["clean", "constant"]
    assert torch.equal(result.image, volume)
    assert all(record.rician_sigma is None for record in result.records)


def test_what_is_no_magnitude_is_refused(clean_slice: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="rician=True is for magnitudes"):
        DNAPriorDenoise(rician=True)(clean_slice[0] - 0.5)
    nibabel.save(nibabel.Nifti1Image(clean_slice[0].movedim(0, -1).numpy() - 0.5, np.eye(4)), tmp_path / "scan.nii")
    assert main(["denoise", str(tmp_path / "scan.nii"), str(tmp_path / "out.nii"), "--rician", "--quiet"]) != 0
    assert "rician=True is for magnitudes" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_transform_inferer_and_command_agree(clean_slice: Tensor, tmp_path: Path) -> None:
    noisy = rician(clean_slice[0])
    transform = DNAPriorDenoise(steps=5, rician=True)(noisy)
    denoiser = create_denoiser("dna-prior", steps=5)
    inferred = DNAPriorInferer(denoiser, rician=True)(inputs=noisy[None], network=denoiser.network())[0]
    assert torch.equal(inferred, transform)
    nibabel.save(nibabel.Nifti1Image(noisy.movedim(0, -1).numpy(), np.eye(4)), tmp_path / "scan.nii")
    command = ["denoise", str(tmp_path / "scan.nii"), str(tmp_path / "out.nii"), "--rician", "--steps", "5", "--quiet"]
    assert main(command) == 0
    written = torch.from_numpy(nibabel.load(tmp_path / "out.nii").get_fdata()).float().movedim(-1, 0)
    torch.testing.assert_close(written, transform, atol=1e-6, rtol=0)
    sidecar = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert sidecar["configuration"]["rician"] is True
    assert sidecar["slices"][0]["rician_sigma"] == pytest.approx(UNIT, rel=0.1)


def test_records_say_what_was_taken_for_sigma(clean_slice: Tensor) -> None:
    records = denoising_records(DNAPriorDenoise(steps=5, rician=True)(MetaTensor(rician(clean_slice[0]))))
    assert records[0]["rician_sigma"] == pytest.approx(UNIT, rel=0.1)
