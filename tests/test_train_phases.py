"""Training for correlated noise: the objective, the noise, its crops, and the command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GUARDED
from skimage.io import imsave
from test_objectives import Recorder
from test_training import assert_same_weights, log_of, run_here, run_killed
from torch import Tensor

from monai_dnaprior import create_denoiser, load_weights
from monai_dnaprior.noise.metrics import correlation
from monai_dnaprior.training.budget import Budget
from monai_dnaprior.training.masking import Windows
from monai_dnaprior.training.objectives import IDDPWithPhases
from monai_dnaprior.training.pool import RecorruptedCrops
from monai_dnaprior.training.recorruption import recorrupted
from monai_dnaprior.training.renoising import random_phases
from monai_dnaprior.training.trainer import latest_checkpoint

ROOT = Path(__file__).parents[1]
COUNT = 400
SHORT = ["--seconds", "None", "--epochs", "3", "--steps_per_epoch", "4", "--batch_size", "2", "--side", "16"]
SHORT += ["--features", "[4, 8]", "--residual_units", "0", "--held_back", "['0']"]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the objective


def pair(side: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy images, and their target: others, and a map of deviations."""
    noisy, second = (torch.rand(2, 1, side, side, generator=drawn(seed)) for seed in (1, 2))
    return noisy, torch.cat([second, torch.full_like(second, 0.1)], 1)


def loss(objective: IDDPWithPhases, network: Any, seed: int = 0, progress: float = 0.6) -> Tensor:
    noisy, target = pair()
    return objective(noisy, network, target=target, progress=progress, generator=drawn(seed))


def test_the_objective_is_its_two_terms() -> None:
    noisy, target = pair()
    network = Recorder()
    value = loss(IDDPWithPhases(fidelity_weight=2, regularity_weight=3), network)
    prior, draw = network.outputs[0], drawn()
    again = prior + random_phases(noisy - prior, target[:, 1:], draw)
    corner = torch.randint(5, (2, 2), generator=draw)  # a quarter of the side and none
    inner = Windows(torch.arange(2), corner, 12, draw)
    torch.testing.assert_close(network.inputs[1], inner(again))
    weight = 0.05 / (0.1 + 2 / 255)
    fidelity = (prior - target[:, :1]).square().sum() / 2
    regularity = (network.outputs[1] - inner(prior)).square().sum() / 2
    torch.testing.assert_close(value, weight * (2 * fidelity + 3 * regularity))
    first = loss(IDDPWithPhases(fidelity_weight=2), warming := Recorder(), progress=0.4)
    torch.testing.assert_close(first, weight * 2 * fidelity)
    assert len(warming.inputs) == 1


def test_its_gradient_flows_through_the_second_pass_alone() -> None:
    network = Recorder()
    loss(IDDPWithPhases(fidelity_weight=0), network).backward()
    shown, wanted = network.inputs[1], network.weight.grad
    assert not shown.requires_grad  # neither through the image that is noised again
    noisy, target = pair()
    draw, again = drawn(), Recorder()
    prior = again(noisy).detach()
    random_phases(noisy - prior, target[:, 1:], draw)
    inner = Windows(torch.arange(2), torch.randint(5, (2, 2), generator=draw), 12, draw)
    weight = 0.05 / (0.1 + 2 / 255)
    (weight * (again(shown) - inner(prior)).square().sum() / 2).backward()  # nor through the target
    torch.testing.assert_close(wanted, again.weight.grad)


@GUARDED
def test_its_noise_is_drawn_anew_each_step() -> None:
    network = Recorder()
    for seed in range(2):
        loss(IDDPWithPhases(), network, seed)
    assert not torch.equal(network.inputs[1], network.inputs[3])


# the noise and its crops


def test_recorrupted_images_have_independent_noise_of_the_law_that_is_told() -> None:
    clean = torch.full((COUNT, 1, 32, 32), 0.5)
    made = recorrupted(clean, drawn())
    first, second = ((image - clean) / made.deviation for image in (made.first, made.second))
    assert first.std().item() == pytest.approx(1, rel=0.02)
    assert second.std().item() == pytest.approx(1, rel=0.02)
    assert abs(correlation(first, second)) < 0.02
    level = 255 * made.deviation.square().mean((1, 2, 3)).sqrt()
    assert level.min() > 1
    assert 50 < level.max() < 80


def test_half_of_the_noise_is_white() -> None:
    clean = torch.full((COUNT, 1, 64, 64), 0.5)
    made = recorrupted(clean, drawn())
    noise = (made.first - clean) / made.deviation
    alike = (noise[..., 1:, 1:] * noise[..., :-1, :-1]).mean((1, 2, 3)).abs()
    assert 0.4 < (alike < 0.06).float().mean() < 0.75  # some of the colours are weak
    assert (alike > 0.3).float().mean() > 0.1


@GUARDED
def test_a_batch_is_drawn_by_its_number_alone(clean_slice: Tensor) -> None:
    one, other, reseeded = (
        RecorruptedCrops([clean_slice[0]], needs="recorrupted", side=16, batch_size=3, seed=seed) for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[9][key], other[9][key]) for key in ("image", "label"))
    assert not torch.equal(one[8]["image"], one[9]["image"])
    assert not torch.equal(one[9]["image"], reseeded[9]["image"])


