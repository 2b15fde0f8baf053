"""What is known of an image before it is denoised, and what is told of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..noise.model import NoiseModel

Known = Tensor | NoiseModel  # of the noise in an image: how strong it is at every pixel, (1, 1, H, W), or all


@dataclass(frozen=True, kw_only=True)
class Record:
    """What happened to one slice.

    Attributes:
        sigma: estimated standard deviation of its noise, in the units of the denoiser's input.
        correlation: of its noise in nearest neighbours, along the first and along the second axis of the slice; 0 where
            it is white, None where that was not measured.
        sigma_range: the 10th and the 90th percentile of ``sigma`` over the pixels, equal where the noise is even; None
            where that was not measured.
        neighbours: how many slices beside it helped to denoise it.
        steps: optimisation steps taken; 0 for a slice that was given back as it came.
        stop_reason: of a fit ``discrepancy`` (the residual fell to the noise level), ``variance`` (the output began to
            fit noise) or ``steps`` (the limit); ``filter`` or ``network`` for one pass of these; and where the input is
            given back ``clean`` (too little noise), ``constant`` (nothing to fit) or ``non-finite`` (failed twice).
        seconds: of its own work; of a step of many images at once each has an equal share.
        seed: of the fit's fixed input and input noise: a hash of the user's seed, the voxels and the slice index.
        noise_variance: a, b and c of the noise's variance a + b u + c u² at brightness u, where the fit was made on a
            grey scale on which such noise is even; ``sigma`` and ``residual`` are then on that scale.
        rician_sigma: standard deviation of the noise in both parts of the complex signal, where what Rician noise adds
            to the mean of magnitudes was taken away.
        tv_weight: the weight of the total variation that was used, if any.
        residual: RMS of input minus what was fitted, over the pixels that differ from a neighbour (an empty background
            has no noise to compare with); with restarts, of the first, like ``steps``, ``seed`` and ``trace``.
        trace: (step, loss, RMS of input minus the averaged output) on the way.
        device: that computed.
        warnings: where the method fell short, in words.
    """

    sigma: float
    correlation: tuple[float, float] | None = None
    sigma_range: tuple[float, float] | None = None
    neighbours: int = 0
    steps: int = 0
    stop_reason: str = "steps"
    seconds: float = 0.0
    seed: int = 0
    noise_variance: tuple[float, float, float] | None = None
    rician_sigma: float | None = None
    tv_weight: float | None = None
    residual: float = 0.0
    trace: tuple[tuple[int, float, float], ...] = ()
    device: str = ""
    warnings: tuple[str, ...] = ()
