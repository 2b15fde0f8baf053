"""The command as a process of its own, and what it must never do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

FULL = os.environ.get("FAULTS") == "full"  # as many tries as the promises say, not the few of a quick run
GIGABYTE = 2**30
HANGS = 600  # seconds, after which a command is ended: no bar, only so that the tests end
# A process starts with the peak of the one that made it, so a small one stands between; arguments: a file, a command.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def tries(quick: int, full: int) -> int:
    return full if FULL else quick


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal), what it wrote, seconds, and bytes of memory."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int


def start(
    *arguments: object,
    cwd: Path,
    largest_file: int | None = None,
    wrapper: tuple[object, ...] = (),
    **environment: str,
) -> subprocess.Popen:
    """``monai-dnaprior`` with these arguments and variables, its temporary files below ``cwd/tmp``."""
    (cwd / "tmp").mkdir(exist_ok=True)
    command = [*map(str, wrapper), sys.executable, "-m", "monai_dnaprior", *map(str, arguments)]
    if largest_file is not None:
        command = ["prlimit", f"--fsize={largest_file}", *command]
    environment = {**os.environ, "TMPDIR": str(cwd / "tmp"), "OMP_NUM_THREADS": "1", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=cwd, env=environment, encoding="utf-8", stdout=pipe, stderr=pipe, start_new_session=True
    )


def run(*arguments: object, cwd: Path, largest_file: int | None = None, **environment: str) -> Outcome:
    """Run ``monai-dnaprior`` to its end; the memory is that of the largest of its processes."""
    started = time.perf_counter()
    memory = cwd / "memory"
    wrapper = (sys.executable, "-c", MEASURED, memory)
    process = start(*arguments, cwd=cwd, largest_file=largest_file, wrapper=wrapper, **environment)
    stdout, stderr = end_of(process)
    largest = 1024 * int(memory.read_text(encoding="utf-8"))
    memory.unlink()
    return Outcome(process.returncode, stdout, stderr, time.perf_counter() - started, largest)


def end_of(process: subprocess.Popen) -> tuple[str, str]:
    """What a command has written when it has ended; one that hangs is ended, with its children."""
    try:
        return process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


def assert_refused(outcome: Outcome, path: Path, output: Path) -> None:
    """One line that names the file and the reason, nothing written, in bounded memory."""
    assert outcome.code in (2, 4), outcome
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert path.name in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""
    assert outcome.memory < GIGABYTE
    assert not list(output.parent.glob(f"{output.name}*")), "something was written"
    assert not any((output.parent / "tmp").iterdir()), "a temporary file is left"
