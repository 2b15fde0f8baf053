"""Noise an estimate again with what was removed from it: the residual under random signs or random phases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAPER = 8  # pixels over which a residual falls to 0 at its borders


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent signs ±1 in the shape of an image.

    >>> sorted(set(random_signs(torch.zeros(50), torch.Generator().manual_seed(0)).tolist()))
    [-1.0, 1.0]
    """
    coins = torch.randint(2, like.shape, generator=generator, device=like.device)
    return (2 * coins - 1).to(like.dtype)


def random_phases(residual: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    r"""A residual (B, C, H, W) with random phases: spectrum, map and mean are kept, all else is drawn anew.

    .. math:: n_2 = \sigma(p) \, F^{-1}[\, |F(n / \sigma(p))| \, e^{i \varphi} \,]

    >>> flat = torch.full((1, 1, 16, 16), 0.5)
    >>> random_phases(flat, torch.ones_like(flat), torch.Generator().manual_seed(0)).unique()
    tensor([0.5000])
    """
    even = residual / deviation
    mean = even.mean((-2, -1), keepdim=True)
    spectrum = torch.fft.fft2((even - mean) * taper(even))
    white = torch.randn(even.shape, generator=generator, device=even.device)
    phases = torch.fft.fft2(white)  # antisymmetric, as those of any real image
    turned = torch.fft.ifft2(spectrum.abs() * phases / phases.abs().clamp(min=1e-12)).real
    return (turned - turned.mean((-2, -1), keepdim=True) + mean) * deviation


def taper(image: Tensor) -> Tensor:
    """1 inside, falling to 0 at the borders, of mean square 1: else a cut's jump leaks into empty frequencies."""
    edges = []
    for size in image.shape[-2:]:
        places = torch.arange(size, device=image.device) + 0.5
        edge = (torch.minimum(places, size - places) / TAPER).clamp(max=1)
        edges.append((edge * math.pi / 2).sin().square())
    whole = edges[0][:, None] * edges[1]
    return whole / whole.square().mean().sqrt()
