"""One scan before and after: what a report shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..denoisers.outcome import LEFT_ALONE, Outcome
from ..files.discovery import Source, sources_of
from ..files.names import Outputs, sidecar_of
from ..files.scan import Caps, CorruptScan, Scan
from ..noise.intensity import PERCENTILES, intensity_range
from .charts import Curve, chart, number
from .findings import findings, heading
from .measures import LAGS, Measures, radial
from .noise import ScanNoise
from .pictures import BUDGET, MARGIN, MOST, Layout, Scales, Shown, View, picture, space_evenly, stride, within_budget

SPECTRUM = 128  # frequencies along each axis at which the power of the noise is shown
MOST_DOTS = 80  # of a chart over slices; beyond, a line
STOPPED_BY = {
    "discrepancy": "noise level reached",
    "variance": "output began to fit noise",
    "steps": "limit of steps",
    **{reason: f"left alone: {why}" for reason, why in LEFT_ALONE.items()},
    "non-finite": "failed: as it came",
    "filter": "one pass of a filter",
    "network": "one pass of a network",
}


class BeforeAfter:
    """One scan before and after, and what is shown of it."""

    def __init__(self, source: Source, output: Path, sidecar: Mapping[str, Any], caps: Caps) -> None:
        self.sidecar, self.records = sidecar, sidecar["slices"]
        self.scan = source.read(caps)
        after = source.reread(output, caps)
        if after.stored.shape != self.scan.stored.shape:
            raise CorruptScan(output, "has another shape than the scan that it was made of")
        self.layout = Layout.of(self.scan, sidecar["configuration"]["slice_dim"])
        self.volumes = self.scan.values(), after.values(), self.scan.residual(after.stored)
        self.spread = spread_of(self.scan, Outputs(output, self.scan.values_suffix).values("spread"), caps)
        self.depth = 1 if self.layout.axis is None else self.scan.stored.shape[self.layout.axis]
        self.total = self.depth if self.scan.colours else self.depth * len(self.scan.stored)
        if self.total != len(self.records):
            raise CorruptScan(sidecar_of(output), "tells of another number of slices")

    def channels(self, index: int) -> slice:
        """The channels of a slice: all if they are colours, otherwise each is a volume of its own."""
        return slice(None) if self.scan.colours else slice(index // self.depth, index // self.depth + 1)

    def show_slice(self, index: int) -> Shown:
        before, after, removed = (
            self.layout.plane(volume, self.channels(index), index % self.depth) for volume in self.volumes
        )
        spread = None
        if self.spread is not None:
            spread = self.layout.plane(self.spread, self.channels(index), index % self.depth)
        label = f"Slice {index % self.depth + 1} of {self.depth}"
        if self.total > self.depth:
            label = f"Volume {index // self.depth + 1}, s{label[1:]}"
        return Shown(index, label, before, after, removed, spread)

    def windows(self) -> list[tuple[float, float]]:
        """The usual range of intensities of every volume."""
        count = 1 if self.scan.colours else len(self.scan.stored)
        parts = [self.volumes[0]] if count == 1 else self.volumes[0]
        ranges = [intensity_range(torch.from_numpy(np.ascontiguousarray(part))) for part in parts]
        return [(low, low + span) for low, span in ranges]

    def pictures(self, windows: Sequence[tuple[float, float]]) -> tuple[list[View], list[Shown], Scales]:
        """The slices that are shown, evenly spaced, as many as fit into the file."""
        slices = [self.show_slice(index) for index in space_evenly(self.total, MOST)]
        middle = slices[len(slices) // 2]
        scales = Scales.of(windows, slices, self.scan.inverted)

        def view(one: Shown) -> View:
            return scales.view(one, 0 if self.scan.colours else one.number // self.depth)

        count = max(1, min(MOST, int(BUDGET / (MARGIN * view(middle).size))))
        chosen = [self.show_slice(index) for index in space_evenly(self.total, count)]
        views = within_budget([view(one) for one in chosen])
        kept = {one.number for one in views}
        return views, [one for one in chosen if one.number in kept], scales

    def context(self) -> dict[str, Any]:
        """What the template is filled with."""
        windows = self.windows()
        views, slices, scales = self.pictures(windows)
        measures = Measures.of(slices, windows[self.channels(slices[len(slices) // 2].number).start or 0])
        noise, spacing = ScanNoise.of(slices), self.scan.spacing
        pixel = spacing and [spacing[axis - 1] for axis in (self.layout.rows, self.layout.columns)]
        step = stride(slices[0].before)
        return {
            "sidecar": self.sidecar,
            "facts": facts(self.sidecar),
            "findings": findings(self.sidecar, measures, noise),
            "views": views,
            "middle": views[len(views) // 2].number,
            "layout": self.layout,
            "scales": scales,
            "window": PERCENTILES,
            "step": step,
            "tiny": max(slices[0].before.shape[-2:]) < 256,
            "measures": measures,
            "noise": noise,
            "compared": list(noise.compared(measures, pixel)) if noise else [],
            "strength": strength_of(noise),
            "charts": {**charts_of(measures, noise), **charts_of_slices(self.records, [one.number for one in slices])},
            "rows": list(rows(self.records, self.depth, self.total)),
            "fitted": any(record["steps"] for record in self.records),
        }


def spread_of(scan: Scan, path: Path, caps: Caps) -> np.ndarray | None:
    """The spread over restarts, where it was written and lies like the scan."""
    if not path.is_file():
        return None
    (source,), _ = sources_of(path)
    spread = source.read(caps).values()
    return spread if spread.shape == scan.stored.shape else None


def facts(sidecar: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What one wants to know first: a name, a number, and what it means."""
    records, voxels, removed = sidecar["slices"], sidecar["voxels"], sidecar["residual"]
    outcome = Outcome.of(record["stop_reason"] for record in records)
    sigmas = [record["sigma"] for record in records if record["sigma"] > 0]
    spread = f"{number(min(sigmas))} to {number(max(sigmas))}" if len(sigmas) > 1 else "in the scan's units"
    return [
        (
            "Slices denoised",
            f"{outcome.denoised} of {outcome.total}",
            outcome.untreated or "none was left alone",
        ),
        ("Noise level", number(median(sigmas)) if sigmas else "none", f"median of the slices; {spread}"),
        ("Removed", number(removed["standard_deviation"]), "standard deviation over the scan"),
        ("Follows the image", f"{removed['correlation_with_image']:.2f}".replace("-", "−"), "correlation; 0 is best"),
        ("Voxels changed", f"{voxels['changed'] / max(voxels['all'], 1):.0%}", f"of {voxels['all']:,}"),
    ]


