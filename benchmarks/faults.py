"""Run the fault tests with as many tries as the promises say, and write the table of docs/reliability.md.

python benchmarks/faults.py [tests/faults/test_interruptions.py ...]    those files, or all
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from publish import RESULTS, ROOT, publish

from monai_dnaprior.compare.table import markdown_table

BARS = {
    "F1": "malformed NIfTI, NRRD, MetaImage, PNG, TIFF: refused in one line, nothing written, under 10 s and 1 GB",
    "F2": "malformed or unsupported DICOM: the same",
    "F3": "CT with flipped bytes: no traceback, no hang, memory capped",
    "F4": "odd series and other files under the identity: bit-exact",
    "F5": "derived DICOM: no new dciodvfy error, dcm2niix equal, every file stored by storescp",
    "F6": "killed at random (SIGKILL, SIGTERM) and resumed: no bad file, the same bits",
    "F7": "full disk, read-only folder, limits: exit code not 0, no output",
    "F8": "too little memory: completes, the same bits",
    "F9": "a fit that fails: that slice alone is the input's, flagged, exit code 8",
    "F10": "3 bad of 20 cases: the others as alone, exit code 8, a row for each",
    "F11": "sizes from 1×1 to 4096²: shape kept, finite, memory bounded",
    "F12": "extreme numbers, slopes 1e-6 to 1e3: no wrap, error at most half a step, padding exact",
    "F13": "a canary in the patient's elements: not in output, logs, sidecars, names",
    "F14": "1 GiB gzip bomb, 65535² headers: refused before memory is taken",
    "F15": "hostile weights and headers: nothing executed, nothing written outside",
}
SECONDS = {"F1": 10.0, "F2": 10.0}  # a refusal may take; measured here, since a test on a busy machine may take longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=["tests/faults"], help="files of tests (all)")
    options = parser.parse_args()
    path = RESULTS / "faults.json"
    cells: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else {}
    cells.update(measured(options.tests))
    names = sorted(cells, key=lambda name: int(name[1:]))
    lines = [[name, BARS[name], cells[name]["tried"], cells[name]["held"], cells[name]["note"]] for name in names]
    publish("faults", {"cells": cells}, markdown_table(["", "test and bar", "tried", "held", "note"], lines))
    if any(cell["held"] < cell["tried"] for cell in cells.values()):
        sys.exit(1)


def measured(tests: list[str]) -> dict[str, dict[str, Any]]:
    """How often each fault of some files of tests was tried, and how often it held."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        written = ["-ojunit_family=xunit1", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *written, *tests]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "FAULTS": "full"}, check=False)
        cases = ElementTree.parse(report).iter("testcase")
    cells: dict[str, dict[str, Any]] = {}
    for case in cases:
        if case.find("skipped") is not None:
            continue
        properties = {entry.get("name"): entry.get("value") or "" for entry in case.iter("property")}
        cell = cells.setdefault(properties["fault"], {"tried": 0, "held": 0, "note": ""})
        tried = int(properties.get("tried") or 1)
        failed = case.find("failure") is not None or case.find("error") is not None
        late = float(case.get("time") or 0) > tried * SECONDS.get(properties["fault"], math.inf)
        held = 0 if failed or late else tried
        cell["tried"], cell["held"] = cell["tried"] + tried, cell["held"] + held
        cell["note"] = "; ".join(filter(None, [cell["note"], properties.get("note")]))
    return cells


if __name__ == "__main__":
    main()
