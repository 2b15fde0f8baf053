"""The contract that every denoiser in the list keeps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from conftest import GUARDED, SHORT
from torch import Tensor

from monai_dnaprior import create_denoiser, list_denoisers
from monai_dnaprior.result import STOP_REASONS, Denoiser

pytestmark = GUARDED

OPTIONS: dict[str, dict[str, Any]] = {"dna-prior": {**SHORT, "steps": 10}, "identity": {}}
SEEDED = ["dna-prior"]
IMPROVING = {"dna-prior": {"steps": 150}}

every_denoiser = pytest.mark.parametrize("denoiser", [create_denoiser(n, **o) for n, o in OPTIONS.items()], ids=OPTIONS)


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
        assert record.stop_reason in STOP_REASONS
        assert record.seconds >= 0


@every_denoiser
def test_same_seed_same_bits_and_a_batch_equals_its_images_alone(denoiser: Denoiser) -> None:
    noisy = noisy_images(3, 1, 16, 16)
    together = denoiser(noisy).image
    assert torch.equal(together, denoiser(noisy).image)
    for index in range(3):
        assert torch.equal(together[index], denoiser(noisy[index : index + 1], slice_indices=[index]).image[0])


@pytest.mark.parametrize("name", SEEDED)
def test_seed_and_slice_index_change_the_fit(name: str) -> None:
    noisy = noisy_images(1, 1, 16, 16)
    first, second = (create_denoiser(name, seed=seed, **OPTIONS[name]) for seed in (0, 1))
    assert not torch.equal(first(noisy).image, second(noisy).image)
    assert not torch.equal(first(noisy).image, first(noisy, slice_indices=[1]).image)


@every_denoiser
@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_context_changes_nothing(denoiser: Denoiser, context: Callable[[], AbstractContextManager]) -> None:
    expected = denoiser(noisy_images(1, 1, 16, 16)).image
    with context():
        result = denoiser(noisy_images(1, 1, 16, 16))
    assert torch.equal(result.image, expected)
    assert not result.image.requires_grad


@every_denoiser
@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing_and_is_left_as_found(denoiser: Denoiser, threads: int) -> None:
    before = torch.get_num_threads()
    expected = denoiser(noisy_images(2, 1, 16, 16)).image
    try:
        torch.set_num_threads(threads)
        assert torch.equal(denoiser(noisy_images(2, 1, 16, 16)).image, expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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
    denoised = create_denoiser(name, **IMPROVING[name])(noisy_slice).image
    errors = [(image - clean_slice).square().mean() for image in (noisy_slice, denoised)]
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


def test_an_unknown_name_or_option_is_refused() -> None:
    with pytest.raises(ValueError, match="name='dnaprior' is no known denoiser; choose one of dna-prior"):
        create_denoiser("dnaprior")
    with pytest.raises(TypeError, match="stepz"):
        create_denoiser("dna-prior", stepz=3)
