"""Images that tests stand on: one slice and one volume of a real scan that nibabel ships, and the shared collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

GUARDED = pytest.mark.usefixtures("global_random_state_is_left_alone")
NIBABEL_DATA = Path(nibabel.__file__).parent / "tests" / "data"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SHORT = {"steps": 20, "width": 8, "scales": 2}  # a fit of a fraction of a second


@pytest.fixture(scope="session")
def clean_slice() -> Tensor:
    """A real MR slice, (1, 1, 96, 80) in [0, 1]."""
    volume = nibabel.load(NIBABEL_DATA / "example4d.nii.gz").get_fdata()[20:116, 8:88, 12, 0]
    return torch.tensor(np.clip(volume / np.percentile(volume, 99.9), 0, 1), dtype=torch.float32)[None, None]


@pytest.fixture(scope="session")
def noisy_slice(clean_slice: Tensor) -> Tensor:
    """The same with Gaussian noise of sigma 25/255."""
    noise = torch.randn(clean_slice.shape, generator=torch.Generator().manual_seed(0))
    return clean_slice + 25 / 255 * noise


@pytest.fixture
def nifti_path(tmp_path: Path) -> Path:
    """A small noisy volume with an oblique affine, as a file."""
    noise = np.random.default_rng(0).normal(100, 10, (20, 24, 3)).astype(np.float32)
    affine = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.5, 0.2, -20], [0, -0.2, 3.0, 5], [0, 0, 0, 1]])
    path = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(noise, affine), path)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the collection of real images is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def global_random_state_is_left_alone() -> Iterator[None]:
    """Nothing in this package may change the global random state of torch or numpy."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    yield
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What changes PyTorch for a whole process is collected where it is asked for by name alone."""
    alone = "on_a_device.py"
    asked = any(Path(argument.partition("::")[0]).name == alone for argument in config.args)
    return True if collection_path.name == alone and not asked else None
