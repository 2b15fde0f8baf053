"""BIDS datasets in, valid BIDS derivatives out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_dnaprior.__main__ import main
from monai_dnaprior.files.names import name_output

TASK = '{"TaskName": "rest", "RepetitionTime": 3.0, "EchoTime": 0.03, "InstitutionName": "canary"}'


def write_dataset(folder: Path) -> None:
    """One subject with an anatomical scan, a series in time, and diffusion; some is told of all subjects at once."""
    rng = np.random.default_rng(0)
    shapes = {
        "anat/sub-01_T1w": (16, 16, 3),
        "func/sub-01_task-rest_bold": (16, 16, 3, 2),
        "dwi/sub-01_dwi": (16, 16, 3, 2),
    }
    for name, shape in shapes.items():
        path = folder / "sub-01" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(rng.normal(500, 50, shape).astype(np.int16), np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, path)
    bold = {"RepetitionTime": 1.0, "SliceTiming": [0, 0.3, 0.6], "PatientID": "canary", "PatientWeight": 80}
    for file, content in {
        "sub-01/func/sub-01_task-rest_bold.json": json.dumps(bold), "task-rest_bold.json": TASK, "dwi.bval": "0 1000\n",
        "task-other_bold.json": '{"EchoTime": 7}', "sub-01/dwi/sub-01_dwi.bvec": "0 1\n0 0\n0 0\n",
    }.items():  # fmt: skip
        (folder / file).write_text(content, encoding="utf-8")
    described = {"Name": "made", "BIDSVersion": "1.9.0", "DatasetDOI": "doi:10.0000/made"}
    (folder / "dataset_description.json").write_text(json.dumps(described), encoding="utf-8")


@pytest.fixture
def derivative(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "in")
    arguments = ["--method", "median", "--residual", "--quiet"]
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), *arguments]) == 0
    return tmp_path / "out"


def test_derivatives_are_named_and_described(derivative: Path) -> None:
    description = json.loads((derivative / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "monai-dnaprior"
    assert description["SourceDatasets"] == [{"DOI": "doi:10.0000/made"}]
    for folder, name, suffixes in (("func", "task-rest_desc-{}_bold", ()), ("dwi", "desc-{}_dwi", (".bval", ".bvec"))):
        names = {path.name for path in (derivative / "sub-01" / folder).iterdir()}
        stems = [f"sub-01_{name.format(what)}" for what in ("denoised", "residual")]
        expected = {f"{stem}{suffix}" for stem in stems for suffix in (".nii.gz", ".json")}
        assert names == expected | {f"sub-01_dwi{suffix}" for suffix in suffixes}


def test_derivatives_say_how_they_were_acquired(derivative: Path) -> None:
    for what in ("denoised", "residual"):
        text = (derivative / f"sub-01/func/sub-01_task-rest_desc-{what}_bold.json").read_text(encoding="utf-8")
        said = json.loads(text)
        expected = {"RepetitionTime": 1.0, "SliceTiming": [0, 0.3, 0.6], "TaskName": "rest", "EchoTime": 0.03}
        assert {name: said.get(name) for name in expected} == expected
        assert "canary" not in text
        assert "PatientWeight" not in said
    assert (derivative / "sub-01/dwi/sub-01_dwi.bval").read_text(encoding="utf-8") == "0 1000\n"


def test_gradients_beside_a_scan_of_any_name_are_kept(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 2, 2)), np.eye(4)), tmp_path / "dti.nii"
    )
    (tmp_path / "dti.bval").write_text("0 1000", encoding="utf-8")
    words = ["denoise", str(tmp_path / "dti.nii"), str(tmp_path / "out.nii"), "--method", "median", "--quiet"]
    assert main(words) == 0
    assert (tmp_path / "out.bval").read_text(encoding="utf-8") == "0 1000"
    for name in ("out.nii", "out.json"):
        (tmp_path / name).unlink()
    assert main(words) == 2  # nothing that is there is written over
    assert not (tmp_path / "out.nii").exists()


def test_the_validator_finds_no_error(derivative: Path) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    shown = subprocess.run(
        [validator, derivative, "--format", "json"], capture_output=True, encoding="utf-8", check=False
    )
    issues = json.loads(shown.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert issues  # it has looked: recommended fields are missing


@pytest.mark.parametrize("text", [None, "no json", "[]", '{"Name": "x"}'])
def test_other_folders_get_no_description(tmp_path: Path, text: str | None) -> None:
    write_dataset(tmp_path / "in")
    (tmp_path / "in" / "dataset_description.json").unlink()
    if text is not None:
        (tmp_path / "in" / "dataset_description.json").write_text(text, encoding="utf-8")
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "identity", "--quiet"]) == 0
    assert not (tmp_path / "out" / "dataset_description.json").exists()


@pytest.mark.parametrize(
    ("stem", "what", "expected"),
    [("a/b/scan", "residual", "a/b/scan_residual"), ("sub-1_ses-2_bold", "denoised", "sub-1_ses-2_desc-denoised_bold"),
     ("sub-1", "denoised", "sub-1_denoised")],
)  # fmt: skip
def test_names(stem: str, what: str, expected: str) -> None:
    assert name_output(stem, what) == expected
