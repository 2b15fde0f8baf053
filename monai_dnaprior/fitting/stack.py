"""Networks of one architecture that compute side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer


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
        self.weights = nn.ParameterList(stacked(column) for column in columns)
        self.architecture = (copy.deepcopy(networks[0]).to("meta"),)  # in a tuple, so that it is no part of this one

    def forward(self, inputs: Tensor) -> Tensor:
        def one(weights: list[Tensor], image: Tensor) -> Tensor:
            named = dict(zip(self.names, weights, strict=True))
            return functional_call(self.architecture[0], named, (image[None],))[0]

        return vmap(one)(list(self.weights), inputs)

    def keep(self, places: Sequence[int], optimizer: Optimizer) -> None:
        """Drop all networks but those at these places, and what an optimiser remembers of them."""
        for number, weight in enumerate(self.weights):
            kept, state = nn.Parameter(weight.detach()[places]), optimizer.state.pop(weight)
            optimizer.state[kept] = {
                name: value[places] if isinstance(value, Tensor) and value.shape == weight.shape else value
                for name, value in state.items()
            }
            self.weights[number] = kept
        optimizer.param_groups[0]["params"] = list(self.weights)


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """Weights as one tensor, laid out in the order of its axes.

    Weights laid out with their channels last must not hand that on: joined convolutions then get wrong gradients.
    """
    return torch.stack([weight.detach().flatten() for weight in weights]).view(-1, *weights[0].shape)
