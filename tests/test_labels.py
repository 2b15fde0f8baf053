"""Label maps, masks and derivatives: never denoised unless that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from test_cohort import FIT

from monai_dnaprior import Denoise
from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.cluster import run_or_begin
from monai_dnaprior.cohort.task import ScanTask
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.labels import holds_labels, named_as_labels
from monai_dnaprior.files.reader import find_scans
from monai_dnaprior.files.scan import Caps, LabelMap

GRID = np.stack(np.meshgrid(np.arange(40), np.arange(48), np.arange(3), indexing="ij"))
LABELS = sum(number * (np.hypot(GRID[0] - x, GRID[1] - 20) < 7) for number, x in ((1, 10), (2035, 28))).astype(np.int16)
RNG = np.random.default_rng(0)
IMAGE = (100 + LABELS % 7 * 40 + RNG.normal(0, 20, LABELS.shape)).astype(np.int16)


def save(path: Path, volume: np.ndarray, intent: str = "none") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volume, np.diag([1, 1, 3, 1]))
    image.header.set_intent(intent)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    "stem",
    ["labelsTr/case_001", "labelsTs/a", "x/masks/a", "Segmentations/a", "ground_truth/a", "labels_train/a", "lung_mask",
     "sub-01_space-T1w_desc-brain_mask", "sub-01_dseg", "sub-01_label-GM_probseg", "patient001_frame01_gt", "mask_7",
     "segmentation-12", "case.seg", "aparc+aseg"],
)  # fmt: skip
def test_names_of_label_maps(stem: str) -> None:
    assert named_as_labels(stem)


@pytest.mark.parametrize(
    "stem",
    ["imagesTr/case_001_0000", "sub-01_task-mask_bold", "sub-01_T1w", "1.2.840.7", "volume-12", "segment/T2", "."],
)
def test_names_of_images(stem: str) -> None:
    assert not named_as_labels(stem)


@pytest.mark.parametrize(
    ("volume", "labels"),
    [(LABELS, True), (LABELS.astype(np.float32), True), (LABELS > 0, True), (IMAGE, False),
     (IMAGE * (LABELS > 0), False), (GRID[0], False), (np.full((40, 48, 3), 7), False),
     (RNG.integers(0, 2, (40, 48, 3)), False), (RNG.poisson(0.3, (40, 48, 3)), False), (LABELS + 0.5, False)],
    ids=["labels", "as floats", "mask", "image", "masked image", "ramp", "constant", "coins", "counts", "halves"],
)  # fmt: skip
def test_voxels_of_label_maps(volume: np.ndarray, labels: bool) -> None:
    assert holds_labels(volume.astype(np.uint8 if volume.dtype == bool else volume.dtype)[None]) is labels


def test_voxels_tell_real_label_maps_from_images(shared_data: Path) -> None:
    for folder, labels in (("labelsTr", True), ("imagesTr", False)):
        sources = [find_sources(path)[0][0] for path in sorted((shared_data / "volumes").glob(f"*/{folder}/*.nii.gz"))]
        assert {holds_labels(source.read(Caps()).stored) for source in sources} == {labels}


def rows_of(folder: Path) -> dict[str, str]:
    rows = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {Path(row["source"]).name: row["status"] for row in rows}


@pytest.mark.parametrize(
    ("name", "volume", "intent", "reason"),
    [("labelsTr/case", IMAGE, "none", "its name says so"), ("b/case", IMAGE, "label", "its header says so"),
     ("b/case", LABELS, "none", "it holds few whole numbers in flat areas")],
    ids=["name", "header", "voxels"],
)  # fmt: skip
def test_label_maps_are_left_out_of_folders_and_refused_alone(
    tmp_path: Path, name: str, volume: np.ndarray, intent: str, reason: str, capsys: pytest.CaptureFixture
) -> None:
    save(tmp_path / "in" / "a" / "image.nii", IMAGE)
    file = save(tmp_path / "in" / f"{name}.nii", volume, intent)
    words = ["--method", "median"]
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), *words]) == 0
    assert rows_of(tmp_path / "out") == {"image.nii": "denoised", "case.nii": "label map"}
    assert "1 of them for label maps or masks, which --force denoises" in capsys.readouterr().err
    assert main(["denoise", str(file), str(tmp_path / "out.nii"), *words]) == 2
    error = capsys.readouterr().err
    assert f"{file}: is a label map or mask ({reason}); --force denoises it all the same\n" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.nii").exists()
    assert main(["denoise", str(file.parent), str(tmp_path / "none"), *words]) == 2
    for given, output in ((file, "out.nii"), (tmp_path / "in", "all")):
        assert main(["denoise", str(given), str(tmp_path / output), *words, "--force"]) == 0
    assert rows_of(tmp_path / "all") == {"image.nii": "denoised", "case.nii": "denoised"}


def test_a_mask_is_no_scan_to_be_refused(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "image.nii", IMAGE), save(tmp_path / "mask.nii", (LABELS > 0).astype(np.uint8))
    (row,) = denoise_all(image, tmp_path / "out.nii", caps=Caps(), method="median", mask=mask)
    assert row.status == "denoised"


def test_workers_leave_label_maps_out(tmp_path: Path) -> None:
    (source,), _ = find_sources(save(tmp_path / "case.nii", LABELS))
    row: Any = run_or_begin(ScanTask(source, tmp_path / "out.nii", Caps(), FIT, labels=LabelMap), 32)
    assert (row.status, row.exit_code) == ("label map", 0)


def test_derivatives_are_no_inputs_of_a_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "in/sub-01/anat/sub-01_T1w.nii.gz", IMAGE)
    save(tmp_path / "in/derivatives/prep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", IMAGE)
    for described, count in ((False, 2), (True, 1)):
        if described:
            description = {"Name": "some", "BIDSVersion": "1.9.0"}
            (tmp_path / "in/dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
        assert len(find_scans(tmp_path / "in")) == count
        rows = list(denoise_all(tmp_path / "in", tmp_path / f"out{count}", caps=Caps(), method="median"))
        assert sum(row.status == "denoised" for row in rows) == count
    assert "sub-01_desc-preproc_T1w.nii.gz: left out" in caplog.text
    derivatives = tmp_path / "in/derivatives/prep"
    (row,) = denoise_all(derivatives, tmp_path / "prep", caps=Caps(), method="median")
    assert row.status == "denoised"


def test_bundles_leave_label_maps_out(tmp_path: Path) -> None:
    images = [save(tmp_path / "imagesTr" / "case.nii", IMAGE), save(tmp_path / "labelsTr" / "case.nii", LABELS)]
    assert find_scans(tmp_path) == [{"image": str(images[0])}]


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.as_tensor, MetaTensor, lambda volume: torch.tensor(volume).half()]
)
def test_a_transform_doubts_that_a_label_map_is_an_image(convert: Any, caplog: pytest.LogCaptureFixture) -> None:
    Denoise("identity")(convert(LABELS[None]))
    assert "few whole numbers in flat areas, as in a label map or mask: is it an image?" in caplog.text
    caplog.clear()
    Denoise("identity")(convert(IMAGE[None]))
    assert "label map" not in caplog.text
