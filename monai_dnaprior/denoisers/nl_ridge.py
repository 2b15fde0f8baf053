"""Linear combinations of similar patches: NL-Ridge, which forms them twice, and LIChI, which forms them many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..fitting.threads import gradients_enabled, side_by_side
from ..noise.groups import cosines
from .nonlocal_bayes import Blocks, blocks_of, group_positions, overlap, similar_blocks

BAND = 8  # rows of patches that gather groups, treated at once by a thread
CHUNK = 64  # groups combined at once
LEAST = 1e-9  # noise in a group, as a part of its energy: with less rounding errors count
SIZES = {15: (7, 18, 7, 55), 35: (9, 18, 9, 90), 50: (11, 20, 9, 120)}  # up to this sigma: side and patches, twice
TWICE_NOISY = 0.05  # alpha of NL-Ridge's first step
FIRST = (11, 16, 0.25)  # of LIChI: side, patches, alpha
FURTHER = (6, 64)  # of LIChI's rounds: side, patches
NOISIEST = 0.75  # part of the noise that LIChI's rounds start from
MATCHED = 3  # rounds of LIChI for which a group is kept

Combination = Callable[..., tuple[Tensor, Tensor]]


def nl_ridge(noisy: np.ndarray, sigma: float, *, reach: int = 18, stride: int = 4) -> np.ndarray:
    r"""NL-Ridge: each patch becomes that linear combination of noisy patches like it which is expected to err least.

    .. math:: \hat X = \Theta Y, \qquad \Theta = I - n \sigma^2 (X X^T + n \sigma^2 I)^{-1}

    where the rows of Y are the k noisy patches of n pixels of a group, and those of X the same in a first estimate.
    This comes from a step of the same form on groups found in the noisy image, in which :math:`Y Y^T - n \sigma^2 I`
    stands for :math:`X X^T` and :math:`(1 + \alpha)\,\sigma^2` for :math:`\sigma^2`: at :math:`\alpha = 0` the minimum
    of Stein's unbiased risk estimate, :math:`\Theta = I - n \sigma^2 (Y Y^T)^{-1}`; it is 0.05. Each row of
    :math:`\Theta` sums to 1, and weighs with :math:`1 / \|\theta_i\|^2` where patches overlap.

    Args:
        reach: rows and columns searched on every side of a patch.
        stride: rows and columns between the patches that gather groups.

    Patches are of 7×7 pixels, 18 and 55 in a group of the two steps, up to σ 15 of 255; of 9×9, 18 and 90, up to 35;
    and of 11×11 and 9×9, 20 and 120, above.

    Source: Herbreteau, Kervrann, "Towards a unified view of unsupervised non-local methods for image denoising: the
    NL-Ridge approach", ICIP 2022, doi:10.1109/ICIP46576.2022.9897992.

    Departures: channels are treated one by one in an orthonormal basis (their mean, then differences), and grouped
    together; every group gets its sum of 1 by leaving its mean patch as it is.

    >>> clean = np.tile(np.sin(np.arange(32)), (32, 1))[..., None]
    >>> noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
    >>> bool(np.square(nl_ridge(noisy, 0.1) - clean).mean() < 0.1 * np.square(noisy - clean).mean())
    True
    """
    sizes = next((sizes for most, sizes in SIZES.items() if 255 * sigma <= most), SIZES[50])

    def denoise(planes: Tensor) -> Tensor:
        groups = SimilarPatches.of(planes, side=sizes[0], similar=sizes[1], reach=reach, stride=stride)
        (estimate,) = groups.combined(lambda patches: first_step(patches, sigma, TWICE_NOISY), planes)
        groups = SimilarPatches.of(estimate, side=sizes[2], similar=sizes[3], reach=reach, stride=stride)
        return groups.combined(lambda patches, guides: second_step(patches, guides, sigma), planes, estimate)[0]

    return in_planes(denoise, noisy)


def lichi(noisy: np.ndarray, sigma: float, *, rounds: int = 9, reach: int = 32, stride: int = 3) -> np.ndarray:
    r"""LIChI: linear combinations of patches of an image from which each round removes some more of its noise.

    .. math::

        \hat X = \Theta Z, \qquad \Theta = I - n t^2 \sigma^2 (X X^T + n t^2 \sigma^2 I)^{-1}, \qquad
        Z \leftarrow (1 - \tau / t) \hat X + (\tau / t) Z, \qquad X \leftarrow \hat X

    for the patches of every group, in the image Z that still has the part t of the noise of Y, from which it starts,
    and in the estimate X. Of M rounds the one of number m leaves :math:`\tau = 0.75 (1 - m / M)` of the noise, and t is
    the larger of :math:`\tau` and :math:`1 - s / \sigma` with the deviation s of a group's Y - Z. Rows of
    :math:`\Theta` sum to 1 and weigh as in :func:`nl_ridge`, whose first step is the first estimate.

    Args:
        rounds: M, each of which removes as much noise as the others.
        reach: rows and columns searched on every side of a patch.
        stride: rows and columns between the patches that gather groups.

    The 64 patches of a group are of 6×6 pixels, and are sought in Z every third round; those of the first step are 16
    of 11×11, with :math:`\alpha = 0.25`.

    Source: Herbreteau, Kervrann, "Linear combinations of patches are unreasonably effective for single-image
    denoising", IEEE Transactions on Image Processing 2024, doi:10.1109/TIP.2024.3436651, arXiv:2212.00422.

    Departures: those of :func:`nl_ridge`; sizes and rounds are the same for every σ.

    >>> clean = np.tile(np.sin(np.arange(32)), (32, 1))[..., None]
    >>> noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
    >>> bool(np.square(lichi(noisy, 0.1) - clean).mean() < 0.1 * np.square(noisy - clean).mean())
    True
    """

    def denoise(planes: Tensor) -> Tensor:
        side, similar, alpha = FIRST
        groups = SimilarPatches.of(planes, side=side, similar=similar, reach=reach, stride=stride)
        (estimate,) = groups.combined(lambda patches: first_step(patches, sigma, alpha), planes)
        side, similar = FURTHER
        cleaner = planes
        for number in range(rounds):
            left = NOISIEST * (1 - (number + 1) / rounds)
            if number % MATCHED == 0:
                groups = SimilarPatches.of(cleaner, side=side, similar=similar, reach=reach, stride=stride)
            step = partial(partial_step, sigma=sigma, left=left)
            estimate, cleaner = groups.combined(step, planes, cleaner, estimate, made=2)
        return cleaner

    return in_planes(denoise, noisy)


def in_planes(denoise: Callable[[Tensor], Tensor], noisy: np.ndarray) -> np.ndarray:
    """Denoise an image (H, W, C) as planes (1, C, H, W) in an orthonormal basis of its channels."""
    with gradients_enabled(torch.device("cpu")):
        image = torch.from_numpy(noisy).float()
        basis = cosines(image.shape[-1]).float()
        return torch.einsum("kc,kij->ijc", basis, denoise(torch.einsum("kc,ijc->kij", basis, image)[None])[0]).numpy()


@dataclass(frozen=True, eq=False)
class SimilarPatches:
    """The patches of an image that are most alike, in groups.

    Attributes:
        blocks: what is compared.
        bands: some rows of the image, and its groups (groups, similar) of patches that lie in them, by their numbers.
    """

    blocks: Blocks
    bands: list[tuple[slice, Tensor]]

    @classmethod
    def of(cls, image: Tensor, *, side: int, similar: int, reach: int, stride: int) -> SimilarPatches:
        """Search an image (1, C, H, W) for them."""
        height, width = image.shape[-2:]
        side = min(side, height, width)
        blocks = Blocks(1, side, min(stride, side), reach, similar)
        rows, columns = (group_positions(length - side + 1, blocks.stride) for length in (height, width))

        def search(rows: Tensor) -> tuple[slice, Tensor]:
            band = slice(max(0, int(rows[0]) - reach), min(height, int(rows[-1]) + reach + side))
            return band, similar_blocks(image[..., band, :], blocks, 0, rows - band.start, columns)

        return cls(blocks, side_by_side(search, rows.split(BAND), device=image.device))

    def combined(self, combination: Combination, *images: Tensor, made: int = 1) -> Tensor:
        """The images that a combination makes of the groups' patches in some (1, C, H, W): (made, 1, C, H, W).

        It gives its patches (made, groups, similar, pixels) and the weight of each, (groups, similar).
        """

        def combine(band: slice, groups: Tensor) -> Tensor:
            planes = torch.cat([image[..., band, :] for image in images]).unbind(1)
            return torch.stack([self.sums(combination, groups, plane, made) for plane in planes], 1)

        sums = side_by_side(combine, *zip(*self.bands, strict=True), device=images[0].device)
        total = images[0].new_zeros(made + 1, *images[0].shape[1:])
        for (band, _), part in zip(self.bands, sums, strict=True):
            total[..., band, :].add_(part)
        return (total[:-1] / total[-1]).unsqueeze(1)

    def sums(self, combination: Combination, groups: Tensor, planes: Tensor, made: int) -> Tensor:
        """Sums over the weighted patches made of those of some planes (planes, H, W), and of their weights."""
        blocks = self.blocks
        contents = [blocks_of(plane[None], blocks, None) for plane in planes]
        sums = torch.zeros(made + 1, *contents[0].shape)
        for group in groups.split(CHUNK):
            patches = [values.index_select(0, group.flatten()).view(*group.shape, -1).double() for values in contents]
            combined, weights = combination(*patches)
            values = torch.cat((combined, torch.ones_like(combined[:1]))) * weights[..., None]
            sums.index_add_(1, group.flatten(), values.flatten(1, 2).float())
        rows, columns = (length - blocks.side + 1 for length in planes.shape[-2:])
        return torch.cat([overlap(part.view(1, rows, columns, 1, blocks.side, blocks.side)) for part in sums])


def first_step(noisy: Tensor, sigma: float, alpha: float) -> tuple[Tensor, Tensor]:
    """Combine the patches of groups (groups, k, n) by what they themselves say of each other."""
    similar, size = noisy.shape[1:]
    noise = size * sigma**2
    unlike_the_mean = torch.eye(similar, dtype=noisy.dtype) - 1 / similar
    raised = noisy.new_full((len(noisy),), (1 + alpha) * noise)
    weights = combinations(products(noisy) - noise * unlike_the_mean, raised)
    return (weights @ noisy)[None], aggregation(weights)


def second_step(noisy: Tensor, guides: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Combine the patches of groups (groups, k, n) by what those of an estimate say of each other."""
    noise = noisy.new_full((len(noisy),), noisy.shape[-1] * sigma**2)
    weights = combinations(products(guides), noise)
    return (weights @ noisy)[None], aggregation(weights)


