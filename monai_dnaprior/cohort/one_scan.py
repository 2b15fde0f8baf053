"""Denoise the files of one scan into files of the same kind, so that it can be interrupted at any moment."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import __version__
from ..denoisers.result import Record
from ..files.checkpoint import KeptPart, Partial
from ..files.discovery import Source, find_sources
from ..files.disk import hash_of, write_json
from ..files.names import OUTPUT_SUFFIXES, Outputs, bids_fields, sidecar_of, stem_of, suffix_of
from ..files.preflight import rehearse
from ..files.scan import Scan, UnsupportedScan, same_bits
from ..noise.metrics import correlation
from ..transforms.volumes import Part, check_magnitudes, denoise_parts
from .settings import Settings

NOTICE = "Not a medical device; keep the original."
PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom", "SimpleITK")
SAME_AFFINE = 1e-3  # mm that a mask's voxels may lie elsewhere
FALLBACK = "non-finite"
DIGITS = 5  # of the numbers in a trace


def denoise_source(source: Source, output: Path, settings: Settings, *, progress: bool = False) -> dict[str, Any]:
    """Denoise one scan, and return what its sidecar says.

    The output, the residual, the spread and the sidecar appear whole, the output last, after it has been read back and
    compared. Until then ``OUTPUT.partial`` keeps what is finished.

    Raises:
        ScanError: why the scan is not treated, or where the output cannot go.
        OSError: the output cannot be written.
    """
    check_output(source, output)
    key = key_of(source, settings)
    if output.exists():
        return finished_before(output, key, settings)
    scan = scan_of(source, settings)
    check_files(Outputs(output, scan.values_suffix), key, settings)
    started = time.perf_counter()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial(output, key, resume=settings.resume)
    result = denoised(scan, partial, settings, progress)
    staged, configuration = Outputs(partial.stage() / output.name, scan.values_suffix), key["configuration"]
    provenance = {"description": described(configuration), "configuration": json.dumps(configuration, sort_keys=True)}
    scan.write(staged.image, result.stored, version=__version__, **provenance)
    if not same_bits(source.reread(staged.image, settings.caps).stored, result.stored):
        raise OSError(f"{output} could not be written: it does not come back from the disk as it was")
    write_values(scan, result, staged, settings)
    report = {**key, **summary(scan, result), "output": hash_of(staged.image)}
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(staged.sidecar, {**bids_fields(stem_of(output.name), "denoised"), **report})
    partial.publish(output.parent, first=staged.sidecar.name, last=output.name)
    return report


def begin(source: Source, output: Path, settings: Settings) -> None:
    """Make the place where several processes keep their shares of a scan, unless its output is there."""
    check_output(source, output)
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        Partial(output, key_of(source, settings), resume=settings.resume)


def denoise_share(source: Source, output: Path, settings: Settings, share: range) -> None:
    """Denoise some slices of a scan that was begun, and keep them for :func:`denoise_source` to go on from."""
    if output.exists():
        return
    scan = scan_of(source, settings)
    volume, partial = torch.from_numpy(scan.values()), Partial(output, key_of(source, settings), resume=True)
    total = settings.slicing(colours=scan.colours).count(volume.shape)
    for _ in parts(scan, volume, partial, settings, done={index for index in range(total) if index not in share}):
        pass


def key_of(source: Source, settings: Settings) -> dict[str, Any]:
    """What the output depends on: hashes of the input's files, the configuration, and what is written besides."""
    return {
        "input": [hash_of(file) for file in source.files],
        "configuration": settings.configuration(),
        "besides": settings.besides,
    }


def write_values(scan: Scan, result: Denoised, staged: Outputs, settings: Settings) -> None:
    """The residual and the spread, as far as they are wanted, with sidecars where BIDS wants them."""
    for what in settings.besides:
        volume = scan.removed(result.stored) if what == "residual" else result.spread
        if volume is None:
            continue
        file = staged.values(what)
        scan.write_values(file, volume)
        if fields := bids_fields(stem_of(file.name), what):
            write_json(sidecar_of(file), fields)


def check_output(source: Source, output: Path) -> None:
    """Refuse an output that is of another kind than its source, or the source itself, or a link."""
    suffix, possible = suffix_of(output.name), OUTPUT_SUFFIXES[source.kind]
    if source.kind == "DICOM" and (suffix not in ("", ".dcm") or (suffix and len(source.files) > 1)):
        raise UnsupportedScan(output, "cannot hold a DICOM series; give the name of a folder")
    if source.kind != "DICOM" and suffix not in possible:
        raise UnsupportedScan(output, f"must end in {' or '.join(possible)}, as its input does")
    if output.is_symlink():
        raise UnsupportedScan(output, "is a symbolic link; give another name")
    for file in source.files:
        if output.exists() and output.samefile(file):
            raise UnsupportedScan(output, "is the input; give another name")


