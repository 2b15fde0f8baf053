"""Measures of a residual: its spectrum, autocorrelation and bias, and where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..noise.estimate import local_mean, noise_correlation
from .pictures import Shown

LAGS = 8
CLASSES = 5  # of intensity
BINS = 80
STEEP, FLAT = 0.9, 0.5  # quantiles of the slope of the denoised image, above and below which there are edges, and none


@dataclass(frozen=True)
class Measures:
    """What can be measured of what was removed from the slices that are shown, where something was.

    Attributes:
        mean, deviation: of what was removed.
        autocorrelation: (LAGS + 1, 2), along columns and rows, for distances from 0.
        spectrum: frequency in cycles a pixel, and power; white noise of the same deviation has power 1.
        histogram: the middles of the bins, and the share of pixels in them before and after.
        bias: for each class of intensity its mean after denoising, the mean of what was removed, its standard error.
        edges: standard deviation of what was removed at edges, over that in flat places.
        noise: correlation of the noise in neighbouring pixels of the noisy slices, their median.
    """

    mean: float
    deviation: float
    autocorrelation: np.ndarray
    spectrum: np.ndarray
    histogram: np.ndarray
    bias: np.ndarray
    edges: float
    noise: float

    @classmethod
    def of(cls, slices: Sequence[Shown], window: tuple[float, float]) -> Measures:
        seen = [changed_pixels(one) for one in slices]

        def pixels(planes: Iterable[np.ndarray]) -> np.ndarray:
            return np.concatenate([plane[where] for plane, where in zip(planes, seen, strict=True)])

        removed, after = pixels(one.removed for one in slices), pixels(one.after for one in slices)
        mean, deviation = (float(removed.mean()), float(removed.std())) if len(removed) else (0.0, 0.0)
        centred = [np.where(where, one.removed - mean, 0) for one, where in zip(slices, seen, strict=True)]
        return cls(
            mean,
            deviation,
            autocorrelation(centred, seen),
            spectrum(centred, seen, deviation),
            histogram(pixels(one.before for one in slices), after, window),
            bias(after, removed),
            at_edges(pixels(slope(one.after) for one in slices), removed),
            float(np.median([correlation_of_noise(one.before) for one in slices])),
        )


def changed_pixels(shown: Shown) -> np.ndarray:
    """Pixels that, or a neighbour of which, were changed: not an empty background, padding, or outside a mask."""
    changed = torch.from_numpy((shown.removed != 0)[None].astype(np.float32))
    return (local_mean(changed, 3).numpy()[0] > 1e-6) & np.isfinite(shown.before) & np.isfinite(shown.after)


def correlation_of_noise(plane: np.ndarray) -> float:
    finite = np.isfinite(plane)
    filled = np.where(finite, plane, plane[finite].mean() if finite.any() else 0)
    return float(noise_correlation(torch.from_numpy(filled[None].astype(np.float64)))[0])


def autocorrelation(centred: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> np.ndarray:
    r"""Along both axes of (C, rows, columns): columns first, then rows.

    .. math:: \rho(l) = \overline{r_i r_{i+l}} \,/\, \overline{r_i^2}

    over pairs of pixels both of which are seen.
    """
    result = np.zeros((LAGS + 1, 2))
    energy = mean_of_pairs(centred, seen, 0, 1)
    for axis in (1, 2):
        for lag in range(LAGS + 1):
            result[lag, axis - 1] = mean_of_pairs(centred, seen, lag, axis) / energy if energy > 0 else 0
    return result


def mean_of_pairs(centred: Sequence[np.ndarray], seen: Sequence[np.ndarray], lag: int, axis: int) -> float:
    total, count = 0.0, 0
    for values, where in zip(centred, seen, strict=True):
        size = values.shape[axis]
        if lag < size:
            first, last = (np.arange(size - lag), np.arange(lag, size))
            total += float((values.take(first, axis) * values.take(last, axis)).sum())
            count += int((where.take(first, axis) & where.take(last, axis)).sum())
    return total / count if count else 0.0


def spectrum(centred: Sequence[np.ndarray], seen: Sequence[np.ndarray], deviation: float) -> np.ndarray:
    """Radial power, (bins, 2): frequencies in cycles a pixel, and power over that of white noise."""
    power, pixels = np.zeros(centred[0].shape[1:]), sum(int(where.sum()) for where in seen)
    for values in centred:
        power += (np.abs(np.fft.fft2(values)) ** 2).sum(0)
    return radial(power / (max(pixels, 1) * (deviation**2 or 1.0)))


def radial(power: np.ndarray) -> np.ndarray:
    """The mean over all directions of a spectrum (rows, columns): (bins, 2), frequencies in cycles a pixel, and power.

    >>> radial(np.ones((7, 7)))[:, 1].tolist()
    [1.0, 1.0, 1.0]
    """
    rows, columns = power.shape
    count = max(3, min(24, min(rows, columns) // 2))
    edges = np.linspace(0, 0.5, count + 1)
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None])
    places = np.digitize(radius.ravel(), edges) - 1
    inside = (places >= 0) & (places < count) & (radius.ravel() > 0)
    sums = np.bincount(places[inside], power.ravel()[inside], count)
    numbers = np.bincount(places[inside], minlength=count)
    means = np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
    return np.stack([(edges[1:] + edges[:-1]) / 2, means], 1)


def histogram(before: np.ndarray, after: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """(BINS, 3): middle of the bin, per cent of the pixels in it before, and after."""
    room = 0.1 * (window[1] - window[0] or 1.0)
    edges = np.linspace(window[0] - room, window[1] + room, BINS + 1)
    shares = [100 * np.histogram(values, edges)[0] / max(len(values), 1) for values in (before, after)]
    return np.stack([(edges[1:] + edges[:-1]) / 2, *shares], 1)


def bias(after: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """(classes, 3): mean intensity, mean removed, its standard error if pixels are independent.

    The classes are quantiles of the denoised image: among the brightest noisy pixels are those to which noise was
    added, and what is removed from them is positive with any denoiser.
    """
    if len(after) < CLASSES * 2:
        return np.zeros((0, 3))
    parts = np.array_split(np.argsort(after, kind="stable"), CLASSES)
    rows = [(after[p].mean(), removed[p].mean(), removed[p].std(ddof=1) / len(p) ** 0.5) for p in parts]
    return np.array(rows, dtype=np.float64)


def slope(plane: np.ndarray) -> np.ndarray:
    """How steep (C, rows, columns) is at each pixel; where that is not known, not at all."""
    if min(plane.shape[1:]) < 2:
        return np.zeros_like(plane)
    down, right = np.gradient(plane, axis=(1, 2))
    return np.nan_to_num(np.hypot(down, right), posinf=0, neginf=0)


def at_edges(slopes: np.ndarray, removed: np.ndarray) -> float:
    """The ratio of the standard deviations of what was removed where the image is steep and where it is flat, or 1."""
    if len(slopes) == 0:
        return 1.0
    flat, steep = np.quantile(slopes, [FLAT, STEEP])
    edges = slopes >= steep if steep > flat else slopes > flat
    inside = removed[slopes <= flat].std()
    return float(removed[edges].std() / inside) if inside > 0 and edges.any() else 1.0
