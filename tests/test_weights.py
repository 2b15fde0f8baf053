"""Trained networks in files, and as denoisers: what is refused, what is shipped, what tiles and colours change."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GUARDED
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_dnaprior import IDDPDenoise, IDDPDenoised, load_weights, save_weights
from monai_dnaprior.denoisers.trained import Trained, join, limit_bands, limit_removal
from monai_dnaprior.files.disk import hash_of
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.training.objectives import Blind2Unblind, CyclicVariateFunction, create_objective
from monai_dnaprior.training.unet import DenoisingUNet
from monai_dnaprior.training.weights import SHIPPED, SHIPPED_CORRELATED, TrainedNetwork

pytestmark = GUARDED

BUNDLE = Path(__file__).parents[1] / "bundles" / "iddp_denoise"


def untrained(objective: str = "iddp", **options: Any) -> TrainedNetwork:
    made = create_objective(objective, **options)
    return TrainedNetwork(DenoisingUNet(heads=made.heads, features=(4, 8)), made, {"noise": ["gaussian:0:50"]})


def noisy(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    save_weights(path, untrained())
    return path


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    written = untrained("cvf-sid", gamma=0.5)
    digest = save_weights(tmp_path / "a.safetensors", written)
    read = load_weights(tmp_path / "a.safetensors", sha256=digest.upper())
    assert read.objective == CyclicVariateFunction(gamma=0.5)
    assert read.training == {"noise": ["gaussian:0:50"]}
    assert not read.network.training
    assert all(not parameter.requires_grad for parameter in read.network.parameters())
    for name, tensor in written.network.state_dict().items():
        assert torch.equal(read.network.state_dict()[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert save_weights(tmp_path / "b.safetensors", written) == digest


def test_a_write_that_fails_leaves_the_old_file(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("monai_dnaprior.files.disk.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(weights, untrained())
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def other_architecture(path: Path) -> None:
    """The tensors of another network under the description of this one."""
    tensors = DenoisingUNet(features=(8, 16)).state_dict()
    save_file(tensors, path, metadata={"monai_dnaprior": json.dumps(description())})


def description(**changes: Any) -> dict[str, Any]:
    network = {"channels": 1, "heads": 1, "features": [4, 8], "residual_units": 0}
    return {
        "format": "monai-dnaprior-1", "network": network, "objective": {"name": "iddp"}, "training": {}, **changes
    }  # fmt: skip


def write_description(path: Path, **changes: Any) -> None:
    save_file(load_file(path), path, metadata={"monai_dnaprior": json.dumps(description(**changes))})


BROKEN = {
    "another architecture": (other_architecture, "holds no network of this package"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is no safetensors file, or is cut off"),
    "empty": (lambda path: path.write_bytes(b""), "is no safetensors file, or is cut off"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is no safetensors file, or is cut off"),
    "torch.save": (lambda path: torch.save({"a": torch.ones(1)}, path), "is no safetensors file, or is cut off"),
    "of another package": (lambda path: save_file({"a": torch.ones(1)}, path), "holds no network of this package"),
    "no JSON": (
        lambda path: save_file({"a": torch.ones(1)}, path, metadata={"monai_dnaprior": "{"}),
        "holds no network of this package",
    ),
    "another format": (lambda path: write_description(path, format="2"), "holds no network of this package"),
    "unknown objective": (
        lambda path: write_description(path, objective={"name": "n2v"}), "holds no network of this package"
    ),
    "unknown option": (
        lambda path: write_description(path, objective={"name": "iddp", "x": 1}), "holds no network of this package"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_wrong_weights_give_one_clear_line_and_nothing_is_unpickled(
    fault: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, message = BROKEN[fault]
    damage(weights)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(torch, "load", None)
    for read in (load_weights, lambda path: IDDPDenoise(weights=str(path)), lambda path: Trained(weights=str(path))):
        with pytest.raises(ValueError, match=message) as caught:
            read(weights)
        assert "\n" not in str(caught.value)
        assert str(weights) in str(caught.value)


def test_another_hash_or_no_file_is_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match=f"has the SHA-256 {hash_of(weights)}, not {'0' * 64}; fetch the file again"):
        load_weights(weights, sha256="0" * 64)
    with pytest.raises(FileNotFoundError, match="is no file; give one that save_weights wrote, or None"):
        IDDPDenoise(weights="nowhere.safetensors")


def test_weights_that_change_after_the_transform_was_made_are_refused(weights: Path) -> None:
    transform = IDDPDenoised("image", weights=str(weights))
    image = noisy(1, 16, 16)
    transform({"image": image})
    save_weights(weights, TrainedNetwork(DenoisingUNet(features=(4, 8), seed=1), create_objective("iddp")))
    with pytest.raises(ValueError, match="has the SHA-256"):
        transform({"image": image})


def test_shipped_weights_are_the_bundle_s_and_say_where_they_are_from() -> None:
    shipped = load_weights()
    state = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    expected = shipped.network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert type(shipped.objective).__name__ == "IDDP"
    assert shipped.objective.needs == "none"  # no clean target is ever in the loss
    assert shipped.training["noise"] == ["gaussian:0:50", "gaussian:0:20", "gaussian:20:50"]
    assert shipped.training["steps"] > 10_000
    assert SHIPPED.stat().st_size + SHIPPED_CORRELATED.stat().st_size < 12e6


@pytest.mark.parametrize("width", [200, 60])
def test_tiles_change_little_and_bound_what_the_network_sees(width: int) -> None:
    image = noisy(1, 1, 300, width)
    network = Trained().network()
    sizes = []
    hook = network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape))
    try:
        tiled, whole = (Trained(tile=tile)(image).image for tile in (128, 512))
    finally:
        hook.remove()
    assert {tuple(size[-2:]) for size in sizes[:-1]} == {(128, min(width, 128))}
    assert sizes[-1][-2:] == (300, width)
    assert (tiled - whole).square().mean() < 0.01 * (image - whole).square().mean()


def test_a_pixel_like_its_neighbours_and_a_clean_image_come_back_bit_for_bit() -> None:
    image = noisy(1, 1, 64, 64)
    image[..., :20] = 0.25
    result = Trained()(image)
    assert torch.equal(result.image[..., :19], image[..., :19])
    assert not torch.equal(result.image, image)
    smooth = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).clone()
    clean = Trained()(smooth)
    assert torch.equal(clean.image, smooth)
    assert clean.records[0].stop_reason == "clean"


def test_colours_are_denoised_in_planes_and_grey_in_three_channels_stays_grey() -> None:
    grey = noisy(1, 1, 48, 48)
    colour = Trained()(grey.expand(1, 3, 48, 48)).image
    torch.testing.assert_close(colour[:, 0], colour[:, 2], rtol=0, atol=0.02)


def test_a_given_network_takes_the_place_of_the_weights_and_the_objective_says_what_it_means(weights: Path) -> None:
    image = noisy(1, 1, 32, 32)
    denoiser = Trained(weights=str(weights))
    assert torch.equal(denoiser(image, network=denoiser.network()).image, denoiser(image).image)
    other = DenoisingUNet(features=(4, 8), seed=1)
    assert not torch.equal(denoiser(image, network=other).image, denoiser(image).image)
    blind = untrained("blind2unblind")
    for parameter in blind.network.parameters():
        parameter.data.mul_(0.1)  # removes little, less than the noise
    save_weights(weights, blind)
    with torch.no_grad():
        expected = Blind2Unblind().denoise(image, blind.network)
    torch.testing.assert_close(Trained(weights=str(weights))(image).image, expected)


def test_no_more_is_removed_than_the_noise_around_a_pixel(weights: Path) -> None:
    """A network that removes everything: of flat noise it gets the noise, of a step little more."""
    image = 0.5 + 0.05 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    image[..., 48:] += 0.4
    zero = DenoisingUNet(features=(4, 8))
    zero.register_forward_hook(lambda module, inputs, output: 0 * output)
    result = Trained(weights=str(weights))(image, network=zero)
    removed = image - result.image
    assert removed.square().mean().sqrt() == pytest.approx(0.05 * 1.2, rel=0.1)
    assert result.records[0].residual == pytest.approx(removed.square().mean().sqrt().item(), rel=1e-3)


def test_frequencies_that_correlated_noise_hardly_has_are_left_alone() -> None:
    """Bars as fine as pixels, taken for noise whose neighbours are alike; the noise itself goes as it is."""
    box = torch.tensor([0.5, 1.0, 0.5])
    deviation = torch.linspace(0.5, 1.3, 96).expand(1, 1, 96, 96)
    bars = 0.1 * torch.tensor([1.0, -1.0]).repeat(48).expand(1, 1, 96, 96)
    for uneven in (None, deviation):
        model = NoiseModel(0.05, torch.outer(box, box), uneven)
        noise = avg_pool2d(torch.randn(1, 1, 97, 97, generator=torch.Generator().manual_seed(0)), 2, 1) * 0.1
        noise = noise if uneven is None else uneven * noise
        torch.testing.assert_close(limit_bands(noise, model), noise, atol=0.005, rtol=0.02)
        pattern = bars if uneven is None else uneven * bars
        left = limit_bands(noise + pattern, model) - noise
        assert left.square().mean() < 0.1 * pattern.square().mean()
    assert torch.equal(limit_bands(bars, NoiseModel(0.05)), bars)


def test_the_limit_of_colours_is_that_of_each_plane() -> None:
    noise = 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(limit_removal(noise / 2, noise, NoiseModel(0.05)), noise / 2)
    grey = noise.mean(1, keepdim=True).expand_as(noise)  # a third of the energy, but all of one plane's
    assert limit_removal(2 * grey, noise, NoiseModel(0.05)).square().mean() == pytest.approx(
        1.2**2 * 0.05**2 / 3, rel=0.1
    )


def test_correlated_noise_is_left_in_but_for_its_level(weights: Path) -> None:
    white = torch.randn(1, 1, 98, 98, generator=torch.Generator().manual_seed(0))
    image = 0.5 + 0.1 * torch.nn.functional.avg_pool2d(white, 3, 1)
    image[..., :30, :] += 0.2 * white[..., :30, :96]  # a texture, in which more noise could be hidden
    zero = DenoisingUNet(features=(4, 8))
    zero.register_forward_hook(lambda module, inputs, output: 0 * output)
    result = Trained(weights=str(weights))(image, network=zero)
    record = result.records[0]
    assert "the noise is correlated" in record.warnings[0]
    assert record.residual <= 1.001 * record.sigma < (image - 0.5).std()
    free = Trained(weights=str(weights), limited=False)(image, network=zero)
    assert free.image.abs().max() == 0


def test_correlated_noise_has_a_network_of_its_own(clean_slice: Tensor) -> None:
    clean = torch.nn.functional.interpolate(clean_slice, scale_factor=2, mode="bicubic")
    white = torch.randn(1, 1, 193, 161, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.12 * torch.nn.functional.avg_pool2d(white, 2, 1)
    result = Trained()(noisy)
    assert result.records[0].warnings == ()
    assert result.records[0].sigma == pytest.approx(0.06, rel=0.15)
    assert psnr(result.image, clean) > psnr(noisy, clean) + 5
    assert torch.equal(result.image, Trained(correlated_weights=SHIPPED_CORRELATED)(noisy).image)
    assert not torch.equal(result.image, Trained(correlated_weights=SHIPPED)(noisy).image)


def test_of_white_noise_both_networks_make_more_than_the_first(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    both, white = (
        psnr(Trained(**options)(noisy_slice).image, clean_slice)
        for options in ({"correlated_weights": None}, {"weights": SHIPPED})
    )
    assert both > white + 0.1
    named = {"weights": SHIPPED, "correlated_weights": SHIPPED_CORRELATED}
    assert torch.equal(Trained(**named)(noisy_slice).image, Trained()(noisy_slice).image)


@pytest.mark.parametrize(("left", "taken"), [(0.5, "white"), (0.1, "correlated")])
def test_a_network_that_leaves_much_of_correlated_noise_gives_way_to_the_other(
    clean_slice: Tensor, monkeypatch: pytest.MonkeyPatch, left: float, taken: str
) -> None:
    height, width = clean_slice.shape[-2:]
    white = torch.randn(1, 1, height + 1, width + 1, generator=torch.Generator().manual_seed(0))
    noise = 0.2 * avg_pool2d(white, 2, 1)
    axis = torch.tensor([0.5, 1.0, 0.5])
    part = {SHIPPED: 0.2, SHIPPED_CORRELATED: left}
    networks = {path: load_weights(path).network for path in part}

    def one_pass(self: Trained, trained: Any, noisy: Tensor) -> Tensor:
        return clean_slice + next(part[path] for path in part if networks[path] is trained.network) * noise

    monkeypatch.setattr(Trained, "one_pass", one_pass)
    model = NoiseModel(0.1, torch.outer(axis, axis))
    result = Trained(limited=False)(clean_slice + noise, noise=[model])
    expected = 0.2 if taken == "white" else left
    assert (result.image - clean_slice).norm() == pytest.approx(expected * noise.norm().item(), rel=0.05)


def test_weights_of_ones_own_stand_alone(weights: Path, noisy_slice: Tensor) -> None:
    alone = Trained(weights=str(weights), limited=False)(noisy_slice).image
    torch.testing.assert_close(alone, load_weights(weights).network(noisy_slice))


def test_a_second_network_counts_the_more_the_stronger_the_noise_but_not_where_it_is_far_off() -> None:
    first = torch.zeros(1, 3, 20, 20)
    second = torch.full_like(first, 0.001)
    for sigma, share in ((5, 0.1), (25, 0.5), (50, 0.6), (100, 0.6)):
        torch.testing.assert_close(join(first, second, sigma / 255), share * second)
    second[..., 10:] = 0.1  # as strong as the noise
    joined = join(first, second, 0.1)
    assert joined[..., 15:].max() < 0.002 * 0.1
    torch.testing.assert_close(joined[..., :5], 25.5 / 50 * second[..., :5])
    assert torch.equal(join(first, second, 0.0), first)


def test_no_more_is_removed_in_all_than_a_few_times_the_noise(weights: Path) -> None:
    image = 0.5 + 0.01 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    image[..., ::8, ::8] += 0.4  # detail that differences take for noise
    zero = DenoisingUNet(features=(4, 8))
    zero.register_forward_hook(lambda module, inputs, output: 0 * output)
    record = Trained(weights=str(weights))(image, network=zero).records[0]
    assert record.residual == pytest.approx(2.5 * record.sigma, rel=1e-3)


def test_an_ensemble_treats_every_orientation_alike(clean_slice: Tensor, noisy_slice: Tensor) -> None:
    denoiser = Trained(ensemble=True)
    image = denoiser(noisy_slice).image
    turned = denoiser(noisy_slice.rot90(1, (-2, -1)).flip(-1)).image
    torch.testing.assert_close(turned, image.rot90(1, (-2, -1)).flip(-1), rtol=0, atol=1e-5)
    errors = [(result - clean_slice).square().mean() for result in (image, Trained()(noisy_slice).image)]
    assert errors[0] < errors[1]


def test_refinements_gain_on_a_real_slice(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    plain, refined = (Trained(refinements=rounds)(noisy_slice).image for rounds in (0, 1))
    assert (refined - clean_slice).square().mean() < 0.97 * (plain - clean_slice).square().mean()


def test_a_network_of_another_kind_or_for_other_channels_is_refused() -> None:
    with pytest.raises(TypeError, match="network=Identity must be a DenoisingUNet"):
        Trained()(noisy(1, 1, 16, 16), network=torch.nn.Identity())
    with pytest.raises(ValueError, match="network takes 3 channels, the image has 2"):
        Trained()(noisy(1, 2, 16, 16), network=DenoisingUNet(channels=3, features=(4, 8)))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="refinements=-1 must be a whole number, at least 0"):
        IDDPDenoise(refinements=-1)
    with pytest.raises(ValueError, match="tile=10 must be a whole number, at least 64"):
        IDDPDenoise(tile=10)
    with pytest.raises(ValueError, match="features=.* must name the channels of at least two scales"):
        DenoisingUNet(features=(8,))
    with pytest.raises(ValueError, match=r"features\[1\]=0 must be a whole number"):
        DenoisingUNet(features=(8, 0))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 47), (64, 64)], ids=str)
def test_unet_takes_any_size_and_its_weights_come_from_the_seed(size: tuple[int, int]) -> None:
    image = noisy(2, 1, *size)
    first, again, other = (DenoisingUNet(features=(4, 8, 8), heads=2, seed=seed)(image) for seed in (0, 0, 1))
    assert first.shape == (2, 2, *size)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gain_of_the_shipped_weights_on_real_slices(noisy_slice: Tensor, clean_slice: Tensor) -> None:
    image = Trained()(noisy_slice).image
    assert 10 * torch.log10((noisy_slice - clean_slice).square().mean() / (image - clean_slice).square().mean()) > 5
