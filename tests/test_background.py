"""The exact background of an image: found, out of what is measured and denoised, and as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from conftest import GUARDED
from torch import Tensor

from monai_dnaprior import create_denoiser
from monai_dnaprior.noise.background import MARGIN, exact_background, fill_background
from monai_dnaprior.noise.intensity import intensity_range
from monai_dnaprior.transforms.volumes import denoise_volume

pytestmark = GUARDED
METHODS = {
    "iddp": {},
    "dna-prior": {"preset": "fast", "steps": 20},
    "nl-means": {},
    "gaussian": {},
    "median": {},
}


def disc(side: int = 96) -> Tensor:
    axis = torch.arange(side) - side / 2 + 0.5
    return (axis[:, None].square() + axis.square() < (0.4 * side) ** 2)[None, None]


def scene(seed: int = 0, fill: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """A noisy image of a disc that is cut out, the same without noise, and the disc."""
    inside = disc()
    clean = 0.7 + 0.2 * torch.sin(torch.arange(96) / 6).expand(1, 1, 96, 96)
    noise = 0.05 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(seed))
    return torch.where(inside, clean + noise, fill), torch.where(inside, clean, fill), inside


@pytest.mark.parametrize("fill", [0.0, -3.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_rim_of_what_was_cut_out_is_denoised_and_the_background_stays(method: str, fill: float) -> None:
    noisy, clean, inside = scene(fill=fill)
    image = create_denoiser(method, **METHODS[method])(noisy).image
    assert torch.equal(image[~inside], noisy[~inside])
    eroded = -torch.nn.functional.max_pool2d(-inside.float(), 3, 1, 1) > 0
    rim = inside & ~eroded
    before, after = ((one - clean)[rim].square().mean().sqrt() for one in (noisy, image))
    assert after < 0.95 * before
    assert (image - clean)[rim].mean().abs() < 0.02


def test_a_fill_is_background_up_to_the_tissue_that_it_touches() -> None:
    noisy, _, inside = scene()
    assert torch.equal(exact_background(noisy), ~inside)
    assert not exact_background(torch.zeros(1, 1, 4, 40)).any()


def test_noise_that_is_clipped_or_counts_few_photons_is_no_background() -> None:
    noise = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    assert not exact_background(noise.clamp(min=0)).any()
    assert not exact_background((noise - 1.5).clamp(min=0)).any()  # 0 in 93 of 100 pixels


@pytest.mark.parametrize("photons", [0.05, 0.3])
def test_where_single_photons_are_counted_is_no_background_however_much_of_it_is_zero(photons: float) -> None:
    """Beside true background, from which zeros reach into what is counted."""
    counts = torch.poisson(torch.full((1, 1, 128, 128), photons), torch.Generator().manual_seed(0))
    counts[..., :48] = 0
    background = exact_background(counts)
    assert background[..., :24].all()
    assert not background[..., 48:].any()


def test_a_few_specks_in_a_background_change_nothing_of_it() -> None:
    noisy, _, inside = scene()
    noisy[..., 2, (2, 6)] = inside[..., 2, (2, 6)] = 1
    assert torch.equal(exact_background(noisy), ~inside)


@pytest.mark.parametrize("method", ["iddp", "dna-prior"])
def test_cells_in_the_dark_are_denoised_where_most_pixels_count_no_photon(method: str) -> None:
    axis = torch.arange(96) - 47.5
    clean = 0.5 * torch.exp(-(axis[:, None].square() + axis.square()) / 200).expand(1, 1, 96, 96)
    noisy = torch.poisson(30 * clean, torch.Generator().manual_seed(0)) / 30
    image = create_denoiser(method, **METHODS[method])(noisy).image
    before, after = ((one - clean).square().mean().sqrt() for one in (noisy, image))
    assert after < 0.5 * before


def test_colours_are_background_where_all_are() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[:, 0, :16] = 0
    assert not exact_background(image).any()
    image[:, 1:, :16] = 1
    assert exact_background(image)[0, 0, :16].all()


def test_the_background_is_a_mirror_near_the_edge_and_the_mean_beyond() -> None:
    image = torch.rand(1, 1, 8, 80, generator=torch.Generator().manual_seed(0))
    background = torch.zeros_like(image, dtype=torch.bool)
    background[..., :40] = True
    filled = fill_background(image, background)
    assert torch.equal(filled[..., 40 - MARGIN : 40], image[..., 41 : 41 + MARGIN].flip(-1))
    torch.testing.assert_close(filled[..., : 40 - MARGIN], image[..., 40:].mean().expand(1, 1, 8, 40 - MARGIN))
    assert torch.equal(filled[..., 40:], image[..., 40:])


@pytest.mark.parametrize("fill", [-3024.0, 20000.0])
def test_a_fill_changes_nothing_of_what_is_not_filled(fill: float) -> None:
    noisy, _, inside = scene()
    plain, filled = (torch.where(inside, 1000 * noisy, value)[0] for value in (0.0, fill))
    assert intensity_range(filled) == intensity_range(plain)
    denoiser = create_denoiser("iddp")
    one, other = (denoise_volume(image, denoiser).image for image in (plain, filled))
    assert torch.equal(one[inside[0]], other[inside[0]])


@pytest.mark.parametrize(("method", "most"), [("iddp", 8), ("dna-prior", 10)])
def test_a_bright_implant_changes_little_elsewhere(method: str, most: float) -> None:
    """A slice with 3 % of metal, whose range is twenty times as wide, is not taken for clean."""
    clean = 400 * torch.sin(torch.arange(128) / 12).expand(1, 128, 128).clone()
    noisy = clean + 12 * torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(0))
    metal = noisy.clone()
    metal[:, 50:72, 100:122] += 20000
    far = slice(0, 80)
    denoiser = create_denoiser(method, **METHODS[method])
    errors = [
        (denoise_volume(image, denoiser).image - clean)[..., far].square().mean().sqrt() for image in (noisy, metal)
    ]
    assert errors[0] < 6
    assert errors[1] < most
