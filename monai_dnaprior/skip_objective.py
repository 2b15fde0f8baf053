"""What the fit of a network with a random input minimises, for one image or for many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SkipNetObjective:
    """What is minimised for images (B, C, H, W): a loss of the part of ``f(z + noise)`` that was measured.

    Attributes:
        loss: ``loss(estimate, noisy, tv_weight) -> (B,)``.
        z: the fixed inputs (B, input channels, height, width), as large as the network needs them.
        input_noise: standard deviation of what is added to z at every step, (B,).
        tv_weight: weight of the total variation, (B,).
        generators: of each image's input noise.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    z: Tensor
    input_noise: Tensor
    tv_weight: Tensor
    generators: Sequence[torch.Generator]

    def __call__(self, noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        perturbation = torch.empty_like(self.z, memory_format=torch.contiguous_format)  # drawn five times faster so
        for noise, generator in zip(perturbation, self.generators, strict=True):
            noise.normal_(generator=generator)
        perturbation = torch.empty_like(self.z).copy_(perturbation)
        estimate = network(self.z + self.input_noise[:, None, None, None] * perturbation)
        estimate = estimate[..., : noisy.shape[-2], : noisy.shape[-1]]
        return self.loss(estimate, noisy, self.tv_weight), estimate

    def joined(self, others: Sequence[SkipNetObjective]) -> SkipNetObjective:
        every = (self, *others)
        return replace(
            self,
            z=torch.cat([one.z for one in every]),
            input_noise=torch.cat([one.input_noise for one in every]),
            tv_weight=torch.cat([one.tv_weight for one in every]),
            generators=[generator for one in every for generator in one.generators],
        )

    def kept(self, places: Sequence[int]) -> SkipNetObjective:
        return replace(
            self,
            z=self.z[places],
            input_noise=self.input_noise[places],
            tv_weight=self.tv_weight[places],
            generators=[self.generators[place] for place in places],
        )