def test_crops_bring_what_an_objective_needs_and_are_larger_at_the_end(clean_slice: Tensor) -> None:
    budget = Budget(steps=10)
    options: dict[str, Any] = {"side": 16, "batch_size": 4, "budget": budget}
    made = {
        needs: RecorruptedCrops([clean_slice[0]], needs=needs, **options)
        for needs in ("none", "clean", "second", "recorrupted")
    }
    assert list(made["none"][0]) == ["image"]
    assert torch.equal(made["recorrupted"][0]["label"][:, :1], made["second"][0]["label"])
    assert 0 <= made["clean"][0]["label"].min() <= made["clean"][0]["label"].max() <= 1
    budget.passed(9)
    assert made["second"][0]["image"].shape == (1, 1, 32, 32)
    with pytest.raises(ValueError, match="images is empty"):
        RecorruptedCrops([], needs="none")


# the command


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, clean_slice: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("data") / "train"
    (folder / "mr").mkdir(parents=True)
    pixels = (255 * clean_slice[0, 0]).to(torch.uint8).numpy()
    for number in range(4):
        turned = np.ascontiguousarray(np.rot90(pixels, number))
        imsave(folder / "mr" / f"{number}.png", turned, check_contrast=False)
    return folder


def test_a_training_that_was_killed_goes_on_to_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_here("train_correlated", *SHORT, source=pictures, target=whole)
    run_killed("train_correlated", *SHORT, steps=6, source=pictures, target=cut)
    assert_same_weights(whole, cut)


def test_a_training_ends_when_its_seconds_are_over_with_weights_that_are_validated(
    pictures: Path, tmp_path: Path
) -> None:
    words = ["--seconds", "0.001", "--steps_per_epoch", "1000", *SHORT[6:]]
    run_here("train_correlated", *words, source=pictures, target=tmp_path)
    (row,) = log_of(tmp_path)
    assert (row["step"], float(row["psnr"]) > 0) == ("1", True)
    trained = load_weights(tmp_path / "weights.safetensors")
    assert trained.objective == IDDPWithPhases()
    made = trained.training
    assert (made["steps"], made["images"], made["device"], made["seed"]) == (1, 3, "cpu", 0)
    assert made["seconds"] > 0
    assert made["versions"]["torch"] == torch.__version__
    assert made["held_back"] == ["0"]
    assert latest_checkpoint(tmp_path) is None
    denoiser = create_denoiser("iddp", weights=str(tmp_path / "weights.safetensors"), limited=False)
    assert denoiser(torch.rand(1, 1, 20, 20, generator=drawn())).image.isfinite().all()


def test_the_run_for_a_gpu_trains_and_measures_into_one_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu, table = importlib.import_module("gpu"), importlib.import_module("table_phases")
    monkeypatch.setattr(table, "HELD_BACK", ["0"])
    monkeypatch.setattr(gpu, "OBJECTIVES", ["iddp-phases"])
    monkeypatch.setattr(importlib.import_module("train_phases"), "TINY", {
        "steps_per_epoch": 2, "epochs": 1, "batch_size": 2, "side": 16, "features": [4, 8], "residual_units": 0,
        "held_back": ["0"],
    })  # fmt: skip
    folder = tmp_path / "run"
    words = ["--tiny", "--device", "cpu", "--data", str(pictures.parent / "images"), "--output", str(folder)]
    monkeypatch.setattr("sys.argv", ["gpu.py", *words, "--parts", "weights"])
    gpu.main()
    lines = gpu.read(folder)
    assert [line.get("error") for line in lines] == [None]
    written = {path.name for path in folder.iterdir()}
    assert written == {"iddp.csv", "iddp.safetensors", "measured.jsonl", "train.jsonl"}
    rows = table.table(lines[0]["lines"]).splitlines()
    assert len(rows) == 2 + len(table.NOISES)
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert lines[0]["lines"][0]["steps"] == 2
    publish = importlib.import_module("publish")
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(publish, "PAGES", [])
    monkeypatch.setattr("sys.argv", ["gpu.py", "--publish", str(folder)])
    gpu.main()
    assert sorted(path.name for path in publish.RESULTS.iterdir()) == ["iddp_phases.json", "iddp_phases.md"]


def test_the_networks_that_are_compared_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    networks = importlib.import_module("networks")
    noisy = 0.5 + 0.1 * torch.randn(2, 1, 32, 32, generator=drawn())
    deviation = torch.full_like(noisy, 0.1)
    with torch.no_grad():
        made = {name: build() for name, (_, build) in networks.NETWORKS.items()}
        outputs = {name: network(noisy, deviation) for name, network in made.items()}
        assert {output.shape for output in outputs.values()} == {noisy.shape}
        torch.testing.assert_close(made["bias-free"](3 * noisy, deviation), 3 * outputs["bias-free"])
        for name, network in made.items():
            told = not torch.equal(network(noisy, 2 * deviation), outputs[name])
            assert told is (name in ("level", "guided"))
    guided = networks.guide(noisy, deviation)
    assert guided.std() < 0.4 * noisy.std()
    assert guided.mean().item() == pytest.approx(noisy.mean().item(), abs=0.003)
