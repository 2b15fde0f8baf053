"""The bundle: run as users run it, checked as hosts check it, equal to the transform."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from run_bundle import run_bundle
from test_reader import axial, write_series

from monai_dnaprior import DNAPriorDenoise, DNAPriorInferer, ScanReader, create_denoiser, denoising_records
from monai_dnaprior.files.reader import find_scans

BUNDLE = Path(__file__).parents[1] / "bundles" / "dnaprior_denoise"
CONFIG = BUNDLE / "configs" / "inference.json"
STEPS = 3
UNREFINED = ("--denoiser#refinements", "0")  # the filter takes longer than so few steps
REQUIRED_METADATA = (
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version task description "
    "authors copyright network_data_format"
).split()


def command(dataset_dir: Path, output_dir: Path, *overrides: str) -> list[str]:
    """The command of the README."""
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIG), "--bundle_root", str(BUNDLE)]
    words += ["--dataset_dir", str(dataset_dir), "--output_dir", str(output_dir), "--steps", str(STEPS)]
    return [*words, "--device", "cpu", "--progress", "False", *overrides]


def run_here(*arguments: Any) -> str:
    """The same inside this process."""
    return run_bundle(command(*arguments)[3:], BUNDLE.parent)


def parser(**overrides: Any) -> ConfigParser:
    config = ConfigParser()
    config.read_config(str(CONFIG))
    config.update(
        {"bundle_root": str(BUNDLE), "device": torch.device("cpu"), "steps": STEPS, "progress": False, **overrides}
    )
    return config


def test_run_on_nifti_equals_the_transform_bit_for_bit(nifti_path: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub-01").mkdir(parents=True)
    nifti_path.rename(tmp_path / "in" / "sub-01" / "case.nii.gz")
    words = command(tmp_path / "in", tmp_path / "out", "--preset", "default")
    finished = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert "case.nii.gz: 3 slices denoised; sigma" in finished.stdout
    assert "in 3 of 3 slices: under-fitted" in finished.stdout
    assert "nvimgcodec" not in (finished.stdout + finished.stderr).lower()  # MONAI's, of a decoder that is not needed
    saved = nibabel.load(tmp_path / "out" / "sub-01" / "case_denoised.nii.gz")
    source = nibabel.load(tmp_path / "in" / "sub-01" / "case.nii.gz")
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    expected = DNAPriorDenoise(steps=STEPS)(source.get_fdata(dtype=np.float32)[None])[0]
    assert saved.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(saved.dataobj), expected)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [(["--preset", "quick"], "preset='quick' is unknown; choose one of default, fast, instant, best, paper."),
     (["--slice_dim", "7"], "slice_dim=7 is no spatial axis"), (["--device", "mps"], "device='mps' is not supported"),
     ([], "holds no NIfTI file and no DICOM image series.")],
    ids=["denoiser", "inferer", "device", "folder"],
)  # fmt: skip
def test_the_reason_of_a_failure_is_the_last_line(
    tmp_path: Path, overrides: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored afterwards
    if overrides:
        nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 1)), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_here(tmp_path, tmp_path / "out", *overrides)
    sys.excepthook(caught.type, caught.value, caught.tb)
    written = capsys.readouterr().err
    assert "Traceback" in written
    last = written.splitlines()[-1]
    assert last.startswith("monai-dnaprior: ")
    assert reason in last


def test_a_run_says_where_it_computes(nifti_path: Path, tmp_path: Path) -> None:
    printed = run_here(nifti_path.parent, tmp_path / "out")
    assert printed.index("computing on cpu") < printed.index("case.nii.gz: 3 slices denoised")


def test_run_on_dicom_series_keeps_the_affine(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 16, 20))
    for name in ("1.2.840.5", "1.2.840.6"):
        write_series(tmp_path / "in" / name, pixels, positions=axial(3), orientation=(1, 0, 0, 0, 1, 0), slope=0.5)
    run_here(tmp_path / "in", tmp_path / "out")
    for name in ("1.2.840.5", "1.2.840.6"):
        saved = nibabel.load(tmp_path / "out" / f"{name}_denoised.nii.gz")
        source = Compose([LoadImaged("image", reader=ScanReader())])({"image": tmp_path / "in" / name})["image"]
        np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
        assert saved.shape == source.shape
        assert 0 < np.abs(saved.get_fdata() - source.numpy()).mean() < 500


def test_a_volume_of_one_slice_stays_a_volume(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    volume = np.random.default_rng(0).normal(100, 10, (20, 24, 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 7, 1])), tmp_path / "in" / "one.nii")
    run_here(tmp_path / "in", tmp_path / "out")
    saved = nibabel.load(tmp_path / "out" / "one_denoised.nii.gz")
    assert saved.shape == (20, 24, 1)
    assert saved.header.get_zooms() == (1, 1, 7)


def test_overrides_reach_the_fit_and_another_seed_or_preset_draws_its_own_network(
    nifti_path: Path, tmp_path: Path
) -> None:
    def saved(name: str, *overrides: str) -> np.ndarray:
        run_here(nifti_path.parent, tmp_path / name, *overrides)
        return nibabel.load(tmp_path / name / "case_denoised.nii.gz").get_fdata()

    image = nibabel.load(nifti_path).get_fdata(dtype=np.float32)[None]
    other = saved("other", "--seed", "1", "--slice_dim", "0", "--tv_weight", "0.5", "--batch_size", "2")
    assert np.array_equal(other, DNAPriorDenoise(steps=STEPS, seed=1, slice_dim=0, tv_weight=0.5)(image)[0])


def test_paper_preset_has_the_networks_of_the_paper() -> None:
    network = parser(preset="paper").get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_217_573


def test_check_properties_has_nothing_to_say(nifti_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(CONFIG), workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(nifti_path.parent)
    )
    assert workflow.check_properties() == []


def test_metadata_has_what_the_schema_requires() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert [key for key in REQUIRED_METADATA if not metadata.get(key)] == []
    assert metadata["version"] in metadata["changelog"]
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        described = metadata["network_data_format"][side][name]
        keys = "type format num_channels spatial_shape dtype value_range is_patch_data channel_def".split()
        assert [key for key in keys if key not in described] == []
    network = create_denoiser("dna-prior").network(1)
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == network.input_channels
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [f"{2 * network.multiple}*n"] * 2


def test_folder_is_complete() -> None:
    for name in "LICENSE configs/logging.conf models/model.pt docs/README.md docs/data_license.txt".split():
        assert (BUNDLE / name).stat().st_size > 0


def test_weights_are_those_of_the_default_seed() -> None:
    weights = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    expected = create_denoiser("dna-prior", preset="default", seed=0).network(1).state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_hosts_call_preprocessing_inferer_and_postprocessing_by_keyword(nifti_path: Path, tmp_path: Path) -> None:
    config = parser(output_dir=str(tmp_path / "out"))  # no dataset_dir: hosts have none
    network = config.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    network.eval()
    image = config.get_parsed_content("preprocessing")({"image": str(nifti_path)})["image"]
    with torch.no_grad():
        output = config.get_parsed_content("inferer")(inputs=image[None], network=network)
    assert isinstance(output, MetaTensor)
    assert output.shape == image[None].shape
    assert torch.equal(output[0].as_tensor(), DNAPriorDenoise(steps=STEPS)(image).as_tensor())
    assert config.get_parsed_content("postprocessing") is not None


@pytest.mark.parametrize("batch", [1, 2])
def test_inferer_takes_tensors_and_batches_and_leaves_the_network_alone(batch: int) -> None:
    denoiser = create_denoiser("dna-prior", steps=STEPS)
    network = denoiser.network(1)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    images = torch.rand(batch, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    output = DNAPriorInferer(denoiser)(inputs=images, network=network)
    assert type(output) is torch.Tensor
    for index in range(batch):
        assert torch.equal(output[index], DNAPriorDenoise(steps=STEPS)(images[index]))
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


def test_inferer_starts_from_the_network_it_is_given() -> None:
    images = torch.rand(1, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    denoiser = create_denoiser("dna-prior", steps=STEPS)
    outputs = [
        DNAPriorInferer(denoiser)(inputs=images, network=create_denoiser("dna-prior", seed=seed).network(1))
        for seed in (0, 7)
    ]
    assert torch.equal(outputs[0][0], DNAPriorDenoise(steps=STEPS)(images[0]))
    assert not torch.equal(*outputs)


def test_records_reach_the_output_of_the_evaluator(nifti_path: Path, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(CONFIG),
        workflow_type="infer",
        bundle_root=str(BUNDLE),
        dataset_dir=str(nifti_path.parent),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        steps=STEPS,
        progress=False,
    )
    workflow.run()
    assert [record["steps"] for record in denoising_records(workflow.evaluator.state.output[0]["pred"])] == [STEPS] * 3


@pytest.mark.parametrize("name", ["volumes/Task04_Hippocampus/imagesTr", "dicom/STS_008_MR_T1"])
def test_run_on_real_scans(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = find_scans(shared_data / name)[0]["image"]
    if isinstance(source, str) and source.endswith(".nii.gz"):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / Path(source).name).symlink_to(source)
        run_here(tmp_path / "in", tmp_path / "out", *UNREFINED)
    else:
        run_here(shared_data / name, tmp_path / "out", *UNREFINED)
    saved = nibabel.load(next((tmp_path / "out").glob("*_denoised.nii.gz")))
    image = Compose([LoadImaged("image", reader=ScanReader()), EnsureChannelFirstd("image")])({"image": source})[
        "image"
    ]
    np.testing.assert_allclose(saved.affine, image.affine, atol=1e-4)
    assert saved.shape == image.shape[1:]
