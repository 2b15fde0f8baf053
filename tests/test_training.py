"""Training: the crops, the trainer, going on after a kill, and the three commands of the bundle."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow
from monai.data import DataLoader
from run_bundle import run_bundle
from skimage.io import imread, imsave
from test_bundle import REQUIRED_METADATA
from test_reader import axial, write_series
from torch import Tensor

from monai_dnaprior import IDDPDenoise, load_weights
from monai_dnaprior.files.disk import hash_of
from monai_dnaprior.fitting.devices import PRECISIONS
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.training.budget import Budget, plateau_then_linear
from monai_dnaprior.training.data import EpochSampler, NoisyCrops, at_half_size, held_back, load_images, noisy_pairs
from monai_dnaprior.training.objectives import Noise2Void, create_objective
from monai_dnaprior.training.trainer import (
    Checkpoints,
    DenoisingTrainer,
    TrainingLog,
    initial_network,
    latest_checkpoint,
)
from monai_dnaprior.training.unet import DenoisingUNet
from monai_dnaprior.training.weights import SHIPPED

BUNDLE = Path(__file__).parents[1] / "bundles" / "iddp_denoise"
SHORT = ["--epochs", "4", "--steps_per_epoch", "5", "--side", "32", "--held_back", "3", "--features", "[4, 8]"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, clean_slice: Tensor) -> Path:
    """A folder of pictures to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = (255 * clean_slice[0, 0]).to(torch.uint8).numpy()
    for number, image in enumerate([pixels, pixels[::-1], pixels[:, ::-1], pixels.T, pixels.T[::-1], pixels[:40]]):
        imsave(folder / f"{number}.png", np.ascontiguousarray(image), check_contrast=False)
    return folder


def command(config: str, *overrides: str, source: Path, target: Path) -> list[str]:
    """The command of the bundle's page with this configuration, for these folders."""
    page = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    shown = [text for text in re.findall(r"```bash\n(.*?)```", page, flags=re.S) if f"/{config}.json" in text]
    words = shlex.split(shown[0].replace("\\\n", " "))
    meant = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        "INPUT": [str(source)],
        "OUTPUT": [str(target)],
    }
    return [part for word in words for part in meant.get(word, [word])] + ["--device", "cpu", *overrides]


