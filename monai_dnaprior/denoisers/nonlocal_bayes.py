"""Non-local Bayes: what the similar patches of a first estimate say about the noise in each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..fitting.threads import side_by_side
from ..noise.groups import cosines
from ..noise.model import NoiseModel

PATCH = 8  # side of a patch
SIMILAR = 48  # patches in a group
REACH = 10  # rows and columns searched on every side of a patch
STRIDE = 4  # rows and columns between the patches that gather a group
BAND = 16  # rows of such patches treated at once, by a thread each, which bounds the memory
SINGULAR = 2e-3  # of the largest eigenvalue of the noise's covariance is the least that is reckoned with
LEAST = 1e-6  # noise in a group, as a part of its energy: with less the system is singular in single precision
FAR = 1e18  # from the image is what lies around it, unlike any patch
CHUNK = 96  # groups filtered at once on a CPU, whose caches hold them
SHARE = 0.85  # of the noise's variance that is filtered: a group's covariance in the estimate is a little too small


def refine(
    noisy: Tensor, estimate: Tensor, noise: NoiseModel, *, rounds: int = 2, around: Tensor | None = None
) -> Tensor:
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
        around: estimates of neighbouring slices, (slices, C, H, W), whose patches join the groups where they are more
            alike than those of the slice itself.

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
    around = estimate[:0] if around is None else around
    if rounds and noise.deviation is not None:
        deviation, even = noise.deviation, replace(noise, deviation=None)
        noisy, estimate, around = (images / deviation for images in (noisy, estimate, around))
        return deviation * refine(noisy, estimate, even, rounds=rounds, around=around)
    basis = cosines(noisy.shape[1]).to(noisy)
    planes, others = (torch.einsum("kc,bchw->bkhw", basis, images) for images in (noisy, around))
    for _ in range(rounds):
        estimate = torch.einsum("kc,bchw->bkhw", basis, estimate)
        estimate = torch.einsum("kc,bkhw->bchw", basis, one_round(planes, torch.cat((estimate, others)), noise))
    return estimate


def one_round(noisy: Tensor, estimates: Tensor, noise: NoiseModel) -> Tensor:
    """Filter all groups, which may hold patches of every estimate but gather about those of the first, and average."""
    height, width = noisy.shape[-2:]
    side = min(PATCH, height, width)
    colours = None if noise.is_white else Colours.of(noise.covariance(side).to(noisy.device), dtype=noisy.dtype)
    columns = group_positions(width - side + 1, side)

    def filter_band(rows: Tensor) -> tuple[slice, Tensor, Tensor]:
        band = slice(max(0, int(rows[0]) - REACH), min(height, int(rows[-1]) + REACH + side))
        seen, guides = noisy[..., band, :], estimates[..., band, :]
        groups = similar_patches(guides, side, rows - band.start, columns)
        channels = zip(seen[0], guides.unbind(1), strict=True)
        sums = [filter_groups(*images, groups, side, noise.sigma, colours) for images in channels]
        return band, torch.stack(sums)[None], cover(groups, side, seen.shape[-2:])

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


def similar_patches(estimates: Tensor, side: int, rows: Tensor, columns: Tensor) -> Tensor:
    """For the patch at each row and column of the first image the numbers of those most like it: (groups, similar).

    Itself is the first of them. Patches are numbered row by row, image after image (images, C, H, W).
    """
    height, width = (size - side + 1 for size in estimates.shape[-2:])
    down, across = min(REACH, height - 1), min(REACH, width - 1)
    around = pad(estimates, [across, across, down, down], value=FAR)
    first, behind = int(rows[0]), int(rows[-1]) + side
    reference = estimates[0, :, first:behind, None]
    within = (
        covering(rows - first, side, behind - first).to(estimates),
        covering(columns, side, reference.shape[-1]).to(estimates),
    )
    squares = estimates.new_empty(len(reference), behind - first, 2 * across + 1, reference.shape[-1])
    distances = []
    for image in around:
        for start in range(first, first + 2 * down + 1):
            moved = image[:, start : start + behind - first].unfold(-1, reference.shape[-1], 1)
            torch.sub(moved, reference, out=squares).square_()
            square = squares[0] if len(squares) == 1 else squares.sum(0)
            distances.append((within[0] @ square.flatten(1)).view(len(rows), -1, reference.shape[-1]) @ within[1].mT)
    every = torch.stack(distances, 1).view(len(rows), -1, len(columns)).mT.flatten(0, 1)
    every[:, down * (2 * across + 1) + across] = -1  # the patch itself comes first even where others equal it
    similar = min(SIMILAR, min(REACH + 1, height) * min(REACH + 1, width))
    nearest = every.topk(similar, largest=False).indices
    image, row, column = (torch.arange(n) for n in (len(estimates), 2 * down + 1, 2 * across + 1))
    moves = (image[:, None, None] * height + row[:, None] - down) * width + column - across
    places = (rows[:, None] * width + columns).flatten()
    return places.to(nearest.device)[:, None] + moves.flatten().to(nearest.device)[nearest]


def covering(places: Tensor, side: int, size: int) -> Tensor:
    """1 for every pixel, of so many, that lies in the patch at each place, else 0: (places, size)."""
    inside = torch.arange(size) - places[:, None]
    return ((inside >= 0) & (inside < side)).float()


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
    noisy: Tensor, estimates: Tensor, groups: Tensor, side: int, sigma: float, colours: Colours | None
) -> Tensor:
    r"""The sum over the filtered patches of all groups, at every pixel of one channel (H, W) of the first image.

    With the spread S of a group's n patches, :math:`C = S^T S / (n - 1)`, and the filter of :func:`refine` is
    :math:`\hat x = \mu + S^T (S S^T + (n - 1) v I)^{-1} S (y - \mu)`: a smaller system, whose Cholesky factor L makes
    it :math:`\mu + W W^T (y - \mu)` with :math:`W L^T = S^T`.
    """
    patches, guides = patches_of(noisy[None], side), patches_of(estimates, side)
    if colours is not None:
        patches, guides = patches @ colours.whiten.mT, guides @ colours.whiten.mT
    similar, count = groups.shape[1], len(patches)
    noise = SHARE * sigma**2 * max(1, similar - 1)
    sums = patches.new_zeros(count + 1, side**2)
    for group in groups.split(CHUNK if noisy.device.type == "cpu" else len(groups)):
        shape = (*group.shape, side**2)
        guide = guides.index_select(0, group.flatten()).view(shape)
        patch = patches.index_select(0, group.flatten() % count).view(shape)
        mean = guide.mean(1, keepdim=True)
        spread = guide.sub_(mean)
        products = spread @ spread.mT
        diagonal = products.diagonal(dim1=-2, dim2=-1)
        diagonal += (LEAST * diagonal.amax(-1, keepdim=True)).clamp(min=noise)
        factor = torch.linalg.cholesky(products)
        whitened = torch.linalg.solve_triangular(factor.mT, spread.mT, upper=True, left=False)  # copies nothing so
        kept = patch.sub_(mean) @ whitened @ whitened.mT
        sums.index_put_((group.flatten().clamp(max=count),), kept.add_(mean).flatten(0, 1), accumulate=True)
    sums = sums[:count]
    if colours is not None:
        sums = sums @ colours.colour.mT
    return overlap(sums.view(-1, noisy.shape[-1] - side + 1, side, side))


def patches_of(images: Tensor, side: int) -> Tensor:
    """All patches (patches, side²) of images (images, H, W)."""
    return images.unfold(1, side, 1).unfold(2, side, 1).reshape(-1, side * side)


def overlap(patches: Tensor) -> Tensor:
    """The image (H, W) of the sums of patches (rows, columns, side, side) where they overlap."""
    rows, columns, side, _ = patches.shape
    strips = patches.new_zeros(rows + side - 1, columns, side)
    for row in range(side):
        strips[row : row + rows] += patches[:, :, row]
    image = patches.new_zeros(rows + side - 1, columns + side - 1)
    for column in range(side):
        image[:, column : column + columns] += strips[..., column]
    return image


def cover(groups: Tensor, side: int, size: torch.Size) -> Tensor:
    """How many of the groups' patches in the first image cover each pixel, (1, 1, H, W)."""
    height, width = (length - side + 1 for length in size)
    counts = groups[groups < height * width].bincount(minlength=height * width)
    rows, columns = (
        covering(torch.arange(length), side, length + side - 1).to(groups.device) for length in (height, width)
    )
    return (rows.mT @ counts.view(height, width).float() @ columns)[None, None]
