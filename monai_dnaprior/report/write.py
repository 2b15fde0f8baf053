"""A quality report of a denoised scan as one HTML file, and an index of those of many."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..cohort.one_scan import NOTICE
from ..denoisers.outcome import Outcome
from ..files.discovery import Source, find_sources
from ..files.disk import hash_of, write_whole
from ..files.names import INDEX, MANIFEST, output_for, output_of, report_of, sidecar_of, stem_of
from ..files.scan import Caps, CorruptScan, LabelMap, NoScan, ScanError, UnsupportedScan
from .before_after import BeforeAfter
from .charts import number
from .findings import count_noun

NEEDED = {
    "configuration": {"version", "method", "options", "slice_dim", "rician", "device", "mask", "noise", "weights"},
    "residual": {"standard_deviation", "correlation_with_image"},
    "voxels": {"all", "left_out", "changed", "clipped"},
    "versions": {"python"},
}
NEEDED_OF_SLICES = {"sigma", "steps", "stop_reason", "residual", "seconds", "warnings"}


def write_report(source: Source, output: Path, report: Path, *, caps: Caps | None = None) -> None:
    """Write one HTML file, which needs no other, about a scan and what ``denoise`` made of it.

    Args:
        source: the scan as it came.
        output: the denoised one, with its sidecar beside it.
        report: the file to write; it replaces an earlier one.
        caps: what a file may ask for; None for the usual.

    Raises:
        ScanError: there is no sidecar, or it is of other files.
        ImportError: Jinja2 is not installed.
    """
    sidecar = read_sidecar(source, output)
    case = BeforeAfter(source, output, sidecar, caps or Caps())
    write_whole(report, render("report.html", {"title": stem_of(output.name), **case.context()}))


def read_sidecar(source: Source, output: Path) -> dict[str, Any]:
    """What ``denoise`` wrote beside its output, if it is of these very files."""
    path = sidecar_of(output)
    if not output.exists():
        raise UnsupportedScan(output, "does not exist; it must be what denoise made")
    if not path.is_file():
        raise UnsupportedScan(output, f"has no {path.name} beside it, which denoise writes")
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptScan(path, "is no JSON") from error
    if not is_complete(sidecar):
        raise CorruptScan(path, "is not what denoise writes")
    # what is read below is then what was checked, in a process of its own, before it was denoised
    if sidecar["input"] != [hash_of(file) for file in source.files]:
        raise UnsupportedScan(source.label, f"is not the scan that {path.name} tells of")
    if sidecar["output"] != hash_of(output):
        raise UnsupportedScan(output, f"was changed after {path.name} was written")
    return sidecar


def is_complete(sidecar: Any) -> bool:
    """Whether all is there that a report tells."""
    if not isinstance(sidecar, dict) or not {"input", "output", "slices", "warnings", *NEEDED} <= sidecar.keys():
        return False
    parts = [(sidecar[name], needed) for name, needed in NEEDED.items()]
    parts += [(record, NEEDED_OF_SLICES) for record in sidecar["slices"]]
    return all(isinstance(part, dict) and part.keys() >= needed for part, needed in parts)


def write_index(manifest: Path, report: Path) -> None:
    """Write an HTML page with a row for every scan of a cohort, linked to its report where there is one.

    Args:
        manifest: that ``denoise`` wrote into the folder of the cohort.
        report: the file to write; it replaces an earlier one.

    Raises:
        ScanError: there is no manifest, or it is not one.
        ImportError: Jinja2 is not installed.
    """
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        scans = [entry for entry in entries if entry["status"] not in (NoScan.status, LabelMap.status)]
        cases = [index_row(entry, manifest.parent, report.parent) for entry in scans]
    except OSError as error:
        raise UnsupportedScan(manifest, "cannot be read") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptScan(manifest, "is not what denoise writes") from error
    cases.sort(key=lambda case: (case["status"] == "denoised", case["name"]))  # what went wrong comes first
    context = {"title": "Denoised scans", "cases": cases, "counts": Counter(case["status"] for case in cases)}
    write_whole(report, render("index.html", context))


def index_row(entry: Mapping[str, Any], folder: Path, place: Path) -> dict[str, Any]:
    """One row of the index; a scan without an output is named as its file is."""
    output = below(folder, entry["output"]) if entry["output"] else None
    page = None if output is None else report_of(output)
    name = Path(entry["source"]).name if output is None else stem_of(os.path.relpath(output, folder))
    link = None if page is None or not page.is_file() else quote(Path(os.path.relpath(page, place)).as_posix())
    reason = str(entry["reason"]).removeprefix(f"{entry['source']}: ")
    kept = {key: entry[key] for key in ("status", "slices", "denoised", "warnings")}
    alone = Outcome(left_alone=entry["left_alone"]).untreated
    return {**kept, "alone": alone, "name": name, "link": link, "reason": reason}


def below(folder: Path, output: str) -> Path | None:
    """Where an output is now, if its folder was moved: the longest end of its path that exists below the folder."""
    parts = [part for part in Path(output).parts if part not in (Path(output).anchor, "..")]
    tails = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail.exists()), None)


def report_all(
    path: Path, output: Path, *, html: Path | None = None, caps: Caps | None = None
) -> Iterator[Path | ScanError]:
    """Write the report of one scan, or of every scan of a cohort and their index, and tell of each.

    Args:
        path: what was denoised, a file or a folder.
        output: what ``denoise`` made of it.
        html: the file of one report; beside the output if None.
        caps: what a file may ask for.
    """
    sources, errors = find_sources(path)
    cohort = (output / MANIFEST).is_file()
    if cohort and html is not None:
        raise UnsupportedScan(html, f"cannot be named: {output} is a folder of scans, each with a report beside it")
    if not cohort:
        if len(sources) != 1:
            bad = [error for error in errors if not isinstance(error, NoScan)]
            raise bad[0] if bad else UnsupportedScan(path, f"holds {count_noun(len(sources), 'scan')}, not one")
        made = output_of(sources[0].output_name, path, output)
        html = html or report_of(made)
        write_report(sources[0], made, html, caps=caps)
        yield html
        return
    for source in sources:
        made = output_for(source.output_name, path, output, alone=False)
        if made.exists():
            page = report_of(made)
            try:
                write_report(source, made, page, caps=caps)
                yield page
            except ScanError as error:
                yield error
    write_index(output / MANIFEST, output / INDEX)
    yield output / INDEX


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """A page; everything in it that is not of the template is escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("reports need Jinja2: pip install 'monai-dnaprior[report]'.") from error
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["number"] = number
    return pages.get_template(template).render(notice=NOTICE, **context).encode(errors="backslashreplace")
