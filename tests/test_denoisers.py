"""The contract that every denoiser in the list keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from conftest import GUARDED, SHORT
from torch import Tensor

from monai_dnaprior import create_denoiser, list_denoisers
from monai_dnaprior.denoisers.registry import FITTED
from monai_dnaprior.denoisers.result import Denoiser
from monai_dnaprior.report.before_after import STOPPED_BY

pytestmark = GUARDED

SKIP_NET = {**SHORT, "steps": 10}
OPTIONS: dict[str, dict[str, Any]] = {
    "dna-prior": SKIP_NET,
    "iddp": {},
    "dip": SKIP_NET,
    "dip-tv": SKIP_NET,
    "dsp": SKIP_NET,
    "wire": {"steps": 10, "hidden": 8},
    "ds-n2n": {"steps": 10, "width": 8},
    "self2self": {"steps": 10, "width": 8, "scales": 2},
    "wavelet": {},
    "tv": {},
    "bm3d": {},
    "nl-ridge": {},
    "lichi": {},
    "nl-means": {},
    "gaussian": {},
    "median": {},
    "identity": {},
}
SEEDED = ["dna-prior", "dip", "dip-tv", "dsp", "wire", "ds-n2n", "self2self"]
DEEP = {"steps": 200, "width": 12, "scales": 3}
IMPROVING: dict[str, dict[str, Any]] = {
    "dna-prior": {"steps": 150},
    "dip": DEEP,
    "dip-tv": DEEP,
    "dsp": DEEP,
    "wire": {"steps": 100, "hidden": 48},
    "ds-n2n": {"steps": 150, "width": 16},
    "self2self": {"steps": 150, "width": 16, "scales": 3, "learning_rate": 3e-3},
    **{name: {} for name in ("iddp", "wavelet", "tv", "bm3d", "nl-ridge", "lichi", "nl-means", "gaussian", "median")},
}
WHOLE = ("ds-n2n", "self2self")  # learn from the pixels of the image alone, and need more than a part of it

REPEATS_TO = {"bm3d": 1e-3}  # its native code rounds by the alignment of memory, and matches other blocks then

every_denoiser = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture
def denoiser(name: str) -> Denoiser:
    return create_denoiser(name, **OPTIONS[name])


def assert_same(name: str, one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=REPEATS_TO.get(name, 0))


def noisy_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_every_denoiser_is_under_contract() -> None:
    assert list_denoisers() == list(OPTIONS)


@every_denoiser
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 1, 64), (1, 1, 5, 7), (1, 3, 33, 47), (2, 1, 16, 24)], ids=str)
def test_any_size_grey_and_colour(denoiser: Denoiser, shape: tuple[int, ...]) -> None:
    noisy = noisy_images(*shape)
    result = denoiser(noisy)
    assert result.image.shape == noisy.shape
    assert result.image.dtype == torch.float32
    assert result.image.isfinite().all()
    assert torch.equal(noisy, noisy_images(*shape))
    assert len(result.records) == len(noisy)
    for record in result.records:
        assert record.stop_reason in STOPPED_BY
        assert record.seconds >= 0


@every_denoiser
def test_same_seed_same_bits_and_a_batch_equals_its_images_alone(name: str, denoiser: Denoiser) -> None:
    noisy = noisy_images(3, 1, 16, 16)
    together = denoiser(noisy).image
    assert_same(name, together, denoiser(noisy).image)
    for index in range(3):
        assert_same(name, together[index], denoiser(noisy[index : index + 1], slice_indices=[index]).image[0])


@every_denoiser
def test_every_denoiser_takes_a_seed_and_a_budget_of_steps(name: str) -> None:
    denoiser: Any = create_denoiser(name, **{**OPTIONS[name], "seed": 3, "steps": 2})
    without_fit = not hasattr(denoiser, "restarts")
    assert without_fit == (name not in FITTED)
    assert without_fit or (denoiser.seed, denoiser.steps) == (3, 2)


@pytest.mark.parametrize("name", SEEDED)
def test_seed_and_slice_index_change_the_fit(name: str) -> None:
    noisy = noisy_images(1, 1, 16, 16)
    first, second = (create_denoiser(name, seed=seed, **OPTIONS[name]) for seed in (0, 1))
    assert not torch.equal(first(noisy).image, second(noisy).image)
    draws_in_the_fit = name not in ("wire", "ds-n2n")
    assert torch.equal(first(noisy).image, first(noisy, slice_indices=[1]).image) is not draws_in_the_fit


@every_denoiser
@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_context_changes_nothing(
    name: str, denoiser: Denoiser, context: Callable[[], AbstractContextManager]
) -> None:
    expected = denoiser(noisy_images(1, 1, 16, 16)).image
    with context():
        result = denoiser(noisy_images(1, 1, 16, 16))
    assert_same(name, result.image, expected)
    assert not result.image.requires_grad


@every_denoiser
def test_the_number_of_threads_changes_nothing_and_is_left_as_found(name: str, denoiser: Denoiser) -> None:
    before, noisy = torch.get_num_threads(), noisy_images(1, 1, 96, 96)  # large enough for PyTorch to share out
    images, seen_by_new_threads = [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            images.append(denoiser(noisy).image)
            other = threading.Thread(target=lambda: seen_by_new_threads.append(torch.get_num_threads()))
            other.start()
            other.join()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same(name, *images)
    assert seen_by_new_threads == [1, 3]


@every_denoiser
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_image_comes_back_as_it_is(denoiser: Denoiser, value: float) -> None:
    constant = torch.full((1, 1, 9, 9), value)
    assert torch.equal(denoiser(constant).image, constant)


@every_denoiser
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_come_back_as_float32(denoiser: Denoiser, dtype: torch.dtype) -> None:
    assert denoiser(noisy_images(1, 1, 16, 16).to(dtype)).image.dtype == torch.float32


@pytest.mark.parametrize("name", IMPROVING)
def test_quality_rises_on_a_real_slice(name: str, noisy_slice: Tensor, clean_slice: Tensor) -> None:
    part = slice(None) if name in WHOLE else slice(16, 64)
    noisy, clean = noisy_slice[..., part, part], clean_slice[..., part, part]
    denoised = create_denoiser(name, **IMPROVING[name])(noisy).image
    errors = [(image - clean).square().mean() for image in (noisy, denoised)]
    assert 10 * torch.log10(errors[0] / errors[1]) > 3


@every_denoiser
@pytest.mark.parametrize(
    ("noisy", "error", "message"),
    [
        (torch.zeros(1, 4, 4), ValueError, r"noisy.shape=\(1, 4, 4\) must be \(B, C, H, W\)"),
        (torch.zeros(1, 1, 0, 4), ValueError, r"noisy.shape=\(1, 1, 0, 4\) must be"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int16), TypeError, r"noisy.dtype=torch.int16 must be floating point"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.complex64), TypeError, r"noisy.dtype=torch.complex64 must be floating"),
        (torch.full((1, 1, 4, 4), float("nan")), ValueError, "noisy holds NaN"),
        ([[0.0]], TypeError, "noisy=list must be a torch.Tensor"),
    ],
    ids=["dimensions", "empty", "integer", "complex", "nan", "list"],
)
def test_bad_input_is_refused_in_one_line(denoiser: Denoiser, noisy: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        denoiser(noisy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dna-prior", "iddp", "tv"])
def test_images_on_a_device_that_is_not_supported_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device='meta' is not supported; choose"):
        create_denoiser(name)(torch.zeros(1, 1, 16, 16, device="meta"))


def test_an_unknown_name_or_option_is_refused() -> None:
    with pytest.raises(ValueError, match="name='dnaprior' is no known denoiser; choose one of dna-prior"):
        create_denoiser("dnaprior")
    with pytest.raises(TypeError, match="stepz"):
        create_denoiser("dna-prior", stepz=3)
