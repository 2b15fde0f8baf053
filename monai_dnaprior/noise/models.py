"""Models of noise, which add it to clean images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gaussian_noise(image: Tensor, sigma: float, *, seed: int) -> Tensor:
    r"""White Gaussian noise, :math:`y = x + n,\; n \sim N(0, (\sigma/255)^2)`: sigma on the 8-bit scale."""
    return image + sigma / 255 * torch.randn(image.shape, generator=generator(seed))


def poisson_noise(image: Tensor, peak: float, *, seed: int) -> Tensor:
    r"""Poisson noise, :math:`y = P(\lambda x) / \lambda`: peak is :math:`\lambda`, the mean count of intensity 1."""
    return torch.poisson(peak * image.clamp(min=0), generator=generator(seed)) / peak


def speckle_noise(image: Tensor, variance: float, *, seed: int) -> Tensor:
    r"""Multiplicative noise, :math:`y = x + x n`, n uniform with mean 0 and this variance."""
    uniform = 2 * torch.rand(image.shape, generator=generator(seed)) - 1
    return image + image * (3 * variance) ** 0.5 * uniform


def rician_noise(image: Tensor, sigma: float, *, seed: int) -> Tensor:
    r"""Rician noise of magnitude images, :math:`y = |x + n_1 + i n_2|`: sigma of each part, on the 8-bit scale."""
    real, imaginary = sigma / 255 * torch.randn(2, *image.shape, generator=generator(seed))
    return torch.hypot(image + real, imaginary)


NOISES: dict[str, Callable[..., Tensor]] = {
    "gaussian": gaussian_noise,
    "poisson": poisson_noise,
    "speckle": speckle_noise,
    "rician": rician_noise,
}


def add_noise(image: Tensor, noise: str, *, seed: int = 0) -> Tensor:
    """Add noise by name and strength, for instance ``"gaussian:25"``, ``"poisson:30"``, ``"speckle:0.1"``.

    Args:
        image: clean, in [0, 1], on the CPU.
        noise: one of ``NOISES``, a colon, and its strength (see each for the units).
        seed: same seed, same noise; the global random state is neither read nor changed.

    >>> image = torch.full((1, 1, 64, 64), 0.5)
    >>> round(float(add_noise(image, "gaussian:51").std()), 1)
    0.2
    """
    name, _, strength = noise.partition(":")
    try:
        value = float(strength)
    except ValueError:
        value = float("nan")
    if name not in NOISES or not 0 < value < float("inf"):
        raise ValueError(f"noise={noise!r} must be one of {', '.join(NOISES)}, a colon and its strength: gaussian:25.")
    return NOISES[name](image, value, seed=seed)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
