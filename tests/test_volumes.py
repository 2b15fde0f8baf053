"""From volumes to slices and back: units, axes, what is left untouched."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GUARDED, SHORT
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_dnaprior import create_denoiser
from monai_dnaprior.denoisers.record import Record
from monai_dnaprior.denoisers.result import Result
from monai_dnaprior.denoisers.safeguards import measure_slices
from monai_dnaprior.fitting.devices import images_at_once
from monai_dnaprior.noise.blind import OF_SMALL, TEXTURE, check
from monai_dnaprior.noise.intensity import intensity_range
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.transforms import slicing
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_parts, denoise_volume

pytestmark = GUARDED


class Halving:
    """Takes half of every intensity away, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.indices: list[int] = []

    def __call__(self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None) -> Result:
        self.seen += list(noisy)
        self.indices += list(slice_indices or [])
        return Result(noisy / 2, [Record(sigma=float(image.mean())) for image in noisy])


def volume(*shape: int, seed: int = 0) -> Tensor:
    return 1000 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 300


DTYPES = [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("slice_dim", [-3, -2, -1, 0, 1, 2])
def test_identity_gives_the_volume_back_exactly(dtype: torch.dtype, slice_dim: int) -> None:
    image = volume(2, 5, 6, 7).abs().clamp(max=250).to(dtype)
    result = denoise_volume(image, create_denoiser("identity"), Slicing(slice_dim=slice_dim))
    output, records = result.image, result.records
    assert output.dtype == torch.float32
    assert torch.equal(output, image.float())
    assert len(records) == (5, 6, 7)[slice_dim]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e30])
def test_identity_is_exact_in_any_unit(scale: float) -> None:
    image = volume(1, 6, 6, 2) * scale
    assert torch.equal(denoise_volume(image, create_denoiser("identity")).image, image)


@pytest.mark.parametrize("slice_dim", [0, 1, 2, -1])
def test_slices_are_those_of_the_axis_in_order(slice_dim: int) -> None:
    image, denoiser = volume(1, 4, 5, 6), Halving()
    denoise_volume(image, denoiser, Slicing(slice_dim=slice_dim, batch_size=4))
    offset, span = intensity_range(image)
    expected = [(part - offset) / span for part in image.unbind(slice_dim + 1 if slice_dim >= 0 else slice_dim)]
    torch.testing.assert_close(denoiser.seen, expected)
    assert denoiser.indices == list(range(len(expected)))


@pytest.mark.parametrize(
    ("spacing", "sides", "axis"),
    [((1, 5, 1), (9, 9, 9), 1), ((3, 1, 0.5), (9, 9, 9), 0), ((1, 1, 5), (9, 9, 9), -1), ((1, 1, 1), (9, 9, 9), -1),
     ((1, 1.2, 1), (9, 9, 9), -1), ((2, 2, 1), (9, 9, 9), -1), ((1, 5, 1), (9, 9, 1), -1), (None, (9, 9, 9), -1),
     ((float("nan"), 5, 1), (9, 9, 9), -1), ((0, 5, 1), (9, 9, 9), -1), ((1, 5), (9, 9), -1),
     ((1, 5), (9, 9, 9), -1)],
)  # fmt: skip
def test_thick_slices_are_those_that_are_cut(
    spacing: Sequence[float] | None, sides: tuple[int, ...], axis: int
) -> None:
    assert Slicing().along(sides, spacing).slice_dim == axis


def test_slices_across_thick_ones_are_doubtful() -> None:
    sides, spacing = (96, 16, 96), (1.0, 5.0, 1.0)
    doubts = {axis: Slicing(slice_dim=axis).doubts(sides, spacing) for axis in range(-3, 3)}
    assert [axis for axis, texts in doubts.items() if not texts] == [-2, 1]
    text = 'slice_dim=2 cuts across thick slices, which lie 5 mm apart along axis 1: set slice_dim="auto"'
    assert doubts[2] == [text]
    assert not Slicing(slice_dim=0).doubts(sides, (1.0, 1.0, 1.0))


def test_the_map_is_robust_never_clipped_and_undone() -> None:
    image, denoiser = volume(1, 20, 20, 3), Halving()
    image[0, 3, 3, 1] = 1e6
    output = denoise_volume(image, denoiser).image
    offset, span = intensity_range(image)
    seen = torch.stack(denoiser.seen, -1)
    assert -0.02 < seen.median() < 1.02
    assert seen.max() > 900
    torch.testing.assert_close(output, (offset + span * seen / 2).float(), rtol=1e-5, atol=1e-3)


