"""Spectra of stationary noise on a grid of frequencies, from what patches see of them, and noise that has them."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import SIDE, cosines

GRID = 64  # frequencies along each axis
LAGS = 15  # to which a correlation is known
ITERATIONS = 40


def responses() -> Tensor:
    """The share of every frequency's power in every cosine coefficient of a patch, (64, GRID²)."""
    power = torch.fft.fft(cosines(SIDE), GRID).abs().square() / GRID
    return torch.einsum("ia,jb->ijab", power, power).reshape(SIDE * SIDE, GRID * GRID)


RESPONSES = responses()


def seen(spectrum: Tensor) -> Tensor:
    """The variances (64,) of the cosine coefficients of patches of noise with a spectrum (GRID²,)."""
    return RESPONSES @ spectrum


def fitted(variances: Tensor, start: Tensor) -> Tensor:
    r"""A spectrum with such variances of the cosine coefficients, near to one that is given.

    .. math:: \Psi_\omega \leftarrow \Psi_\omega \sum_k a_{k\omega} \frac{v_k}{\sum_\nu a_{k\nu} \Psi_\nu}

    Source: Richardson, J. Optical Society of America 62, 1972, doi:10.1364/JOSA.62.000055.
    """
    weights = RESPONSES / RESPONSES.sum(0)
    spectrum = start
    for _ in range(ITERATIONS):
        predicted = seen(spectrum)
        spectrum = spectrum * (weights.mT @ (variances / predicted.clamp(min=1e-12 * float(predicted.max()))))
    return spectrum


def correlation_of(spectrum: Tensor) -> Tensor:
    """Correlation (2 LAGS + 1, 2 LAGS + 1) of noise with a spectrum (GRID²,), tapered beyond lags within a patch."""
    lags = torch.arange(-LAGS, LAGS + 1)
    rho = torch.fft.ifft2(spectrum.view(GRID, GRID)).real[lags % GRID][:, lags % GRID]
    taper = torch.cos(torch.pi / 2 * ((lags.abs() - SIDE + 1).clamp(min=0) / (LAGS + 2 - SIDE))).square()
    return rho / rho[LAGS, LAGS] * torch.outer(taper, taper).to(rho)


def neighbours_of(correlation: Tensor) -> Tensor:
    """Correlation with the nearest below and to the right, (2,), of noise with a correlation over lags."""
    centre = len(correlation) // 2
    return torch.stack([correlation[centre + 1, centre], correlation[centre, centre + 1]])


def spectrum_of(correlation: Tensor, height: int, width: int) -> Tensor:
    """Spectrum (H, W), in the order of the Fourier transform, of noise with a correlation; not floored, mean 1."""
    reach = len(correlation) // 2
    lags = torch.arange(-reach, reach + 1)
    rows, columns = (lags % size for size in (height, width))
    wrapped = torch.zeros(height, width, dtype=torch.float64, device=correlation.device)
    places = (rows[:, None] * width + columns).flatten().to(correlation.device)
    wrapped.view(-1).index_add_(0, places, correlation.double().flatten())
    return torch.fft.fft2(wrapped).real


def synthesised(correlation: Tensor | None, height: int, width: int, seed: int) -> Tensor:
    """Noise (H, W) of unit variance with a correlation; white where None."""
    white = torch.randn(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if correlation is None:
        return white.float()
    gain = spectrum_of(correlation, height, width).clamp(min=0)
    return torch.fft.ifft2(torch.fft.fft2(white) * (gain / gain.mean()).sqrt()).real.float()
