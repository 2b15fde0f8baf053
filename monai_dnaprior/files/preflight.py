"""A scan is read and written back unchanged in a process of its own before anything is done with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .discovery import Source
from .labels import labels_in
from .scan import Caps, CorruptScan, ScanError, UnsupportedScan, same_bits

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

ERRORS = {error.__name__: error for error in (UnsupportedScan, CorruptScan)}
PROVENANCE = {"description": "preflight", "configuration": "{}", "version": "0"}
FIXED_MEMORY = 768 * 2**20  # bytes that libraries and decoders take besides the voxels
COPIES = 8  # of the voxels, and of the file, that reading and writing may need
TIMEOUT, SECONDS_A_BYTE = 60.0, 1e-6


class EnforcedCaps(Caps):
    """Caps that let the process have no more memory than what a file that was admitted can need."""

    def admit(self, path: object, *, decoded: int, encoded: int, pixels: int) -> None:
        super().admit(path, decoded=decoded, encoded=encoded, pixels=pixels)
        limit_memory(FIXED_MEMORY + COPIES * (decoded + encoded))


def preflight(source: Source, caps: Caps) -> str:
    """Read a scan and write it back unchanged, in a temporary folder, to find what is wrong with it.

    A parser that crashes, hangs or takes too much memory does so in a process of its own.

    Returns:
        why the scan is taken for a label map; empty if it is not.

    Raises:
        ScanError: why the scan cannot be treated.
        OSError: it could not be tried, for want of a permission or of space for temporary files.
    """
    seconds = TIMEOUT + SECONDS_A_BYTE * sum(file.stat().st_size for file in source.files)
    request = {
        "kind": source.kind, "files": [str(file.absolute()) for file in source.files], "stem": source.stem,
        "suffix": source.suffix, "caps": asdict(caps),
    }  # fmt: skip
    command = [sys.executable, "-m", "monai_dnaprior.files.preflight"]
    packages = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": packages}
    with tempfile.TemporaryDirectory(prefix="monai-dnaprior-") as folder:
        try:
            run = subprocess.run(
                command,
                input=json.dumps({**request, "folder": folder}),
                encoding="utf-8",
                errors="replace",  # a native reader may complain in any bytes
                capture_output=True,
                timeout=seconds,
                cwd=folder,  # an empty one: modules are imported from where a process begins
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise CorruptScan(source.label, f"cannot be read within {seconds:.0f} s") from error
    if run.returncode < 0:
        raise CorruptScan(source.label, f"crashed its reader (signal {-run.returncode})")
    try:
        answer = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise CorruptScan(source.label, f"crashed its reader (exit {run.returncode})") from error
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["path"], answer["reason"])
    return answer["labels"]


def answer_to(request: dict) -> dict[str, Any]:
    """What the process prints: whether the scan holds labels, or the error."""
    source = Source(request["kind"], tuple(map(Path, request["files"])), request["stem"], request["suffix"])
    total = sum(file.stat().st_size for file in source.files)
    limit_memory(FIXED_MEMORY + COPIES * total)
    caps = EnforcedCaps(**request["caps"])
    try:
        scan = source.read(caps)
        copy = Path(request["folder"]) / ("copy" + source.suffix.removesuffix(".gz"))
        scan.write(copy, scan.stored, **PROVENANCE)
        again = source.reread(copy, caps)
        if not same_bits(again.stored, scan.stored):
            raise UnsupportedScan(source.label, "does not come back from being written as it was")
        return {"labels": labels_in(scan)}
    except ScanError as error:
        return {"error": type(error).__name__, "path": error.path, "reason": error.reason}
    except MemoryError:
        return {"error": "CorruptScan", "path": source.label, "reason": "takes more memory than its voxels can need"}
    except Exception as error:  # whatever a parser does with a damaged file
        if isinstance(error, OSError) and error.errno is not None:  # the system's fault, not the file's
            return {"errno": error.errno}
        reason = f"is damaged: it cannot be read ({type(error).__name__})"
        return {"error": "CorruptScan", "path": source.label, "reason": reason}


def limit_memory(size: int) -> None:
    """Limit the address space of this process to some bytes more than it has now, where the system can do that."""
    if resource is None:
        return
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):  # no /proc, or a lower limit that may not be raised
        return


if __name__ == "__main__":
    print(json.dumps(answer_to(json.load(sys.stdin))))
