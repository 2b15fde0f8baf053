"""Time a cohort of small volumes on one and on two workers, and watch the memory of the process that schedules them.

python benchmarks/cohort.py [--scans 40]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from publish import publish

from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.cluster import cluster_runner
from monai_dnaprior.compare.run import resident_memory
from monai_dnaprior.compare.table import markdown_table
from monai_dnaprior.files.scan import Caps

SHAPE = (64, 64, 4)
STEPS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=40)
    options = parser.parse_args()
    rows = [measured(workers, scans) for scans in (options.scans // 2, options.scans) for workers in (1, 2)]
    lines = [[*row.values()] for row in rows]
    header = ["workers", "scans", "seconds from the first result", "scans a minute", "memory gained, MB"]
    publish("cohort", {"rows": rows, "shape": SHAPE, "steps": STEPS}, markdown_table(header, lines))


def measured(workers: int, scans: int) -> dict[str, float]:
    """One cohort; the clock starts when every worker has imported what it needs and finished a scan."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder / "in", scans)
        settings: dict[str, Any] = {"method": "dna-prior", "options": {"steps": STEPS, "stopping": "steps", "seed": 0}}
        runner = cluster_runner(workers=workers, dashboard=":0")
        finished, memory = list[float](), list[int]()
        for row in denoise_all(folder / "in", folder / "out", caps=Caps(), runner=runner, **settings):
            assert row.exit_code == 0, row
            finished.append(time.perf_counter())
            memory.append(resident_memory())
    seconds = finished[-1] - finished[workers - 1]
    return {
        "workers": workers,
        "scans": scans,
        "seconds": round(seconds, 1),
        "scans_a_minute": round(60 * (scans - workers) / seconds, 2),
        "megabytes": round((memory[-1] - memory[workers - 1]) / 1e6, 1),
    }


def write_volumes(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).normal(500, 50, SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), folder / f"{number:03d}.nii.gz")


if __name__ == "__main__":
    main()
