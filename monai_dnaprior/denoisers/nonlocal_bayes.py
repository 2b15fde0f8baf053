"""Non-local Bayes: filter groups of similar blocks by the mean and the covariance that they have in an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..fitting.threads import side_by_side
from ..noise.groups import cosines
from ..noise.model import NoiseModel

SIMILAR = 48  # blocks in a group
BAND = 16  # rows of blocks that gather groups, treated at once by a thread of a CPU, which bounds the memory
ROOM = 2**26  # values that the groups treated at once may hold on an accelerator, which is fastest in few large steps
PLACES = 4  # of blocks whose distances are summed at once on a CPU
CHUNK = 96  # groups filtered at once on a CPU, whose caches hold them
SINGULAR = 2e-3  # least eigenvalue of the noise's covariance, as a part of the largest; smaller ones are raised to it
LEAST = 1e-6  # noise in a group, as a part of its energy: with less the system is singular in single precision
FAR = 1e18  # value of what lies around the image, so that no block there is similar
SHARE = 0.85  # of the noise's variance that is filtered: a group's covariance in the estimate is a little too small

Rule = Callable[[Tensor, Tensor, float], Tensor]  # what becomes of noisy blocks, by an estimate of them and sigma


@dataclass(frozen=True)
class Blocks:
    """The size of the blocks that are compared and filtered, and where those that are alike are searched.

    Attributes:
        depth: slices of a block.
        side: rows, and columns, of a block.
        stride: rows and columns between the blocks that gather a group.
        reach: rows and columns searched on every side of a block.
        similar: blocks in a group.
    """

    depth: int
    side: int
    stride: int
    reach: int
    similar: int = SIMILAR

    @classmethod
    def within(cls, slices: int, height: int, width: int, *, rounds_left: int = 0) -> Blocks:
        """Blocks of 8×8 pixels for one image, or of 5×5 pixels in more than half of several slices.

        The more rounds are left, the farther apart are those that gather groups: the result is then a mere guide.
        """
        side, stride, reach = (8, 4 + 3 * rounds_left, 10) if slices == 1 else (5, 3 + rounds_left, 7)
        side = min(side, height, width)
        return cls(slices // 2 + 1, side, min(stride, side), reach)


def refine(noisy: Tensor, estimate: Tensor, noise: NoiseModel, *, rounds: int = 2, middle: int = 0) -> Tensor:
    r"""Denoise again, with an estimate of the image to say which blocks are alike and what they have in common.

    .. math:: \hat x_i = y_i - v N (C + v N)^{-1} (y_i - \mu), \qquad v = 0.85\,\sigma^2

    for every block :math:`y_i` of a group, where :math:`\mu` and :math:`C` are mean and covariance of the group's
    blocks in the estimate and N that of the noise in a block, for a variance of 1 (the identity if it is white);
    overlapping blocks are averaged. In the eigenvectors of C, the spectrum that the group itself chooses, this is the
    Wiener filter. Each further round takes the result of the one before as its estimate. Noise that is stronger in some
    places is equalised first: both images are divided by its deviation, and the result is multiplied with it.

    Args:
        noisy: (slices, C, H, W), an image or slices of a volume that lie behind each other.
        estimate: the same shape.
        noise: in the slice that is wanted, its standard deviation, correlation and deviation from place to place; that
            of the others is taken to be alike, and independent.
        rounds: how often; 0 gives back the estimate.
        middle: the slice that is wanted, by its number.

    Returns:
        that slice, (1, C, H, W).

    Groups hold the 48 blocks that are most alike in the estimate. In an image blocks are of 8×8 pixels, within 10
    pixels of every fourth; among several slices of 5×5 pixels in more than half of the slices, within 7 pixels of every
    third and at any depth; the rounds before the last gather fewer. Channels are treated one by one in an orthonormal
    basis (their mean, then differences), and grouped together.

    Source: Lebrun, Buades, Morel, "A nonlocal Bayesian image denoising algorithm", SIAM J. Imaging Sciences 6, 2013,
    doi:10.1137/120874989, its second step, equation 12.

    Departures: the estimate is given, in place of the source's first step; mean and covariance are the estimate's; v is
    less than the variance of the noise, because an estimate is smoother than the image and C therefore too small; the
    noise may be correlated: with :math:`N = A A^T` blocks are whitened by :math:`A^{-1}`, filtered, and coloured by A.

    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> noisy = clean + 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> refined = refine(noisy, torch.nn.functional.avg_pool2d(noisy, 3, 1, 1), NoiseModel(0.1))
    >>> bool((refined - clean).square().mean() < 0.05 * (noisy - clean).square().mean())
    True
    """
    wanted = slice(middle, middle + 1)

    def filter_rounds(planes: Tensor, guides: Tensor, even: NoiseModel) -> Tensor:
        for rounds_left in reversed(range(rounds)):
            guides = one_round(planes, guides, even, middle, rounds_left, shrink_as_estimated)
        return guides[wanted]

    return in_planes(filter_rounds, noise, noisy, estimate) if rounds else estimate[wanted]


def in_planes(filter_planes: Callable[..., Tensor], noise: NoiseModel, *images: Tensor) -> Tensor:
    """What a filter makes of images (B, C, H, W) in an orthonormal basis of their channels, their noise equalised."""
    basis = cosines(images[0].shape[1]).to(images[0])
    if noise.deviation is not None:
        images = tuple(image / noise.deviation for image in images)
    planes = (torch.einsum("kc,bchw->bkhw", basis, image) for image in images)
    filtered = torch.einsum("kc,bkhw->bchw", basis, filter_planes(*planes, replace(noise, deviation=None)))
    return filtered if noise.deviation is None else noise.deviation * filtered


def one_round(noisy: Tensor, estimate: Tensor, noise: NoiseModel, middle: int, rounds_left: int, rule: Rule) -> Tensor:
    """Filter by a rule the groups that blocks around the slice ``middle`` gather, and average where blocks overlap.

    Pixels that no block covers keep the value of the estimate.
    """
    slices, channels, height, width = noisy.shape
    blocks = Blocks.within(slices, height, width, rounds_left=rounds_left)
    depth, side = blocks.depth, blocks.side
    start = min(max(0, middle - depth // 2), slices - depth)
    colours = None if noise.is_white else Colours.of(noise.covariance(side).to(noisy.device), dtype=noisy.dtype)
    rows, columns = (group_positions(length - side + 1, blocks.stride) for length in (height, width))

    def filter_band(rows: Tensor) -> tuple[slice, Tensor, Tensor]:
        band = slice(max(0, int(rows[0]) - blocks.reach), min(height, int(rows[-1]) + blocks.reach + side))
        seen, guides = noisy[..., band, :], estimate[..., band, :]
        groups = similar_blocks(guides, blocks, start, rows - band.start, columns)
        sums = [
            filter_groups(seen[:, k], guides[:, k], groups, blocks, noise.sigma, colours, rule) for k in range(channels)
        ]
        return band, torch.stack(sums, 1), cover(groups, blocks, seen.shape)

    total, weight = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
    at_once = BAND if in_small_steps(noisy.device) else ROOM // (len(columns) * SIMILAR * depth * side**2) + 1
    for band, sums, counts in side_by_side(filter_band, rows.split(at_once), device=noisy.device):
        total[..., band, :].add_(sums)
        weight[..., band, :].add_(counts)
    return torch.where(weight > 0, total / weight, estimate)


def in_small_steps(device: torch.device) -> bool:
    """Whether a device is fastest in small steps, whose data its caches hold, and not in few large ones."""
    return device.type == "cpu"


def group_positions(count: int, stride: int) -> Tensor:
    """Every ``stride``-th of ``count`` positions, and the last."""
    places = torch.arange(0, count, stride)
    return places if (count - 1) % stride == 0 else torch.cat((places, torch.tensor([count - 1])))


def similar_blocks(estimate: Tensor, blocks: Blocks, start: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The numbers of the blocks most like each block that gathers a group, itself first: (groups, similar).

    Those that gather groups begin in the slice ``start`` of the estimate (slices, C, H, W), at each of some rows and
    columns. Blocks are numbered by where they begin: row by row, slice after slice.
    """
    side = blocks.side
    height, width = (size - side + 1 for size in estimate.shape[-2:])
    down, across = min(blocks.reach, height - 1), min(blocks.reach, width - 1)
    stacks = estimate.unfold(0, blocks.depth, 1).movedim(-1, 1).flatten(1, 2)
    around = pad(stacks, [across, across, down, down], value=FAR)
    first, length, wide = int(rows[0]), int(rows[-1] - rows[0]) + side, estimate.shape[-1]
    reference = stacks[start, :, None, first : first + length, None]
    moved = around.unfold(2, length, 1)[:, :, first : first + 2 * down + 1].unfold(3, wide, 1).transpose(3, 4)
    small = in_small_steps(estimate.device)
    upright, level = (
        [(pixels, inside.to(estimate)) for pixels, inside in covers(places, side, PLACES if small else len(places))]
        for places in (rows - first, columns)
    )
    at_once = 1 if small else min(moved.shape[2], ROOM // moved[:, :, 0].numel() + 1)
    distances = []
    for some in moved.split(1 if small else len(moved)):
        squares, sums = estimate.new_empty(*some.shape[:2], at_once, *some.shape[3:]), []
        for part in some.split(at_once, dim=2):
            square = torch.sub(part, reference, out=squares[:, :, : part.shape[2]]).square_()
            square = square[:, 0] if square.shape[1] == 1 else square.sum(1)
            strips = torch.cat([inside @ square[:, :, pixels].flatten(3) for pixels, inside in upright], 2)
            strips = strips.unflatten(3, square.shape[3:])
            sums.append(torch.cat([strips[..., pixels] @ inside.mT for pixels, inside in level], -1))
        distances.append(torch.cat(sums, 1))
    every = torch.cat(distances).permute(2, 4, 0, 1, 3).flatten(2).flatten(0, 1)
    every[:, (start * (2 * down + 1) + down) * (2 * across + 1) + across] = -1  # first, even where others equal it
    similar = min(blocks.similar, min(blocks.reach + 1, height) * min(blocks.reach + 1, width))
    nearest = every.topk(similar, largest=False).indices
    slices, row, column = (torch.arange(n) for n in (len(stacks), 2 * down + 1, 2 * across + 1))
    moves = (slices[:, None, None] * height + row[:, None] - down) * width + column - across
    places = (rows[:, None] * width + columns).flatten()
    return places.to(nearest.device)[:, None] + moves.flatten().to(nearest.device)[nearest]


def covers(places: Tensor, side: int, at_once: int) -> list[tuple[slice, Tensor]]:
    """For every few places the pixels in the blocks that begin there, and the matrix that says which each covers."""
    parts = [(slice(int(some[0]), int(some[-1]) + side), some - some[0]) for some in places.split(at_once)]
    return [(part, covering(some, side, part.stop - part.start)) for part, some in parts]


def covering(places: Tensor, side: int, size: int) -> Tensor:
    """1 for each of ``size`` pixels that lies in the block which begins at a place, else 0: (places, size)."""
    inside = torch.arange(size) - places[:, None]
    return ((inside >= 0) & (inside < side)).float()


@dataclass(frozen=True, eq=False)
class Colours:
    """What makes the noise in n pixels of a block white, (n, n), and what makes white noise that of the block."""

    whiten: Tensor
    colour: Tensor

    @classmethod
    def of(cls, covariance: Tensor, *, dtype: torch.dtype) -> Colours:
        """From a covariance (n, n), whose smallest eigenvalues are raised: band-limited noise is singular."""
        values, vectors = torch.linalg.eigh(covariance.double())
        deviations = values.clamp(min=SINGULAR * values.max()).sqrt()
        return cls((vectors / deviations).mT.to(dtype), (vectors * deviations).to(dtype))


def filter_groups(
    noisy: Tensor, estimate: Tensor, groups: Tensor, blocks: Blocks, sigma: float, colours: Colours | None, rule: Rule
) -> Tensor:
    """The sum over the filtered blocks of all groups, at every pixel of one channel (slices, H, W)."""
    contents, guides = (blocks_of(images, blocks, colours) for images in (noisy, estimate))
    size = contents.shape[1]
    sums = torch.zeros_like(contents)
    for group in groups.split(CHUNK if in_small_steps(noisy.device) else len(groups)):
        content, guide = (
            values.index_select(0, group.flatten()).view(*group.shape, size) for values in (contents, guides)
        )
        sums.index_put_((group.flatten(),), rule(content, guide, sigma).flatten(0, 1), accumulate=True)
    sums = sums.view(-1, blocks.depth, blocks.side**2)
    if colours is not None:
        sums = sums @ colours.colour.mT
    rows, columns = (length - blocks.side + 1 for length in noisy.shape[-2:])
    return overlap(sums.view(-1, rows, columns, blocks.depth, blocks.side, blocks.side))


def shrink_as_estimated(noisy: Tensor, guide: Tensor, sigma: float) -> Tensor:
    r"""The filter of :func:`refine` on groups (groups, similar, values), whose noise is white.

    With the spread S of a group's n blocks in the estimate, :math:`C = S^T S / (n - 1)`, and it is
    :math:`\hat x = \mu + S^T (S S^T + (n - 1) v I)^{-1} S (y - \mu)`: a smaller system, whose Cholesky factor L makes
    it :math:`\mu + W W^T (y - \mu)` with :math:`W L^T = S^T`.
    """
    noise = SHARE * sigma**2 * max(1, noisy.shape[1] - 1)
    mean = guide.mean(1, keepdim=True)
    spread = guide.sub_(mean)
    products = spread @ spread.mT
    diagonal = products.diagonal(dim1=-2, dim2=-1)
    diagonal += (LEAST * diagonal.amax(-1, keepdim=True)).clamp(min=noise)
    factor = torch.linalg.cholesky(products)
    whitened = torch.linalg.solve_triangular(factor.mT, spread.mT, upper=True, left=False)  # copies nothing so
    return (noisy.sub_(mean) @ whitened @ whitened.mT).add_(mean)


def blocks_of(images: Tensor, blocks: Blocks, colours: Colours | None) -> Tensor:
    """All blocks (blocks, values of each) of slices (slices, H, W), their noise made white."""
    parts = images.unfold(0, blocks.depth, 1).unfold(1, blocks.side, 1).unfold(2, blocks.side, 1)
    contents = parts.reshape(-1, blocks.depth, blocks.side**2)
    return (contents if colours is None else contents @ colours.whiten.mT).flatten(1)


def overlap(blocks: Tensor) -> Tensor:
    """Slices (slices, H, W) as sums of blocks (starts, rows, columns, depth, side, side) where these overlap."""
    starts, rows, columns, depth, side, _ = blocks.shape
    slices = blocks.new_zeros(starts + depth - 1, rows, columns, side, side)
    for index in range(depth):
        slices[index : index + starts].add_(blocks[:, :, :, index])
    strips = blocks.new_zeros(len(slices), rows + side - 1, columns, side)
    for row in range(side):
        strips[:, row : row + rows].add_(slices[..., row, :])
    images = blocks.new_zeros(len(slices), rows + side - 1, columns + side - 1)
    for column in range(side):
        images[..., column : column + columns].add_(strips[..., column])
    return images


def cover(groups: Tensor, blocks: Blocks, size: torch.Size) -> Tensor:
    """How many of the groups' blocks cover each pixel of slices (slices, C, H, W): (slices, 1, H, W)."""
    starts, (height, width) = size[0] - blocks.depth + 1, (length - blocks.side + 1 for length in size[-2:])
    chosen = torch.zeros(starts * height * width, device=groups.device)
    chosen.scatter_add_(0, groups.flatten(), torch.ones(groups.numel(), device=groups.device))
    rows, columns = (
        covering(torch.arange(length), blocks.side, length + blocks.side - 1).to(groups.device)
        for length in (height, width)
    )
    counts = rows.mT @ chosen.view(starts, height, width) @ columns
    weight = counts.new_zeros(size[0], 1, *size[-2:])
    for index in range(blocks.depth):
        weight[index : index + starts, 0].add_(counts)
    return weight
