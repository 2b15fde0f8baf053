"""Many scans on a Dask cluster: the same bits as alone, whatever becomes of the workers."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import nibabel
import numpy as np
import psutil
import pytest
import torch
from conftest import SHORT
from run_command import tries

from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort import cluster
from monai_dnaprior.cohort import one_scan as job
from monai_dnaprior.cohort.all_scans import denoise_all, exit_code_of
from monai_dnaprior.cohort.cluster import HINT, cluster_runner, denoise_share, run_after_shares, run_or_begin
from monai_dnaprior.cohort.task import ScanRow, ScanTask
from monai_dnaprior.files.checkpoint import FinishedSlices
from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.scan import Caps, Scan
from monai_dnaprior.transforms.volumes import Part

pytest.importorskip("distributed")
FIT = {"method": "dna-prior", "options": {**SHORT, "seed": 3}}
OPTIONS = [f"--option={name}={value}" for name, value in SHORT.items()]


def write_volumes(folder: Path, count: int) -> None:
    for number in range(count):
        noise = np.random.default_rng(number).normal(500, 50, (16, 16, 3)).astype(np.float32)
        (folder / f"sub-{number:02d}").mkdir(parents=True)
        nibabel.save(
            nibabel.Nifti1Image(noise, np.eye(4)), folder / f"sub-{number:02d}" / f"sub-{number:02d}_T1w.nii.gz"
        )


def workers() -> Iterator[psutil.Process]:
    """The processes of the workers of a cluster that this process has started."""
    for process in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(process.cmdline()):
            yield process


def test_a_cohort_survives_its_workers_and_its_bad_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every scan of three slices two are one worker's share, and the third may be another's."""
    count, bad = tries(4, 40), tries(1, 3)
    write_volumes(tmp_path / "in", count)
    for path in sorted((tmp_path / "in").rglob("*.nii.gz"))[1 : 1 + bad]:
        path.write_bytes(path.read_bytes()[:-30])
    with socket.create_server(("127.0.0.1", 0)) as free:
        dashboard = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("monai_dnaprior.cohort.cluster.BLOCK", 2)
    runner, rows = cluster_runner(workers=2, dashboard=dashboard), list[ScanRow]()
    for row in denoise_all(tmp_path / "in", tmp_path / "out", caps=Caps(), runner=runner, **FIT):
        rows.append(row)
        if len(rows) == 1:
            with build_opener(ProxyHandler({})).open(f"http://{dashboard}/status", timeout=60) as page:
                assert b"Dask Diagnostic UI" in page.read()
        if len(rows) == count // 2:
            next(workers()).kill()
    assert len(rows) == count
    assert exit_code_of(rows) == 8
    assert sum(row.status == "denoised" for row in rows) == count - bad
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert [row["source"] for row in manifest] == sorted(row.source for row in rows)
    for row in rows:
        if row.status == "denoised":
            alone = tmp_path / "alone" / Path(row.output or "").name
            list(denoise_all(Path(row.source), alone, caps=Caps(), **FIT))
            assert Path(row.output or "").read_bytes() == alone.read_bytes()


def test_shares_are_kept_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volumes(tmp_path / "in", 1)
    (source,), _ = find_sources(tmp_path / "in")
    output = tmp_path / "out" / "scan.nii.gz"
    task = ScanTask(source, output, Caps(), FIT)
    assert run_or_begin(task, 2) == [range(0, 2), range(2, 3)]
    for share in (range(2, 3), range(0, 2)):
        denoise_share(task, share)
    parts = sorted((tmp_path / "out" / "scan.nii.gz.partial").glob("*.safetensors"))
    assert [path.name[:13] for path in parts] == ["000000-000002", "000002-000003"]
    parts[1].write_bytes(b"")  # a share that was lost is made again
    made, finished = list[range](), job.finish_slices

    def watched(scan: Scan, part: Part) -> FinishedSlices:
        made.append(part.indices)
        return finished(scan, part)

    monkeypatch.setattr(job, "finish_slices", watched)
    assert run_after_shares(task, []).status == "denoised"
    assert made == [range(2, 3)]
    assert run_or_begin(task, 2) == run_after_shares(task, [])  # it is there already
    denoise_share(task, range(3))
    assert not output.with_name("scan.nii.gz.partial").exists()
    list(denoise_all(Path(source.label), tmp_path / "alone.nii.gz", caps=Caps(), **FIT))
    assert output.read_bytes() == (tmp_path / "alone.nii.gz").read_bytes()


