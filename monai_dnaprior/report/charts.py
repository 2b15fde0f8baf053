"""Small charts as inline SVG: text that can be read and selected, colours that a style sheet sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 368, 30, 186
TICKS = 5  # at most, on an axis
DOT = 3.2


@dataclass(frozen=True)
class Curve:
    """Points of one chart.

    Attributes:
        points: x and y; those that are not finite, or on a logarithmic axis not positive, are left out.
        kind: its class in the style sheet.
        label: for the legend; none if empty.
        errors: half the lengths of vertical bars, one a point.
        dots: draw the points, not a line between them.
        name: what a script finds it by.
    """

    points: Sequence[tuple[float, float]]
    kind: str = "plain"
    label: str = ""
    errors: Sequence[float] = ()
    dots: bool = False
    name: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis of a chart, which maps values to places in the picture."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    whole: bool = False  # its values are whole numbers

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, logarithmic: bool, room: float) -> Axis:
        """An axis that holds these values, with a share of room at both ends."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if logarithmic:
            low, high = low if low > 0 else 1.0, high if high > 0 else 10.0
            factor = max(high / low, 2.0) ** room
            return cls(low / factor, high * factor, start, end, True)
        if high == low:
            low, high = low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0)
        span = high - low
        whole = all(float(value).is_integer() for value in values)
        return cls(low - room * span, high + room * span, start, end, whole=whole)

    def place(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values, few of them."""
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            if len(powers) > 1:
                return [10.0**power for power in powers[:: -(-len(powers) // TICKS)]]
        ticks = [tick for tick in round_values(self.low, self.high) if tick > 0 or not self.logarithmic]
        return [tick for tick in ticks if tick.is_integer()] if self.whole else ticks


def round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values.

    >>> round_values(-0.3, 9.7)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    >>> round_values(0.0, math.inf)
    []
    """
    least = (high - low) / TICKS
    if not math.isfinite(least):
        return []
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def chart(
    curves: Sequence[Curve],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    level: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Curves over axes, as SVG.

    Args:
        alt: what the chart shows, in a sentence, for those who cannot see it.
        level: of a dashed line.
        logarithmic: the vertical axis is.
    """
    points = [
        [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not logarithmic)]
        for curve in curves
    ]
    ends = [
        y + sign * error for curve in curves if curve.errors
        for (_, y), error in zip(curve.points, curve.errors, strict=True) for sign in (-1, 1)
    ]  # fmt: skip
    levels = [] if level is None else [level]
    heights = [y for part in points for _, y in part] + ends + levels
    across = Axis.over([x for part in points for x, _ in part], LEFT + 6, RIGHT - 6, logarithmic=False, room=0)
    along = Axis.over(heights, BOTTOM - 2, TOP + 2, logarithmic=logarithmic, room=0.06)
    parts = [*frame(across, along, x_label, y_label)]
    if level is not None:
        y = along.place(level)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
    parts += [draw_curve(curve, part, across, along) for curve, part in zip(curves, points, strict=True)]
    parts += legend(curves)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'


def frame(across: Axis, along: Axis, x_label: str, y_label: str) -> list[str]:
    """Grid lines, numbers and names of both axes."""
    parts = []
    for tick in along.ticks():
        y = along.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number(tick)}</text>')
    for tick in across.ticks():
        x = across.place(tick)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{BOTTOM + 17}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="name" x="4" y="14">{escape(y_label)}</text>')
    return parts


def draw_curve(curve: Curve, points: Sequence[tuple[float, float]], across: Axis, along: Axis) -> str:
    places = [(across.place(x), along.place(y)) for x, y in points]
    name = f' data-name="{escape(curve.name)}"' if curve.name else ""
    if not curve.dots and len(places) > 1:
        line = " ".join(f"{x:g},{y:g}" for x, y in places)
        return f'<polyline class="curve {curve.kind}"{name} points="{line}"/>'
    bars = [
        f'<line class="curve {curve.kind}" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        for (x, _), (_, y), error in zip(places, points, curve.errors, strict=False)  # which are for all or for none
        for low, high in [(along.place(y - error), along.place(y + error))]
    ]
    dots = [f'<circle class="dot {curve.kind}"{name} cx="{x}" cy="{y}" r="{DOT}"/>' for x, y in places]
    return "".join([*bars, *dots])


def legend(curves: Sequence[Curve]) -> list[str]:
    """The names of the curves that have one, from right to left."""
    parts, right = [], float(RIGHT)
    for curve in reversed([curve for curve in curves if curve.label]):
        parts.append(f'<text class="name" x="{right}" y="14" text-anchor="end">{escape(curve.label)}</text>')
        left = right - 6.8 * len(curve.label) - 6
        parts.append(f'<line class="curve {curve.kind}" x1="{left - 16}" x2="{left}" y1="10" y2="10"/>')
        right = left - 28
    return parts


def number(value: float) -> str:
    """A value for people: three digits of it that count.

    >>> number(-0.012345), number(12345.6), number(13.80)
    ('−0.0123', '12,300', '13.8')
    """
    if not math.isfinite(value):
        return "none"
    rounded = float(f"{value:.3g}")
    large = abs(rounded) >= 1e7
    text = f"{rounded:.3g}" if large or 0 < abs(rounded) < 1e-4 else f"{rounded:,.10g}"
    return text.replace("-", "−")