def partial_step(noisy: Tensor, cleaner: Tensor, guides: Tensor, *, sigma: float, left: float) -> tuple[Tensor, Tensor]:
    """Combine patches of an image with a part of the noise: the estimate, and the image with that part ``left``."""
    part = (1 - (noisy - cleaner).flatten(1).std(1, correction=0) / sigma).clamp(min=left)
    weights = combinations(products(guides), noisy.shape[-1] * (sigma * part) ** 2)
    estimate = weights @ cleaner
    kept = (left / part.clamp(min=LEAST))[:, None, None]
    return torch.stack((estimate, estimate + kept * (cleaner - estimate))), aggregation(weights)


def products(patches: Tensor) -> Tensor:
    """Those of the patches of each group (groups, k, n), their mean taken away, with each other: (groups, k, k)."""
    spread = patches - patches.mean(1, keepdim=True)
    return spread @ spread.mT


def combinations(products: Tensor, noise: Tensor) -> Tensor:
    r"""Weights with which patches are combined, a row each that sums to 1.

    .. math:: \Theta = I - v (P + v I)^{-1} + 1 1^T / k

    Args:
        products: P, (groups, k, k), those of clean patches with each other, their mean taken away.
        noise: v, (groups,), energy of the noise in a patch.

    Returns:
        (groups, k, k).

    >>> combinations(torch.zeros(1, 2, 2), torch.ones(1))  # patches that are the same but for noise: their mean
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    similar = products.shape[-1]
    noise = torch.maximum(noise, LEAST * products.diagonal(dim1=-2, dim2=-1).amax(-1))[:, None, None]
    one = torch.eye(similar, dtype=products.dtype)
    return one - noise * torch.cholesky_inverse(torch.linalg.cholesky(products + noise * one)) + 1 / similar


def aggregation(weights: Tensor) -> Tensor:
    """How much combinations (groups, k, k) count, whose noise is less than that of one patch: (groups, k)."""
    return 1 / weights.square().sum(-1).clamp(max=1)
