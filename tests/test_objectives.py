"""Each objective against its definition: what sees what, where gradients flow, and what is minimal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import GUARDED
from torch import Tensor, nn
from torch.nn.functional import conv2d

from monai_dnaprior.noise import estimate as noise
from monai_dnaprior.training import masking as sampling
from monai_dnaprior.training.objectives import (
    IDDP,
    OBJECTIVES,
    Blind2Unblind,
    CyclicVariateFunction,
    Neighbor2Neighbor,
    Noise2Noise,
    Noise2Void,
    Supervised,
    create_objective,
)
from monai_dnaprior.training.renoising import random_signs
from monai_dnaprior.training.unet import DenoisingUNet

pytestmark = GUARDED


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape or (2, 1, 16, 16), generator=generator(seed))


def loss(objective: Any, noisy: Tensor, network: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
    given = {"target": None, "progress": 0.5, "generator": generator(), **options}
    return objective(noisy, network, **given)


class Recorder(nn.Module):
    """A convolution that remembers what it was shown and what it gave."""

    def __init__(self, size: int = 3, channels: int = 1) -> None:
        super().__init__()
        draw = torch.rand(channels, 1, size, size, generator=generator(9))
        self.weight = nn.Parameter(draw / draw.sum())
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        output = conv2d(image, self.weight, padding=self.weight.shape[-1] // 2)
        self.inputs.append(image)
        self.outputs.append(output)
        return output


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_finite_has_gradients_and_repeats(name: str) -> None:
    objective = create_objective(name)
    network = DenoisingUNet(heads=objective.heads, features=(4, 8))
    channels = {"none": 0, "recorrupted": 2}.get(objective.needs, 1)
    noisy, target = images(2, 1, 16, 16), images(2, channels, 16, 16, seed=1) if channels else None
    values = [loss(objective, noisy, network, target=target, generator=generator(seed)) for seed in (0, 0, 1)]
    values[0].backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert 0 < values[0] < math.inf
    assert values[0].ndim == 0
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
    assert torch.equal(values[0], values[1])
    deterministic = name in ("supervised", "noise2noise", "blind2unblind")
    assert torch.equal(values[0], values[2]) is deterministic
    assert objective.denoise(noisy, network).shape == noisy.shape
    assert torch.equal(noisy, images(2, 1, 16, 16))


def test_iddp_is_equations_7_to_11() -> None:
    noisy, network = images(), Recorder()
    objective = IDDP(fidelity_weight=0.1, regularity_weight=3, blur=3, warm_up=0)
    value = loss(objective, noisy, network)
    estimate = network(noisy)
    signs = random_signs(noisy, generator())
    renoised = estimate + signs * (noisy - estimate)
    shown = network.inputs[1]
    fidelity = (estimate - noise.averaging_filter(noisy, 3)).square().sum() / 2
    regularity = (network(shown) - moved_like(estimate, renoised, shown)).square().sum() / 2
    torch.testing.assert_close(value, 0.1 * fidelity + 3 * regularity)


def test_iddp_gradient_flows_through_the_second_pass_alone() -> None:
    noisy, network = images(), Recorder()
    loss(IDDP(fidelity_weight=0, warm_up=0), noisy, network).backward()
    assert not network.inputs[1].requires_grad  # neither through the image that is noised again
    wanted = network.weight.grad
    again = Recorder()
    signs = random_signs(noisy, generator())
    prior = again(noisy).detach()
    again(network.inputs[1])
    moved_prior = moved_like(prior, prior + signs * (noisy - prior), network.inputs[1])
    (again.outputs[1] - moved_prior).square().sum().div(2).backward()  # nor through the target
    torch.testing.assert_close(wanted, again.weight.grad)


def moved_like(image: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The image shifted and mirrored as ``before`` became ``after``."""
    for rows in range(16):
        for columns in range(16):
            for sides in ([], [-2], [-1], [-2, -1]):
                if torch.allclose(before.roll((rows, columns), (-2, -1)).flip(sides), after):
                    return image.roll((rows, columns), (-2, -1)).flip(sides)
    raise AssertionError("no shift of one gives the other")


def test_iddp_signs_are_redrawn() -> None:
    noisy, network = images(), Recorder()
    for step in range(2):
        loss(IDDP(warm_up=0), noisy, network, generator=generator(step))
    assert not torch.equal(network.inputs[1], network.inputs[3])


