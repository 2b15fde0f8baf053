"""The comparison: every kind of input, honest rows, and going on where it stopped."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from skimage.io import imread, imsave
from test_reader import axial, write_series

from monai_dnaprior.__main__ import main
from monai_dnaprior.compare import run as room
from monai_dnaprior.compare.cases import Case, load_cases, to_unit
from monai_dnaprior.compare.run import compare, peak_memory
from monai_dnaprior.compare.table import read_rows, row_key
from monai_dnaprior.noise.metrics import correlation, psnr

METHODS: dict[str, tuple[str, dict[str, Any]]] = {"tv": ("tv", {}), "median": ("median", {})}


@pytest.fixture
def picture(tmp_path: Path, clean_slice: torch.Tensor) -> Path:
    path = tmp_path / "slice.png"
    imsave(path, (255 * clean_slice[0, 0].numpy()).astype(np.uint8), check_contrast=False)
    return path


@pytest.fixture
def case(clean_slice: torch.Tensor, noisy_slice: torch.Tensor) -> Case:
    return Case("slice", noisy_slice, clean_slice)


def test_pictures_scans_and_series_are_read(picture: Path, nifti_path: Path, tmp_path: Path) -> None:
    colour = tmp_path / "colour.png"
    imsave(colour, np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3), check_contrast=False)
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 16, 20))
    write_series(tmp_path / "1.2.840.5", pixels, positions=axial(3), orientation=(1, 0, 0, 0, 1, 0))
    cases = load_cases([picture, colour, nifti_path, tmp_path / "1.2.840.5"], noise="gaussian:25")
    assert [case.name for case in cases] == ["slice", "colour", "case", "1.2.840.5"]
    assert [tuple(case.noisy.shape[1:]) for case in cases] == [(1, 96, 80), (3, 12, 9), (1, 24, 20), (1, 16, 20)]
    for case in cases:
        assert case.clean is not None
        assert 0 <= case.clean.min() <= case.clean.max() <= 1
        assert (case.noisy - case.clean).std().item() == pytest.approx(25 / 255, rel=0.2)
    torch.testing.assert_close(cases[0].clean, torch.tensor(imread(picture) / 255.0)[None, None].float())
    expected = to_unit(pixels[1], like=pixels[1])[0].clamp(0, 1)  # the middle slice, rows from the front
    torch.testing.assert_close(cases[3].clean, expected[None, None])


def test_images_without_slices_colours_or_all_values_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(100, 10, (20, 24)).astype(np.float32)
    values[3, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "flat.nii")
    transparent = np.stack([np.full((12, 9), 200, np.uint8), np.full((12, 9), 7, np.uint8)], -1)
    imsave(tmp_path / "transparent.png", transparent, check_contrast=False)
    cases = load_cases([tmp_path / "flat.nii", tmp_path / "transparent.png"])
    assert [tuple(case.noisy.shape) for case in cases] == [(1, 1, 24, 20), (1, 1, 12, 9)]
    assert cases[0].noisy.isfinite().all()
    assert (cases[1].noisy == 200 / 255).all()


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    imsave(tmp_path / "pages.tif", np.zeros((5, 30, 20), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match="pages.tif holds several pictures"):
        load_cases([tmp_path / "pages.tif"])


def test_rows_hold_what_was_measured(case: Case, tmp_path: Path) -> None:
    rows = compare([case], METHODS, tmp_path)
    assert [row.method for row in rows] == ["tv", "median"]
    for row in rows:
        denoised = torch.from_numpy(np.load(tmp_path / "denoised" / f"slice-{row.method}.npy"))
        assert row.psnr == pytest.approx(psnr(denoised, case.clean), abs=0.01)
        assert row.psnr > psnr(case.noisy, case.clean) + 3
        assert 0 < row.ssim < 1
        assert row.sigma == pytest.approx(25, rel=0.1)
        assert row.stop_reason == "filter"
        assert row.image_correlation == pytest.approx(correlation(case.noisy - denoised, denoised), abs=0.001)
    assert read_rows(tmp_path / "table.csv") == rows
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    best = max(rows, key=lambda row: row.psnr)
    assert f"**{best.psnr}**" in table
    for name in ("grid.png", "plot.png"):
        assert np.ptp(imread(tmp_path / name)) > 100


def test_without_a_clean_image_it_still_compares(case: Case, tmp_path: Path) -> None:
    rows = compare([Case("slice", case.noisy, None)], METHODS, tmp_path)
    assert all(row.psnr is None and row.residual_correlation is not None for row in rows)
    assert "psnr" not in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "plot.png").exists()


def test_a_method_that_fails_is_a_row_that_says_why(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bm3d", None)
    rows = compare([case], {"bm3d": ("bm3d", {}), **METHODS}, tmp_path)
    assert "ImportError: bm3d needs the package" in rows[0].error
    assert [bool(row.error) for row in rows] == [True, False, False]
    assert "pip install" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_it_goes_on_where_it_stopped_and_starts_over_what_changed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare([case], {"tv": METHODS["tv"]}, tmp_path)
    ran: list[str] = []
    run_method = room.run_method

    def remember(case: Case, label: str, *rest: Any) -> Any:
        ran.append(label)
        return run_method(case, label, *rest)

    monkeypatch.setattr(room, "run_method", remember)
    rows = compare([case], METHODS, tmp_path)
    assert ran == ["median"]
    assert rows[0] == first[0]
    compare([case], {"tv": ("tv", {"sigma": 0.05}), "median": METHODS["median"]}, tmp_path)
    assert ran == ["median", "tv"]


def test_an_interrupted_second_run_forgets_nothing(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare([case], METHODS, tmp_path)

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "run_method", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare([case], {"gaussian": ("gaussian", {}), **METHODS}, tmp_path)
    changed = {"tv": METHODS["tv"], "gaussian": ("gaussian", {}), "median": METHODS["median"]}
    with pytest.raises(KeyboardInterrupt):
        compare([case], changed, tmp_path)
    assert [row.method for row in read_rows(tmp_path / "table.csv")] == ["tv", "median"]


def test_no_row_outlives_its_picture(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Case(case.name, case.noisy + 0.1, case.clean)
    first = compare([case], METHODS, tmp_path)
    write = room.write_rows

    def interrupted(rows: Any, path: Path) -> None:
        write(rows, path)
        if len(rows) > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(room, "write_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare([other], METHODS, tmp_path)  # ended behind its first picture
    assert compare([case], METHODS, tmp_path)[0].psnr == first[0].psnr
    assert psnr(torch.from_numpy(np.load(tmp_path / "denoised" / "slice-tv.npy")), case.clean) == pytest.approx(
        first[0].psnr, abs=0.01
    )


def test_rows_of_another_kind_of_device_are_not_taken_over(case: Case) -> None:
    keys = [row_key(case, "tv", {}, device) for device in ("cpu", "cuda:0", "cuda:1")]
    assert keys[0] != keys[1] == keys[2]


def test_a_device_that_is_not_supported_is_refused_before_anything_is_written(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device='mps' is not supported"):
        compare([case], {"tv": ("tv", {})}, tmp_path / "out", device="mps")
    assert not (tmp_path / "out").exists()


def test_the_memory_of_a_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"memory_allocated": 100, "max_memory_allocated": 350, "reset_peak_memory_stats": None}
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    with peak_memory("cuda:0") as peak:
        pass
    assert peak == [250]


def test_images_of_one_name_are_kept_apart(picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / picture.name
    other.parent.mkdir()
    imsave(other, 255 - imread(picture), check_contrast=False)
    cases = load_cases([picture, other], noise="gaussian:25")
    rows = compare(cases, {"median": METHODS["median"]}, tmp_path / "out")
    assert [row.image for row in rows] == ["slice", "slice-2"]
    one, two = (np.load(tmp_path / "out" / "denoised" / f"{row.image}-median.npy") for row in rows)
    assert not np.array_equal(one, two)


def test_metrics_have_their_closed_forms() -> None:
    clean = torch.full((1, 1, 8, 8), 0.5)
    assert psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-3)
    assert psnr(clean + 7, clean) == pytest.approx(-20 * np.log10(0.5))  # clipped to 1
    ramp = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert correlation(ramp, 3 - 2 * ramp) == pytest.approx(-1)
    assert correlation(ramp, clean) == 0


def test_command_line_on_pairs(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    noisy = tmp_path / "noisy.png"
    pixels = imread(picture) + np.random.default_rng(0).normal(0, 20, (96, 80))
    imsave(noisy, pixels.clip(0, 255).astype(np.uint8), check_contrast=False)
    command = ["compare", str(noisy), "--reference", str(picture), "--methods", "tv,dna-prior", "--steps", "10"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "| noisy | tv |" in shown
    assert "| noisy | dna-prior |" in shown


def test_presets_and_options_make_methods_and_the_columns_are_explained(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    specs = "dna-prior:fast,dna-prior:fast:shrink=[1,2],tv:sigma=0.05,iddp:refinements=1"
    command = ["compare", str(picture), "--noise", "gaussian:25", "--methods", specs, "--steps", "3"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    labels = ["dna-prior:fast", "dna-prior:fast:shrink=[1,2]", "tv:sigma=0.05", "iddp:refinements=1"]
    assert [row.method for row in read_rows(tmp_path / "out" / "table.csv")] == labels
    assert len(list((tmp_path / "out" / "denoised").glob("*.npy"))) == 4
    header = next(line for line in shown.splitlines() if line.startswith("| image |"))
    explained = [line.split("`")[1] for line in shown.splitlines() if line.startswith("- `")]
    assert header == f"| image | method | {' | '.join(explained)} |"
    assert shown == (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_nothing_is_said_of_a_decoder_that_is_not_needed(
    nifti_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["compare", str(nifti_path), "--methods", "median", "--quiet", "--output", str(tmp_path / "out")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(command) == 0
    assert "nvimgcodec" not in caplog.text.lower()


def test_five_methods_are_compared_unless_others_are_named(picture: Path, tmp_path: Path) -> None:
    assert main(["compare", str(picture), "--quiet", "--steps", "2", "--output", str(tmp_path / "out")]) == 0
    methods = [row.method for row in read_rows(tmp_path / "out" / "table.csv")]
    assert methods == ["median", "tv", "nl-means", "iddp", "dna-prior"]


def test_without_matplotlib_there_is_a_table_and_a_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    compare([case], METHODS, tmp_path)
    assert "| slice | median |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "they need matplotlib: pip install 'monai-dnaprior[report]'" in caplog.text


def test_a_scan_that_is_cut_short_is_one_line(nifti_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    nifti_path.write_bytes(nifti_path.read_bytes()[:-200])
    assert main(["compare", str(nifti_path), "--methods", "tv", "--output", str(tmp_path / "out")]) == 4
    shown = capsys.readouterr().err
    assert "cannot be read" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("methods", "code"), [("tv", 1), ("tv,median", 8)])
def test_methods_that_fail_show_in_the_exit_code(
    methods: str, code: int, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = room.create_denoiser

    def failing(name: str, **options: Any) -> Any:
        if name == "tv":
            raise ValueError("no")
        return create(name, **options)

    monkeypatch.setattr(room, "create_denoiser", failing)
    command = ["compare", str(picture), "--methods", methods, "--quiet", "--noise", "gaussian:9"]
    assert main([*command, "--output", str(tmp_path / "out")]) == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.png", "--methods", "tv"], "absent.png does not exist"),
        (["{picture}", "--methods", "tv,magic"], "name='magic' is no known denoiser; choose one of dna-prior"),
        (["{picture}", "--methods", ","], "methods=',' names none; give for instance median,tv"),
        (["{picture}", "--methods", "tv,iddp:best"], "preset is no option of iddp; it has weights"),
        (["{picture}", "--methods", "tv:sigmas=1"], "sigmas is no option of tv; it has sigma"),
        (["{picture}", "--methods", "tv", "--noise", "salt:3"], "noise='salt:3' must be one of gaussian"),
        (["{picture}", "--methods", "tv", "--reference", "{picture}", "{picture}"], "reference has 2 images"),
        (["{nifti}", "--methods", "tv", "--slice", "9"], "slice=9 is not in"),
        (["{picture}", "--methods", "tv", "--device", "gpu"], "device='gpu' is not supported"),
        (["{picture}", "--methods", "tv", "--device", "cuda:99"], "device='cuda:99' is not available"),
    ],
)
def test_bad_calls_are_one_line_and_leave_nothing(
    arguments: list[str], message: str, picture: Path, nifti_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [argument.format(picture=picture, nifti=nifti_path) for argument in arguments]
    assert main(["compare", *given, "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
