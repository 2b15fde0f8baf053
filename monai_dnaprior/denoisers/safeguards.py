"""What is done about an image before and after any method: leave it alone, stabilise its noise, check the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..fitting.threads import side_by_side
from ..noise.background import exact_background, fill_background
from ..noise.estimate import (
    CORRELATED,
    CORRELATED_NOISE,
    DEPENDENT_NOISE,
    NoiseKind,
    contrast,
    estimate_sigma,
    noise_correlation,
)
from ..noise.groups import LARGE
from ..noise.model import LEAST_SIDE, NoiseModel
from ..noise.stabilisation import Stabiliser
from .low_rank import estimate_low_rank
from .nonlocal_bayes import refine
from .record import Known, Record

NOISY = (8, 100)  # contrast over noise of images that are not left alone however wide the range of intensities
WEAK = 4 / 255  # noise that is not believed to be both correlated and uneven
NOT_FINITE = "the result was not finite; the input is given back"


@dataclass(frozen=True, eq=False)
class Safeguards:
    """One image (1, C, H, W) as a method is to see it, and the way back.

    Attributes:
        original: the image as it came, float32.
        noisy: the same, mirrored into its exact background, and on the grey scale on which its noise is stabilised.
        background: which pixels are that, (1, 1, H, W).
        noise: what is measured of the noise in ``noisy``.
        kind: how it was found to depend on brightness.
        stabiliser: what changed the grey scale, if anything.
        started: when its treatment began, by ``time.perf_counter``.
        measured: the seconds that the measurement took.
    """

    original: Tensor
    noisy: Tensor
    background: Tensor
    noise: NoiseModel
    kind: NoiseKind
    stabiliser: Stabiliser | None
    started: float
    measured: float

    @classmethod
    def of(cls, image: Tensor, known: Known | None = None, *, stabilise: bool, measure: Measurement) -> Safeguards:
        """Measure the noise of an image, stabilised first if that is wanted and its noise depends on brightness.

        What is known of the noise, see :meth:`~monai_dnaprior.noise.model.NoiseModel.given`, takes the place of that.
        """
        started = time.perf_counter()
        original = image.clone().float()
        background = exact_background(original)
        noisy = fill_background(original, background)
        kind, stabiliser = NoiseKind.of(noisy), None
        if stabilise and known is None and kind.can_be_stabilised:
            stabiliser = Stabiliser.of(noisy)
            noisy = stabiliser(noisy)
            kind = NoiseKind.of(noisy)
        if isinstance(known, NoiseModel):
            noise = measure_beside(noisy, known.at(noisy)) if known.pooled else known
        else:
            noise = measure(noisy, kind).given(known)
        return cls(original, noisy, background, noise, kind, stabiliser, started, time.perf_counter() - started)

    def to(self, device: torch.device) -> Safeguards:
        """The same on a device; its treatment has taken the seconds of the measurement so far."""
        moved = {name: getattr(self, name).to(device) for name in ("original", "noisy", "background", "noise")}
        return replace(self, **moved, started=time.perf_counter() - self.measured)

    def reason_to_leave(self, clean_sigma: float, *, least_correlated: float = 0.0) -> str | None:
        """Why the image is to be left alone: it is constant, or its noise is weaker than ``clean_sigma``.

        Noise that is measured to be correlated, as a scanner's reconstruction makes it and rounding does not, has to be
        weaker than ``least_correlated``. Not if most of the image is of so little contrast that its noise is much: a
        metal implant or a hot organ may be all of the range of intensities.
        """
        if self.noisy.min() == self.noisy.max():
            return "constant"
        sigma = self.noise.sigma
        least, most = (ratio * sigma for ratio in NOISY)
        weak = sigma < (clean_sigma if self.noise.is_white else least_correlated)
        return "clean" if weak and not least < self.contrast < most else None

    @property
    def contrast(self) -> float:
        """The range of the middle four fifths of the pixels in which noise can be seen."""
        return contrast(self.noisy)

    def leave(self, reason: str) -> tuple[Tensor, Record]:
        """The image as it came."""
        return self.finish(self.noisy, Record(sigma=self.noise.sigma, stop_reason=reason))

    def finish(self, image: Tensor, record: Record, *, whitened: bool = False) -> tuple[Tensor, Record]:
        """What a method made of ``noisy``, on the original grey scale, and its record with time and warnings.

        A method that takes the measured correlation and map of the noise into account says so by ``whitened``.

        The background and pixels that the method left as they were come back bit-identical, and so does an image that
        it made NaN of.
        """
        if self.stabiliser is not None:
            restored = self.stabiliser.inverse(image, record.sigma)
            image = torch.where(image == self.noisy, self.original, restored).float()
            record = replace(record, noise_variance=self.stabiliser.variance)
        image = torch.where(self.background, self.original, image)
        if not self.noise.assumed:
            record = replace(record, correlation=self.noise.neighbours, sigma_range=self.noise.sigma_range)
        if record.stop_reason not in ("constant", "clean"):
            noise = self.noise if whitened else NoiseModel(0)
            treated = {CORRELATED_NOISE: not noise.is_white, DEPENDENT_NOISE: noise.deviation is not None}
            left = tuple(text for text in self.kind.warnings if not treated[text])
            record = replace(record, warnings=record.warnings + left)
        if not image.isfinite().all():
            warnings = (*record.warnings, NOT_FINITE)
            image, record = self.original, replace(record, stop_reason="non-finite", warnings=warnings)
        return image, replace(record, seconds=time.perf_counter() - self.started)


def measure_all(
    measure_one: Callable[[Tensor, Known | None], Safeguards], noisy: Tensor, noise: Sequence[Known] | None
) -> list[Safeguards]:
    """What is measured of each of some images (B, C, H, W), on a CPU in threads: an accelerator would only wait for it.

    So the noise that is found does not depend on the device either.
    """
    here = torch.device("cpu")
    known = [each.to(here) for each in noise] if noise else [None] * len(noisy)
    return side_by_side(torch.no_grad()(measure_one), noisy.to(here).split(1), known, device=here)


Measurement = Callable[[Tensor, NoiseKind], NoiseModel]  # of the noise in an image (1, C, H, W) of a kind


def measure_strength(noisy: Tensor, kind: NoiseKind) -> NoiseModel:
    """The noise of an image as if it were white and even, in milliseconds."""
    return NoiseModel(estimate_sigma(noisy).item(), assumed=True)


def measure_noise(noisy: Tensor, kind: NoiseKind) -> NoiseModel:
    """The noise of an image with its correlation and map: 0.3 seconds for 256×256 pixels, 0.6 for 512×512.

    Small images hold too little to tell it from anatomy, and weak noise that is both correlated and uneven looks like
    fine texture: these are taken to have white and even noise. But where neighbouring pixels are alike, and several
    parts of a large image agree on noise that the whole does not show, it has that.
    """
    if min(noisy.shape[-2:]) < LEAST_SIDE:
        return measure_strength(noisy, kind)
    noise = NoiseModel.of(noisy)
    doubtful = noise.sigma < WEAK and not noise.is_white and noise.deviation is not None
    unseen = doubtful or (noise.is_white and noise.deviation is None)
    if unseen and kind.correlation > CORRELATED and (agreed := NoiseModel.of_parts(noisy)) is not None:
        return agreed
    return measure_strength(noisy, kind) if doubtful else measure_beside(noisy, noise)


def measure_beside(noisy: Tensor, noise: NoiseModel) -> NoiseModel:
    """Noise that was measured in an image, its strength once more beside an estimate without a network.

    In a large image, where that gains 1 % and takes seconds, as it was measured: enough of it is calm.
    """
    if noisy[0, 0].numel() > LARGE:
        return noise
    return noise.beside(lambda image, found: refine(image, estimate_low_rank(image, found), found, rounds=1), noisy)


def measure_correlated(noisy: Tensor, kind: NoiseKind) -> NoiseModel:
    """The same, where neighbouring pixels are alike; other images are measured in milliseconds."""
    return (measure_noise if kind.correlation > CORRELATED else measure_strength)(noisy, kind)


def measure_slices(pairs: Tensor) -> NoiseModel | None:
    """The noise that slices of a volume share, where neighbouring pixels are alike in most of them.

    It is looked for in the first slice of each pair, and if it cannot be told from anatomy there, in the differences
    within the pairs, which hold less anatomy and more noise, where neighbouring pixels are alike in these as well: what
    is found is then the most that a slice may have.

    Args:
        pairs: (B, 2, C, H, W), slices and those behind them.

    Returns:
        the noise, on the CPU; None where it is white, or cannot be told from anatomy.
    """
    first, second = pairs.cpu().unbind(1)
    first = fill_backgrounds(first)
    if noise_correlation(first).median() <= CORRELATED:
        return None
    noise = NoiseModel.of(first)
    if noise.is_white:
        differences = (fill_backgrounds(second) - first) / 2**0.5
        if noise_correlation(differences).median() <= CORRELATED:
            return None
        noise = NoiseModel.of(differences, differences=True)
        noise = replace(noise, limit=noise.sigma, pooled=True)
    return None if noise.is_white else noise


def fill_backgrounds(slices: Tensor) -> Tensor:
    """Slices (B, C, H, W), each mirrored into its exact background."""
    return torch.cat([fill_background(image, exact_background(image)) for image in slices.split(1)])
