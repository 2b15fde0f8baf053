"""What can be measured of the noise from the noisy image alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad, unfold

DB2_HIGH_PASS = (-0.12940952255126037, -0.2241438680420134, 0.8365163037378079, -0.48296291314453416)
MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817
FLAT = 1e-6
BLOCK = 8
SMOOTHEST = 0.2  # of all blocks are taken to hold noise alone
CORRELATED = 0.15  # correlation of neighbours from which noise is called correlated
CORRELATED_NOISE = "the noise is correlated: alike in neighbouring pixels, this method cannot tell it from anatomy"
DEPENDENT_NOISE = "the noise depends on brightness: bright and dark places are not denoised alike"
ANATOMY = 3.4  # kurtosis of fine detail around a place from which it is no noise alone, whose is below that
DROWNED = 8  # times the noise is the contrast of images at least whose fine detail can be the anatomy's
AROUND = 12  # side of the windows in which that is measured
PATCH = 5  # side of the patches among which calm ones are looked for
CALMEST = 44.3367  # times the noise's variance is the gradients' energy in a patch of noise, but for one of a million
MOST_PATCHES = 2**20  # of a larger image only so many are looked at, those of every second, third, … row
SELECTIONS = 4  # of calm patches, each by the variance found in those before
SECOND_DIFFERENCE = (1 / 6**0.5, -2 / 6**0.5, 1 / 6**0.5)  # along one axis; of unit energy
QUARTERS = 4  # groups of blocks by brightness, of which the first and the last are compared
DEPENDENT = 1.3  # times as much noise in bright as in dark places from which it is called dependent on brightness


def estimate_sigma(noisy: Tensor) -> Tensor:
    r"""Standard deviation of white Gaussian noise in each image.

    .. math:: \hat\sigma = \mathrm{median}(|d|) \,/\, 0.6745

    over the finest diagonal Daubechies-2 wavelet coefficients d, those of flat patches left out: an empty background
    or a masked region holds no noise and would pull the median to zero. Where fine detail around a place is not
    distributed as noise is, see :func:`fine_kurtosis`, in an image of eight times the contrast, it is the anatomy's:
    the estimate is then that of :func:`calm_deviation`, if this is less. The channels' estimates are averaged.

    Args:
        noisy: (B, C, H, W), finite.

    Returns:
        (B,), in the units of ``noisy``; 0 where no patch of 4×4 pixels is other than flat.

    Source: Donoho, Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994,
    doi:10.1093/biomet/81.3.425, section 4.2.

    >>> noise = 0.1 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    >>> round(float(estimate_sigma(noise)), 2)
    0.1
    """
    batch, channels, height, width = noisy.shape
    if min(height, width) < len(DB2_HIGH_PASS):
        return noisy.new_zeros(batch)
    high_pass = noisy.new_tensor(DB2_HIGH_PASS, dtype=torch.float64)
    planes = noisy.double().reshape(batch * channels, 1, height, width)
    details = conv2d(planes, torch.outer(high_pass, high_pass)[None, None], stride=2)
    estimates = [median_deviation(plane[plane > FLAT * planes.abs().max()]) for plane in details.abs()]
    for number, plane in enumerate(planes):
        is_anatomy = fine_kurtosis(plane) > ANATOMY and contrast(plane) > DROWNED * estimates[number]
        if is_anatomy and (calm := calm_deviation(plane)) is not None:
            estimates[number] = torch.minimum(estimates[number], calm)
    return torch.stack(estimates).reshape(batch, channels).mean(1).to(noisy.dtype)


def median_deviation(magnitudes: Tensor) -> Tensor:
    if magnitudes.numel() == 0:
        return magnitudes.new_zeros(())
    return magnitudes.median() / MEDIAN_OF_ABSOLUTE_NORMAL


def contrast(image: Tensor) -> float:
    """The range of the middle four fifths of the pixels of an image in which noise can be seen.

    >>> round(contrast(torch.linspace(0, 1, 101).expand(1, 1, 3, 101)), 2)
    0.8
    """
    values = image[varying_pixels(image)].cpu().numpy()
    low, high = np.percentile(values, (10, 90)) if len(values) else (0.0, 0.0)
    return float(high - low)


def fine_kurtosis(plane: Tensor) -> Tensor:
    r"""The median over windows of 12×12 pixels of the kurtosis of an image's finest details.

    .. math:: \overline{d^4} \,/\, \overline{d^2}^2

    of second differences d along rows and columns. In a window noise is Gaussian, and this is about 2.8 however uneven
    the noise is, or 3.3 where interpolation has made it uneven from pixel to pixel; edges and fine texture lie side by
    side with smooth places, and come to 3.4 to 8.

    Args:
        plane: (1, H, W), float64; windows with pixels that equal their neighbours do not count.

    >>> noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    >>> bool(fine_kurtosis(noise) < ANATOMY), bool(fine_kurtosis(noise.cumsum(2).round(decimals=-1)) > ANATOMY)
    (True, True)
    """
    if min(plane.shape[-2:]) < AROUND + 2:
        return plane.new_zeros(())
    details = second_differences(plane[None])
    power, fourth = (avg_pool2d(details**exponent, AROUND, stride=1) for exponent in (2, 4))
    varying = avg_pool2d(varying_pixels(plane[None]).double(), AROUND + 2, stride=1) > 1 - 0.5 / (AROUND + 2) ** 2
    values = (fourth / power.square())[varying]
    return values.median() if len(values) else plane.new_zeros(())


def calm_deviation(plane: Tensor) -> Tensor | None:
    r"""Standard deviation of white noise in the calmest patches of an image (1, H, W); None where these are too few.

    .. math:: \hat\sigma_{k+1}^2 = \lambda_{\min}\big(\mathrm{cov}\{p : \|\nabla p\|^2 < \tau\,\hat\sigma_k^2\}\big)

    the smallest eigenvalue of the covariance of patches p of 5×5 pixels, from all of them at first, then from those
    with no more gradient than noise has.

    Source: Liu, Tanaka, Okutomi, "Single-image noise level estimation for blind denoising", IEEE Transactions on Image
    Processing 22, 2013, doi:10.1109/TIP.2013.2283400.

    Departures: patches of 5×5 pixels in place of 7×7, so that small images hold enough calm ones; those with pixels
    that equal their neighbours are left out.
    """
    rows = -(-plane.numel() // MOST_PATCHES), 1
    varying = unfold(varying_pixels(plane[None]).to(plane), PATCH, stride=rows)[0].mean(0) > 1 - 0.5 / PATCH**2
    patches = unfold(plane[None], PATCH, stride=rows)[0].mT[varying]
    if len(patches) < 4 * PATCH**2:
        return None
    pixels = patches.view(-1, PATCH, PATCH)
    down, across = pixels[:, 2:] - pixels[:, :-2], pixels[..., 2:] - pixels[..., :-2]
    gradient = (down.square().sum((1, 2)) + across.square().sum((1, 2))) / 4
    variance = least_variance(patches)
    for _ in range(SELECTIONS):
        calm = gradient < CALMEST * variance
        if calm.sum() < 4 * PATCH**2:
            break
        variance = least_variance(patches[calm])
    return variance.sqrt()


def least_variance(patches: Tensor) -> Tensor:
    """The smallest eigenvalue of the covariance of patches (patches, pixels)."""
    return torch.linalg.eigvalsh(patches.mT.cov())[0].clamp(min=0)


def local_noise(noisy: Tensor, window: int) -> Tensor:
    """The variance of the noise around each pixel of (B, C, H, W) images, from second differences over a window.

    They leave little of anatomy: what they leave makes the variance too large, not too small.

    >>> noise = 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> deviations = local_noise(noise, 33).sqrt()
    >>> bool(deviations.min() > 0.08), bool(deviations.max() < 0.12)
    (True, True)
    """
    planes = noisy.flatten(0, 1)[:, None]
    details = second_differences(pad(planes, (1, 1, 1, 1), "replicate"))
    return local_mean(details.square(), window).view_as(noisy)


def second_differences(planes: Tensor) -> Tensor:
    """Second differences along both axes, (B, 1, H, W) to (B, 1, H - 2, W - 2), that leave white noise its variance."""
    difference = planes.new_tensor(SECOND_DIFFERENCE)
    return conv2d(planes, torch.outer(difference, difference)[None, None])


def local_mean(image: Tensor, window: int) -> Tensor:
    """The mean over window × window pixels around each, or over those of them that lie in the image.

    >>> local_mean(torch.tensor([[[[0.0, 3.0, 6.0, 9.0]]]]), 3).tolist()
    [[[[1.5, 3.0, 6.0, 7.5]]]]
    """
    if image.device.type != "cpu":  # where the order in which a row is summed may vary
        return averaging_filter(image, window)
    dtype, reach = image.dtype, window // 2
    image = image.double()  # sums over a whole row are subtracted
    for dim in (-2, -1):
        size = image.shape[dim]
        places = torch.arange(size, device=image.device)
        first, last = (places - reach).clamp(min=0), (places + reach + 1).clamp(max=size)
        sums = torch.cat([torch.zeros_like(image.narrow(dim, 0, 1)), image.cumsum(dim)], dim)
        counts = (last - first).view(-1, 1) if dim == -2 else last - first
        image = (sums.index_select(dim, last) - sums.index_select(dim, first)) / counts
    return image.to(dtype)


def averaging_filter(image: Tensor, side: int) -> Tensor:
    """The same for a small window, with a gradient."""
    return avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)


def varying_pixels(noisy: Tensor) -> Tensor:
    """Where noise can be seen: pixels that differ from a neighbour above, below, left or right.

    An empty background or a masked region is exact, so what a fit leaves there says nothing of the noise.

    >>> image = torch.tensor([[[[0.0, 0.0, 0.0, 5.0]]]])
    >>> varying_pixels(image).int().tolist()
    [[[[0, 0, 1, 1]]]]
    """
    varying = torch.zeros_like(noisy, dtype=torch.bool)
    for dim in (-2, -1):
        size = noisy.shape[dim]
        differs = noisy.narrow(dim, 1, size - 1) != noisy.narrow(dim, 0, size - 1)
        varying.narrow(dim, 0, size - 1).logical_or_(differs)
        varying.narrow(dim, 1, size - 1).logical_or_(differs)
    return varying


def noise_correlation(noisy: Tensor) -> Tensor:
    r"""Correlation of the noise in neighbouring pixels: one number an image, about 0 for white noise.

    .. math:: \hat\rho = \frac{\overline{e_i e_{i+1}}}{\overline{e_i^2}}

    over the smoothest fifth of all 8×8 blocks, each less its mean and slope, e; along rows and columns, all channels.
    Above ``CORRELATED`` (0.15) the noise is taken to be correlated, as after resampling or a reconstruction filter: no
    method here can tell such noise from anatomy.

    Args:
        noisy: (B, C, H, W).

    Returns:
        (B,), between -1 and 1; 0 for images with no block, or none that varies.

    >>> noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    >>> bool(noise_correlation(noise) < CORRELATED)
    True
    >>> bool(noise_correlation(torch.nn.functional.avg_pool2d(noise, 2, stride=1)) > CORRELATED)
    True
    """
    if min(noisy.shape[-2:]) < BLOCK:
        return noisy.new_zeros(len(noisy))
    return torch.stack([block_correlation(image.double()) for image in noisy]).to(noisy.dtype)


def block_correlation(image: Tensor) -> Tensor:
    """The correlation of :func:`noise_correlation` for one image (C, H, W)."""
    blocks = unfold(image[:, None], BLOCK, stride=BLOCK).mT.reshape(-1, BLOCK * BLOCK)
    axis = torch.arange(BLOCK, dtype=blocks.dtype, device=blocks.device)
    plane = torch.stack([torch.ones(BLOCK, BLOCK).to(axis), axis.expand(BLOCK, -1), axis[:, None].expand(-1, BLOCK)])
    basis = torch.linalg.qr(plane.reshape(3, -1).mT).Q
    rest = blocks - blocks @ basis @ basis.mT
    energies = rest.square().mean(1)
    rest, energies = (values[energies > (FLAT * image.abs().max()) ** 2] for values in (rest, energies))
    if len(rest) == 0:
        return image.new_zeros(())
    rest = rest[energies <= energies.quantile(SMOOTHEST)].reshape(-1, BLOCK, BLOCK)
    along_rows, along_columns = (rest[..., 1:] * rest[..., :-1]).mean(), (rest[:, 1:] * rest[:, :-1]).mean()
    return (along_rows + along_columns) / 2 / rest.square().mean()


def brightness_dependence(noisy: Tensor) -> Tensor:
    """How many times as much noise the brightest quarter of each image has as the darkest: 1 for noise that is even.

    Above ``DEPENDENT`` (1.3) the noise is taken to depend on brightness, as where photons are counted or noise is
    multiplicative.

    Args:
        noisy: (B, C, H, W).

    Returns:
        (B,); 1 for images with too few blocks to tell.

    >>> from monai_dnaprior.noise.models import add_noise
    >>> image = torch.linspace(0, 1, 128).expand(1, 1, 128, 128)
    >>> [bool(brightness_dependence(add_noise(image, noise)) > DEPENDENT) for noise in ("gaussian:25", "poisson:30")]
    [False, True]
    """
    ratios = []
    for image in noisy.split(1):
        _, levels = noise_levels(image, groups=QUARTERS)
        known = len(levels) == QUARTERS and levels[0] > 0
        ratios.append(levels[-1] / levels[0] if known else levels.new_ones(()))
    return torch.stack(ratios).to(noisy.dtype)


def noise_levels(noisy: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Brightness and noise level of an image (1, C, H, W), in so many groups of 8×8 blocks from dark to bright.

    The level is that of the smoothest fifth of a group's blocks, after second differences along rows and columns,
    which leave little of anatomy. Blocks without any noise do not count; no group if fewer than four blocks are left
    for each.
    """
    planes = noisy.double().reshape(-1, 1, *noisy.shape[-2:])
    if min(planes.shape[-2:]) < BLOCK + 2:
        return planes.new_zeros(0), planes.new_zeros(0)
    details = second_differences(planes)
    means, energies = (
        unfold(image, BLOCK, stride=BLOCK).mT.reshape(-1, BLOCK * BLOCK).mean(1)
        for image in (planes[..., 1:-1, 1:-1], details.square())
    )
    noisy_blocks = energies > (FLAT * planes.abs().max()) ** 2
    means, energies = means[noisy_blocks], energies[noisy_blocks]
    if len(means) < 4 * groups:
        return planes.new_zeros(0), planes.new_zeros(0)
    parts = means.argsort().tensor_split(groups)
    levels = torch.stack([energies[part].quantile(SMOOTHEST) for part in parts]).sqrt()
    return torch.stack([means[part].mean() for part in parts]), levels


@dataclass(frozen=True)
class NoiseKind:
    """What is known of the kind of noise in one image.

    Attributes:
        correlation: see :func:`noise_correlation`.
        dependence: see :func:`brightness_dependence`.
    """

    correlation: float
    dependence: float

    @classmethod
    def of(cls, noisy: Tensor) -> NoiseKind:
        """The kind of noise in one image (1, C, H, W)."""
        return cls(noise_correlation(noisy).item(), brightness_dependence(noisy).item())

    @property
    def can_be_stabilised(self) -> bool:
        """Whether it depends on brightness in a way that can be measured: differences do not show correlated noise."""
        return self.dependence > DEPENDENT and self.correlation <= CORRELATED

    @property
    def warnings(self) -> tuple[str, ...]:
        """What no method for even white noise can treat, in words."""
        found = {CORRELATED_NOISE: self.correlation > CORRELATED, DEPENDENT_NOISE: self.dependence > DEPENDENT}
        return tuple(text for text, holds in found.items() if holds)