def test_iddp_identity_is_a_minimum_of_the_regularity_but_not_of_the_whole() -> None:
    noisy = images()

    def identity(image: Tensor) -> Tensor:
        return image

    assert loss(IDDP(fidelity_weight=0, warm_up=0), noisy, identity) == 0
    assert loss(IDDP(warm_up=0), noisy, identity) > 0


def test_iddp_warm_up_is_the_fidelity_alone() -> None:
    noisy, network = images(), Recorder()
    value = loss(IDDP(warm_up=0.5, blur=3), noisy, network, progress=0.4)
    assert len(network.inputs) == 1
    expected = (network(noisy) - noise.averaging_filter(noisy, 3)).square().sum() / 2
    torch.testing.assert_close(value, expected)


def test_noise2void_never_sees_a_hidden_pixel() -> None:
    noisy = images(2, 1, 32, 32).requires_grad_()
    seen: list[Tensor] = []

    def identity(image: Tensor) -> Tensor:
        seen.append(image)
        return image

    loss(Noise2Void(hidden=0.1), noisy, identity)
    hidden = seen[0] != noisy
    assert 0.05 < hidden.float().mean() < 0.15
    own = torch.autograd.grad(seen[0][hidden].sum(), noisy)[0]
    replaced = torch.zeros_like(noisy)
    replaced[hidden] = own[hidden]
    hidden_by_hidden = own[hidden].sum()  # a hidden pixel may stand in for another, never for itself
    assert own.sum() == hidden.sum()
    assert hidden_by_hidden < own.sum()


@pytest.mark.parametrize("radius", [1, 5])
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 1, 3, 40), (1, 1, 40, 40)])
def test_a_neighbour_is_another_pixel_within_the_radius(radius: int, shape: tuple[int, ...]) -> None:
    rows, columns = torch.meshgrid(torch.arange(shape[2]), torch.arange(shape[3]), indexing="ij")
    places = (100.0 * rows + columns).expand(shape)
    drawn = sampling.neighbours(places, radius, generator())
    down, right = drawn // 100 - rows, drawn % 100 - columns
    assert max(down.abs().max(), right.abs().max()) <= radius
    moved = down.abs() + right.abs() > 0
    assert moved[..., radius:-radius, radius:-radius].all()
    assert moved.float().mean() > 0.8  # at an edge a mirrored place can be the pixel again


