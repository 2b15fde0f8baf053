"""Many scans on the workers of a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from .cohort import FAILED, Row, Runner, Task, row_of

IN_FLIGHT = 2  # scans for each worker that are with the scheduler at once
HINT = "a cohort needs Dask; pip install 'monai-dnaprior[cluster]'"


def cluster_runner(
    *, scheduler: str | None = None, workers: int = 1, dashboard: str = ":8787", progress: bool = False
) -> Runner:
    """What denoises scans on a Dask cluster: one task a scan, each a computation of its own on one worker.

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
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    return partial(on_cluster, scheduler=scheduler, workers=workers, dashboard=dashboard, progress=progress)


def on_cluster(
    tasks: Sequence[Task], *, scheduler: str | None, workers: int, dashboard: str, progress: bool
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

        def send(count: int) -> None:
            for _, task in zip(range(count), waiting, strict=False):
                future = client.submit(row_again, task, pure=False, resources=resources)
                sent[future.key] = task
                running.add(future)

        send(IN_FLIGHT * max(len(client.scheduler_info()["workers"]), 1))
        for future in running:
            task = sent.pop(future.key)
            yield row_of_future(future, task)
            future.release()
            bar.update()
            send(1)


def row_again(task: Task) -> Row:
    """:func:`~monai_dnaprior.cohort.row_of` on a worker, where an earlier one may have died over the same scan."""
    return row_of(replace(task, settings={**task.settings, "resume": True}))


def row_of_future(future: Any, task: Task) -> Row:
    """The row, or one that says how the workers failed; what is wrong with the settings is raised."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, (ValueError, TypeError)):
        raise error
    reason = "its workers died" if isinstance(error, KilledWorker) else type(error).__name__
    return Row(task.source.label, None, "failed", FAILED, f"{task.source.label}: could not be denoised: {reason}")