def strength_of(noise: ScanNoise | None) -> dict[str, Any] | None:
    """How strong the noise is at every pixel of a slice as a picture, where it is uneven."""
    if noise is None or noise.strength is None:
        return None
    white = float(noise.strength.max())
    return {"picture": picture(noise.strength, 0, white), "label": noise.label, "white": white}


def charts_of(measures: Measures, noise: ScanNoise | None) -> dict[str, str]:
    """What was removed, beside the noise, and the intensities, as charts."""
    power, lags, bins, classes = measures.spectrum, range(LAGS + 1), measures.histogram, measures.bias
    spectra = [Curve(power.tolist(), "after", "removed")]
    if noise and noise.model.sigma > 0:
        power = power * [1, (measures.deviation / noise.model.sigma) ** 2]
        expected = radial(noise.model.spectrum(SPECTRUM, SPECTRUM).numpy())
        spectra = [Curve(expected.tolist(), "before", "noise"), Curve(power.tolist(), "after", "removed")]
    low, high = (np.nanmean(part) for part in np.array_split(power[:, 1], 2))
    along = [
        [(lag, float(value)) for lag, value in zip(lags, part, strict=True)] for part in measures.autocorrelation.T
    ]
    neighbours = float(measures.autocorrelation[1].mean())
    shift = max((abs(row[1]) for row in classes), default=0.0)
    return {
        "spectrum": chart(
            spectra,
            alt=f"Power of what was removed: {number(low)} at low, {number(high)} at high frequencies; 1 is white.",
            x_label="cycles per pixel", y_label="power, white noise = 1", level=1.0, logarithmic=True,
        ),
        "autocorrelation": chart(
            [Curve(along[1], "before", "along rows"), Curve(along[0], "after", "along columns")],
            alt=f"Autocorrelation of what was removed: 1 at distance 0, {neighbours:.2f} at distance 1.",
            x_label="distance in pixels", y_label="correlation", level=0.0,
        ),
        "histogram": chart(
            [Curve(bins[:, [0, 1]].tolist(), "before", "noisy"), Curve(bins[:, [0, 2]].tolist(), "after", "denoised")],
            alt="Histogram of intensities before and after denoising.",
            x_label="intensity", y_label="% of pixels",
        ),
        "bias": chart(
            [Curve(classes[:, :2].tolist(), "after", errors=(2 * classes[:, 2]).tolist(), dots=True)],
            alt=f"Mean removed by class of intensity: at most {number(shift)} from 0.",
            x_label="mean intensity of the class", y_label="mean removed", level=0.0,
        ),
    }  # fmt: skip


def charts_of_slices(records: Sequence[Mapping[str, Any]], shown: Sequence[int]) -> dict[str, str]:
    """Noise level and steps of every slice, and how the fits of those that are shown went."""
    sigmas = [(index + 1, record["sigma"]) for index, record in enumerate(records)]
    steps = [(index + 1, record["steps"]) for index, record in enumerate(records)]
    traces = {index: records[index]["trace"] for index in shown if records[index].get("trace")}
    loss = [Curve([entry[:2] for entry in trace], "trace", name=str(index)) for index, trace in traces.items()]
    rest = [
        Curve([(entry[0], entry[2] / records[index]["sigma"]) for entry in trace], "trace", name=str(index))
        for index, trace in traces.items()
        if records[index]["sigma"] > 0
    ]
    dots = len(records) < MOST_DOTS
    return {
        "sigma": chart(
            [Curve(sigmas, "after", dots=dots)],
            alt="Noise level of every slice; the table has the numbers.",
            x_label="slice", y_label="in the scan's units",
        ) if len(records) > 1 else "",
        "steps": chart(
            [Curve(steps, "after", dots=dots)],
            alt="Steps of the fit of every slice; the table has the numbers.",
            x_label="slice", y_label="steps until it stopped",
        ) if len(records) > 1 and any(count for _, count in steps) else "",
        "loss": chart(
            loss,
            alt="Loss over the steps of the fits, one curve for each slice shown.",
            x_label="step", y_label="loss", logarithmic=True,
        ) if loss else "",
        "left": chart(
            rest,
            alt="What is left over, in multiples of the noise level, over the steps; one curve for each slice shown.",
            x_label="step", y_label="left over, noise level = 1", level=1.0, logarithmic=True,
        ) if rest else "",
    }  # fmt: skip


def rows(records: Sequence[Mapping[str, Any]], depth: int, total: int) -> Iterator[dict[str, Any]]:
    """The table of slices."""
    for index, record in enumerate(records):
        name = str(index % depth + 1) if total == depth else f"{index // depth + 1}, {index % depth + 1}"
        warnings = dict.fromkeys(map(heading, record["warnings"]))
        yield {
            **record,
            "name": name,
            "warnings": warnings,
            "stopped": STOPPED_BY.get(record["stop_reason"], record["stop_reason"]),
        }
