"""F8 to F11: too little memory, fits that fail, bad cases among good ones, sizes at the limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import SHORT
from run_command import FULL, run, tries
from torch import Tensor

from monai_dnaprior import create_denoiser
from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.task import ScanRow
from monai_dnaprior.denoisers import dnaprior as priors
from monai_dnaprior.denoisers.record import Record
from monai_dnaprior.denoisers.result import Denoiser, Result
from monai_dnaprior.files.scan import Caps
from monai_dnaprior.noise.intensity import intensity_range
from monai_dnaprior.transforms.out_of_memory import within_memory
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

pytestmark = pytest.mark.fault("F8")

FIT = {"method": "dna-prior", "options": {**SHORT, "seed": 3}}


def write_volume(path: Path, *shape: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(500, 50, shape)
    nibabel.save(nibabel.Nifti1Image(noise.astype(np.float32), np.eye(4)), path)
    return path


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


class Small:
    """A denoiser on a device that has memory for so many slices at once."""

    def __init__(self, denoiser: Denoiser, room: int, error: Exception | None = None) -> None:
        self.denoiser, self.room, self.batches = denoiser, room, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def __call__(self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None) -> Result:
        self.batches.append(len(noisy))
        if len(noisy) > self.room:
            raise self.error
        return self.denoiser(noisy, slice_indices=slice_indices)


@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_with_little_memory_a_batch_is_halved(room: int) -> None:
    volume = torch.rand(1, 16, 16, 7, generator=torch.Generator().manual_seed(0))
    denoiser = create_denoiser("dna-prior", **SHORT)
    small = Small(denoiser, room)
    expected, found = (denoise_volume(volume, one, Slicing(batch_size=7, neighbours=0)) for one in (denoiser, small))
    assert torch.equal(found.image, expected.image)
    assert [record.seed for record in found.records] == [record.seed for record in expected.records]
    for record in found.records:
        assert any("out of memory with 7 slices at once: halved" in text for text in record.warnings) == (room < 7)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_memory_is_short_in_many_words(error: Exception) -> None:
    small = Small(create_denoiser("identity"), 2, error)
    found = denoise_volume(torch.rand(1, 8, 8, 4), small, Slicing(batch_size=4))
    assert small.batches == [4, 2, 2]
    assert all("out of memory" in record.warnings[-1] for record in found.records)


class Halving:
    """A denoiser that halves images of at most so many pixels, a number of times only."""

    def __init__(self, room: int, failures: int = 10**6) -> None:
        self.room, self.failures, self.sizes = room, failures, []

    def __call__(self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None) -> Result:
        self.sizes.append(tuple(noisy.shape[-2:]))
        if noisy[0, 0].numel() > self.room and len(self.sizes) <= self.failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        reason = "constant" if noisy.min() == noisy.max() else "steps"
        record = Record(sigma=noisy.max().item(), stop_reason=reason, seconds=1.0, warnings=("a part",))
        return Result(noisy / 2, [record], spread=noisy / 4)


@pytest.mark.parametrize(("room", "side"), [(260 * 260, 260), (130 * 130, 130)])
def test_one_slice_that_memory_does_not_suffice_for_is_denoised_in_tiles(room: int, side: int) -> None:
    image = torch.rand(1, 520, 280, generator=torch.Generator().manual_seed(0))
    image[:, :200] = 0.5  # the first tile has nothing to fit
    found = denoise_volume(image, denoiser := Halving(room))
    offset = intensity_range(image)[0]
    torch.testing.assert_close(found.image, (image - offset) / 2 + offset)
    torch.testing.assert_close(found.spread, (image - offset) / 4)
    failed = [(520, 280), (260, 260)][: 1 if side == 260 else 2]
    tiles = denoiser.sizes[len(failed) :]
    assert denoiser.sizes[: len(failed)] == failed
    assert set(tiles) == {(side, side)}
    (record,) = found.records
    assert (record.stop_reason, record.seconds) == ("steps", len(tiles))
    way = f"out of memory with the whole slice: denoised in tiles of {side}×{side} pixels"
    assert record.warnings == ("a part", way)


def test_with_no_memory_for_a_slice_too_small_for_tiles_it_goes_to_the_cpu() -> None:
    class Elsewhere(Tensor):
        device = torch.device("meta")

    image = torch.rand(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    found = within_memory(denoiser := Halving(0, failures=1), image.as_subclass(Elsewhere), range(1))
    assert denoiser.sizes == [(200, 200), (200, 200)]
    assert found.image.device.type == "meta"
    assert found.records[0].warnings[-1] == "out of memory on meta: denoised on the CPU"


def test_with_no_memory_for_tiles_on_the_cpu_nothing_is_done_twice() -> None:
    with pytest.raises(MemoryError, match=r"out of memory with a slice of 280×300 pixels, in tiles too\."):
        denoise_volume(torch.rand(1, 280, 300), denoiser := Halving(0))
    assert denoiser.sizes == [(280, 300), (150, 150)]


def test_what_is_no_lack_of_memory_is_raised() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        denoise_volume(torch.rand(1, 8, 8, 4), Small(create_denoiser("identity"), 2, RuntimeError("mat1 and mat2")))


def test_memory_that_does_not_suffice_for_one_slice_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "monai_dnaprior.cohort.settings.create_denoiser", lambda *_, **__: Small(create_denoiser("identity"), 0)
    )
    source = write_volume(tmp_path / "in.nii", 8, 8, 2)
    (row,) = denoise_all(source, tmp_path / "out.nii", caps=Caps(), **FIT)
    assert (row.status, row.exit_code) == ("failed", 1)
    assert "out of memory with a slice of 8×8 pixels." in row.reason
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.fault("F9")
def test_a_fit_that_fails_gives_back_its_slice_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write_volume(tmp_path / "in.nii", 16, 16, 4)
    (sound,) = denoise_all(source, tmp_path / "sound.nii", caps=Caps(), neighbours=0, **FIT)
    assert sound.exit_code == 0
    third, loss_of = noisy_slices(source)[2], priors.penalised_fidelity

    def broken(estimate: Tensor, noisy: Tensor, *weights: Tensor, **options: float) -> Tensor:
        loss = loss_of(estimate, noisy, *weights, **options)
        return loss * float("nan") if torch.equal(noisy, third) else loss

    monkeypatch.setattr(priors, "penalised_fidelity", broken)
    options = [f"--option={name}={value}" for name, value in SHORT.items()]
    words = [*options, "--seed", "3", "--quiet"]
    assert main(["denoise", str(source), str(tmp_path / "beside.nii"), *words]) == 8  # with its neighbours
    assert np.array_equal(values_of(tmp_path / "beside.nii")[..., 2], values_of(source)[..., 2])
    capsys.readouterr()
    assert main(["denoise", str(source), str(tmp_path / "out.nii"), *words, "--neighbours", "0"]) == 8
    assert "1 of 4 slices could not be denoised and are the input's" in capsys.readouterr().err
    before, after, expected = values_of(source), values_of(tmp_path / "out.nii"), values_of(tmp_path / "sound.nii")
    assert np.array_equal(after[..., 2], before[..., 2])
    assert np.array_equal(after[..., [0, 1, 3]], expected[..., [0, 1, 3]])
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [record["stop_reason"] == "non-finite" for record in report["slices"]] == [False, False, True, False]
    assert report["fallbacks"] == 1


def noisy_slices(source: Path) -> list[Tensor]:
    """The slices as a denoiser gets them."""
    seen: list[Tensor] = []

    def watch(noisy: Tensor, *, slice_indices: Sequence[int] | None = None) -> Result:
        seen.extend(noisy.split(1))
        return create_denoiser("identity")(noisy, slice_indices=slice_indices)

    denoise_volume(torch.from_numpy(values_of(source))[None], watch)
    return seen


@pytest.mark.fault("F10")
def test_bad_cases_stop_no_others(tmp_path: Path, capsys: pytest.CaptureFixture, record_property: Any) -> None:
    count = tries(5, 20)
    for number in range(count):
        write_volume(tmp_path / "in" / f"sub-{number:02d}" / f"sub-{number:02d}_T1w.nii.gz", 16, 16, 2, seed=number)
    broken = sorted((tmp_path / "in").rglob("*.nii.gz"))[1:4]
    broken[0].write_bytes(broken[0].read_bytes()[:-40])
    broken[1].write_bytes(b"")
    broken[2].write_bytes(b"no scan")
    rows = list(denoise_all(tmp_path / "in", tmp_path / "out", caps=Caps(), **FIT))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert [ScanRow(**{**row, "warnings": tuple(row["warnings"])}) for row in manifest] == rows
    assert len(rows) == count
    assert [row.source for row in rows if row.exit_code == 4] == [str(path) for path in broken]
    sound = [row for row in rows if row.status == "denoised"]
    assert len(sound) == count - 3
    for row in sound:
        alone = tmp_path / "alone" / Path(row.output or "").name
        (solo,) = denoise_all(Path(row.source), alone, caps=Caps(), **FIT)
        assert alone.name.endswith("_desc-denoised_T1w.nii.gz")
        assert Path(row.output or "").read_bytes() == alone.read_bytes()
        assert solo.exit_code == 0
    options = ["--method", "identity", "--quiet"]
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "again"), *options]) == 8
    assert len(capsys.readouterr().err.splitlines()) == 3
    record_property("tried", count)


@pytest.mark.fault("F11")
@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1, 3), (5, 7), (33, 47, 2)], ids=str)
@pytest.mark.parametrize("method", ["dna-prior", "iddp"])
def test_any_size_is_denoised(shape: tuple[int, ...], method: str, tmp_path: Path) -> None:
    source = write_volume(tmp_path / "in.nii", *shape)
    settings = FIT if method == "dna-prior" else {"method": method}
    (row,) = denoise_all(source, tmp_path / "out.nii", caps=Caps(), **settings)
    assert row.exit_code == 0
    assert values_of(tmp_path / "out.nii").shape == shape
    assert np.isfinite(values_of(tmp_path / "out.nii")).all()


@pytest.mark.fault("F11")
@pytest.mark.skipif(not FULL, reason="takes minutes; FAULTS=full runs it")
@pytest.mark.parametrize("method", ["dna-prior", "iddp"])
def test_a_slice_of_4096_by_4096_is_one_of_any_size(method: str, tmp_path: Path, record_property: Any) -> None:
    source = write_volume(tmp_path / "in.nii", 4096, 4096)
    steps = ("--steps=5", "--option=refinements=0") if method == "dna-prior" else ()  # the filter takes very long
    outcome = run("denoise", source, tmp_path / "out.nii", "--method", method, *steps, "--quiet", cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert np.isfinite(values_of(tmp_path / "out.nii")).all()
    assert outcome.memory < 6 * 2**30
    record_property("note", f"{method}: {outcome.memory / 2**30:.1f} GiB, {outcome.seconds:.0f} s")
