"""The benchmark of segmentation after denoising, on made images."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged

from monai_dnaprior import Denoised
from monai_dnaprior.noise.metrics import correlation

ROOT = Path(__file__).parents[1]
STEPS = 60


@pytest.fixture
def segmentation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("segmentation")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven volumes of two bright boxes each, named and laid out as the hippocampi are."""
    folder = tmp_path / "volumes" / "Task04_Hippocampus"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(7):
        label = np.zeros((30, 40, 6), dtype=np.uint8)
        row, column = rng.integers(4, 12, 2)
        label[row : row + 12, column : column + 10] = 1
        label[row : row + 12, column + 14 : column + 24] = 2
        label[..., 0] = 0
        image = np.array([50, 150, 250])[label] + rng.normal(0, 2, label.shape)
        for kind, values in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / kind / f"case_{number}.nii.gz")
    return tmp_path


def test_chains_differ_in_the_denoiser_only(segmentation: ModuleType, data: Path) -> None:
    task = segmentation.TASKS["hippocampus"]
    case = segmentation.find_cases(task, data)["case_0"]
    made = {"noise": "gaussian:25", "label": "median"}
    without = segmentation.chain(task, task.test, noise=made["noise"])
    denoised = segmentation.chain(task, task.test, **made)
    kinds = [type(step) for step in denoised.transforms]
    place = kinds.index(Denoised)
    assert kinds[:place] + kinds[place + 1 :] == [type(step) for step in without.transforms]
    assert kinds[0] is LoadImaged
    assert kinds[place - 1] is segmentation.AddNoised
    outputs = [run(case) for run in (without, denoised, without)]
    assert outputs[0]["image"].shape == outputs[1]["image"].shape == (2, 64, 64)  # every fourth of five slices
    assert torch.equal(outputs[0]["label"], outputs[1]["label"])
    assert torch.equal(outputs[0]["image"], outputs[2]["image"])
    assert not torch.equal(outputs[0]["image"], outputs[1]["image"])


def test_correlated_noise_is_that_of_clinical_noise_in_every_slice(segmentation: ModuleType) -> None:
    volume = torch.full((1, 30, 40, 2), 0.5)
    for noise in ("gaussian", "zero-filled"):
        added = segmentation.add_correlated(volume, f"{noise}:51", seed=3) - volume
        assert added.shape == volume.shape
        assert added.square().mean((0, 1, 2)).sqrt().tolist() == pytest.approx([0.2, 0.2])
        assert not torch.equal(added[..., 0], added[..., 1])
        assert correlation(added[0, :, 1:], added[0, :, :-1]) > 0.3


def test_tiles_lie_about_the_middle(segmentation: ModuleType) -> None:
    image = torch.arange(300.0 * 260).reshape(1, 300, 260)
    tiles = segmentation.middle_tiles(image, tiles=2)
    assert tiles.shape == (1, 128, 128, 4)
    assert torch.equal(tiles[..., 3], image[:, 150:278, 130:258])


def test_images_with_nothing_to_find_only_serve_to_train(segmentation: ModuleType) -> None:
    names = ["a", "b", "c", "d", "normal_e"]
    splits = segmentation.thirds(names)
    assert [unknown for _, unknown in splits] == [["a", "d"], ["b"], ["c"]]
    assert all(sorted([*known, *unknown]) == names for known, unknown in splits)
    assert segmentation.last_six(list("abcdefgh")) == [(["a", "b"], list("cdefgh"))]


def test_dice_of_all_and_of_nothing(segmentation: ModuleType) -> None:
    truth = torch.tensor([[[0, 1, 1, 2]]])
    assert segmentation.dice(truth, truth, 3) == 1
    assert segmentation.dice(torch.zeros_like(truth), truth, 3) == 0
    assert segmentation.dice(torch.tensor([[[0, 1, 0, 2]]]), truth, 3) == pytest.approx((2 / 3 + 1) / 2)
    assert segmentation.dice(truth * 0, truth * 0, 3) == 1


def test_interval_contains_the_mean_and_pairs_cases(segmentation: ModuleType) -> None:
    values = np.array([0.5, 0.7, 0.6, 0.9, 0.8])
    low, high = segmentation.interval(values)
    assert values.min() < low < values.mean() < high < values.max()
    assert segmentation.interval(values) == (low, high)
    assert segmentation.interval(values, values - 0.1, statistic=np.subtract) == pytest.approx((0.1, 0.1))


def test_recovered_is_a_share_of_what_was_lost(segmentation: ModuleType) -> None:
    assert segmentation.recovered(0.8, 0.6, 0.9) == pytest.approx(200 / 3)
    assert segmentation.recovered(0.9, 0.6, 0.9) == 100
    assert segmentation.recovered(0.5, 0.6, 0.9) < 0


def test_it_measures_and_goes_on(
    segmentation: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(segmentation.TASKS["hippocampus"], noises=("gaussian:50",))
    monkeypatch.setitem(segmentation.TASKS, "hippocampus", task)
    monkeypatch.setattr(segmentation, "PIXELS", 4 * 64**2)
    written = {}
    monkeypatch.setattr(segmentation, "publish", lambda name, data, table: written.update(data, table=table))
    command = ["segmentation.py", "--data", str(data), "--output", str(tmp_path), "--tasks", "hippocampus"]
    monkeypatch.setattr("sys.argv", [*command, "--methods", "gaussian", "--steps", str(STEPS)])
    segmentation.main()
    first = dict(written)
    kept = segmentation.read(tmp_path / str(STEPS) / "cells.json")["hippocampus"]
    assert np.mean(list(kept["clean"]["not denoised"].values())) > 0.3  # it has learnt something
    assert all(len(cell) == 6 for noise in kept.values() for cell in noise.values())
    monkeypatch.setattr(segmentation, "segment", None)  # nothing is left to measure
    segmentation.main()
    assert written == first
    assert written["table"].count("| noise | not denoised | gaussian |") == 2
