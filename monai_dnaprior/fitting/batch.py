"""Images that are fitted at once: what each needs, and their networks side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from .stopping import StoppingRule

Objective = Callable[[Tensor, nn.Module], tuple[Tensor, Tensor]]
"""``objective(noisy, network) -> (loss, estimate)``: what is minimised, and the image that it scores.

One that can score several images at once, with a loss for each, also has ``join(others)`` and ``keep(places)``.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class FitRequest:
    """The fit of a network to one noisy image.

    Attributes:
        network: on the device of the image; a copy of it is fitted.
        noisy: what the objective compares with, (1, C, H, W).
        objective: gives the loss and the image that it scores, of the shape of ``noisy``.
        steps: at most this many.
        learning_rate: of the optimiser, at the beginning.
        decay: what it is multiplied with, a function of the progress of the fit from 0 to 1.
        optimizer: makes the optimiser from the parameters and ``lr``.
        averaging: memory of the running average of the outputs; 0 returns the last output.
        rules: asked every ten steps, in this order, whether to stop.
        where: the pixels over which the residual is taken; all by default.
        whiten: what is done to the residual first, so that the noise in it is white and even.
    """

    network: nn.Module
    noisy: Tensor
    objective: Objective
    steps: int
    learning_rate: float
    decay: Callable[[float], float] = lambda progress: 1.0
    optimizer: Callable[..., Optimizer] = torch.optim.Adam
    averaging: float = 0.99
    rules: Sequence[StoppingRule] = ()
    where: Tensor | None = None
    whiten: Callable[[Tensor], Tensor] | None = None

    def suits(self, other: FitRequest) -> bool:
        """Whether both can be fitted at once: one call makes a step of both."""
        joinable = hasattr(self.objective, "join") and type(self.objective) is type(other.objective)
        return joinable and self._kind() == other._kind()

    def _kind(self) -> tuple[Any, ...]:
        options = self.steps, self.learning_rate, self.decay, self.optimizer, self.averaging
        return *options, self.noisy.shape, self.whiten is None


class Batch:
    """The fits of images that suit each other; an image whose fit ends leaves the others.

    Attributes:
        requests, traces: of every fit, and (step, loss, residual) on its way.
        numbers: which of the requests are still fitted.
        network, objective, optimizer: of all of them.
        noisy, average, where: (B, C, H, W), the running average beginning with zeros.
    """

    def __init__(self, requests: Sequence[FitRequest]) -> None:
        first, *others = requests
        self.requests, self.numbers = requests, list(range(len(requests)))
        self.traces: list[list[tuple[int, float, float]]] = [[] for _ in requests]
        self.network = copy.deepcopy(first.network) if not others else Stack([request.network for request in requests])
        self.objective, self.noisy = first.objective, first.noisy
        self.where = torch.ones_like(self.noisy, dtype=torch.bool) if first.where is None else first.where
        if others:
            self.objective = first.objective.join([request.objective for request in others])  # type: ignore[attr-defined]
            self.noisy = torch.cat([request.noisy for request in requests])
            self.where = torch.cat([request.where for request in requests])  # type: ignore[misc]
        self.average = torch.zeros_like(self.noisy)
        self.optimizer = first.optimizer(self.network.parameters(), lr=first.learning_rate)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the images at these places alone."""
        self.numbers = [self.numbers[place] for place in places]
        if not places or len(places) == len(self.noisy):
            return
        self.network.keep(places, self.optimizer)  # type: ignore[operator]
        self.objective = self.objective.keep(places)  # type: ignore[attr-defined]
        self.noisy, self.average, self.where = self.noisy[places], self.average[places], self.where[places]


class Stack(nn.Module):
    r"""Networks of one architecture, each with weights of its own: image b of a batch passes network b.

    .. math:: f(z)_b = f_{\theta_b}(z_b)

    One call does the work of all, which is what an accelerator needs to be busy with small images; no gradient passes
    from one network to another.

    Args:
        networks: at least one; their weights are copied.

    Shapes: inputs (B, …), one for each network; outputs (B, …).

    >>> first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> z = torch.ones(2, 3)
    >>> torch.allclose(Stack([first, second])(z), torch.stack((first(z[0]), second(z[1]))))
    True
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.names = [name for name, _ in networks[0].named_parameters()]
        columns = zip(*(network.parameters() for network in networks), strict=True)
        self.weights = nn.ParameterList(stack_weights(column) for column in columns)
        self.architecture = (copy.deepcopy(networks[0]).to("meta"),)  # in a tuple, so that it is no part of this one

    def forward(self, inputs: Tensor) -> Tensor:
        def one(weights: list[Tensor], image: Tensor) -> Tensor:
            named = dict(zip(self.names, weights, strict=True))
            return functional_call(self.architecture[0], named, (image[None],))[0]

        return vmap(one)(list(self.weights), inputs)

    def keep(self, places: Sequence[int], optimizer: Optimizer) -> None:
        """Drop all networks but those at these places, and what an optimiser remembers of them."""
        for number, weight in enumerate(self.weights):
            kept, state = nn.Parameter(weight.detach()[places]), optimizer.state.pop(weight, {})
            optimizer.state[kept] = {
                name: value[places] if isinstance(value, Tensor) and value.shape == weight.shape else value
                for name, value in state.items()
            }
            self.weights[number] = kept
        optimizer.param_groups[0]["params"] = list(self.weights)


def stack_weights(weights: Sequence[Tensor]) -> Tensor:
    """Weights as one tensor, laid out in the order of its axes.

    Weights laid out with their channels last must not hand that on: joined convolutions then get wrong gradients.
    """
    return torch.stack([weight.detach().flatten() for weight in weights]).view(-1, *weights[0].shape)