def test_neighbour_pairs_are_adjacent_and_all_eight_occur() -> None:
    first, second = sampling.neighbour_pairs(images(1, 1, 64, 64), generator())
    distance = (first // 2 - second // 2).abs() + (first % 2 - second % 2).abs()
    assert (distance == 1).all()
    assert len({(int(a), int(b)) for a, b in zip(first.flatten(), second.flatten(), strict=True)}) == 8


def test_neighbor2neighbor_compares_the_two_subimages() -> None:
    noisy, network = images(1, 1, 8, 8), Recorder()
    pairs = sampling.neighbour_pairs(noisy, generator())
    halves = [sampling.subimage(noisy, pair) for pair in pairs]
    value = loss(Neighbor2Neighbor(consistency_weight=3), noisy, network, progress=0.5)
    targets = [sampling.subimage(network(noisy), pair).detach() for pair in pairs]
    difference = network(halves[0]) - halves[1]
    expected = difference.square().sum() + 1.5 * (difference - targets[0] + targets[1]).square().sum()
    torch.testing.assert_close(value, expected)
    assert not network.outputs[0].requires_grad


def test_a_subimage_takes_pixels_of_the_image() -> None:
    image = torch.arange(2 * 3 * 6 * 8.0).view(2, 3, 6, 8)
    places = torch.full((2, 1, 3, 4), 1)
    assert torch.equal(sampling.subimage(image, places), image[..., ::2, 1::2])


def test_blind2unblind_gathers_pixels_that_their_own_output_did_not_see() -> None:
    noisy = images(1, 1, 12, 9).requires_grad_()
    gathered = sampling.blind(noisy, lambda image: image)
    torch.testing.assert_close(gathered, sampling.cross_average(noisy))  # the identity shows what stood in
    gathered = sampling.blind(noisy, Recorder(size=1))
    for row, column in ((0, 0), (5, 4), (11, 8)):
        gradient = torch.autograd.grad(gathered[0, 0, row, column], noisy, retain_graph=True)[0]
        assert gradient[0, 0, row, column] == 0 or row in (0, 11) or column in (0, 8)
        assert gradient.abs().sum() > 0
    centre = torch.autograd.grad(gathered[0, 0, 5, 4], noisy)[0]
    assert centre[0, 0, 5, 4] == 0


def test_blind2unblind_result_weighs_blind_and_seeing() -> None:
    noisy, network = images(), Recorder()
    expected = (sampling.blind(noisy, network) + 20 * network(noisy)) / 21
    torch.testing.assert_close(Blind2Unblind().denoise(noisy, network), expected)


def test_blind2unblind_is_its_two_terms() -> None:
    noisy, network = images(), Recorder()
    value = loss(Blind2Unblind(blind_weight=2), noisy, network, progress=0.5)
    difference = sampling.blind(noisy, network) - noisy
    visible = 11 * (network(noisy).detach() - noisy)
    torch.testing.assert_close(value, difference.square().sum() + (difference + visible).square().sum() / 2)


def test_cvf_sid_vanishes_for_the_split_that_is_true() -> None:
    """Even noise on a flat image: clean, nothing, noise, however the signs fall."""
    clean = torch.full((1, 1, 64, 64), 0.5)

    def network(image: Tensor) -> Tensor:
        return torch.cat([clean, torch.zeros_like(image), image - clean], 1)

    noise = 0.1 * torch.randn(1, 1, 64, 64, generator=generator())
    true = loss(CyclicVariateFunction(), clean + noise, network)
    identity = loss(
        CyclicVariateFunction(), clean + noise, lambda y: torch.cat([y, torch.zeros_like(y), torch.zeros_like(y)], 1)
    )
    assert true < 0.15 * 64 * 64 * 0.01  # what is left: the noise's own window means, a 49th of its energy, and more
    assert true < identity


def test_cvf_sid_keeps_the_brightness() -> None:
    clean = torch.full((1, 1, 32, 32), 0.5)
    noisy = clean + 0.1 * torch.randn(1, 1, 32, 32, generator=generator())

    def split(image: Tensor, brighter: float) -> Tensor:
        return torch.cat([clean + brighter, torch.zeros_like(image), image - clean - brighter], 1)

    values = [loss(CyclicVariateFunction(), noisy, lambda y, b=b: split(y, b)) for b in (0.0, 0.2)]
    assert values[1] - values[0] == pytest.approx(0.2**2 * 32 * 32, rel=0.2)


def test_cvf_sid_gives_the_first_head() -> None:
    network = Recorder(channels=3)
    assert torch.equal(CyclicVariateFunction().denoise(images(), network), network.outputs[0][:, :1])


@pytest.mark.parametrize("kind", [Supervised, Noise2Noise])
def test_paired_objectives_are_the_squared_distance(kind: type[Supervised]) -> None:
    noisy, target = images(), images(seed=1)
    expected = (noisy - target).square().sum() / 2
    assert torch.equal(loss(kind(), noisy, lambda image: image, target=target), expected)
    with pytest.raises(ValueError, match="target=None: .* needs a (clean|second) image for each"):
        loss(kind(), noisy, lambda image: image)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iddp", {"fidelity_weight": -1}, "fidelity_weight=-1 must be a finite number"),
        ("iddp", {"blur": 4}, "blur=4 must be an odd number of pixels"),
        ("iddp", {"warm_up": 2}, "warm_up=2 must lie in"),
        ("noise2void", {"hidden": 0}, "hidden=0 must lie between 0 and 1"),
        ("noise2void", {"radius": 0}, "radius=0 must be a whole number, at least 1"),
        ("neighbor2neighbor", {"consistency_weight": -1}, "consistency_weight=-1 must be"),
        ("blind2unblind", {"last_weight": math.inf}, "last_weight=inf must be"),
        ("cvf-sid", {"gamma": -1}, "gamma=-1 must be"),
        ("n2v", {}, "objective='n2v' is unknown; choose one of iddp"),
    ],
)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create_objective(name, **options)
    assert "\n" not in str(caught.value)
