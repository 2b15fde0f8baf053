"""Strength, correlation and map of the noise of one image, measured in the image alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from .estimate import estimate_sigma, noise_correlation, varying_pixels
from .groups import SIDE, Groups, steps
from .spectrum import GRID, correlation_of, fitted, neighbours_of, seen, synthesised

LEAST_SIDE = 24  # of an image in which groups of patches can be told apart
LEAST_GROUPS = 30
LOWEST = 0.03  # quantile of the groups, whose variance is taken to be noise alone
RANGE = 3.0  # largest factor by which one round may change a variance
ROUNDS = 3
WHITE_NOISES = 3  # made to see what white noise would look like, and how surely
LIKE = 0.1  # correlation of neighbours from which noise may be called correlated
ERRORS = 4.0  # or so many times the deviation that white noise shows
UNEVEN = 1.3  # 90th over 10th percentile of a map from which noise may be called uneven
EXCESS = 1.15  # times as much as even noise shows
WIDEST = 30.0  # 90th over 10th percentile of the widest map of noise; holes and edges without noise make far wider ones
DOUBT = 0.25  # by which the correlation of neighbours may be higher in groups than in smooth blocks
WINDOW = 40  # pixels in which a map is robust to texture
BLUR = 12  # pixels by which it is smooth
LOW_RANK = 0.3  # quantile that is taken in the window
MAPS = 4  # rounds in which a map is found, at most
MIDDLING = 0.25  # quantile of the groups that has to be as simulated noise has it
CORRECTION = 0.1  # most by which the logarithm of the power of uneven noise is corrected by that quantile
TEXTURE = 0.14  # logarithm of how much larger that quantile of even noise may be, beyond the lowest
OF_SMALL = 0.1  # the same in small slices, but not in their differences, which hold less anatomy
PART = 128  # pixels, about, that the sides of parts have in which noise is looked for alone
MOST_PARTS = 6  # of them along each axis
AGREEING, ALIKE = 3, 1.3  # so many of them have to hold noise of a strength, within this factor of their median
COARSEST = 0.85  # correlation of neighbours in them from which it is speckle, as in ultrasound
TAIL = 0.75  # quantile of the groups, that is far larger where there is anatomy
ALL_TAIL, FINE_TAIL = 0.32, 0.42  # logarithm of how much larger it may be, where noise is uneven: one suffices
LEAST_FINE = 3  # sum of the two frequencies of a coefficient, in whose lower ones brightness varies
FINE = 8  # from which it is fine
FREQUENCIES = torch.arange(SIDE).add(torch.arange(SIDE)[:, None]).flatten()


@dataclass(frozen=True, eq=False)
class Measured:
    """Noise found: see :class:`~monai_dnaprior.noise.model.NoiseModel`; ``deviation`` is (H, W)."""

    sigma: float
    correlation: Tensor | None
    deviation: Tensor | None


@dataclass(frozen=True, eq=False)
class Scene:
    """An image (C, H, W) whose noise is measured, and what the means of its groups make of it.

    Noise that is put on the means is measured as the image is. What else there is in a group then counts in both.
    """

    image: Tensor
    means: Tensor
    usable: Tensor
    step: int

    @classmethod
    def of(cls, image: Tensor, usable: Tensor) -> Scene:
        sparse, dense = steps(*image.shape[-2:])
        groups = Groups.of(image.mean(0), usable, step=dense)
        means = torch.stack([groups.means(plane) for plane in image])
        return cls(image, means, usable, sparse)

    @cached_property
    def measured(self) -> tuple[Tensor, Groups]:
        """What :meth:`variances` gives of the image itself."""
        return self.variances(self.image)

    def variances(self, image: Tensor) -> tuple[Tensor, Groups]:
        """Of the cosine coefficients in the groups of an image (C, H, W), the mean over channels, and the groups."""
        groups = Groups.of(image.mean(0), self.usable, step=self.step)
        return torch.stack([groups.variances(plane) for plane in image]).mean(0), groups

    def simulated(self, sigma: float, correlation: Tensor | None, seed: int) -> Tensor:
        """The means with noise of this kind."""
        height, width = self.image.shape[-2:]
        noise = [synthesised(correlation, height, width, 100 * seed + channel) for channel in range(len(self.image))]
        return self.means + sigma * torch.stack(noise)


def measure(
    image: Tensor,
    sigma: float,
    *,
    usable: Tensor | None = None,
    known: Tensor | None = None,
    white: bool = False,
    small: bool = False,
    doubt: float = TEXTURE,
) -> Measured | None:
    """Measure the noise of an image (C, H, W); None where it is white and even within the error, or too little is seen.

    Args:
        image: float32, on the CPU.
        sigma: its deviation if it is white.
        usable: where patches may be looked at, see :func:`usable_places`, which finds it if it is not given.
        known: its correlation, if only strength and map are to be found.
        white: whether it is known to be white.
        small: whether it holds small slices: their noise is taken to be even.
        doubt: how much more even noise may vary from group to group than simulated noise.
    """
    if min(image.shape[-2:]) < LEAST_SIDE or not sigma > 0:
        return None
    usable = usable_places(image) if usable is None else usable
    if int(usable.sum()) < LEAST_GROUPS * SIDE:
        return None
    deviation, even = torch.ones(image.shape[-2:]), True
    for rounds_left in reversed(range(1 if small else MAPS)):
        scene = Scene.of(image / deviation, usable)
        found = stationary(scene, known=known, white=white)
        if found is None:
            return None
        total, correlation = found
        change = map_of(scene, total, correlation) if rounds_left else None
        if change is None:
            break
        even = False
        deviation = deviation * change
        deviation = deviation / deviation.square().mean().sqrt()
        if spread(deviation.log()) > WIDEST:
            return None
    if correlation is None and even:
        return None
    total, is_anatomy = check(scene, total, correlation, even=even, doubt=doubt)
    if is_anatomy and known is None:
        return None
    if known is None and correlation is not None:
        blocks = noise_correlation(image[None]).item()
        if float(neighbours_of(correlation).mean()) > blocks + DOUBT:
            return None
    return Measured(total, correlation, None if even else deviation)


def measure_parts(image: Tensor) -> Measured | None:
    """Even, correlated noise that three or more parts of a large image (C, H, W) agree on; None where they do not.

    Each of some 128 pixels a side, more than half of which are usable; six at most along each axis. What is far from
    noise in the others, such as the skull around a brain and the air around both, counts no more.
    """
    found = []
    if min(image.shape[-2:]) < 2 * PART:
        return None
    for rows in parts_of(image, -2):
        for part in parts_of(rows, -1):
            usable = usable_places(part)
            if usable.float().mean() > 0.5:
                found.append(measure(part, estimate_sigma(part[None]).item(), usable=usable, small=True))
    parts = [
        (part.sigma, part.correlation)
        for part in found
        if part is not None and part.correlation is not None and neighbours_of(part.correlation).max() < COARSEST
    ]
    if len(parts) < AGREEING:
        return None
    middle = median(sigma for sigma, _ in parts)
    parts = [(sigma, correlation) for sigma, correlation in parts if 1 / ALIKE < sigma / middle < ALIKE]
    if len(parts) < AGREEING:
        return None
    return Measured(median(sigma for sigma, _ in parts), torch.stack([each for _, each in parts]).mean(0), None)


def parts_of(image: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Parts of some 128 pixels along an axis, six at most: of a longer image every second, third, …"""
    count = round(image.shape[dim] / PART)
    return image.tensor_split(count, dim)[:: -(-count // MOST_PARTS)]


def join_slices(slices: Tensor) -> tuple[Tensor, Tensor]:
    """Slices (B, C, H, W) side by side as one image, and the places of patches that lie within one of them."""
    count, channels, height, width = slices.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    image = slices.new_zeros(channels, down * height, across * width)
    usable = torch.zeros(down * height - SIDE + 1, across * width - SIDE + 1, dtype=torch.bool)
    for number, one in enumerate(slices):
        top, left = number // across * height, number % across * width
        image[:, top : top + height, left : left + width] = one
        usable[top : top + height - SIDE + 1, left : left + width - SIDE + 1] = usable_places(one)
    return image, usable


def check(scene: Scene, sigma: float, correlation: Tensor | None, *, even: bool, doubt: float) -> tuple[float, bool]:
    """Strength of the noise, corrected where it is uneven, and whether it is anatomy.

    Noise of one strength varies from group to group as simulated noise does. Anatomy varies more: where noise is even,
    by ``doubt``.
    """
    simulated, _ = scene.variances(scene.simulated(sigma, correlation, 30))
    real, _ = scene.measured
    levels = torch.tensor([LOWEST, MIDDLING, TAIL], dtype=torch.float64)
    excess = [values.double().quantile(levels, dim=0).clamp(min=1e-30).log() for values in (real, simulated)]
    power = simulated.double().quantile(LOWEST, dim=0)
    of_all, of_fine = (
        ((excess[0] - excess[1]) @ (part / part.sum())).tolist() for part in (power, power * (FREQUENCIES >= FINE))
    )
    if even:
        return sigma, of_all[1] - of_all[0] > doubt
    is_anatomy = of_all[2] - of_all[0] > ALL_TAIL and of_fine[2] - of_fine[0] > FINE_TAIL
    return sigma * math.exp(min(max(of_all[1], 0), CORRECTION) / 2), is_anatomy


def usable_places(image: Tensor) -> Tensor:
    """Where patches hold no pixel that equals its neighbours in every channel, (H - 7, W - 7)."""
    varying = varying_pixels(image[None]).any(1, keepdim=True).float()
    return avg_pool2d(varying, SIDE, stride=1)[0, 0] > 1 - 0.5 / SIDE**2


def stationary(scene: Scene, *, known: Tensor | None = None, white: bool = False) -> tuple[float, Tensor | None] | None:
    """Standard deviation and correlation, None where white, of even noise; None where too few groups are found."""
    variances, _ = scene.measured
    if len(variances) < LEAST_GROUPS:
        return None
    measured = low(variances)
    if known is not None or white:
        return strength(scene, measured, known), known
    sigma = float(measured.mean().sqrt())
    looks = [low(scene.variances(scene.simulated(sigma, None, seed))[0]) for seed in range(WHITE_NOISES)]
    flat = torch.full((GRID * GRID,), sigma**2, dtype=torch.float64)
    expected = torch.stack(looks).mean(0)
    spectrum = adjusted(flat, measured / expected)
    errors = torch.stack([neighbours(adjusted(flat, look / expected)) for look in looks])
    likeness = neighbours(spectrum)
    error = errors.square().mean().sqrt() * math.sqrt(WHITE_NOISES / (WHITE_NOISES - 1))
    if float(likeness.abs().max()) <= max(LIKE, ERRORS * float(error)):
        return float(spectrum.mean().sqrt()), None
    for seed in range(WHITE_NOISES, WHITE_NOISES + ROUNDS):
        total, correlation = float(spectrum.mean().sqrt()), correlation_of(spectrum)
        look = low(scene.variances(scene.simulated(total, correlation, seed))[0])
        spectrum = adjusted(spectrum, measured / look.clamp(min=1e-12 * float(look.max())))
    return float(spectrum.mean().sqrt()), correlation_of(spectrum)


def strength(scene: Scene, measured: Tensor, known: Tensor | None) -> float:
    """Standard deviation of noise of which the correlation is known."""
    sigma = float(measured.mean().sqrt())
    for seed in range(2):
        look = low(scene.variances(scene.simulated(sigma, known, seed))[0])
        sigma *= float((measured.sum() / look.sum()).sqrt().clamp(1 / RANGE, RANGE))
    return sigma


def strength_beside(image: Tensor, estimate: Tensor, correlation: Tensor) -> float | None:
    """Standard deviation of even noise of this correlation in an image (C, H, W), of which there is an estimate.

    That holds more of the texture in the groups than their means do, which is then not taken for noise. None where too
    little is seen.
    """
    if min(image.shape[-2:]) < LEAST_SIDE:
        return None
    scene = Scene(image, estimate, usable_places(image), steps(*image.shape[-2:])[0])
    variances, _ = scene.measured
    return strength(scene, low(variances), correlation) if len(variances) >= LEAST_GROUPS else None


def low(variances: Tensor) -> Tensor:
    """The variance of every coefficient in the calmest groups."""
    return variances.double().quantile(LOWEST, dim=0)


def adjusted(spectrum: Tensor, ratios: Tensor) -> Tensor:
    """A spectrum changed so that the coefficients' variances change by these ratios."""
    return fitted(seen(spectrum) * ratios.clamp(1 / RANGE**2, RANGE), spectrum)


def neighbours(spectrum: Tensor) -> Tensor:
    """Correlation with the nearest below and to the right."""
    return neighbours_of(correlation_of(spectrum))


def map_of(scene: Scene, sigma: float, correlation: Tensor | None) -> Tensor | None:
    """How strong the noise is around each pixel, (H, W), relative; None where it is even within the error."""
    looks = [in_place(*scene.variances(scene.simulated(sigma, correlation, seed))) for seed in (20, 21)]
    real, expected = in_place(*scene.measured), torch.stack(looks).mean(0)
    power = torch.stack([look.exp().nanmean((0, 1)) for look in looks]).mean(0)
    fine = FREQUENCIES >= LEAST_FINE
    keep = (power > 0.02 * power[fine].max()) & fine
    level = smooth_map((real - expected)[..., keep].median(-1).values / 2, scene.step)
    noise = smooth_map((looks[0] - looks[1])[..., keep].median(-1).values / 2, scene.step)
    if spread(level) <= max(UNEVEN, EXCESS * spread(noise)):
        return None
    return at_pixels(level, scene.image.shape[-2:], scene.step).exp()


def in_place(variances: Tensor, groups: Groups) -> Tensor:
    """Logarithm of the groups' variances, (rows, columns, 64), NaN where there is no group."""
    placed = torch.full((*groups.found.shape, SIDE * SIDE), torch.nan, dtype=torch.float64)
    placed[groups.found] = variances.double().clamp(min=1e-30).log()
    return placed


def spread(level: Tensor) -> float:
    """The 90th percentile of a map over the 10th, from its logarithm."""
    low, high = level.flatten().quantile(torch.tensor([0.1, 0.9], dtype=level.dtype))
    return float((high - low).exp())


def smooth_map(level: Tensor, step: int) -> Tensor:
    """A map without what stands out of a window, smoothed; what is missing is taken from the nearest."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter, percentile_filter

    values = level.numpy()
    if (missing := level.isnan().numpy()).any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        values = values[tuple(nearest)]
    window = 2 * (WINDOW // step // 2) + 1
    calm = percentile_filter(values, 100 * LOW_RANK, size=window, mode="nearest")
    return torch.from_numpy(gaussian_filter(calm, BLUR / step, mode="nearest"))


def at_pixels(level: Tensor, size: torch.Size, step: int) -> Tensor:
    """A map on the grid of patches, at every pixel."""
    last = [SIDE // 2 + step * (count - 1) for count in level.shape]
    inner = [end - SIDE // 2 + 1 for end in last]
    fine = interpolate(level[None, None], size=inner, mode="bilinear", align_corners=True)
    room = [SIDE // 2, size[1] - SIDE // 2 - inner[1], SIDE // 2, size[0] - SIDE // 2 - inner[0]]
    return pad(fine, room, "replicate")[0, 0].float()
