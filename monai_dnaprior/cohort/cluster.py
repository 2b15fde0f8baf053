"""Many scans on the workers of a Dask cluster."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..checks import check_whole
from ..files.scan import ScanError
from ..fitting.devices import AUTO, computing_device, device_name
from ..progress import Progress
from .all_scans import Runner
from .task import ScanRow, ScanTask

BLOCK = 32  # slices; scans with more are denoised in shares of so many, by several workers if there are
IN_FLIGHT = 2  # scans for each worker that are with the scheduler at once
logger = logging.getLogger(__name__)
HINT = "a cohort needs Dask; pip install 'monai-dnaprior[cluster]'"


def cluster_runner(
    *, scheduler: str | None = None, workers: int = 1, dashboard: str = ":8787", progress: bool = False
) -> Runner:
    """What denoises scans on a Dask cluster: one task a scan, or a share of the slices of a large one.

    A scan whose worker dies is tried again on another, where it goes on with the slices that were finished; after
    three deaths it is a row that says so. No more than two scans a worker are with the scheduler at once.

    Args:
        scheduler: the address of a cluster that runs, for instance ``tcp://host:8786``; its workers must see the same
            files. None starts one here and ends it afterwards.
        workers: processes of the cluster that is started here, each with one thread.
        dashboard: where Dask's dashboard of that cluster is served.
        progress: show a progress bar over the scans.

    Raises:
        ImportError: Dask is not installed.
    """
    try:
        import distributed  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise ImportError(HINT) from error
    check_whole(1, workers=workers)
    return partial(run_on_cluster, scheduler=scheduler, workers=workers, dashboard=dashboard, progress=progress)


def run_on_cluster(
    tasks: Sequence[ScanTask], *, scheduler: str | None, workers: int, dashboard: str, progress: bool
) -> Iterator[ScanRow]:
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        asked = device_name(tasks[0].settings.get("device", AUTO)) if tasks else AUTO
        device = asked if scheduler else str(computing_device(asked).type)
        resources = {"GPU": 1} if device.startswith("cuda") else {}
        if scheduler is None:
            local = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=dashboard,
                resources=resources,
                silence_logs=logging.ERROR,
            )
            scheduler = stack.enter_context(local).scheduler_address
        client = stack.enter_context(Client(scheduler))  # type: ignore[no-untyped-call]
        if progress:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
        name = f"{len(client.scheduler_info()['workers'])} workers on {device}"
        bar = stack.enter_context(Progress(len(tasks), unit="scan", name=name, shown=progress))
        for row in Dispatcher(client, resources, tasks).rows():
            yield row
            bar.advance()


class Dispatcher:
    """The scans that wait, and those that are with the scheduler of a cluster."""

    def __init__(self, client: Any, resources: dict[str, int], tasks: Sequence[ScanTask]) -> None:
        from distributed import as_completed

        self.client, self.resources, self.waiting = client, resources, iter(tasks)
        self.sent: dict[str, ScanTask] = {}
        self.running = as_completed()  # type: ignore[no-untyped-call]

    def rows(self) -> Iterator[ScanRow]:
        """The row of each scan, as it is finished."""
        self.send_next(IN_FLIGHT * max(len(self.client.scheduler_info()["workers"]), 1))
        for future in self.running:
            task = self.sent.pop(future.key)
            found = result_of(future, task)
            future.release()
            if isinstance(found, list):
                self.send(run_after_shares, task, [self.submit(denoise_share, task, share) for share in found])
            else:
                yield found
                self.send_next(1)

    def send_next(self, count: int) -> None:
        for task in itertools.islice(self.waiting, count):
            self.send(run_or_begin, task, BLOCK)

    def send(self, function: Any, task: ScanTask, *arguments: Any) -> None:
        future = self.submit(function, task, *arguments)
        self.sent[future.key] = task
        self.running.add(future)

    def submit(self, function: Any, *arguments: Any) -> Any:
        return self.client.submit(function, *arguments, pure=False, resources=self.resources)


def run_or_begin(task: ScanTask, block: int) -> ScanRow | list[range]:
    """Denoise a scan, or begin one with more slices than a block and tell the shares in which they are denoised."""
    task = resume(task)
    try:
        task.check()
        job = task.job()
        size = job.count
        if size <= block or task.output.exists():
            return task.denoise()
        job.begin()
    except (ScanError, OSError) as error:
        return ScanRow.of_error(task.source, error)
    return [range(start, min(start + block, size)) for start in range(0, size, block)]


def denoise_share(task: ScanTask, share: range) -> None:
    """Denoise some slices of a scan that was begun; what goes wrong here shows when the whole is denoised."""
    try:
        resume(task).job().denoise_share(share)
    except Exception:
        logger.debug("%s: slices %s could not be denoised", task.source.label, share, exc_info=True)


def run_after_shares(task: ScanTask, shares: Sequence[None]) -> ScanRow:
    """Put the shares together, which the scheduler has waited for, and denoise what is missing."""
    return resume(task).run()


def resume(task: ScanTask) -> ScanTask:
    """The task on a worker, with a GPU of its own, where an earlier worker may have died over the same scan."""
    device = device_of_worker(task.settings.get("device", AUTO))
    return replace(task, settings={**task.settings, "device": device, "resume": True})


def device_of_worker(asked: str) -> str:
    """The device that a worker computes on: those that are started here are numbered, and take the GPUs in turn."""
    from distributed import get_worker

    device = computing_device(asked)
    if device.type != "cuda" or asked not in (AUTO, "cuda"):
        return asked
    try:
        number = get_worker().name
    except ValueError:  # not on a worker
        number = None
    return f"cuda:{number % torch.cuda.device_count()}" if isinstance(number, int) else asked


def result_of(future: Any, task: ScanTask) -> ScanRow | list[range]:
    """What a worker gave, or a row that says how the workers failed; what is wrong with the settings is raised."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, (ValueError, TypeError)):
        raise error
    return ScanRow.failed(task.source, "its workers died" if isinstance(error, KilledWorker) else type(error).__name__)
