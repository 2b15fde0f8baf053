"""What the fit of a network with a random input minimises, for one image or for many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .fitting.devices import convolving

SHIFTS = 33  # along each axis, of the noise that is drawn once


@dataclass(frozen=True)
class SkipNetObjective:
    """What is minimised for images (B, C, H, W): a loss of the part of ``f(z + noise)`` that was measured.

    Attributes:
        loss: ``loss(estimate, noisy, tv_weight) -> (B,)``.
        z: the fixed inputs (B, input channels, height, width), as large as the network needs them.
        input_noise: standard deviation of what is added to z at every step, (B,).
        tv_weight: weight of the total variation, (B,).
        draws: of each image, what gives the noise of a step for its z, of standard deviation 1.
        precision: of the network's convolutions.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    z: Tensor
    input_noise: Tensor
    tv_weight: Tensor
    draws: Sequence[Callable[[], Tensor]]
    precision: str = "float32"

    def __call__(self, noisy: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        noise = self.draws[0]()[None] if len(self.draws) == 1 else torch.stack([draw() for draw in self.draws])
        z = torch.addcmul(self.z, noise, self.input_noise[:, None, None, None])
        with convolving(self.precision, z.device):
            estimate = network(z)
        estimate = estimate[..., : noisy.shape[-2], : noisy.shape[-1]]
        return self.loss(estimate, noisy, self.tv_weight), estimate

    def joined(self, others: Sequence[SkipNetObjective]) -> SkipNetObjective:
        every = (self, *others)
        return replace(
            self,
            z=torch.cat([one.z for one in every]),
            input_noise=torch.cat([one.input_noise for one in every]),
            tv_weight=torch.cat([one.tv_weight for one in every]),
            draws=[draw for one in every for draw in one.draws],
        )

    def kept(self, places: Sequence[int]) -> SkipNetObjective:
        return replace(
            self,
            z=self.z[places],
            input_noise=self.input_noise[places],
            tv_weight=self.tv_weight[places],
            draws=[self.draws[place] for place in places],
        )


class FreshNoise:
    """Standard normal noise for an input z (1, C, H, W), drawn anew each time, in its shape (C, H, W)."""

    def __init__(self, z: Tensor, seed: int) -> None:
        self.noise = torch.empty_like(z[0], memory_format=torch.contiguous_format)
        self.generator = torch.Generator(z.device).manual_seed(seed)

    def __call__(self) -> Tensor:
        return self.noise.normal_(generator=self.generator)


class ShiftedNoise:
    """Standard normal noise for an input z (1, C, H, W), drawn once and a little larger, of which each time a window.

    The window's place is drawn anew, so that no pixel keeps its noise. It costs next to nothing, where fresh noise
    takes a fifth of a step of a small network; and it is the same on every device.
    """

    def __init__(self, z: Tensor, seed: int) -> None:
        self.size = height, width = z.shape[-2:]
        self.generator = torch.Generator().manual_seed(seed)
        larger = torch.randn(
            height + SHIFTS - 1, width + SHIFTS - 1, z.shape[1], generator=self.generator, device="cpu"
        )
        self.noise = larger.to(z.device).movedim(-1, 0)

    def __call__(self) -> Tensor:
        row, column = torch.randint(SHIFTS, (2,), generator=self.generator, device="cpu").tolist()
        return self.noise[:, row : row + self.size[0], column : column + self.size[1]]
