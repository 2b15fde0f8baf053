"""What is said of a denoised scan, in plain words, from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..denoisers.outcome import FALLBACK, LEFT_ALONE, count_warnings
from ..noise.estimate import CORRELATED
from .measures import Measures
from .noise import ScanNoise

FOLLOWS = 0.1  # correlation with the image: 1 % of the variance of what was removed; ideal is a few hundredths
ALIKE = 0.1  # by which neighbours in what was removed may have a higher correlation than in the noise
SHIFT = 0.2  # of the standard deviation of what was removed, by which the mean of an intensity class may move
CERTAIN = 4  # standard errors
EDGES = 1.5  # times as much removed at edges as in flat places; noise that depends on brightness alone gives about 1.3


@dataclass(frozen=True)
class Finding:
    """One thing to know; ``caution`` if it speaks against using the result as it is."""

    title: str
    text: str
    caution: bool = True

    @property
    def level(self) -> str:
        return "Caution" if self.caution else "Note"


def findings(sidecar: Mapping[str, Any], measures: Measures, noise: ScanNoise | None) -> list[Finding]:
    """All that there is to know, what matters most first."""
    found = [*of_slices(sidecar), *of_warnings(sidecar, measures)]
    found += [*of_removed(sidecar, measures, noise), *of_voxels(sidecar)]
    return sorted(found, key=lambda finding: not finding.caution)


def of_slices(sidecar: Mapping[str, Any]) -> Iterator[Finding]:
    """Slices that are the input's."""
    reasons = [record["stop_reason"] for record in sidecar["slices"]]
    failed = list_slices(index for index, reason in enumerate(reasons) if reason == FALLBACK)
    if failed:
        text = f"Their fit failed twice, so they are as they came: {failed}."
        yield Finding(f"{count_noun(reasons.count(FALLBACK), 'slice')} could not be denoised", text)
    for reason, why in LEFT_ALONE.items():
        if count := reasons.count(reason):
            which = list_slices(index for index, other in enumerate(reasons) if other == reason)
            text = f"Bit for bit as they came, since they hold {why}: {which}."
            yield Finding(f"{count_noun(count, 'slice')} left alone", text, caution=False)


def of_warnings(sidecar: Mapping[str, Any], measures: Measures) -> Iterator[Finding]:
    """The warnings of the denoising, and correlated noise where a method does not check for it."""
    of_slices = [record["warnings"] for record in sidecar["slices"]]
    total, counted = len(of_slices), count_warnings(of_slices)
    of_scan = [text for text in sidecar["warnings"] if text not in counted]
    titles = {text: heading(text) for texts in (of_scan, *of_slices) for text in texts}  # of one kind, numbers differ
    for title in dict.fromkeys(titles.values()):
        texts = {text for text, other in titles.items() if other == title}
        count = sum(bool(texts & set(others)) for others in of_slices)
        where = f"In {count} of {count_noun(total, 'slice')}." if count else "Of the whole scan."
        rest = sorted(texts)[0].partition(": ")[2]
        yield Finding(title, f"{sentence(rest)}. {where}" if rest else where)
    treated = any(record.get("correlation") for record in sidecar["slices"])
    if measures.noise > CORRELATED and not treated and not any("correlated" in text for text in sidecar["warnings"]):
        text = (
            f"Neighbouring pixels of the noisy slices have noise that is alike (correlation {measures.noise:.2f}), as "
            "after resampling or a reconstruction filter."
        )
        yield Finding("The noise is correlated", text)


def of_removed(sidecar: Mapping[str, Any], measures: Measures, noise: ScanNoise | None) -> Iterator[Finding]:
    """Structure in what was removed."""
    follows = sidecar["residual"]["correlation_with_image"]
    if abs(follows) > FOLLOWS:
        text = (
            f"Its correlation with the denoised image is {follows:.2f}; with an ideal denoiser it is a few hundredths. "
            "Contrast may have been lost: look for anatomy in the map of what was removed."
        )
        yield Finding("What was removed follows the image", text)
    alike, expected = float(measures.autocorrelation[1].mean()), noise.alike if noise else 0.0
    if alike > expected + ALIKE:
        source = f"the noise that is measured in the slices has {expected:.2f}" if noise else "white noise has 0"
        text = (
            f"Neighbouring pixels of it have a correlation of {alike:.2f}; {source}. Either the noise is more "
            "correlated than that, or structure was removed: look for edges in the map."
        )
        yield Finding("What was removed is not like the noise", text)
    if measures.edges > EDGES:
        text = (
            f"There is {measures.edges:.1f} times as much of it at edges as in flat places: edges were softened, or "
            "there is more noise. Look for outlines in the map of what was removed."
        )
        yield Finding("Edges show in what was removed", text)
    moved = [row for row in measures.bias if abs(row[1]) > max(SHIFT * measures.deviation, CERTAIN * row[2])]
    if moved:
        worst = max(moved, key=lambda row: abs(row[1]))
        way = "darker" if worst[1] > 0 else "brighter"
        text = (
            f"Pixels of about {worst[0]:.4g} became {way} by {abs(worst[1]):.3g} on average, which is more than "
            f"{SHIFT:.0%} of the standard deviation of what was removed."
        )
        yield Finding("Mean intensities have moved", text)


def of_voxels(sidecar: Mapping[str, Any]) -> Iterator[Finding]:
    """Voxels that were left out, or that the file's type could not hold."""
    voxels = sidecar["voxels"]
    if voxels["changed"] == 0:
        yield Finding("Nothing was changed", "Every voxel is as it came.", caution=False)
    if voxels["clipped"]:
        text = "Their denoised values lie beyond what the file's type can store; they hold the nearest value it can."
        yield Finding(f"{count_noun(voxels['clipped'], 'voxel')} clipped", text)
    if voxels["left_out"]:
        share = voxels["left_out"] / voxels["all"]
        text = f"Padding, outside the mask, or not finite: {share:.1%} of the scan, bit for bit as it came."
        yield Finding(f"{count_noun(voxels['left_out'], 'voxel')} left out", text, caution=False)


def heading(text: str) -> str:
    """What a warning is about: what comes before its colon.

    >>> heading("the noise is correlated: alike in neighbouring pixels")
    'The noise is correlated'
    """
    return sentence(text.partition(": ")[0])


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def count_noun(count: int, what: str) -> str:
    """A number and its noun.

    >>> count_noun(1, "slice"), count_noun(1200, "voxel")
    ('1 slice', '1,200 voxels')
    """
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def list_slices(indices: Any) -> str:
    """Numbers of slices, from 1, neighbours as ranges.

    >>> list_slices([0, 1, 2, 5])
    '1–3, 6'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([index + 1, index + 1])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
