"""One scan from file to file: what is written, what is kept for another run, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import NIBABEL_DATA, SHORT
from scans import write_series

from monai_dnaprior import DNAPriorDenoise, __version__
from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.task import ScanRow
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.files import preflight
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.disk import hash_of
from monai_dnaprior.files.scan import Caps, ScanError, same_bits
from monai_dnaprior.training.weights import SHIPPED

FIT = {"options": {**SHORT, "seed": 3}, "neighbours": 0}
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.5, 0.2, -20], [0, -0.2, 3.0, 5], [0, 0, 0, 1]])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four noisy slices of integers with a slope."""
    return write_volume(tmp_path / "scan.nii.gz", np.random.default_rng(0).integers(-90, 90, (20, 24, 4)))


def write_volume(path: Path, volume: np.ndarray, kind: Any = np.int16) -> Path:
    image = nibabel.Nifti1Image(volume.astype(kind), AFFINE, dtype=kind)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"as it came"
    nibabel.save(image, path)
    return path


def denoise(path: Path, output: Path, **settings: Any) -> ScanRow:
    (row,) = denoise_all(path, output, caps=Caps(), **settings)
    return row


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_the_result_is_that_of_the_transform_in_the_units_of_the_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    floats = write_volume(tmp_path / "float" / "scan.nii", values_of(source), np.float32)
    expected = DNAPriorDenoise(steps=20)(torch.from_numpy(values_of(floats))[None])[0]
    for path, tolerance in ((floats, 0), (source, 0.5)):
        output = path.with_name(f"out{path.name.removeprefix('scan')}")
        assert denoise(path, output, options={"steps": 20}).exit_code == 0
        np.testing.assert_allclose(values_of(output), expected, rtol=0, atol=tolerance)
        before, after = nibabel.load(path).header, nibabel.load(output).header
        assert before == after


@pytest.mark.parametrize("slice_dim", [0, 1, -1])
def test_volumes_are_cut_along_the_axis_that_is_given(source: Path, tmp_path: Path, slice_dim: int) -> None:
    row = denoise(source, tmp_path / "out.nii", method="median", slice_dim=slice_dim)
    assert row.slices == (20, 24, 4)[slice_dim]


def test_thick_slices_are_found_and_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """By the affine, and where a file has none by the size of its voxels; the voxels are those of that axis."""
    volume = np.random.default_rng(0).integers(-90, 90, (20, 4, 24)).astype(np.int16)
    for name, affine in (("affine", np.diag([1, 5, 1, 1])), ("size", None)):
        image = nibabel.Nifti1Image(volume, affine)
        image.header.set_zooms((1, 5, 1))
        nibabel.save(image, tmp_path / f"{name}.nii")
        for output, options in (("auto", []), ("given", ["--slice-dim", "1"]), ("across", ["--slice-dim", "-1"])):
            words = [str(tmp_path / f"{name}.nii"), str(tmp_path / f"{name}-{output}.nii")]
            assert main(["denoise", *words, "--method", "median", *options]) == 0
            said = capsys.readouterr().out
            assert ("4 slices denoised; cut along axis 1" in said) == (output != "across")
            assert ("warning: slice_dim=-1 cuts across thick slices" in said) == (output == "across")
        auto, given, across = (values_of(tmp_path / f"{name}-{which}.nii") for which in ("auto", "given", "across"))
        assert np.array_equal(auto, given)
        assert not np.array_equal(auto, across)
        sidecar = json.loads((tmp_path / f"{name}-auto.json").read_text(encoding="utf-8"))
        assert sidecar["configuration"]["slice_dim"] == 1


def test_a_volume_of_one_slice_is_cut_along_it(tmp_path: Path) -> None:
    for axis in range(3):
        shape = np.insert([20, 24], axis, 1)
        path = tmp_path / f"{axis}.nii"
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape), np.eye(4)), path)
        assert denoise(path, tmp_path / f"out{axis}.nii", method="median").slices == 1


