"""Losses as pure functions of images (..., C, H, W), one value an image: DNA-Prior's two terms and its relatives'.

DNA-Prior's are from Cheng et al., "DNA-Prior: Unsupervised Denoise Anything via Dual-Domain Prior", 2025, with
γ = 0.001, which it leaves open.
"""

from __future__ import annotations

import torch
from torch import Tensor

GAMMA = 1e-3  # keeps quotients finite for an empty image, and smooths the corner of the root at 0
IMAGE = (-3, -2, -1)


def spectral_fidelity(
    estimate: Tensor, noisy: Tensor, *, weight: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    r"""Squared distance of two spectra, relative to the spectrum of the noisy image.

    .. math:: L_{IS} = \frac{\|W (F\hat x - F y)\|_2^2}{\|W F y\|_2^2 + \gamma}

    Args:
        estimate: the reconstruction :math:`\hat x`, (..., C, H, W).
        noisy: the measurement :math:`y`, of the same shape.
        weight: weights :math:`W` of the frequencies, broadcast to (..., C, H, W) in the order of ``torch.fft.fft2``.
            None for :math:`W = 1`: by Plancherel's theorem the relative squared error of the images, without transform.
        scale: factors of the pixels, broadcast likewise, by which both images are multiplied first, or None.

    With :math:`W = 1 / \sqrt{\Psi}` for noise of spectrum :math:`\Psi`, and the scale that makes its deviation even,
    this is the fidelity of maximum likelihood for correlated, uneven Gaussian noise, made relative as in the paper.

    Returns:
        one value an image, (...), for the orthonormal transform F.

    Source: equation 3 of the paper.

    >>> image = torch.tensor([[[3.0, 4.0]]])
    >>> round(float(spectral_fidelity(torch.zeros(1, 1, 2), image)), 3)
    1.0
    """
    difference, reference = estimate - noisy, noisy
    if scale is not None:
        difference, reference = scale * difference, scale * reference
    if weight is not None:
        difference, reference = (weight * torch.fft.fft2(image, norm="ortho") for image in (difference, reference))
    return energy(difference) / (energy(reference) + GAMMA)


def total_variation(estimate: Tensor) -> Tensor:
    r"""Isotropic smoothed total variation, relative to the energy of the image.

    .. math::
        L_{TV} = \frac{\mathrm{TV}(\hat x)}{\|\hat x\|_2^2 + \gamma}, \qquad
        \mathrm{TV}(\hat x) = \sum_{i,j} \sqrt{(D_x\hat x)_{i,j}^2 + (D_y\hat x)_{i,j}^2 + \gamma^2}

    with forward differences, zero beyond the last row and column (Neumann boundary).

    Args:
        estimate: the reconstruction :math:`\hat x`, (..., C, H, W). Channels add up, each with its own differences.

    Returns:
        one value an image, (...).

    Source: equations 4 and 5 of the paper.

    >>> step = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> round(float(total_variation(step)), 2)
    0.5
    """
    return variation(estimate) / (energy(estimate) + GAMMA)


def variation(estimate: Tensor) -> Tensor:
    """The total variation itself, :math:`\\mathrm{TV}(\\hat x)` of :func:`total_variation`: (..., C, H, W) to (...)."""
    along_x = torch.diff(estimate, dim=-1, append=estimate[..., :, -1:])
    along_y = torch.diff(estimate, dim=-2, append=estimate[..., -1:, :])
    return torch.sqrt(along_x.square() + along_y.square() + GAMMA**2).sum(IMAGE)


def penalised_fidelity(
    estimate: Tensor, noisy: Tensor, tv_weight: Tensor, *, fidelity_weight: float = 1.0, **whitening: Tensor
) -> Tensor:
    r"""DNA-Prior's objective, :math:`\alpha L_{IS} + \beta L_{TV}`: (B, C, H, W) and weights (B,) to (B,).

    Source: equation 6 of the paper.
    """
    return fidelity_weight * spectral_fidelity(estimate, noisy, **whitening) + tv_weight * total_variation(estimate)


def whiten(image: Tensor, *, weight: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """The image times the scale, and its frequencies times the weight: (..., H, W) to the same."""
    image = image if scale is None else scale * image
    return image if weight is None else torch.fft.ifft2(weight * torch.fft.fft2(image)).real


def penalised_error(estimate: Tensor, noisy: Tensor, tv_weight: Tensor) -> Tensor:
    """The mean squared error and the total variation a value, DIP-TV's objective: (B, C, H, W) to (B,)."""
    return squared_error(estimate, noisy) + tv_weight * variation(estimate) / estimate[0].numel()


def squared_error(estimate: Tensor, noisy: Tensor) -> Tensor:
    """Mean squared error of every image: (..., C, H, W) to (...)."""
    return (estimate - noisy).square().mean(IMAGE)


def spectral_discrepancy(
    estimate: Tensor, noisy: Tensor, *, amplitude_weight: float = 1.0, phase_weight: float = 1.0
) -> Tensor:
    r"""Mean squared distance of two spectra, split into amplitude and phase.

    .. math::
        \tfrac1N \sum_k a\,(|\hat X_k| - |Y_k|)^2 + p\,2 |\hat X_k| |Y_k| (1 - \cos(\angle\hat X_k - \angle Y_k))

    for orthonormal spectra. With a = p = 1 this is :func:`squared_error`, by the law of cosines and Plancherel.

    Returns:
        one value an image: (..., C, H, W) to (...).

    >>> images = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(spectral_discrepancy(*images), squared_error(*images))
    True
    """
    spectrum, reference = (torch.fft.fft2(image, norm="ortho") for image in (estimate, noisy))
    amplitudes = spectrum.abs(), reference.abs()
    amplitude = (amplitudes[0] - amplitudes[1]).square()
    phase = 2 * (amplitudes[0] * amplitudes[1] - (spectrum * reference.conj()).real)
    return (amplitude_weight * amplitude + phase_weight * phase).mean(IMAGE)


def energy(image: Tensor) -> Tensor:
    """Squared Euclidean norm of every image (or spectrum): (..., C, H, W) to (...)."""
    return image.abs().square().sum(IMAGE) if image.is_complex() else image.square().sum(IMAGE)