def run(*arguments: Any, **options: Any) -> str:
    """Run a command of the bundle's page, as it is shown."""
    finished = subprocess.run(
        command(*arguments, **options), capture_output=True, encoding="utf-8", check=False, cwd=BUNDLE.parent
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "nvimgcodec" not in (finished.stdout + finished.stderr).lower()
    return finished.stdout


def run_here(*arguments: Any, **options: Any) -> str:
    """The same inside this process."""
    return run_bundle(command(*arguments, **options)[3:], BUNDLE.parent)


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training that was not disturbed leaves."""
    folder = tmp_path_factory.mktemp("training") / "whole"
    run("train", *SHORT, source=pictures, target=folder)
    return folder


# the crops


def test_images_of_pictures_scans_and_series_are_loaded_in_one_range(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    imsave(tmp_path / "grey.png", draw.integers(0, 255, (12, 10), dtype=np.uint8), check_contrast=False)
    imsave(tmp_path / "colour.png", draw.integers(0, 255, (12, 10, 3), dtype=np.uint8), check_contrast=False)
    volume = draw.normal(1000, 100, (12, 10, 3)).astype(np.float32)
    volume[..., 1] = 7  # a constant slice
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    pixels = draw.integers(0, 1000, (2, 12, 10))
    write_series(tmp_path / "series", pixels, positions=axial(2), orientation=(1, 0, 0, 0, 1, 0), slope=0.5)
    images = load_images(tmp_path)
    assert [image.shape for image in images] == [(1, 12, 10)] * 4 + [(1, 10, 12)] * 2
    assert all(image.dtype == torch.float32 and image.isfinite().all() for image in images)
    assert all(0 < image.median() < 1 for image in images)
    with pytest.raises(ValueError, match="holds no picture, NIfTI file or DICOM image series"):
        load_images(tmp_path / "series" / "nothing")


def test_images_are_left_out_or_taken_alone_by_the_beginnings_of_their_names(pictures: Path) -> None:
    (everything, without, only), absent = (
        [len(load_images(pictures, **options)) for options in ({}, {"without": ["0", "3"]}, {"only": ["0", "3"]})],
        load_images(pictures, only=["no such"]),
    )
    assert (everything, without, only, absent) == (6, 4, 2, [])
    with pytest.raises(ValueError, match="holds no picture"):
        load_images(pictures, without=[""])


def test_a_crop_is_drawn_by_its_number_alone(clean_slice: Tensor) -> None:
    crops = NoisyCrops([clean_slice[0]], noise=["gaussian:0:50"], needs="clean", side=32, length=4)
    later = NoisyCrops([clean_slice[0]], noise=["gaussian:0:50"], needs="clean", side=32, length=4)
    assert all(torch.equal(crops[9][key], later[9][key]) for key in ("image", "label"))
    assert not torch.equal(crops[8]["label"], crops[9]["label"])
    reseeded = NoisyCrops([clean_slice[0]], noise=["gaussian:0:50"], needs="clean", side=32, seed=1)
    assert not torch.equal(crops[9]["label"], reseeded[9]["label"])
    assert len(crops) == 4
    state = torch.get_rng_state()
    crops[3]
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_as_strong_as_was_asked_for_and_a_second_image_has_its_own(clean_slice: Tensor) -> None:
    crops = NoisyCrops([torch.full((1, 64, 64), 0.5)], noise=["gaussian:0:50"], needs="second", side=64)
    items = [crops[number] for number in range(60)]
    sigmas = torch.stack([255 * (item["image"] - 0.5).std() for item in items])
    assert 0 < sigmas.min() < 5
    assert 45 < sigmas.max() < 52
    noises = [(item["image"] - 0.5, item["label"] - 0.5) for item in items]
    correlations = torch.stack([(one * other).mean() / (one.std() * other.std()) for one, other in noises])
    assert correlations.mean().abs() < 0.02
    kinds = NoisyCrops([clean_slice[0]], noise=["speckle:0.1:0.1", "poisson:30:30"], needs="clean", side=32)
    zeros = [(item["image"][item["label"] == 0] == 0).all() for item in (kinds[number] for number in range(10))]
    assert all(zeros)  # neither kind makes noise where there is nothing
    own = NoisyCrops([clean_slice[0]], noise=None, side=32)[0]
    assert list(own) == ["image"]


def test_crops_come_in_all_eight_orientations() -> None:
    crops = NoisyCrops([torch.arange(9.0).view(1, 3, 3)], noise=None, side=3)
    assert len({tuple(crops[number]["image"].flatten().tolist()) for number in range(100)}) == 8


def test_small_images_are_mirrored_to_the_size_of_a_crop() -> None:
    image = torch.arange(6.0).view(1, 2, 3)
    crop = NoisyCrops([image], noise=None, side=8)[0]["image"]
    assert crop.shape == (1, 8, 8)
    assert set(crop.unique().tolist()) == set(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": ["gaussian:25"]}, "noise='gaussian:25' must be one of .* its least and greatest strength"),
        ({"noise": ["gaussian:50:10"]}, "noise='gaussian:50:10' must be"),
        ({"noise": ["salt:0:1"]}, "noise='salt:0:1' must be"),
        ({"noise": None, "needs": "clean"}, "needs='clean' with noise=None: of an image's own noise there is no clean"),
        ({"noise": None, "side": 0}, "side=0 must be a whole number"),
        ({"noise": None, "images": []}, "images is empty"),
    ],
)
def test_bad_crops_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyCrops(**{"images": [torch.zeros(1, 4, 4)], **options})


def test_samplers_deal_out_every_number_once() -> None:
    numbers = []
    for epoch in (1, 2, 3):
        for rank in range(2):
            sampler = EpochSampler(range(6), num_replicas=2, rank=rank)
            sampler.set_epoch(epoch)
            assert len(sampler) == 3
            numbers += list(sampler)
    assert sorted(numbers) == list(range(18))
    with pytest.raises(ValueError, match="an epoch of 5 items cannot be dealt out to 2 processes"):
        EpochSampler(range(5), num_replicas=2)


def test_learning_rate_stays_and_falls_linearly() -> None:
    budget, rates = Budget(steps=2_000_000), []
    for step in (0, 1_000_000, 1_500_000, 2_000_000):
        budget.passed(step)
        rates.append(plateau_then_linear(step, budget=budget))
    assert rates == [1, 1, 0.5, 0]


# the trainer


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trainer(
    folder: Path, images: list[Tensor], *, epochs: int, handlers: list[Any], precision: str = "float32"
) -> DenoisingTrainer:
    objective = create_objective("supervised")
    network = DenoisingUNet(features=(8, 16, 16))
    crops = NoisyCrops(images, noise=["gaussian:25:25"], needs="clean", side=48, length=80)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    log = TrainingLog(folder, network=network, objective=objective, pairs=noisy_pairs(images, "gaussian:25"))
    return DenoisingTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(crops, batch_size=4, sampler=EpochSampler(crops), generator=torch.Generator()),
        network=network,
        optimizer=optimizer,
        objective=objective,
        train_handlers=[*handlers, log],
        precision=precision,
    )


@pytest.mark.usefixtures("global_random_state_is_left_alone")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_makes_a_denoiser_and_writes_a_log_and_a_picture(
    precision: str, tmp_path: Path, clean_slice: Tensor
) -> None:
    made = trainer(tmp_path, [clean_slice[0]], epochs=8, handlers=[], precision=precision)
    made.run()
    assert all(weight.dtype == torch.float32 for weight in made.network.parameters())
    rows = log_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [20, 40, 60, 80, 100, 120, 140, 160]
    noisy = add_noise(clean_slice, "gaussian:25", seed=0)
    before = -10 * torch.log10((noisy.clamp(0, 1) - clean_slice).square().mean()).item()
    assert float(rows[-1]["psnr"]) > before + 2
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    picture = imread(tmp_path / "validation.png")
    assert picture.shape == (96, 4 * 80, 3)
    np.testing.assert_allclose(picture[:, 160:240, 0] / 255, clean_slice[0, 0], atol=0.003)


def test_the_picture_has_a_row_for_each_pair_whatever_its_size(tmp_path: Path) -> None:
    pairs = [(torch.rand(1, *shape), torch.rand(1, *shape)) for shape in ((1, 6, 5), (3, 6, 8))]
    log = TrainingLog(tmp_path, network=torch.nn.Identity(), objective=create_objective("iddp"), pairs=pairs)
    log.draw([noisy for noisy, _ in pairs])
    assert imread(tmp_path / "validation.png").shape == (12, 32, 3)


def test_a_step_in_bfloat16_is_nearly_that_in_float32_with_weights_as_they_are_now(
    tmp_path: Path, clean_slice: Tensor
) -> None:
    outputs = []
    for precision in PRECISIONS:
        made = trainer(tmp_path, [clean_slice[0]], epochs=1, handlers=[], precision=precision)
        with torch.autocast("cpu", enabled=False):  # in which PyTorch keeps what it has rounded
            made.apply_network(clean_slice)
            with torch.no_grad():
                made.network.network.model[0].conv.weight.mul_(3)
            outputs.append(made.apply_network(clean_slice))
    torch.testing.assert_close(*outputs, atol=0.02, rtol=0)
    assert (outputs[0] != outputs[1]).any()
    with pytest.raises(ValueError, match="precision='half' is unknown"):
        trainer(tmp_path, [clean_slice[0]], epochs=1, handlers=[], precision="half")


def test_a_checkpoint_that_is_cut_off_is_passed_over(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for epoch in (2, 10):
        torch.save({"epoch": epoch}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    whole = (tmp_path / "checkpoint_epoch=10.pt").read_bytes()
    (tmp_path / "checkpoint_epoch=10.pt").write_bytes(whole[: len(whole) // 2])
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=2.pt")


def test_images_held_back_are_not_trained_on() -> None:
    images = [torch.full((1, 1, 1), float(number)) for number in range(10)]
    train, back = held_back(images, 4)
    assert sorted(int(image) for image in (*train, *back)) == list(range(10))
    assert [int(image) for image in back] == [2, 6]


def test_images_at_half_size_are_means_of_blocks() -> None:
    image, thin = torch.arange(24.0).reshape(1, 4, 6), torch.zeros(1, 1, 6)
    (half,) = at_half_size([image, thin])
    torch.testing.assert_close(half, image.reshape(1, 2, 2, 3, 2).mean((2, 4)))


def test_a_training_starts_from_weights_that_fit_its_objective() -> None:
    network, shipped = initial_network(weights=SHIPPED), load_weights().network
    for weight, other in zip(network.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(weight, other)
        assert weight.requires_grad
        assert weight is not other
    assert not torch.equal(next(initial_network().parameters()), next(shipped.parameters()))
    with pytest.raises(ValueError, match="output 1 images, not 3"):
        initial_network(weights=SHIPPED, heads=3)


# the commands


def test_train_goes_on_from_weights_with_images_of_its_own(pictures: Path, trained: Path, tmp_path: Path) -> None:
    start = trained / "weights.safetensors"
    still = ["--weights", str(start), "--learning_rate", "0.0", "--epochs", "1", *SHORT[2:]]
    run_here("train", *still, source=pictures, target=tmp_path)
    weights, before = load_weights(tmp_path / "weights.safetensors"), load_weights(start)
    for weight, other in zip(weights.network.parameters(), before.network.parameters(), strict=True):
        torch.testing.assert_close(weight, other)
    assert weights.training["started_from"] == hash_of(start)
    assert before.training["started_from"] is None


def test_train_leaves_weights_a_model_a_log_and_a_picture(trained: Path) -> None:
    weights = load_weights(trained / "weights.safetensors")
    model = torch.load(trained / "model.pt", weights_only=True)
    state = weights.network.state_dict()
    assert all(torch.equal(state[name], model[name]) for name in state)
    assert weights.training["steps"] == 20
    assert weights.training["noise"] == ["gaussian:0:50"]
    assert len(log_of(trained)) == 4
    assert (trained / "validation.png").exists()
    assert IDDPDenoise(weights=str(trained / "weights.safetensors"))(torch.rand(1, 16, 16)).shape == (1, 16, 16)


def run_killed(config: str, *overrides: str, steps: int, source: Path, target: Path) -> None:
    """A training that is killed after so many steps, and goes on from the newest checkpoint."""
    killing = ["--killed", f"{{'_target_': 'killed.Killed', 'steps': {steps}}}"]
    killing += ["--train#trainer#train_handlers", "$@train#handlers + @train#writers + [@killed]"]
    words = command(config, *overrides, *killing, source=source, target=target)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(words, cwd=BUNDLE.parent, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "Restored all variables" in run_here(config, *overrides, source=source, target=target)


def assert_same_weights(*folders: Path) -> None:
    one, other = (torch.load(folder / "model.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_that_was_killed_goes_on_to_the_same_weights(pictures: Path, trained: Path, tmp_path: Path) -> None:
    run_killed("train", *SHORT, steps=13, source=pictures, target=tmp_path)
    assert_same_weights(trained, tmp_path)


def test_two_processes_train_together(pictures: Path, tmp_path: Path) -> None:
    other = ["--objective_name", "noise2void", "--objective_options", "{}", "--precision", "bfloat16"]
    other += ["--residual_units", "1"]
    run("multi_gpu_train", "--epochs", "2", *SHORT[2:], *other, source=pictures, target=tmp_path)
    weights = load_weights(tmp_path / "weights.safetensors")
    assert weights.training["steps"] == 10
    assert weights.objective == Noise2Void()
    assert weights.training["precision"] == "bfloat16"
    assert weights.network.configuration["residual_units"] == 1
    assert len(log_of(tmp_path)) == 2
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=2.pt")


def test_evaluate_measures_before_and_after(pictures: Path, tmp_path: Path) -> None:
    printed = run_here("evaluate", source=pictures, target=tmp_path)
    measured = json.loads(printed.strip().splitlines()[-1].replace("'", '"'))
    assert measured["psnr"] > measured["psnr_noisy"] + 4
    assert 0.5 < measured["ssim"] < 1
    assert (tmp_path / "psnr_summary.csv").exists()


def test_inference_equals_the_transform_bit_for_bit(nifti_path: Path, tmp_path: Path) -> None:
    printed = run_here("inference", "--progress", "False", source=nifti_path.parent, target=tmp_path / "out")
    assert "3 slices denoised" in printed
    saved = nibabel.load(tmp_path / "out" / "case_denoised.nii.gz")
    source = nibabel.load(nifti_path)
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    expected = IDDPDenoise()(source.get_fdata(dtype=np.float32)[None])[0]
    assert np.array_equal(np.asarray(saved.dataobj), expected)


@pytest.mark.parametrize(("config", "workflow_type"), [("inference", "infer"), ("train", "train")])
def test_check_properties_has_nothing_to_say(config: str, workflow_type: str, nifti_path: Path, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(BUNDLE / "configs" / f"{config}.json"),
        workflow_type=workflow_type,
        bundle_root=str(BUNDLE),
        dataset_dir=str(nifti_path.parent),
        ckpt_dir=str(tmp_path),
    )
    assert workflow.check_properties() == []


def test_bundle_is_complete_and_its_metadata_describe_the_network() -> None:
    for name in "LICENSE configs/logging.conf models/model.pt docs/README.md docs/data_license.txt".split():
        assert (BUNDLE / name).stat().st_size > 0
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert [key for key in REQUIRED_METADATA if not metadata.get(key)] == []
    assert metadata["version"] in metadata["changelog"]
    described = metadata["network_data_format"]
    assert described["inputs"]["image"]["num_channels"] == load_weights().network.channels
    assert described["outputs"]["pred"]["num_channels"] == load_weights().network.channels


def test_a_training_on_a_gpu_goes_on_without_one(tmp_path: Path, clean_slice: Tensor) -> None:
    """A checkpoint says of every tensor on which device it was."""

    def train(epochs: int) -> None:
        handlers = [Checkpoints(tmp_path, network=DenoisingUNet(features=(4, 8)))]
        trainer(tmp_path, [clean_slice[0]], epochs=epochs, handlers=handlers).run()

    train(1)
    path = Path(latest_checkpoint(tmp_path) or "")
    with zipfile.ZipFile(path) as file:
        parts = {part: file.read(part) for part in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for part, content in parts.items():
            file.writestr(part, content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    train(2)
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=2.pt")


def test_checkpoints_name_what_they_keep(tmp_path: Path, clean_slice: Tensor) -> None:
    network = DenoisingUNet(features=(4, 8))
    made = trainer(tmp_path, [clean_slice[0]], epochs=1, handlers=[Checkpoints(tmp_path, network=network)])
    made.run()
    kept = torch.load(latest_checkpoint(tmp_path) or "", weights_only=True)
    assert sorted(kept) == ["network", "trainer"]