def test_a_large_scan_that_is_broken_is_a_row(tmp_path: Path) -> None:
    write_volumes(tmp_path / "in", 1)
    (source,), _ = find_sources(tmp_path / "in")
    (tmp_path / "file").touch()
    row = run_or_begin(ScanTask(source, tmp_path / "file" / "scan.nii.gz", Caps(), FIT), 2)
    assert isinstance(row, ScanRow)
    assert (row.status, row.exit_code) == ("failed", 1)
    source.files[0].write_bytes(source.files[0].read_bytes()[:-30])
    row = run_or_begin(ScanTask(source, tmp_path / "scan.nii.gz", Caps(), FIT), 2)
    assert isinstance(row, ScanRow)
    assert (row.status, row.exit_code) == ("refused", 4)


def test_the_command_goes_on_where_a_cohort_stopped(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write_volumes(tmp_path / "in", 2)
    command = ["cohort", str(tmp_path / "in"), str(tmp_path / "out"), *OPTIONS, "--workers=1", "--dashboard=:0"]
    first = next(iter(sorted((tmp_path / "in").rglob("*.nii.gz"))))
    output = tmp_path / "out" / "sub-00" / "sub-00_desc-denoised_T1w.nii.gz"
    assert main(["denoise", str(first), str(output), *OPTIONS, "--quiet"]) == 0
    before = output.stat().st_mtime_ns
    assert main(command) == 0
    captured = capfd.readouterr()
    assert captured.out.count("slices denoised") == 2
    assert "1 workers on cpu: 2 of 2 scans\n" in captured.err
    assert output.stat().st_mtime_ns == before


def test_a_scan_whose_workers_die_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import KilledWorker

    from monai_dnaprior.cohort.cluster import result_of

    class Died:
        def __init__(self, error: Exception) -> None:
            self.exception = lambda: error

    write_volumes(tmp_path, 1)
    tasks: list[ScanTask] = []
    list(
        denoise_all(
            tmp_path, tmp_path.with_name("out"), caps=Caps(), runner=lambda found: tasks.extend(found) or iter(())
        )
    )
    row = result_of(Died(KilledWorker("task", None, 3)), tasks[0])  # type: ignore[arg-type]
    assert (row.status, row.exit_code) == ("failed", 1)
    assert row.reason.endswith("could not be denoised: its workers died")
    with pytest.raises(ValueError, match="preset"):  # what is wrong for every scan ends the cohort
        result_of(Died(ValueError("preset='foo'")), tasks[0])
    assert replace(tasks[0], output=tmp_path / "x.nii", settings={"method": "median"}).run().exit_code == 0


@pytest.mark.parametrize(
    ("asked", "number", "device"),
    [
        ("auto", 3, "cuda:1"),
        ("cuda", 2, "cuda:0"),
        ("cuda:0", 3, "cuda:0"),
        ("cpu", 3, "cpu"),
        ("auto", "tcp://a", "auto"),
    ],
)
def test_workers_take_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, asked: str, number: int | str, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=number))
    assert cluster.device_of_worker(asked) == device


def test_a_cohort_without_workers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_volumes(tmp_path / "in", 1)
    assert main(["cohort", str(tmp_path / "in"), str(tmp_path / "out"), "--workers=0"]) == 2
    assert "workers=0 must be a whole number, at least 1" in capsys.readouterr().err


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="monai-dnaprior\\[cluster\\]"):
        cluster_runner()
    assert "pip install" in HINT
