"""The pre-processing of published segmentation bundles with one line added, run the ways that hosts run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import NIBABEL_DATA
from monai.bundle import create_workflow
from monai.data import MetaTensor

from monai_dnaprior import denoising_records

# As in MONAI's model zoo, spleen_ct_segmentation and ventricular_short_axis_3label; networks and windows are small.
SPLEEN: dict[str, Any] = {
    "before": [{"_target_": "LoadImaged", "keys": "image", "reader": "$monai_dnaprior.ScanReader()"},
               {"_target_": "EnsureChannelFirstd", "keys": "image"},
               {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}],
    "after": [{"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
              {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
               "clip": True},
              {"_target_": "EnsureTyped", "keys": "image"}],
    "network": {"spatial_dims": 3, "out_channels": 2, "norm": "batch"},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 16], "sw_batch_size": 4, "overlap": 0.1},
    "amp": True,
}  # fmt: skip
VENTRICLE: dict[str, Any] = {
    "before": [{"_target_": "LoadImaged", "keys": "image", "reader": "$monai_dnaprior.ScanReader()"},
               {"_target_": "EnsureChannelFirstd", "keys": "image"}],
    "after": [{"_target_": "ScaleIntensityd", "keys": "image"}, {"_target_": "EnsureTyped", "keys": "image"}],
    "network": {"spatial_dims": 2, "out_channels": 4},
    "inferer": {"_target_": "SliceInferer", "roi_size": [256, 256], "spatial_dim": 2},
    "amp": False,
}  # fmt: skip
UNTOUCHED = ("clean", "constant")
CHAINS = {"spleen": SPLEEN, "ventricle": VENTRICLE}
FIT = {"_target_": "monai_dnaprior.DNAPriorDenoised", "keys": "image", "steps": 10}
LINES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "identity": {"_target_": "monai_dnaprior.Denoised", "keys": "image", "method": "identity"},
    "dna-prior": FIT,
    "iddp": {"_target_": "monai_dnaprior.IDDPDenoised", "keys": "image"},
}


@pytest.fixture(params=["made", "collected"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A noisy scan with anatomy: six slices made of a shipped one, or a series of the collection."""
    if request.param == "collected":
        return request.getfixturevalue("shared_data") / "dicom" / "qinhn0024_PET_head"
    volume = nibabel.load(NIBABEL_DATA / "anatomical.nii")
    values = np.asarray(volume.dataobj, dtype=np.float64)[..., 8:14]
    noise = np.random.default_rng(0).normal(0, 20, values.shape)
    scaled = (values / values.max() * 300 - 100 + noise).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(scaled, volume.affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def write_bundle(folder: Path, chain: dict[str, Any], line: dict[str, Any] | None, scan: Path) -> Path:
    """The configuration of a bundle that segments a scan, with or without the line that denoises it first."""
    transforms = [*chain["before"], *([line] if line else []), *chain["after"]]
    network = {"_target_": "UNet", "in_channels": 1, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1}
    config = {
        "imports": ["$import monai_dnaprior", "$import torch"],
        "bundle_root": str(folder),
        "device": "$torch.device('cpu')",
        "seeded": "$torch.manual_seed(0)",
        "network_def": {**network, **chain["network"]},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "dataset": {"_target_": "Dataset", "data": [{"image": str(scan)}], "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": chain["inferer"],
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
             "nearest_interp": False, "to_tensor": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": str(folder / "eval"), "output_postfix": "seg",
             "separate_folder": False, "print_log": False}]},
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
                      "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
                      "amp": chain["amp"]},
        "initialize": ["$@seeded", "$@network"],
        "run": ["$@evaluator.run()"],
    }  # fmt: skip
    (folder / "configs").mkdir(parents=True)
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def segment(folder: Path, chain: str, line: str, scan: Path) -> tuple[MetaTensor, MetaTensor, nibabel.Nifti1Image]:
    """Run a bundle: its network's input, its mask, and the mask as it was saved."""
    workflow = create_workflow(
        config_file=str(write_bundle(folder, CHAINS[chain], LINES[line], scan)), workflow_type="infer"
    )
    with torch.random.fork_rng():
        workflow.run()
    output = workflow.evaluator.state.output[0]
    (saved,) = (folder / "eval").glob("*.nii.gz")
    return output["image"], output["pred"], nibabel.load(saved)


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*torch.*:DeprecationWarning"
)


@pytest.mark.parametrize("chain", CHAINS)
def test_one_line_more_denoises_and_changes_nothing_else(chain: str, scan: Path, tmp_path: Path) -> None:
    results = {line: segment(tmp_path / line, chain, line, scan) for line in LINES}
    image, mask, saved = results["none"]
    for line, (other, other_mask, other_saved) in results.items():
        assert other.shape == image.shape
        assert torch.equal(other.affine, image.affine)
        assert other_mask.shape == mask.shape
        assert np.array_equal(other_saved.affine, saved.affine)
        left_alone = line == "none" or all(
            record["stop_reason"] in UNTOUCHED or line == "identity" for record in denoising_records(other)
        )
        assert torch.equal(other, image) == left_alone, line
    assert torch.equal(results["identity"][1], mask)
    assert other_saved.shape == nibabel_shape(scan)


def nibabel_shape(scan: Path) -> tuple[int, ...]:
    from monai_dnaprior import ScanReader

    reader = ScanReader()
    return tuple(reader.get_data(reader.read(scan))[0].shape)


@pytest.mark.parametrize(("chain", "line"), [("spleen", "dna-prior"), ("ventricle", "iddp")])
def test_hosts_call_the_parts_of_the_bundle(chain: str, line: str, scan: Path, tmp_path: Path) -> None:
    """As labelling and deployment servers do: loading cut off, the rest called by keyword without gradients."""
    config = write_bundle(tmp_path / "bundle", CHAINS[chain], LINES[line], scan)
    workflow = create_workflow(config_file=str(config), workflow_type="infer")
    workflow.initialize()
    get = workflow.parser.get_parsed_content
    preprocessing, network, inferer = (get(name) for name in ("preprocessing", "network", "inferer"))
    loaded = preprocessing.transforms[0]({"image": str(scan)})
    with torch.no_grad():
        for transform in preprocessing.transforms[1:]:
            loaded = transform(loaded)
        prediction = inferer(inputs=loaded["image"][None], network=network.eval())
    assert isinstance(loaded["image"], MetaTensor)
    assert prediction.shape[2:] == loaded["image"].shape[1:]
    assert not prediction.requires_grad
    assert denoising_records(loaded["image"])
