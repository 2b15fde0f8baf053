"""Slices that are denoised with their neighbours: what it gains, what it must not lose, what it must not depend on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

from monai_dnaprior import Denoise, DNAPriorDenoise, DNAPriorInferer, IDDPDenoise, create_denoiser
from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.nonlocal_bayes import Blocks, refine, similar_blocks
from monai_dnaprior.denoisers.result import Result
from monai_dnaprior.denoisers.safeguards import Safeguards
from monai_dnaprior.denoisers.trained import Trained
from monai_dnaprior.files.scan import Caps
from monai_dnaprior.noise.metrics import psnr
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_parts, denoise_volume, used_neighbours

SIGMA = 25 / 255


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def volume() -> Tensor:
    """Seven slices of stripes that drift, (1, 24, 20, 7), with noise."""
    rows, columns, depth = torch.meshgrid(*(torch.arange(float(size)) for size in (24, 20, 7)), indexing="ij")
    return (torch.sin(rows / 3 + depth / 9) + columns / 20 + 0.2 * noise(24, 20, 7))[None]


def mean_of_slices(images: Tensor, clean: Tensor) -> float:
    return float(np.mean([psnr(image[None], reference[None]) for image, reference in zip(images, clean, strict=True)]))


def refined(noisy: Tensor, guides: Tensor, reach: int) -> Tensor:
    windows = [range(max(0, index - reach), min(len(noisy), index + reach + 1)) for index in range(len(noisy))]
    return torch.cat(
        [
            refine(noisy[window], guides[window], NoiseModel(SIGMA), rounds=3, middle=index - window.start)
            for index, window in enumerate(windows)
        ]
    )


@pytest.mark.parametrize("start", [0, 2])
def test_groups_hold_the_blocks_of_neighbours_that_are_most_alike(start: int) -> None:
    estimate, blocks = noise(5, 2, 24, 22), Blocks.within(5, 24, 22)
    rows, columns = torch.tensor([0, 8]), torch.tensor([5, 9, 17])
    groups = similar_blocks(estimate, blocks, start, rows, columns)
    contents = estimate.unfold(0, 3, 1).unfold(2, 5, 1).unfold(3, 5, 1)  # (3, C, 20, 18, 3, 5, 5)
    assert blocks.depth == 3
    places = torch.cartesian_prod(torch.arange(3), torch.arange(20), torch.arange(18))
    for group, (row, column) in zip(groups, torch.cartesian_prod(rows, columns).tolist(), strict=True):
        distances = (contents - contents[start, :, row, column][None, :, None, None]).square().sum((1, 4, 5, 6))
        near = (places[:, 1:] - torch.tensor([row, column])).abs().amax(1) <= blocks.reach
        assert group[0] == start * 20 * 18 + row * 18 + column
        found = distances.flatten()[group].sort().values
        torch.testing.assert_close(found, distances.flatten()[near].sort().values[: len(group)])


def test_alike_slices_gain_and_unlike_ones_do_not_lose(clean_slice: Tensor) -> None:
    turned = [clean_slice[..., :80, :].rot90(quarter, (-2, -1)) for quarter in range(3)]
    for clean, gain in ((clean_slice[..., :80, :].expand(3, -1, -1, -1), 0.8), (torch.cat(turned), -0.05)):
        noisy = clean + SIGMA * noise(*clean.shape)
        guides = refined(noisy, torch.nn.functional.avg_pool2d(noisy, 3, 1, 1), 0)
        together, alone = (mean_of_slices(refined(noisy, guides, reach), clean) for reach in (1, 0))
        assert together > alone + gain


@pytest.mark.parametrize(
    ("denoiser", "neighbours"),
    [(Trained(), 1), (DNAPrior(steps=2, width=4), None)],
    ids=["iddp", "dna-prior by default"],
)
def test_batches_shares_and_order_change_nothing(volume: Tensor, denoiser: Any, neighbours: int | None) -> None:
    expected = denoise_volume(volume, denoiser, Slicing(neighbours=1))
    for batch_size in (1, 3):
        result = denoise_volume(volume, denoiser, Slicing(neighbours=neighbours, batch_size=batch_size))
        assert torch.equal(result.image, expected.image)
        assert [r.residual for r in result.records] == [r.residual for r in expected.records]
    image = volume.clone()
    for share in ((2, 3, 5, 6), (0, 1, 4)):
        done = set(range(7)).difference(share)
        for part in denoise_parts(volume, denoiser, Slicing(neighbours=neighbours, batch_size=2), done=done):
            assert done.isdisjoint(part.indices)
            image[part.place] = (volume[part.place].double() - part.residual).float()
    assert torch.equal(image, expected.image)


def test_a_slice_depends_on_its_neighbours_and_on_no_others(volume: Tensor) -> None:
    transform = partial(IDDPDenoise(neighbours=2))
    changed = volume.clone()
    changed[..., 0] = volume[..., 0].flip(1)
    same = (transform(volume) == transform(changed)).flatten(0, 2).all(0)
    assert same.tolist()[3:] == [True] * 4
    assert not same[:3].any()


def test_images_and_single_slices_have_none(volume: Tensor) -> None:
    for image in (volume[..., 0], volume[..., :1]):
        assert torch.equal(IDDPDenoise(neighbours=1)(image), IDDPDenoise()(image))
        with_them = denoise_volume(image, DNAPrior(steps=2, width=4))
        assert torch.equal(
            with_them.image, denoise_volume(image, DNAPrior(steps=2, width=4), Slicing(neighbours=0)).image
        )
        assert [record.neighbours for record in with_them.records] == [0]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("dna-prior", {}, 1),
        ("dna-prior", {"preset": "fast"}, 1),
        ("dna-prior", {"preset": "instant"}, 1),
        ("dna-prior", {"preset": "best"}, 1),
        ("dna-prior", {"preset": "paper"}, 0),
        ("dna-prior", {"refinements": 0}, 0),
        ("iddp", {"refinements": 2}, 0),
        ("dip", {}, 0),
        ("tv", {}, 0),
    ],
)
def test_a_method_chooses_them_unless_they_are_said(method: str, options: dict[str, Any], expected: int) -> None:
    denoiser = create_denoiser(method, **options)
    assert used_neighbours(denoiser, None) == used_neighbours(partial(denoiser, network=None), None) == expected
    assert used_neighbours(denoiser, 0) == 0
    if method != "tv":
        assert used_neighbours(denoiser, 2) == 2


def test_records_and_sidecars_say_how_many_there_were(volume: Tensor, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), np.diag([1, 1, 5, 1])), tmp_path / "scan.nii")
    nibabel.save(nibabel.Nifti1Image(volume[0, ..., :1].numpy(), np.diag([1, 1, 5, 1])), tmp_path / "slice.nii")
    settings: dict[str, Any] = {"options": {"steps": 2, "width": 4}, "device": "cpu"}
    for name, wanted, used, counts in (
        ("scan", None, 1, [1, 2, 2, 2, 2, 2, 1]),
        ("scan", 2, 2, [2, 3, 4, 4, 4, 3, 2]),
        ("scan", 0, 0, [0] * 7),
        ("slice", None, 0, [0]),
    ):
        output = tmp_path / f"{name}{wanted}.nii"
        (row,) = denoise_all(tmp_path / f"{name}.nii", output, caps=Caps(), neighbours=wanted, **settings)
        sidecar = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
        assert row.exit_code == 0
        assert sidecar["configuration"]["neighbours"] == used
        assert [record["neighbours"] for record in sidecar["slices"]] == counts


def test_no_more_is_held_than_a_batch_and_its_neighbours(volume: Tensor) -> None:
    seen: list[range] = []

    class Counted(Trained):
        def __call__(self, noisy: Tensor, *, slice_indices: Sequence[int] | None = None, **others: Any) -> Result:
            seen.append(slice_indices)  # type: ignore[arg-type]
            return super().__call__(noisy, slice_indices=slice_indices, **others)

    for part in denoise_parts(volume, Counted(), Slicing(neighbours=2, batch_size=1)):
        assert seen[-1].stop <= part.indices.start + 3
    assert [indices.start for indices in seen] == list(range(7))


def test_slices_that_are_left_alone_stay_so_and_lend_nothing(volume: Tensor) -> None:
    image = volume.clone()
    image[..., 3] = 0.5
    output = IDDPDenoise(neighbours=1)(image)
    assert torch.equal(output[..., 3], image[..., 3])
    alone = IDDPDenoise(neighbours=1)
    image[..., 3] = 0.25
    assert torch.equal(alone(image)[..., :3], output[..., :3])
    assert torch.equal(alone(torch.ones(1, 20, 20, 3)), torch.ones(1, 20, 20, 3))


def test_a_slice_of_much_stronger_noise_lends_nothing(volume: Tensor) -> None:
    image = volume.clone()
    image[..., 3] += 0.6 * noise(24, 20, seed=1)
    output, alone = IDDPDenoise(neighbours=1)(image), IDDPDenoise(neighbours=1)(image[..., :3])
    torch.testing.assert_close(output[..., 2], alone[..., 2], atol=0.02, rtol=0)
    assert not torch.equal(output[..., 3], IDDPDenoise()(image)[..., 3])


@pytest.mark.parametrize("denoiser", [Trained(refinements=1), DNAPrior(steps=2, width=4)], ids=["iddp", "dna-prior"])
def test_noise_is_measured_once(volume: Tensor, denoiser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, measure = [], Safeguards.of

    def counted(image: Tensor, *others: Any, **options: Any) -> Safeguards:
        measured.append(image)
        return measure(image, *others, **options)

    class Forgetful(type(denoiser)):  # type: ignore[misc]
        def __call__(self, noisy: Tensor, **others: Any) -> Result:
            return replace(super().__call__(noisy, **others), guards=None)

    monkeypatch.setattr(Safeguards, "of", counted)
    counts = torch.poisson(20 * (volume - volume.min()), generator=torch.Generator().manual_seed(0))
    for image in (volume, counts):
        once = denoise_volume(image, denoiser, Slicing(neighbours=1, batch_size=2))
        assert len(measured) == 7
        twice = denoise_volume(image, Forgetful(**vars(denoiser)), Slicing(neighbours=1, batch_size=2))
        assert len(measured) == 7 + 14
        assert torch.equal(once.image, twice.image)
        measured.clear()


def test_correlated_noise_that_one_pass_has_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, measure = [], Safeguards.of
    monkeypatch.setattr(Safeguards, "of", lambda *some, **others: measured.append(1) or measure(*some, **others))
    white = torch.randn(1, 97, 97, 2, generator=torch.Generator().manual_seed(0))
    for volume, count in ((white[:, 1:, 1:], 4), (torch.nn.functional.avg_pool3d(white, (2, 2, 1), 1), 2)):
        denoise_volume(volume, Trained(), Slicing(neighbours=1))
        assert len(measured) == count
        measured.clear()


def test_hidden_voxels_come_out_as_they_are(volume: Tensor) -> None:
    image = volume.clone()
    image[0, 3:5, 4, 2] = torch.nan
    output = IDDPDenoise(neighbours=1)(image)
    assert torch.equal(output.isnan(), image.isnan())


def test_colours_brightness_and_known_noise_go_with_neighbours(volume: Tensor) -> None:
    colour = torch.cat((volume, volume.flip(1), volume.flip(2)))
    assert IDDPDenoise(neighbours=1)(colour).isfinite().all()
    counts = torch.poisson(20 * (volume - volume.min()), generator=torch.Generator().manual_seed(0))
    assert IDDPDenoise(neighbours=1, refinements=1)(counts).isfinite().all()
    weak, strong = (IDDPDenoise(neighbours=1, noise=sigma)(volume) for sigma in (0.1, 0.3))
    assert (weak - volume).square().mean() < (strong - volume).square().mean()


def test_without_memory_for_it_a_slice_is_as_without_neighbours(
    volume: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("monai_dnaprior.transforms.volumes.refine_slice", fail)
    monkeypatch.setattr("gc.collect", lambda: None)  # takes a second
    result = denoise_volume(volume, Trained(), Slicing(neighbours=1))
    assert torch.equal(result.image, denoise_volume(volume, Trained()).image)
    assert all("without them" in record.warnings[-1] for record in result.records)


@pytest.mark.parametrize(
    ("method", "neighbours", "message"),
    [
        ("iddp", 4, "neighbours=4 is too many; give at most 3"),
        ("iddp", -1, "neighbours=-1 must be a whole number, at least 0"),
        ("iddp", True, "neighbours=True must be a whole number"),
        ("tv", 1, "neighbours=1 is for methods with a network"),
    ],
)
def test_what_cannot_be_is_refused_at_once(method: str, neighbours: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoise(method, neighbours=neighbours)


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


class Interrupted(Exception):
    """Stands for the end of a process."""


def test_transforms_inferers_commands_and_resumed_runs_agree(
    volume: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), np.diag([1, 1, 5, 1])), tmp_path / "scan.nii")
    volume = torch.from_numpy(values_of(tmp_path / "scan.nii").copy("K"))[None]
    expected = DNAPriorDenoise(steps=2, neighbours=1)(volume)
    denoiser = create_denoiser("dna-prior", steps=2)
    inferred = DNAPriorInferer(denoiser)(inputs=volume[None], network=denoiser.network())[0]
    assert torch.equal(inferred, expected)
    words = ["denoise", str(tmp_path / "scan.nii"), str(tmp_path / "out.nii"), "--steps", "2", "--device", "cpu"]
    assert main([*words, "--quiet"]) == 0
    values = values_of(tmp_path / "out.nii")
    assert np.array_equal(values, expected[0].numpy())

    fitted, fit_one = [], DNAPrior.denoise_image

    def counted(prior: DNAPrior, guard: Any, network: Any, index: int, restart: int) -> Any:
        if index == 5 and len(fitted) == 5:
            fitted.append(-1)
            raise Interrupted
        fitted.append(index)
        return fit_one(prior, guard, network, index, restart)

    monkeypatch.setattr(DNAPrior, "denoise_image", counted)
    settings: dict[str, Any] = {"options": {"steps": 2, "seed": 0}, "batch_size": 1, "device": "cpu"}
    for resume in (False, True):
        rows = list(denoise_all(tmp_path / "scan.nii", tmp_path / "again.nii", caps=Caps(), resume=resume, **settings))
        assert rows[0].status == ("denoised" if resume else "failed")
    assert fitted == [0, 1, 2, 3, 4, -1, 3, 4, 5, 6]  # four slices were finished
    assert np.array_equal(values_of(tmp_path / "again.nii"), values)