def finished_before(output: Path, key: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The report of an earlier run that made this output from the same input with the same settings."""
    report = report_before(output, key, settings)
    if report.get("output") != hash_of(output):
        raise UnsupportedScan(output, "exists already; give another name, or --resume if it is of the same run")
    return report


def check_files(outputs: Outputs, key: Mapping[str, Any], settings: Settings) -> None:
    """Refuse to write over a file that is not of a run that was ended between this file and the output."""
    files = [outputs.sidecar, *map(outputs.values, settings.besides)]
    taken = next((file for file in (*files, *map(sidecar_of, files)) if file.exists()), None)
    if taken is not None and not report_before(outputs.image, key, settings):
        raise UnsupportedScan(taken, f"exists already, and would be written beside {outputs.image.name}; rename one")


def report_before(output: Path, key: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What the sidecar says if it is of such a run, and that is to be resumed; otherwise nothing."""
    try:
        report = json.loads(sidecar_of(output).read_text(encoding="utf-8")) if settings.resume else {}
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and all(report.get(name) == key[name] for name in key) else {}


def scan_of(source: Source, settings: Settings) -> Scan:
    """The scan as it is denoised, if the settings suit it."""
    scan = masked(source.read(settings.caps), settings)
    if settings.rician:
        try:
            check_magnitudes(torch.from_numpy(scan.values()))
        except ValueError as error:
            raise UnsupportedScan(Path(source.label), str(error)) from error
    return scan


def masked(scan: Scan, settings: Settings) -> Scan:
    if settings.mask is None:
        return scan
    sources, errors = find_sources(settings.mask)
    if errors or len(sources) != 1:
        raise errors[0] if errors else UnsupportedScan(settings.mask, "is not one scan")
    rehearse(sources[0], settings.caps)
    mask = sources[0].read(settings.caps)
    known = scan.affine is not None and mask.affine is not None
    if known and not np.allclose(scan.affine, mask.affine, atol=SAME_AFFINE):  # type: ignore[arg-type]
        raise UnsupportedScan(settings.mask, "does not lie where the scan lies; their affines differ")
    try:
        return scan.masked(np.nan_to_num(mask.values()[0]) != 0)
    except ValueError as error:
        raise UnsupportedScan(settings.mask, str(error)) from error


@dataclass
class Denoised:
    """A scan's numbers as they are after denoising, the spread if there is one, and what happened to the slices."""

    stored: np.ndarray
    spread: np.ndarray | None = None
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    clipped: int = 0

    def add(self, part: KeptPart) -> None:
        self.stored[part.place] = part.arrays["stored"]
        if "spread" in part.arrays:
            self.spread = np.zeros(self.stored.shape, np.float32) if self.spread is None else self.spread
            self.spread[part.place] = part.arrays["spread"]
        self.records.update(zip(part.indices, part.records, strict=True))
        self.clipped += part.clipped


def denoised(scan: Scan, partial: Partial, settings: Settings, progress: bool) -> Denoised:
    """The denoised scan, from what an earlier run has kept and what was missing."""
    volume, result = torch.from_numpy(scan.values()), Denoised(scan.stored.copy())
    total = settings.slicing(colours=scan.colours).count(volume.shape)
    with tqdm(total=total, unit="slice", desc=scan.name, disable=not progress) as bar:
        for part in parts(scan, volume, partial, settings):
            result.add(part)
            bar.update(len(part.indices))
    return result


def parts(
    scan: Scan, volume: torch.Tensor, partial: Partial, settings: Settings, *, done: Collection[int] = ()
) -> Iterator[KeptPart]:
    """The parts that an earlier run has kept, and the others, but those that are done, as they are finished."""
    done = set(done)
    for part in partial.kept():
        done.update(part.indices)
        yield part
    slicing = settings.slicing(colours=scan.colours)
    for new in denoise_parts(volume.to(settings.device), settings.denoiser, slicing, done=done):
        part = finished(scan, new)
        partial.keep(part)
        yield part


def finished(scan: Scan, part: Part) -> KeptPart:
    """What is kept of a part: stored numbers, spread, and a record a slice in the scan's units."""
    place = tuple(slice(*axis.indices(side)[:2]) for axis, side in zip(part.place, scan.stored.shape, strict=True))
    stored, clipped = scan.without(part.removed.cpu().numpy(), place)
    arrays = {"stored": stored}
    if part.spread is not None:
        arrays["spread"] = part.spread.float().cpu().numpy()
    records = [in_units(record, part.span) for record in part.records]
    return KeptPart(part.indices, place, arrays, records, clipped)


def in_units(record: Record, span: float) -> dict[str, Any]:
    """A slice's record, its noise level and residuals in the units of the scan."""
    entries = asdict(record)
    del entries["noise_variance"]  # it belongs to a grey scale of its own
    trace = [[step, rounded(loss), rounded(residual * span)] for step, loss, residual in record.trace]
    levels = {name: entries[name] and entries[name] * span for name in ("sigma", "rician_sigma", "residual")}
    return {**entries, **levels, "trace": trace}


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def summary(scan: Scan, result: Denoised) -> dict[str, Any]:
    """What the sidecar says besides input, configuration and output; nothing of it comes from a header."""
    removed, values = scan.removed(result.stored), scan.values()
    seen = np.isfinite(values)
    lost, before = removed[seen], values[seen]
    records = [record for _, record in sorted(result.records.items())]
    texts = dict.fromkeys([*scan.warnings, *(text for record in records for text in record["warnings"])])
    return {
        "notice": NOTICE,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "warnings": list(texts),
        "slices": records,
        "residual": {
            "mean": float(lost.mean(dtype=np.float64)) if lost.size else 0.0,
            "standard_deviation": float(lost.std(dtype=np.float64)) if lost.size else 0.0,
            "correlation_with_image": correlation(torch.from_numpy(lost), torch.from_numpy(before - lost)),
        },
        "voxels": {
            "all": int(seen.size),
            "left_out": int(seen.size - np.count_nonzero(seen)),
            "changed": int(np.count_nonzero(removed)),
            "clipped": result.clipped,
        },
        "fallbacks": sum(record["stop_reason"] == FALLBACK for record in records),
    }


def described(configuration: Mapping[str, Any]) -> str:
    """A configuration in words, for the derived image."""
    options = ", ".join(f"{name} {value}" for name, value in configuration["options"].items())
    return f"denoised with {configuration['method']} of monai-dnaprior {configuration['version']}" + (
        f" ({options})" if options else ""
    )
