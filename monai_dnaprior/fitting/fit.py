"""The one loop, which fits networks to noisy images, and what drives the procedures that ask for fits.

A procedure is a generator: it yields a :class:`~monai_dnaprior.fitting.batch.FitRequest`, is sent the
:class:`FitResult`, may ask again, and returns what it made of one image. It is written as if there were no other image;
:func:`run_fits` decides whether its fits are made alone or together with those of others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .batch import Batch, FitRequest
from .devices import convolving
from .losses import IMAGE
from .stopping import root_mean_square
from .threads import gradients_enabled, repeatable, single_threaded_pool

CHECK_EVERY = 10  # steps between checks, each of which waits for the device
TRACE_EVERY = 50
BATCHED_ON = ("cuda",)  # kinds of device that a single small image does not keep busy

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class FitResult:
    """What a fit gives: the averaged image, the steps taken, why it ended, and (step, loss, residual) on the way.

    Of the seconds that a batch takes each of its images has an equal share.
    """

    image: Tensor
    steps: int
    stop_reason: str
    trace: tuple[tuple[int, float, float], ...]
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.stop_reason == "non-finite"

    def rescale(self, span: float, offset: float = 0.0) -> FitResult:
        """The result in other units: its image times the span plus the offset, its residuals times the span."""
        trace = tuple((step, loss, residual * span) for step, loss, residual in self.trace)
        return replace(self, image=self.image * span + offset, trace=trace)


Procedure = Generator[FitRequest, FitResult, Outcome]


def fit(requests: Sequence[FitRequest]) -> list[FitResult]:
    r"""Fit a network to each noisy image, all at once, and return the running averages of the networks' outputs.

    .. math:: \bar x_t = \bar x_{t-1} + w_t (\hat x_t - \bar x_{t-1}), \qquad w_t = \max(1 - a, 10 / (t + 9))

    so that an average covers the last tenth of a short fit and the last 1/(1 - a) steps of a long one.

    Args:
        requests: at least one; several must suit each other.

    Returns:
        a result for each, with ``stop_reason`` from the rule that ended its fit, ``"steps"`` when none did, or
        ``"non-finite"`` when the loss was.
    """
    first, batch = requests[0], Batch(requests)
    results: dict[int, FitResult] = {}
    seconds, before = [0.0] * len(requests), time.perf_counter()
    for step in range(1, first.steps + 1):
        for group in batch.optimizer.param_groups:
            group["lr"] = first.learning_rate * first.decay((step - 1) / first.steps)
        batch.optimizer.zero_grad()
        losses, estimate = batch.objective(batch.noisy, batch.network)
        losses.sum().backward()
        batch.optimizer.step()
        estimate = estimate.detach()
        batch.average = torch.lerp(batch.average, estimate, max(1 - first.averaging, 10 / (step + 9)))
        if step % CHECK_EVERY == 0 or step == first.steps:
            ended = check(batch, step, losses.detach(), estimate)
            now = time.perf_counter()
            for number in batch.numbers:
                seconds[number] += (now - before) / len(batch.numbers)
            before = now
            results |= ended
            batch.keep([place for place, number in enumerate(batch.numbers) if number not in ended])
            if not batch.numbers:
                break
    return [replace(results[number], seconds=seconds[number]) for number in range(len(requests))]


def check(batch: Batch, step: int, losses: Tensor, estimate: Tensor) -> dict[int, FitResult]:
    """The results of the fits that end at this step, by the number of the request; the traces grow."""
    ended: dict[int, FitResult] = {}
    values = zip(batch.numbers, losses.reshape(-1).tolist(), residuals(batch), strict=True)
    for place, (number, loss, residual) in enumerate(values):
        one, request, trace = slice(place, place + 1), batch.requests[number], batch.traces[number]
        average = batch.average[one]
        finite = math.isfinite(loss) and math.isfinite(residual)
        reasons = (rule(residual, estimate[one], average) for rule in request.rules)
        reason = next(filter(None, reasons), "steps" if step == request.steps else None) if finite else "non-finite"
        if reason or step % TRACE_EVERY == 0:
            trace.append((step, loss, residual))
        if reason:
            ended[number] = FitResult(average, step, reason, tuple(trace))
    return ended


def residuals(batch: Batch) -> list[float]:
    """RMS(noisy - average) of each image where it is looked for; a device is waited for once."""
    differences, where = batch.noisy - batch.average, batch.where
    whitening = [batch.requests[number].whiten for number in batch.numbers]
    parts = zip(whitening, differences.split(1), where.split(1), strict=True)
    differences = torch.cat([part if whiten is None else whiten(part * seen) for whiten, part, seen in parts])
    if len(differences) == 1:
        return [root_mean_square(differences[where])]
    energies = torch.where(where, differences, 0).square().sum(IMAGE)
    return (energies / where.sum(IMAGE)).sqrt().tolist()


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneratorObjective:
    r"""What the fit of a generator network minimises: a loss of :math:`f_\theta(z + \eta)`, where it was measured.

    Attributes:
        loss: ``loss(estimate, noisy) -> (B,)`` for images (B, C, H, W), or with ``tv_weight`` as a third argument.
        z: the fixed inputs (B, input channels, height, width), as large as the network needs them.
        input_noise: standard deviation of :math:`\eta`, which is added to z at every step, (B,).
        tv_weight: weight of the total variation, (B,), or None for a loss that takes none.
        draws: for each image a function that draws the noise of a step, of standard deviation 1.
        weight, scale: further arguments of a loss that takes them, (B, 1, H, W), or None.
        precision: of the network's convolutions.
    """

    loss: Callable[..., Tensor]
    z: Tensor
    input_noise: Tensor
    tv_weight: Tensor | None
    draws: Sequence[Callable[[], Tensor]]
    precision: str = "float32"
    weight: Tensor | None = None
    scale: Tensor | None = None

    def __call__(self, noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        noise = self.draws[0]()[None] if len(self.draws) == 1 else torch.stack([draw() for draw in self.draws])
        z = torch.addcmul(self.z, noise, self.input_noise[:, None, None, None])
        with convolving(self.precision, z.device):
            estimate = network(z)
        estimate = estimate[..., : noisy.shape[-2], : noisy.shape[-1]]
        weights = () if self.tv_weight is None else (self.tv_weight,)
        options = {name: getattr(self, name) for name in ("weight", "scale") if getattr(self, name) is not None}
        return self.loss(estimate, noisy, *weights, **options), estimate

    def join(self, others: Sequence[GeneratorObjective]) -> GeneratorObjective:
        """The objective of this image and of the others', in this order."""
        every = (self, *others)
        joined: dict[str, Any] = {
            name: torch.cat([getattr(one, name) for one in every]) for name in self._of_each_image()
        }
        return replace(self, **joined, draws=[draw for one in every for draw in one.draws])

    def keep(self, places: Sequence[int]) -> GeneratorObjective:
        """The objective of the images at these places."""
        kept: dict[str, Any] = {name: getattr(self, name)[places] for name in self._of_each_image()}
        return replace(self, **kept, draws=[self.draws[place] for place in places])

    def _of_each_image(self) -> list[str]:
        names = ("z", "input_noise", "tv_weight", "weight", "scale")
        return [name for name in names if getattr(self, name) is not None]