def test_summaries_count_what_was_denoised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """None of a clean scan, and of another the slices that hold noise."""
    clean = np.broadcast_to(np.arange(20.0)[:, None, None], (20, 24, 3))
    mixed = clean.copy()
    mixed[..., 0] += np.random.default_rng(0).normal(0, 5, (20, 24))
    mixed[..., 1] = 3
    (tmp_path / "in").mkdir()
    for name, volume in (("clean", clean), ("mixed", mixed)):
        write_volume(tmp_path / "in" / f"{name}.nii", volume, np.float32)
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "iddp"]) == 0
    said = capsys.readouterr().out
    assert "clean_denoised.nii: none of 3 slices denoised; 3 left alone: hardly any noise\n" in said
    assert "mixed_denoised.nii: 1 of 3 slices denoised; 1 left alone: hardly any noise; 1 left alone: nothing" in said
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    counts = [{name: row[name] for name in ("slices", "denoised", "left_alone", "fallbacks")} for row in rows]
    assert counts == [
        {"slices": 3, "denoised": 0, "left_alone": {"clean": 3}, "fallbacks": 0},
        {"slices": 3, "denoised": 1, "left_alone": {"clean": 1, "constant": 1}, "fallbacks": 0},
    ]


def test_every_volume_of_a_series_in_time_is_one_of_its_own(tmp_path: Path) -> None:
    series = np.random.default_rng(0).integers(-90, 90, (20, 24, 2, 3))
    write_volume(tmp_path / "series.nii", series)
    denoise(tmp_path / "series.nii", tmp_path / "out.nii", **FIT)
    write_volume(tmp_path / "first.nii", series[..., 0])
    denoise(tmp_path / "first.nii", tmp_path / "out-first.nii", **FIT)
    assert np.array_equal(values_of(tmp_path / "out.nii")[..., 0], values_of(tmp_path / "out-first.nii"))
    assert values_of(tmp_path / "out.nii").shape == series.shape


def test_outside_a_mask_nothing_is_changed(source: Path, tmp_path: Path) -> None:
    inside = np.zeros((20, 24, 4))
    inside[5:15, 6:18] = 1
    mask = write_volume(tmp_path / "mask.nii", inside, np.uint8)
    assert denoise(source, tmp_path / "out.nii", method="median", mask=mask).exit_code == 0
    changed = values_of(tmp_path / "out.nii") != values_of(source)
    assert changed[inside > 0].mean() > 0.5
    assert not changed[inside == 0].any()
    assert denoise(source, tmp_path / "all.nii", method="median").exit_code == 0
    same = values_of(tmp_path / "out.nii") == values_of(tmp_path / "all.nii")
    assert same[inside > 0].all()  # what lies around is seen
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["voxels"]["left_out"] == np.count_nonzero(inside == 0)
    assert report["configuration"]["mask"] == hash_of(mask)


def test_a_mask_of_another_shape_or_place_is_refused(source: Path, tmp_path: Path) -> None:
    other = write_volume(tmp_path / "other.nii", np.ones((20, 24, 5)), np.uint8)
    assert "must agree" in denoise(source, tmp_path / "out.nii", method="median", mask=other).reason
    moved = nibabel.Nifti1Image(np.ones((20, 24, 4), np.uint8), AFFINE @ np.diag([1, 1, 1.1, 1]))
    nibabel.save(moved, tmp_path / "moved.nii")
    row = denoise(source, tmp_path / "out.nii", method="median", mask=tmp_path / "moved.nii")
    assert "their affines differ" in row.reason
    assert row.exit_code == 2