def test_output_follows_the_units_of_the_input() -> None:
    image = volume(1, 16, 16)
    prior = create_denoiser("dna-prior", **SHORT)
    in_other_units = denoise_volume(4 * image + 64, prior).image
    assert torch.allclose(in_other_units, 4 * denoise_volume(image, prior).image + 64, atol=0.02 * 4 * 1000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_voxels_that_are_not_finite_are_hidden_and_come_out_as_they_are(bad: float) -> None:
    image, denoiser = volume(1, 8, 8, 2), Halving()
    image[0, 2:4, 5, 0] = bad
    output = denoise_volume(image, denoiser).image
    hidden = ~image.isfinite()
    assert all(part.isfinite().all() for part in denoiser.seen)
    assert np.array_equal(output[hidden].numpy(), image[hidden].numpy(), equal_nan=True)
    assert output[~hidden].isfinite().all()
    assert (output[~hidden] != image[~hidden]).any()


def test_an_image_of_nothing_finite_comes_out_as_it_is() -> None:
    image = torch.full((1, 6, 6, 2), float("nan"))
    result = denoise_volume(image, create_denoiser("dna-prior", **SHORT))
    output, records = result.image, result.records
    assert output.isnan().all()
    assert {record.stop_reason for record in records} == {"constant"}


def test_constant_slices_among_others_come_out_bit_identical() -> None:
    image = volume(1, 16, 16, 3)
    image[..., 1] = 0.1
    result = denoise_volume(image, create_denoiser("dna-prior", **SHORT))
    output, records = result.image, result.records
    assert torch.equal(output[..., 1], image[..., 1])
    assert not torch.equal(output[..., 0], image[..., 0])
    assert [record.stop_reason == "constant" for record in records] == [False, True, False]


@pytest.mark.parametrize(
    ("gigabytes", "side", "count"), [(80, 256, 64), (8, 512, 7), (24, 512, 22), (1, 2048, 1)],
)  # fmt: skip
def test_a_gpu_is_handed_as_many_slices_as_it_holds(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, side: int, count: int
) -> None:
    made = types.SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: made)
    assert images_at_once(torch.device("cuda", 0), side * side) == count