def run_fits(procedures: Sequence[Procedure[Outcome]], *, device: torch.device) -> list[Outcome]:
    """What each procedure returns, with gradients enabled whatever the caller has set.

    On a CPU they run in several threads, each making fits of its own: small images do not fill more than one, and the
    result has the same bits however many there are. On an accelerator their fits are made together.
    """
    if device.type in BATCHED_ON:
        with repeatable(device), gradients_enabled(device):
            return run_together(procedures)
    if device.type == "cpu":
        with single_threaded_pool() as pool:
            return list(pool.map(partial(run_alone, device=device), procedures))
    return [run_alone(procedure, device=device) for procedure in procedures]


def run_alone(procedure: Procedure[Outcome], *, device: torch.device) -> Outcome:
    """What a procedure returns when each of its fits is made as it is asked for."""
    with gradients_enabled(device):
        return run_together([procedure])[0]


def run_together(procedures: Sequence[Procedure[Outcome]]) -> list[Outcome]:
    """What each procedure returns; when all that have not ended wait for a fit, all their fits are made."""
    outcomes: dict[int, Outcome] = {}
    results: dict[int, FitResult | None] = dict.fromkeys(range(len(procedures)))
    while results:
        requests: dict[int, FitRequest] = {}
        for number, result in results.items():
            try:
                requests[number] = procedures[number].send(result)  # type: ignore[arg-type]
            except StopIteration as end:
                outcomes[number] = end.value
        made = fit_groups(list(requests.values())) if requests else []
        results = dict(zip(requests, made, strict=True))
    return [outcomes[number] for number in range(len(procedures))]


def fit_groups(requests: Sequence[FitRequest]) -> list[FitResult]:
    """The results of all requests, those that suit each other in one batch: what each is alone, but for rounding."""
    results: dict[int, FitResult] = {}
    left = list(range(len(requests)))
    while left:
        first = requests[left[0]]
        group = [number for number in left if number == left[0] or first.suits(requests[number])]
        left = [number for number in left if number not in group]
        results |= zip(group, fit([requests[number] for number in group]), strict=True)
    return [results[number] for number in range(len(requests))]
