"""Non-local Bayes: what the similar patches of a first estimate say about the noise in each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import fold, pad, unfold

from ..fitting.threads import side_by_side
from ..noise.model import NoiseModel

PATCH = 8  # side of a patch
SIMILAR = 48  # patches in a group
REACH = 10  # rows and columns searched on every side of a patch
STRIDE = 4  # rows and columns between the patches that gather a group
BAND = 16  # rows of such patches treated at once, by a thread each, which bounds the memory
SINGULAR = 2e-3  # of the largest eigenvalue of the noise's covariance is the least that is reckoned with
LEAST = 1e-6  # noise in a group, as a part of its energy: with less the system is singular in single precision
SHIFTS = 32  # places searched at once on an accelerator
CHUNK = 64  # groups filtered at once on a CPU, whose caches hold them
SHARE = 0.85  # of the noise's variance that is filtered: a group's covariance in the estimate is a little too small


def refine(noisy: Tensor, estimate: Tensor, noise: NoiseModel, *, rounds: int = 2) -> Tensor:
    r"""Denoise again, with an estimate of the image to say which patches are alike and what they have in common.

    .. math:: \hat x_i = y_i - v N (C + v N)^{-1} (y_i - \mu), \qquad v = 0.85\,\sigma^2

    for every patch :math:`y_i` of a group, where :math:`\mu` and :math:`C` are mean and covariance of the group's
    patches in the estimate and N that of the noise in a patch, for a variance of 1 (the identity if it is white);
    overlapping patches are averaged. In the eigenvectors of C, the spectrum that the group itself chooses, this is the
    Wiener filter. Each further round takes the result of the one before as its estimate. Noise that is stronger in some
    places is equalised first: both images are divided by its deviation, and the result is multiplied with it.

    Args:
        noisy: (1, C, H, W).
        estimate: the same shape.
        noise: its standard deviation, correlation and deviation from place to place.
        rounds: how often; 0 gives back the estimate.

    Groups hold the 48 patches of 8×8 pixels that are most alike in the estimate, within 10 pixels of every fourth.
    Channels are treated one by one in an orthonormal basis (their mean, then differences), and grouped together.

    Source: Lebrun, Buades, Morel, "A nonlocal Bayesian image denoising algorithm", SIAM J. Imaging Sciences 6, 2013,
    doi:10.1137/120874989, its second step, equation 12.

    Departures: the estimate is given, in place of the source's first step; mean and covariance are the estimate's; v is
    less than the variance of the noise, because an estimate is smoother than the image and C therefore too small; the
    noise may be correlated: with :math:`N = A A^T` patches are whitened by :math:`A^{-1}`, filtered, and coloured by A.

    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> noisy = clean + 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> refined = refine(noisy, torch.nn.functional.avg_pool2d(noisy, 3, 1, 1), NoiseModel(0.1))
    >>> bool((refined - clean).square().mean() < 0.05 * (noisy - clean).square().mean())
    True
    """
    if rounds and noise.deviation is not None:
        deviation, even = noise.deviation, replace(noise, deviation=None)
        return deviation * refine(noisy / deviation, estimate / deviation, even, rounds=rounds)
    basis = cosines(noisy.shape[1]).to(noisy)
    planes = torch.einsum("kc,bchw->bkhw", basis, noisy)
    for _ in range(rounds):
        estimate = torch.einsum("kc,bchw->bkhw", basis, estimate)
        estimate = torch.einsum("kc,bkhw->bchw", basis, one_round(planes, estimate, noise))
    return estimate


def cosines(size: int) -> Tensor:
    """The orthonormal basis of the discrete cosine transform, a row each; the first is the mean.

    >>> basis = cosines(3)
    >>> torch.allclose(basis @ basis.mT, torch.eye(3), atol=1e-6)
    True
    """
    index = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def one_round(noisy: Tensor, estimate: Tensor, noise: NoiseModel) -> Tensor:
    """Filter all groups, and average what overlaps."""
    height, width = noisy.shape[-2:]
    side = min(PATCH, height, width)
    colours = None if noise.is_white else Colours.of(noise.covariance(side).to(noisy.device), dtype=noisy.dtype)
    columns = group_positions(width - side + 1, side)

    def filter_band(rows: Tensor) -> tuple[slice, Tensor, Tensor]:
        band = slice(max(0, int(rows[0]) - REACH), min(height, int(rows[-1]) + REACH + side))
        seen, guide = noisy[..., band, :], estimate[..., band, :]
        groups = similar_patches(guide, side, rows - band.start, columns)
        channels = zip(seen.split(1, 1), guide.split(1, 1), strict=True)
        sums, counts = zip(
            *(filter_groups(*images, groups, side, noise.sigma, colours) for images in channels), strict=True
        )
        return band, torch.cat(sums, 1), counts[0]

    total, weight = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
    bands = group_positions(height - side + 1, side).split(BAND)
    for band, sums, counts in side_by_side(filter_band, bands, device=noisy.device):
        total[..., band, :] += sums
        weight[..., band, :] += counts
    return total / weight


def group_positions(count: int, side: int) -> Tensor:
    """Every fourth of so many places of patches, and the last; more where smaller patches would leave gaps."""
    stride = min(STRIDE, side)
    places = torch.arange(0, count, stride)
    return places if (count - 1) % stride == 0 else torch.cat((places, torch.tensor([count - 1])))


def similar_patches(estimate: Tensor, side: int, rows: Tensor, columns: Tensor) -> Tensor:
    """For the patch at each row and column the numbers of those most like it, itself among them: (groups, similar)."""
    height, width = (size - side + 1 for size in estimate.shape[-2:])
    around = pad(estimate, [REACH] * 4, value=torch.inf)  # unlike any patch
    patches, pitch = unfold(around, side)[0].mT.contiguous(), width + 2 * REACH
    rows, columns = rows.to(estimate.device)[:, None], columns.to(estimate.device)
    places = ((rows + REACH) * pitch + columns + REACH).flatten()
    references = patches.index_select(0, places)
    moves = torch.tensor(list(shifts(height, width)), device=estimate.device)
    moved, steps = (moves[:, 0] * length + moves[:, 1] for length in (pitch, width))
    distances = []
    for part in moved.split(1 if estimate.device.type == "cpu" else SHIFTS):
        others = patches.index_select(0, (places + part[:, None]).flatten()).view(len(part), *references.shape)
        distances.append(others.sub_(references).square_().sum(-1))
    distance = torch.cat(distances)
    distance[moved == 0] -= 1  # the patch itself comes first even where others equal it
    similar = min(SIMILAR, min(REACH + 1, height) * min(REACH + 1, width))
    nearest = distance.T.contiguous().topk(similar, largest=False).indices
    return (rows * width + columns).flatten()[:, None] + steps[nearest]


def shifts(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The places searched around a patch, of which there are height × width."""
    down, across = min(REACH, height - 1), min(REACH, width - 1)
    return ((row, column) for row in range(-down, down + 1) for column in range(-across, across + 1))


