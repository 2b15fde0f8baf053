"""Many scans on the workers of a Dask cluster."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from ..checks import check_whole
from ..files.preflight import rehearse
from ..files.scan import ScanError
from .all_scans import FAILED, Row, Runner, Task, row_of, row_of_error, row_of_rehearsed

BLOCK = 32  # slices; scans with more are denoised by several workers
IN_FLIGHT = 2  # scans for each worker that are with the scheduler at once
logger = logging.getLogger(__name__)
HINT = "a cohort needs Dask; pip install 'monai-dnaprior[cluster]'"


def cluster_runner(
    *,
    scheduler: str | None = None,
    workers: int = 1,
    dashboard: str = ":8787",
    progress: bool = False,
    block: int = BLOCK,
) -> Runner:
    """What denoises scans on a Dask cluster: one task a scan, or a block of slices of a large one.

    A scan whose worker dies is tried again on another, where it goes on with the slices that were finished; after
    three deaths it is a row that says so. No more than two scans a worker are with the scheduler at once.

    Args:
        scheduler: the address of a cluster that runs, for instance ``tcp://host:8786``; its workers must see the same
            files. None starts one here and ends it afterwards.
        workers: processes of the cluster that is started here, each with one thread.
        dashboard: where Dask's dashboard of that cluster is served.
        progress: show a progress bar over the scans.
        block: a scan with more slices is denoised in shares of so many, by several workers if there are.

    Raises:
        ImportError: Dask is not installed.
    """
    try:
        import distributed  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise ImportError(HINT) from error
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    check_whole(1, block=block)
    return partial(
        on_cluster, scheduler=scheduler, workers=workers, dashboard=dashboard, progress=progress, block=block
    )


def on_cluster(
    tasks: Sequence[Task], *, scheduler: str | None, workers: int, dashboard: str, progress: bool, block: int
) -> Iterator[Row]:
    from distributed import Client, LocalCluster, as_completed

    with ExitStack() as stack:
        on_gpu = bool(tasks) and str(tasks[0].settings.get("device", "cpu")).startswith("cuda")
        resources = {"GPU": 1} if on_gpu else {}
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
        bar = stack.enter_context(tqdm(total=len(tasks), unit="scan", disable=not progress))
        if progress:
            bar.write(f"dashboard: {client.dashboard_link}")
        waiting, sent, running = iter(tasks), {}, as_completed()  # type: ignore[no-untyped-call]
        submit = partial(client.submit, pure=False, resources=resources)

        def send(function: Callable[..., Row | int], task: Task, *arguments: Any) -> None:
            future = submit(function, task, *arguments)
            sent[future.key] = task
            running.add(future)

        def send_next(count: int) -> None:
            for task in itertools.islice(waiting, count):
                send(row_or_size, task, block)

        send_next(IN_FLIGHT * max(len(client.scheduler_info()["workers"]), 1))
        for future in running:
            task = sent.pop(future.key)
            found = row_of_future(future, task)
            future.release()
            if isinstance(found, int):
                shares = [range(start, min(start + block, found)) for start in range(0, found, block)]
                send(row_again, task, [submit(denoise_share_of, task, share) for share in shares])
                continue
            yield found
            bar.update()
            send_next(1)


def row_or_size(task: Task, block: int) -> Row | int:
    """A scan's row; of one with more slices than a block, which was begun only, how many it has."""
    task = resumed(task)
    try:
        shape, colours = rehearse(task.source, task.caps)

        from .one_scan import begin  # takes seconds, for which a scan that is refused need not wait

        settings = task.chosen()
        size = settings.slicing(colours=colours).count(shape)
        if size <= block or task.output.exists():
            return row_of_rehearsed(task)
        begin(task.source, task.output, settings)
    except (ScanError, OSError) as error:
        return row_of_error(task.source, error)
    return size


def denoise_share_of(task: Task, share: range) -> None:
    """Some slices of a scan that was begun; what goes wrong here shows when the whole is denoised."""
    from .one_scan import denoise_share

    task = resumed(task)
    try:
        denoise_share(task.source, task.output, task.chosen(), share)
    except Exception:
        logger.debug("%s: slices %s could not be denoised", task.source.label, share, exc_info=True)


def row_again(task: Task, shares: Sequence[None]) -> Row:
    """:func:`~monai_dnaprior.cohort.all_scans.row_of` once its shares are there."""
    return row_of(resumed(task))


def resumed(task: Task) -> Task:
    """The task on a worker, where an earlier one may have died over the same scan."""
    return replace(task, settings={**task.settings, "resume": True})


def row_of_future(future: Any, task: Task) -> Row | int:
    """The row, or the size, or one that says how the workers failed; what is wrong with the settings is raised."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, (ValueError, TypeError)):
        raise error
    reason = "its workers died" if isinstance(error, KilledWorker) else type(error).__name__
    return Row(task.source.label, None, "failed", FAILED, f"{task.source.label}: could not be denoised: {reason}")