def test_slices_at_once_are_what_was_said_or_suits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, sizes = torch.rand(2, 4, 5, 20, generator=torch.Generator().manual_seed(0)), list[int]()
    monkeypatch.setattr(slicing, "images_at_once", lambda device, values: 200 // values)

    def counted(noisy: Tensor, **others: Any) -> Result:
        sizes.append(len(noisy))
        return create_denoiser("identity")(noisy, **others)

    for own in (Slicing(), Slicing(channel_wise=True), Slicing(batch_size=15)):
        denoise_volume(volume, counted, own)
    assert sizes == [5] * 4 + [10] * 4 + [15, 5]


def test_batch_size_changes_nothing() -> None:
    image, prior = volume(1, 16, 16, 3), create_denoiser("dna-prior", **SHORT)
    outputs = [denoise_volume(image, prior, Slicing(batch_size=size)).image for size in (1, 2, 3, 100)]
    assert all(torch.equal(outputs[0], output) for output in outputs)


def test_channel_wise_has_a_range_and_an_order_for_each_channel() -> None:
    image, denoiser = volume(2, 6, 6, 3), Halving()
    image[1] *= 1000
    records = denoise_volume(image, denoiser, Slicing(channel_wise=True)).records
    assert denoiser.indices == list(range(6))
    assert len(records) == 6
    for index, part in enumerate(denoiser.seen):
        offset, span = intensity_range(image[index // 3])
        torch.testing.assert_close(part, (image[index // 3, None, ..., index % 3] - offset) / span)


def test_colour_is_denoised_together() -> None:
    denoiser = Halving()
    denoise_volume(volume(3, 6, 6), denoiser)
    assert [part.shape for part in denoiser.seen] == [(3, 6, 6)]


def test_the_input_is_not_changed() -> None:
    image = volume(1, 16, 16, 2)
    before = image.clone()
    denoise_volume(image, create_denoiser("dna-prior", **SHORT))
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.complex64), TypeError, "image.dtype=torch.complex64 is complex; denoise its"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), TypeError, "image.dtype=torch.bool is a mask"),
        (torch.zeros(4, 4), ValueError, r"image.shape=\(4, 4\) must be \(C, H, W\)"),
        (torch.zeros(1, 4, 0, 4), ValueError, r"image.shape=\(1, 4, 0, 4\) is empty"),
    ],
    ids=["complex", "bool", "dimensions", "empty"],
)
def test_bad_images_are_refused_in_one_line(image: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        denoise_volume(image, create_denoiser("identity"))
    assert "\n" not in str(caught.value)


def small_slices(depth: int, *, pooled: int) -> tuple[Tensor, Tensor]:
    """Clean and noisy volume (1, 48, 48, depth); the noise is that of means over so many pixels, of deviation 20."""
    row, column, index = torch.meshgrid(torch.arange(48), torch.arange(48), torch.arange(depth), indexing="ij")
    clean = 300 + 100 * torch.sin((row + index) / 9) + 80 * ((row - 24) ** 2 + (column - 20) ** 2 < 200)
    noise = torch.randn(depth, 1, 47 + pooled, 47 + pooled, generator=torch.Generator().manual_seed(0))
    noise = 20 * pooled * avg_pool2d(noise, pooled, 1)
    return clean[None], clean[None] + noise[:, 0].permute(1, 2, 0)


@pytest.mark.parametrize("refinements", [0, 1])
def test_small_slices_together_show_how_their_noise_is_correlated(refinements: int) -> None:
    clean, noisy = small_slices(12, pooled=2)
    denoiser = create_denoiser("iddp", refinements=refinements)
    result = denoise_volume(noisy, denoiser)
    errors = [(image - clean).square().mean().sqrt() for image in (noisy, result.image)]
    assert errors[1] < 0.55 * errors[0]
    assert all(record.correlation and min(record.correlation) > 0.3 for record in result.records)
    alone = denoise_volume(noisy[..., 6], denoiser)
    assert (alone.image - clean[..., 6]).square().mean().sqrt() > 0.7 * errors[0]


def test_what_slices_share_does_not_depend_on_batches_or_on_what_is_done() -> None:
    _, noisy = small_slices(6, pooled=2)
    denoiser = create_denoiser("iddp")
    whole = denoise_volume(noisy, denoiser, Slicing(batch_size=4)).image
    assert torch.equal(whole, denoise_volume(noisy, denoiser, Slicing(batch_size=1)).image)
    for part in denoise_parts(noisy, denoiser, Slicing(), done={0, 1, 3}):
        assert torch.equal((noisy[part.place].double() - part.residual).float(), whole[part.place])


def test_white_noise_and_methods_for_it_are_not_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(noisy: Tensor) -> None:
        raise AssertionError

    monkeypatch.setattr("monai_dnaprior.denoisers.safeguards.NoiseModel.of", fail)
    denoise_volume(small_slices(4, pooled=1)[1], create_denoiser("iddp"))
    correlated = small_slices(4, pooled=2)[1]
    denoise_volume(correlated, create_denoiser("tv"))
    denoise_volume(correlated[..., 0], create_denoiser("iddp"))
    denoise_volume(correlated, create_denoiser("iddp"), noise=20.0)
    with pytest.raises(AssertionError):
        denoise_volume(correlated, create_denoiser("iddp"))


def rich_slices(*, pooled: int) -> Tensor:
    """Noisy slices (9, 1, 48, 48) of squares that stand out of the noise."""
    noisy = small_slices(9, pooled=pooled)[1]
    squares = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.5
    detail = 300.0 * squares.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return (noisy + detail[..., None]).movedim(-1, 0)


def test_noise_under_rich_anatomy_shows_in_the_differences_of_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    doubts: list[float] = []
    monkeypatch.setattr("monai_dnaprior.noise.blind.check", lambda *a, **k: doubts.append(k["doubt"]) or check(*a, **k))
    slices = rich_slices(pooled=2)
    assert NoiseModel.of(slices).is_white
    found = measure_slices(torch.stack([slices[:-1], slices[1:]], 1))
    assert doubts == [OF_SMALL, OF_SMALL, TEXTURE]
    assert found is not None
    assert found.sigma == pytest.approx(20, rel=0.2)
    assert all(found.at(image).sigma <= found.sigma for image in slices.split(1))
    assert found.scale(0.01).limit == pytest.approx(0.01 * found.sigma)


def test_white_noise_under_rich_anatomy_is_not_looked_for_in_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    find = NoiseModel.of

    def counted(noisy: Tensor, *, differences: bool = False) -> NoiseModel:
        seen.append(differences)
        return find(noisy, differences=differences)

    monkeypatch.setattr(NoiseModel, "of", counted)
    slices = rich_slices(pooled=1)
    assert measure_slices(torch.stack([slices[:-1], slices[1:]], 1)) is None
    assert seen == [False]