@dataclass(frozen=True, eq=False)
class Colours:
    """What makes the noise in patches of n pixels white, (n, n), and what makes white noise that of the patches."""

    whiten: Tensor
    colour: Tensor

    @classmethod
    def of(cls, covariance: Tensor, *, dtype: torch.dtype) -> Colours:
        """From a covariance (n, n), whose smallest eigenvalues are raised: band-limited noise is singular."""
        values, vectors = torch.linalg.eigh(covariance.double())
        deviations = values.clamp(min=SINGULAR * values.max()).sqrt()
        return cls((vectors / deviations).mT.to(dtype), (vectors * deviations).to(dtype))


def filter_groups(
    noisy: Tensor, estimate: Tensor, groups: Tensor, side: int, sigma: float, colours: Colours | None
) -> tuple[Tensor, Tensor]:
    r"""The sum over the filtered patches of all groups, at every pixel of one channel, and how many they are.

    With the spread S of a group's n patches, :math:`C = S^T S / (n - 1)`, and the filter of :func:`refine` is
    :math:`\hat x = \mu + S^T (S S^T + (n - 1) v I)^{-1} S (y - \mu)`: a smaller system, whose Cholesky factor L makes
    it :math:`\mu + W W^T (y - \mu)` with :math:`W L^T = S^T`.
    """
    patches, guides = (unfold(image, side)[0].mT.contiguous() for image in (noisy, estimate))
    if colours is not None:
        patches, guides = patches @ colours.whiten.mT, guides @ colours.whiten.mT
    similar = groups.shape[1]
    noise, identity = SHARE * sigma**2 * max(1, similar - 1), torch.eye(similar, device=noisy.device)
    sums = torch.zeros_like(patches)
    for group in groups.split(CHUNK if noisy.device.type == "cpu" else len(groups)):
        shape = (*group.shape, side**2)
        guide, patch = (values.index_select(0, group.flatten()).view(shape) for values in (guides, patches))
        mean = guide.mean(1, keepdim=True)
        spread = guide.sub_(mean)
        products = spread @ spread.mT
        energy = products.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None]
        factor = torch.linalg.cholesky(products + (LEAST * energy).clamp(min=noise) * identity)
        whitened = torch.linalg.solve_triangular(factor.mT, spread.mT, upper=True, left=False)  # copies nothing so
        kept = patch.sub_(mean) @ whitened @ whitened.mT
        sums.index_put_((group.flatten(),), kept.add_(mean).flatten(0, 1), accumulate=True)
    counts = groups.flatten().bincount(minlength=len(sums)).to(sums)
    if colours is not None:
        sums = sums @ colours.colour.mT
    size = noisy.shape[-2:]
    return fold(sums.mT[None], size, side), fold(counts.expand(side**2, -1)[None], size, side)
