"""Denoise the files of one scan into files of the same kind, so that it can be interrupted at any moment."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..denoisers.outcome import UNTREATED, Outcome, count_warnings
from ..denoisers.record import Record
from ..files.checkpoint import Checkpoint, FinishedSlices, remove_leftover
from ..files.companions import acquisition_of, copy_gradients, gradient_file, gradients_of
from ..files.discovery import Source, find_sources
from ..files.disk import hash_of, write_json
from ..files.names import OUTPUT_SUFFIXES, Outputs, bids_fields, sidecar_of, stem_of, suffix_of
from ..files.preflight import preflight
from ..files.scan import Caps, NoScan, Scan, UnsupportedScan, same_bits
from ..noise.metrics import correlation
from ..progress import Progress
from ..transforms.slicing import Slicing
from ..transforms.volumes import Part, check_magnitudes, denoise_parts, strength_of
from .settings import Settings

NOTICE = "Not a medical device; keep the original."
PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom", "SimpleITK")
SAME_AFFINE = 1e-3  # mm that a mask's voxels may lie elsewhere
DIGITS = 5  # of the numbers in a trace


@dataclass(frozen=True)
class ScanJob:
    """One scan to denoise, whether at once or in shares of its slices by several processes.

    The output, the residual, the spread and the sidecar appear whole, the output last, after it has been read back and
    compared. Until then ``OUTPUT.partial`` keeps what is finished.

    Raises:
        ScanError: by every method: why the scan is not treated, or where the output cannot go.
        OSError: the output cannot be written.
    """

    source: Source
    output: Path
    settings: Settings

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the output depends on: hashes of the input's files, the configuration, and what is written besides."""
        return {
            "input": [hash_of(file) for file in self.source.files],
            "configuration": {
                **self.settings.configuration(),
                "slice_dim": self.slicing.slice_dim,
                "neighbours": self.slicing.neighbours,
            },
            "besides": self.settings.besides,
        }

    @cached_property
    def scan(self) -> Scan:
        """The scan with its mask, if the settings suit it."""
        scan = apply_mask(self.source.read(self.settings.caps), self.settings)
        if self.settings.rician:
            try:
                check_magnitudes(torch.from_numpy(scan.values()))
            except ValueError as error:
                raise UnsupportedScan(Path(self.source.label), str(error)) from error
        return scan

    @cached_property
    def noise(self) -> float | torch.Tensor | None:
        """How strong the settings say that the noise is, everywhere or in every voxel."""
        given = self.settings.noise
        if not isinstance(given, Path):
            return given
        strength = torch.from_numpy(values_beside(given, self.scan, self.settings.caps))
        try:
            return strength_of(strength, torch.empty(1).expand(self.scan.stored.shape))
        except ValueError as error:
            raise UnsupportedScan(given, str(error)) from error

    @cached_property
    def outputs(self) -> Outputs:
        return Outputs(self.output, self.scan.values_suffix)

    @cached_property
    def gradients(self) -> dict[str, Path]:
        return gradients_of(self.source.files[0])

    @cached_property
    def slicing(self) -> Slicing:
        """How the scan is cut; that of one slice, along the axis of one voxel, and it has no neighbours."""
        sides, spacing = self.scan.stored.shape[1:], self.scan.spacing
        if sides.count(1) == 1:
            spacing = [2.0 if side == 1 else 1.0 for side in sides]
        slicing = self.settings.slicing(colours=self.scan.colours).along(sides, spacing)
        return slicing if slicing.depth(self.scan.stored.shape) > 1 else replace(slicing, neighbours=0)

    @property
    def count(self) -> int:
        """How many slices there are."""
        return self.slicing.count(self.scan.stored.shape)

    def run(self, *, progress: bool = False) -> dict[str, Any]:
        """Denoise the scan, going on from what is finished, and return what its sidecar says."""
        check_output(self.source, self.output)
        if self.output.exists():
            return self._earlier_report()
        self._check_files()
        started = time.perf_counter()
        checkpoint = self._checkpoint(resume=self.settings.resume)
        result = self._denoise(checkpoint, progress)
        staged = Outputs(checkpoint.stage() / self.output.name, self.outputs.values_suffix)
        self._write(result.stored, staged.image)
        self._write_values(result, staged)
        doubts = self.slicing.doubts(self.scan.stored.shape[1:], self.scan.spacing)
        report = {**self.key, **summary(self.scan, result, doubts), "output": hash_of(staged.image)}
        report["seconds"] = round(time.perf_counter() - started, 1)
        copy_gradients(self.gradients, staged.image)
        write_json(staged.sidecar, {**self._bids_fields(self.output, "denoised"), **report})
        checkpoint.publish(self.output.parent, first=staged.sidecar.name, last=self.output.name)
        return report

    def begin(self) -> None:
        """Make the place where several processes keep their shares of the scan, unless its output is there."""
        check_output(self.source, self.output)
        if not self.output.exists():
            self._checkpoint(resume=self.settings.resume)

    def denoise_share(self, share: range) -> None:
        """Denoise some slices of a scan that was begun, and keep them for :meth:`run` to go on from."""
        if self.output.exists():
            return
        for _ in self._slices(self._checkpoint(resume=True), share):
            pass

    def _checkpoint(self, *, resume: bool) -> Checkpoint:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return Checkpoint(self.output, self.key, resume=resume)

    def _denoise(self, checkpoint: Checkpoint, progress: bool) -> DenoisedScan:
        result = DenoisedScan(self.scan.stored.copy())
        name = f"{self.scan.name} on {self.settings.computing}"
        with Progress(self.count, unit="slice", name=name, shown=progress) as bar:
            for slices in self._slices(checkpoint, range(self.count)):
                result.add(slices)
                bar.advance(len(slices.indices))
        return result

    def _slices(self, checkpoint: Checkpoint, share: range) -> Iterator[FinishedSlices]:
        """The slices that an earlier run has finished, then the others of a share, as they are finished."""
        done = set(range(self.count)).difference(share)
        for slices in checkpoint.read():
            done.update(slices.indices)
            yield slices
        volume = torch.from_numpy(self.scan.values()).to(self.settings.computing)
        for part in denoise_parts(volume, self.settings.denoiser, self.slicing, done=done, noise=self.noise):
            slices = finish_slices(self.scan, part)
            checkpoint.keep(slices)
            yield slices

    def _write(self, stored: np.ndarray, path: Path) -> None:
        """Write the denoised scan, and compare what comes back from the disk."""
        configuration = self.key["configuration"]
        text = json.dumps(configuration, sort_keys=True)
        self.scan.write(path, stored, description=describe(configuration), configuration=text, version=__version__)
        if not same_bits(self.source.reread(path, self.settings.caps).stored, stored):
            raise OSError(f"{self.output} could not be written: it does not come back from the disk as it was")

    def _write_values(self, result: DenoisedScan, staged: Outputs) -> None:
        """Write the residual and the spread, if they are asked for, with sidecars where BIDS requires them."""
        for what in self.settings.besides:
            volume = self.scan.residual(result.stored) if what == "residual" else result.spread
            if volume is None:
                continue
            file = staged.values(what)
            self.scan.write_values(file, volume)
            if fields := self._bids_fields(file, what):
                write_json(sidecar_of(file), fields)

    def _bids_fields(self, file: Path, what: str) -> dict[str, Any]:
        """What BIDS wants to be said of an output; nothing where its name is none of BIDS."""
        fields = bids_fields(stem_of(file.name), what)
        return {**acquisition_of(self.source.files[0]), **fields} if fields else {}

    def _earlier_report(self) -> dict[str, Any]:
        """The report of an earlier run that made the output from the same input with the same settings."""
        report, remedy = self._report_before(), "give another name, or --resume if it is of the same run"
        if report.get("output") != hash_of(self.output):
            raise UnsupportedScan(self.output, f"exists already; {remedy}")
        remove_leftover(self.output)
        return report

    def _check_files(self) -> None:
        """Refuse to write over a file that is not of a run that was ended between this file and the output."""
        files = [self.outputs.sidecar, *map(self.outputs.values, self.settings.besides)]
        files += [gradient_file(self.output, suffix) for suffix in self.gradients]
        taken = next((file for file in (*files, *map(sidecar_of, files)) if file.exists()), None)
        if taken is not None and not self._report_before():
            raise UnsupportedScan(taken, f"exists already, and would be written beside {self.output.name}; rename one")

    def _report_before(self) -> dict[str, Any]:
        """What the sidecar says if it is of such a run, and that is to be resumed; otherwise nothing."""
        if not self.settings.resume:
            return {}
        try:
            report = json.loads(sidecar_of(self.output).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        ours = isinstance(report, dict) and all(report.get(name) == value for name, value in self.key.items())
        return report if ours else {}


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


def apply_mask(scan: Scan, settings: Settings) -> Scan:
    """The scan, of which only what lies in the mask is to change."""
    if settings.mask is None:
        return scan
    values = values_beside(settings.mask, scan, settings.caps)
    try:
        return scan.with_mask(np.nan_to_num(values) != 0)
    except ValueError as error:
        raise UnsupportedScan(settings.mask, str(error)) from error


def values_beside(path: Path, scan: Scan, caps: Caps) -> np.ndarray:
    """The values (W, H[, D]) of another scan that lies where a scan lies."""
    sources, errors = find_sources(path)
    bad = [error for error in errors if not isinstance(error, NoScan)]
    if bad or len(sources) != 1:
        raise bad[0] if bad else UnsupportedScan(path, "is not one scan")
    preflight(sources[0], caps)
    other = sources[0].read(caps)
    known = scan.affine is not None and other.affine is not None
    if known and not np.allclose(scan.affine, other.affine, atol=SAME_AFFINE):  # type: ignore[arg-type]
        raise UnsupportedScan(path, "does not lie where the scan lies; their affines differ")
    return other.values()[0]


@dataclass
class DenoisedScan:
    """A scan's numbers as they are after denoising, the spread if there is one, and what happened to the slices."""

    stored: np.ndarray
    spread: np.ndarray | None = None
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    clipped: int = 0

    def add(self, slices: FinishedSlices) -> None:
        self.stored[slices.place] = slices.arrays["stored"]
        if "spread" in slices.arrays:
            self.spread = np.zeros(self.stored.shape, np.float32) if self.spread is None else self.spread
            self.spread[slices.place] = slices.arrays["spread"]
        self.records.update(zip(slices.indices, slices.records, strict=True))
        self.clipped += slices.clipped


def finish_slices(scan: Scan, part: Part) -> FinishedSlices:
    """What is kept of a part: stored numbers, spread, and a record a slice in the scan's units."""
    place = tuple(slice(*axis.indices(side)[:2]) for axis, side in zip(part.place, scan.stored.shape, strict=True))
    stored, clipped = scan.subtract(part.residual.cpu().numpy(), place)
    arrays = {"stored": stored}
    if part.spread is not None:
        arrays["spread"] = part.spread.float().cpu().numpy()
    return FinishedSlices(
        part.indices, place, arrays, [record_in_units(record, part.span) for record in part.records], clipped
    )


def record_in_units(record: Record, span: float) -> dict[str, Any]:
    """A slice's record, its noise level and residuals in the units of the scan."""
    entries = asdict(record)
    del entries["noise_variance"]  # it belongs to a grey scale of its own
    trace = [[step, short(loss), short(residual * span)] for step, loss, residual in record.trace]
    levels = {name: entries[name] and entries[name] * span for name in ("sigma", "rician_sigma", "residual")}
    sigma_range = record.sigma_range and [level * span for level in record.sigma_range]
    return {**entries, **levels, "sigma_range": sigma_range, "trace": trace}


def short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def summary(scan: Scan, result: DenoisedScan, doubts: Sequence[str]) -> dict[str, Any]:
    """What the sidecar says besides input, configuration and output; nothing of it comes from a header."""
    residual, values = scan.residual(result.stored), scan.values()
    seen = np.isfinite(values) & (True if scan.wanted is None else scan.wanted)
    lost, before = residual[seen], values[seen]
    records = [record for _, record in sorted(result.records.items())]
    return {
        "notice": NOTICE,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "warnings": [*scan.warnings, *doubts, *count_warnings([record["warnings"] for record in records])],
        "noise": summarise_noise(records),
        "slices": records,
        "residual": {
            "mean": float(lost.mean(dtype=np.float64)) if lost.size else 0.0,
            "standard_deviation": float(lost.std(dtype=np.float64)) if lost.size else 0.0,
            "correlation_with_image": correlation(torch.from_numpy(lost), torch.from_numpy(before - lost)),
        },
        "voxels": {
            "all": int(seen.size),
            "left_out": int(seen.size - np.count_nonzero(seen)),
            "changed": int(np.count_nonzero(residual)),
            "clipped": result.clipped,
        },
        **asdict(Outcome.of(record["stop_reason"] for record in records)),
    }


def summarise_noise(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]] | None:
    """Medians over the slices whose noise was measured and removed, of its correlation and the range of its strength.

    >>> summarise_noise([{"stop_reason": "network", "correlation": (0.5, 0.3), "sigma_range": (8, 12)}])
    {'correlation': [0.5, 0.3], 'sigma_range': [8.0, 12.0]}
    """
    seen = [record for record in records if record.get("correlation") and record["stop_reason"] not in UNTREATED]
    names = ("correlation", "sigma_range")
    return {name: np.median([record[name] for record in seen], 0).tolist() for name in names} if seen else None


def describe(configuration: Mapping[str, Any]) -> str:
    """A configuration in words, for the derived image."""
    options = ", ".join(f"{name} {value}" for name, value in configuration["options"].items())
    return f"denoised with {configuration['method']} of monai-dnaprior {configuration['version']}" + (
        f" ({options})" if options else ""
    )