@pytest.mark.parametrize("kind", ["nii", "dicom"])
def test_residual_and_spread_are_written_in_the_units_and_the_place_of_the_scan(
    source: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "dicom":
        write_series(tmp_path / "ct", np.random.default_rng(0).integers(0, 900, (4, 20, 24)).astype("<i2"), slope=0.5)
        source, output = tmp_path / "ct", tmp_path / "out"
    else:
        output = tmp_path / "out.nii"
    options = {**SHORT, "restarts": 2}
    assert denoise(source, output, options=options, residual=True, spread=True).exit_code == 0
    residual, spread = (nibabel.load(tmp_path / f"out_{name}.nii.gz") for name in ("residual", "spread"))
    (before,), _ = find_sources(source)
    (after,), _ = find_sources(output)
    scans = [one.read(Caps()) for one in (before, after)]
    np.testing.assert_allclose(residual.get_fdata(), (scans[0].values() - scans[1].values())[0], atol=1e-4)
    np.testing.assert_allclose(residual.affine, scans[0].affine, atol=1e-6)
    assert residual.get_data_dtype() == spread.get_data_dtype() == np.float32
    assert spread.get_fdata().min() >= 0
    assert spread.get_fdata().max() > 0


def test_spread_needs_restarts(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["denoise", str(source), str(tmp_path / "out.nii"), "--spread"]) == 2
    assert "set the option restarts to at least 2" in capsys.readouterr().err


def test_the_sidecar_says_what_was_done(source: Path, tmp_path: Path) -> None:
    row = denoise(source, tmp_path / "out.nii", **FIT)
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["notice"].startswith("Not a medical device")
    assert report["input"] == [hash_of(source)]
    assert report["output"] == hash_of(tmp_path / "out.nii")
    assert report["configuration"]["version"] == __version__
    assert report["configuration"]["options"] == FIT["options"]
    assert report["configuration"]["weights"] is None
    assert len(report["slices"]) == row.slices == 4
    removed = values_of(source) - values_of(tmp_path / "out.nii").astype(float)
    assert report["residual"]["mean"] == pytest.approx(removed.mean())
    assert report["residual"]["standard_deviation"] == pytest.approx(removed.std())
    assert report["voxels"]["changed"] == np.count_nonzero(removed)
    uniform = np.sqrt(180**2 / 12)  # of integers between -90 and 90
    assert all(record["sigma"] == pytest.approx(uniform, rel=0.25) for record in report["slices"])


@pytest.mark.parametrize("method", ["iddp", "median"])
def test_what_was_measured_of_the_noise_is_in_the_sidecar(tmp_path: Path, method: str) -> None:
    """Along the second axis neighbours are sums that share two of three pixels; one slice holds nothing."""
    noise = np.random.default_rng(0).normal(0, 100, (96, 98, 3))
    volume = 1000 + noise[:, 2:] + noise[:, 1:-1] + noise[:, :-2]
    volume[..., 1] = 1000
    assert denoise(write_volume(tmp_path / "scan.nii", volume), tmp_path / "out.nii", method=method).exit_code == 0
    report = json.loads((tmp_path / "out.json").read_text())
    measured = report["slices"][0]
    if method == "median":
        assert report["noise"] is measured["correlation"] is measured["sigma_range"] is None
        return
    assert measured["correlation"] == pytest.approx([0, 2 / 3], abs=0.1)
    assert measured["sigma_range"] == pytest.approx([3**0.5 * 100] * 2, rel=0.1)
    medians = [np.mean([report["slices"][index]["correlation"] for index in (0, 2)], 0).tolist()]
    assert [report["noise"]["correlation"]] == medians
    assert report["noise"]["sigma_range"] == pytest.approx(measured["sigma_range"], rel=0.1)


def test_weights_are_part_of_the_configuration(source: Path, tmp_path: Path) -> None:
    denoise(source, tmp_path / "out.nii", method="iddp")
    weights = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["configuration"]["weights"]
    assert weights == hash_of(SHIPPED)


class Interrupted(Exception):
    """Stands for the end of a process."""


@pytest.fixture
def interrupted(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A run that ended after two of four slices; the indices of the slices that are fitted from now on."""
    fitted: list[int] = []
    fit_one = DNAPrior.denoise_image

    def counted(prior: DNAPrior, guard: Any, network: Any, index: int, restart: int) -> Any:
        if index == 2 and not fitted.count(-1):
            fitted.append(-1)
            raise Interrupted
        fitted.append(index)
        return fit_one(prior, guard, network, index, restart)

    monkeypatch.setattr(DNAPrior, "denoise_image", counted)
    row = denoise(source, tmp_path / "out.nii", **FIT, batch_size=1)
    assert row.status == "failed"
    assert (tmp_path / "out.nii.partial").is_dir()
    assert not (tmp_path / "out.nii").exists()
    fitted[:] = [-1]
    return fitted


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, [2, 3]), ({"batch_size": 4}, [2, 3]), ({"resume": False}, [0, 1, 2, 3]),
     ({"options": {**SHORT, "seed": 4}}, [0, 1, 2, 3])],
    ids=["as before", "other batches", "anew", "other seed"],
)  # fmt: skip
def test_a_resumed_run_fits_what_is_missing(
    source: Path, tmp_path: Path, interrupted: list[int], change: dict[str, Any], expected: list[int]
) -> None:
    settings: dict[str, Any] = {**FIT, "batch_size": 1, "resume": True, **change}
    assert denoise(source, tmp_path / "out.nii", **settings).exit_code == 0
    assert sorted(interrupted[1:]) == expected
    assert not (tmp_path / "out.nii.partial").exists()
    interrupted[:] = [-1]
    denoise(source, tmp_path / "quiet.nii", **{**settings, "resume": False})
    assert same_bits(values_of(tmp_path / "out.nii"), values_of(tmp_path / "quiet.nii"))


def test_what_was_kept_and_is_damaged_is_fitted_again(source: Path, tmp_path: Path, interrupted: list[int]) -> None:
    kept = sorted((tmp_path / "out.nii.partial").glob("*.safetensors"))
    assert len(kept) == 2
    content = bytearray(kept[0].read_bytes())
    content[-1] ^= 1
    kept[0].write_bytes(content)
    assert denoise(source, tmp_path / "out.nii", **FIT, batch_size=1, resume=True).exit_code == 0
    assert sorted(interrupted[1:]) == [0, 2, 3]


def test_what_another_input_left_is_not_used(source: Path, tmp_path: Path, interrupted: list[int]) -> None:
    write_volume(source, values_of(source) + 1)
    assert denoise(source, tmp_path / "out.nii", **FIT, batch_size=1, resume=True).exit_code == 0
    assert sorted(interrupted[1:]) == [0, 1, 2, 3]


def test_an_output_that_is_there_is_kept(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.nii"
    denoise(source, output, method="median")
    before = output.read_bytes()
    assert "exists already" in denoise(source, output, method="median").reason
    assert "exists already" in denoise(source, output, method="tv", resume=True).reason
    assert denoise(source, output, method="median", resume=True).exit_code == 0
    assert output.read_bytes() == before
    output.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "exists already" in denoise(source, output, method="median", resume=True).reason


@pytest.mark.parametrize("name", ["out.json", "out_residual.nii.gz"])
def test_no_file_beside_the_output_is_written_over(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"EchoTime": 0.03}', encoding="utf-8")
    for resume in (False, True):
        row = denoise(source, tmp_path / "out.nii", method="median", residual=True, resume=resume)
        assert (row.status, row.exit_code) == ("refused", 2)
        assert f"{name}: exists already, and would be written beside out.nii; rename one" in row.reason
    assert (tmp_path / name).read_text(encoding="utf-8") == '{"EchoTime": 0.03}'
    assert not (tmp_path / "out.nii").exists()


def test_a_run_that_ended_while_files_took_their_places_goes_on(source: Path, tmp_path: Path) -> None:
    settings = {"method": "median", "residual": True}
    denoise(source, tmp_path / "out.nii", **settings)
    expected = values_of(tmp_path / "out.nii")
    (tmp_path / "out.nii").unlink()  # it is the last that takes its place
    assert "exists already" in denoise(source, tmp_path / "out.nii", **settings).reason
    assert denoise(source, tmp_path / "out.nii", **settings, resume=True).exit_code == 0
    assert same_bits(values_of(tmp_path / "out.nii"), expected)


def test_what_a_run_left_that_was_killed_at_its_very_end_is_removed(source: Path, tmp_path: Path) -> None:
    output, left = tmp_path / "out.nii", tmp_path / "out.nii.partial"
    denoise(source, output, method="median")
    (left / "files").mkdir(parents=True)
    assert denoise(source, output, method="median").exit_code != 0
    assert left.exists()
    assert denoise(source, output, method="median", resume=True).exit_code == 0
    assert not left.exists()


def test_a_resumed_run_that_wants_more_files_is_refused(source: Path, tmp_path: Path) -> None:
    denoise(source, tmp_path / "out.nii", method="median")
    row = denoise(source, tmp_path / "out.nii", method="median", residual=True, resume=True)
    assert "exists already" in row.reason


def test_a_second_run_loses_no_row_of_the_first(source: Path, tmp_path: Path) -> None:
    def run(*names: str) -> dict[str, str]:
        for name in names:
            (tmp_path / "in").mkdir(exist_ok=True)
            write_volume(tmp_path / "in" / f"{name}.nii", values_of(source))
        list(denoise_all(tmp_path / "in", tmp_path / "out", caps=Caps(), method="median"))
        rows = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
        return {Path(row["source"]).name: row["status"] for row in rows}

    assert run("one") == {"one.nii": "denoised"}
    assert run("two") == {"one.nii": "denoised", "two.nii": "denoised"}
    (tmp_path / "out" / "one_denoised.nii").unlink()
    (tmp_path / "in" / "one.nii").unlink()
    assert run() == {"two.nii": "denoised"}


def test_a_voxel_beyond_all_measure_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    volume = values_of(source).astype(np.float64)
    volume[3, 4, 1] = 1e300
    path = write_volume(tmp_path / "huge.nii", volume, np.float64)
    assert denoise(path, tmp_path / "out.nii", method="median").exit_code == 0
    after = values_of(tmp_path / "out.nii")
    assert after[3, 4, 1] == 1e300
    assert (after != volume).mean() > 0.8


def test_names_in_capitals_are_read(source: Path, tmp_path: Path) -> None:
    loud = source.rename(tmp_path / "SCAN.NII.GZ")
    assert denoise(loud, tmp_path / "out.nii", method="median").exit_code == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [("out.png", "must end in .nii or .nii.gz"), ("scan.nii.gz", "is the input"), ("link.nii", "symbolic link"),
     ("out.dcm", "must end in")],
)  # fmt: skip
def test_outputs_that_cannot_be_are_refused(source: Path, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "link.nii").symlink_to(tmp_path / "elsewhere.nii")
    before = source.read_bytes()
    row = denoise(source, tmp_path / name, method="median")
    assert reason in row.reason
    assert row.exit_code == 2
    assert source.read_bytes() == before
    assert not (tmp_path / "elsewhere.nii").exists()


def test_an_output_in_the_input_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="lies in the folder that is denoised"):
        list(denoise_all(tmp_path, tmp_path / "out", caps=Caps(), method="median"))


def test_a_series_does_not_fit_into_a_file(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", np.zeros((2, 8, 8), "<i2"))
    for name in ("out.dcm", "out.nii"):
        assert "cannot hold a DICOM series" in denoise(tmp_path / "ct", tmp_path / name, method="median").reason
    file = next((tmp_path / "ct").iterdir())
    assert denoise(file, tmp_path / "out.dcm", method="median").exit_code == 0
    assert (tmp_path / "out.dcm").is_file()


def test_a_folder_gives_a_tree_of_the_same_shape(source: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub-01" / "anat").mkdir(parents=True)
    source.rename(tmp_path / "in" / "sub-01" / "anat" / "sub-01_acq-fast_T1w.nii.gz")
    write_series(tmp_path / "in" / "ct", np.random.default_rng(0).integers(0, 900, (2, 9, 9)).astype("<i2"))
    (tmp_path / "in" / "notes.txt").write_text("nothing to see", encoding="utf-8")
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "median", "--quiet"]) == 0
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    stem = "sub-01/anat/sub-01_acq-fast_desc-denoised_T1w"
    assert written == {
        f"{stem}.nii.gz", f"{stem}.json", "ct_denoised/0001.dcm", "ct_denoised/0002.dcm", "ct_denoised.json",
        "manifest.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["scan.nii", "scan_denoised.nii.gz", "sub-01_desc-preproc_T1w.nii.gz"])
def test_two_scans_whose_outputs_would_have_one_name_are_told(source: Path, tmp_path: Path, name: str) -> None:
    other = write_volume(tmp_path / name, values_of(source))
    if name.startswith("sub"):
        source.rename(other.with_name("sub-01_T1w.nii.gz"))
    sources, errors = find_sources(tmp_path)
    assert not sources
    assert {error.reason for error in errors} == {"has the name of another scan; rename one of them"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--method", "foo"], "no known denoiser"), (["--option", "width"], "must be NAME=VALUE"),
     (["--option", "depth=3"], "depth"), (["--device", "cuda:99"], "not available"),
     (["--slice-dim", "7"], "slice_dim=7"),
     (["--max-bytes", "0"], "size=0 must be a positive number"), (["--preset", "foo"], "preset='foo'")],
)  # fmt: skip
def test_settings_that_cannot_be_are_one_line(
    source: Path, tmp_path: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["denoise", str(source), str(tmp_path / "out.nii"), *arguments, "--quiet"]) in (1, 2)
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


@pytest.fixture
def preflight_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans are tried in this process, without the time that a process of its own takes for each."""

    def answer(command: list[str], *, input: str, **_: Any) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, 0, json.dumps(preflight.answer_to(json.loads(input))))

    process = SimpleNamespace(run=answer, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(preflight, "subprocess", process)
    monkeypatch.setattr(preflight, "limit_memory", lambda size: None)


def test_real_files_come_back_or_are_refused_in_one_line(
    shared_data: Path, tmp_path: Path, preflight_here: None
) -> None:
    """Every scan of the collection, sound, odd or malformed; which of them are refused is written down."""
    rows: list[ScanRow] = []
    for folder in ("dicom", "volumes", "malformed"):
        rows += denoise_all(shared_data / folder, tmp_path / folder, caps=Caps(), method="identity", force=True)
    assert {row.status for row in rows} == {"denoised", "refused", "left out"}
    refused = sorted(row.reason.removeprefix(f"{shared_data}/") for row in rows if row.status == "refused")
    assert refused == (Path(__file__).parent / "refused.txt").read_text(encoding="utf-8").splitlines()
    assert_identical(shared_data, rows)
    for row in rows:
        if "two slices of one position" in row.reason:  # copies of one image: each by itself is treated
            files = [file for file in Path(row.source).iterdir() if file.name not in " ".join(refused)]
            alone = [denoise(file, tmp_path / "alone" / file.name, method="identity") for file in files]
            assert {one.status for one in alone} == {"denoised"}


def assert_identical(shared_data: Path, rows: list[ScanRow]) -> None:
    """Stored numbers, scaling and affine of every scan are those of its output."""
    outputs = {row.output: row.source for row in rows if row.output}
    assert len(outputs) > 60
    scans = {source.label: source for folder in ("dicom", "volumes", "malformed")
             for source in find_sources(shared_data / folder)[0]}  # fmt: skip
    for output, origin in outputs.items():
        before = scans[origin].read(Caps())
        after = scans[origin].reread(Path(output), Caps())
        assert same_bits(before.stored, after.stored), origin
        assert np.array_equal(before.slope, after.slope)
        assert (before.affine is None) == (after.affine is None)
        assert before.affine is None or np.array_equal(before.affine, after.affine)


def test_the_command_does_not_wait_for_what_it_does_not_use(source: Path, tmp_path: Path) -> None:
    script = """import sys
from monai_dnaprior.__main__ import main
print(main(sys.argv[1:]), *(name in sys.modules for name in ("torch", "monai", "SimpleITK")))"""
    command = [sys.executable, "-c", script, "denoise", source, tmp_path / "out.nii.gz", "--steps", "2", "--quiet"]
    assert subprocess.run(command, capture_output=True, encoding="utf-8").stdout == "0 True False False\n"


def test_a_shipped_file_is_denoised_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = NIBABEL_DATA / "anatomical.nii"
    assert main(["denoise", str(source), str(tmp_path), "--method", "nl-means", "--residual"]) == 0
    assert "25 slices denoised" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "anatomical_denoised.json", "anatomical_denoised.nii", "anatomical_residual.nii.gz"
    ]  # fmt: skip
