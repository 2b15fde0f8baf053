"""What reports say of a scan, what they measure for that, and their pictures and charts."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_dnaprior.files.discovery import find_sources
from monai_dnaprior.files.scan import Caps
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.report.charts import Curve, chart
from monai_dnaprior.report.findings import findings, list_slices
from monai_dnaprior.report.measures import Measures, changed_pixels
from monai_dnaprior.report.noise import ScanNoise
from monai_dnaprior.report.pictures import (
    BUDGET,
    LARGEST_SIDE,
    Layout,
    Scales,
    Shown,
    View,
    picture,
    space_evenly,
    within_budget,
)


@pytest.mark.parametrize(("cut", "shape", "letters"), [(-1, (8, 7), "ALPR"), (1, (9, 7), "SLIR"), (0, (9, 8), "SPIA")])
def test_slices_are_hung_as_radiologists_have_them(tmp_path: Path, cut: int, shape: tuple, letters: str) -> None:
    """Voxels that say where they lie: towards right, front and head their values rise."""
    grid = np.stack(np.meshgrid(np.arange(7), np.arange(8), np.arange(9), indexing="ij")).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(grid.sum(0), np.diag([1.0, 1, 2, 1])), tmp_path / "scan.nii")
    scan = find_sources(tmp_path / "scan.nii")[0][0].read(Caps())
    layout = Layout.of(scan, cut)
    plane = layout.plane(scan.values(), slice(None), 2)
    assert plane.shape == (1, *shape)
    assert (np.diff(plane, axis=1) < 0).all()
    assert (np.diff(plane, axis=2) < 0).all()
    assert layout.letters == letters  # at the top, the right, the bottom and the left
    assert layout.aspect == pytest.approx({-1: 7 / 8, 1: 7 / 18, 0: 8 / 18}[cut])


def test_large_slices_lose_pixels_not_noise(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 1500, 900))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(noise, -4, 4).partition(",")[2]))))
    assert image.shape == (500, 300)
    assert image.std() * 8 / 255 == pytest.approx(1, rel=0.02)
    assert max(image.shape) <= LARGEST_SIDE


def test_pictures_keep_within_the_budget() -> None:
    views = [View(index, "", {"before": "x" * (BUDGET // 4)}) for index in range(9)]
    assert [view.number for view in within_budget(views)] == [3, 4, 5, 6]
    assert space_evenly(300, 12)[0] == 12
    assert len(within_budget([View(0, "", {"before": "x" * 2 * BUDGET})])) == 1


BOX = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])  # the correlation of means over 2 × 2


def measures_of(image: np.ndarray, removed: np.ndarray) -> Measures:
    before = (image + removed)[None].astype(np.float32)
    shown = Shown(0, "", before, image[None].astype(np.float32), removed[None].astype(np.float32), None)
    return Measures.of([shown], (0, 1))


def sidecar(**changes: Any) -> dict[str, Any]:
    record = {"sigma": 1.0, "steps": 5, "stop_reason": "discrepancy", "warnings": []}
    return {
        "slices": [record] * 2,
        "warnings": [],
        "residual": {"mean": 0.0, "standard_deviation": 1.0, "correlation_with_image": 0.02},
        "voxels": {"all": 100, "left_out": 0, "changed": 90, "clipped": 0},
        **changes,
    }


def titles(measures: Measures, noise: NoiseModel | None = None, **changes: Any) -> list[str]:
    measured = noise and ScanNoise(1, noise, noise.sigma_range, "", None)
    return [finding.title for finding in findings(sidecar(**changes), measures, measured)]


def test_of_white_noise_there_is_nothing_to_say() -> None:
    image = np.linspace(0, 1, 128)[None].repeat(128, 0)
    measures = measures_of(image, np.random.default_rng(0).normal(0, 0.1, (128, 128)))
    assert titles(measures) == []
    assert measures.deviation == pytest.approx(0.1, rel=0.02)
    np.testing.assert_allclose(measures.spectrum[1:, 1], 1, atol=0.3)
    np.testing.assert_allclose(measures.autocorrelation[1:], 0, atol=0.03)
    assert measures.autocorrelation[0] == pytest.approx([1, 1])
    assert measures.edges == pytest.approx(1, abs=0.1)


def test_structure_in_what_was_removed_is_found() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (128, 128))
    image = np.zeros((128, 128))
    image[32:96, 32:96] = 1
    alike = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3**0.5
    assert titles(measures_of(image, alike)) == ["The noise is correlated", "What was removed is not like the noise"]
    outline = noise * (1 + 5 * (np.abs(np.gradient(image)).sum(0) > 0))
    assert titles(measures_of(image, outline)) == ["Edges show in what was removed"]
    moved = measures_of(image, noise + 0.05 * image)
    assert "Mean intensities have moved" in titles(moved)
    correlated = {"mean": 0.0, "standard_deviation": 1.0, "correlation_with_image": -0.3}
    assert "What was removed follows the image" in titles(moved, residual=correlated)


def test_removal_that_is_as_correlated_as_the_noise_is_not_blamed() -> None:
    white = np.random.default_rng(0).normal(0, 0.1, (128, 128))
    boxes = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, 1, (0, 1))) / 2
    measures, unlike = measures_of(np.full((128, 128), 0.5), boxes), "What was removed is not like the noise"
    record = {"sigma": 0.1, "stop_reason": "network", "warnings": [], "correlation": [0.5, 0.5]}
    assert titles(measures, NoiseModel(0.1, BOX), slices=[record]) == []
    assert titles(measures, NoiseModel(0.1), slices=[record]) == [unlike]
    assert titles(measures, NoiseModel(0.1, BOX), slices=[{**record, "correlation": None}]) == [
        "The noise is correlated"
    ]
    wider = np.round(white, 1).repeat(2, 0)[:128]
    assert unlike in titles(measures_of(np.zeros((128, 128)), wider.repeat(2, 1)[:, :128]), NoiseModel(0.1, BOX / 2))


def test_noise_is_measured_where_something_was_changed() -> None:
    """In rows whose neighbours share two of three pixels, below a fill that is no noise."""
    noise = np.random.default_rng(0).normal(0, 20, (1, 120, 98))
    removed = noise[..., 2:] + noise[..., 1:-1] + noise[..., :-2]
    removed[:, :24] = 0
    before = np.where(removed == 0, -3024, 1000 + removed)
    before[:, 0, 0] = np.nan
    shown = Shown(0, "one", before, before - removed, removed, None)
    measured = ScanNoise.of([shown])
    assert measured
    assert measured.model.sigma == pytest.approx(3**0.5 * 20, rel=0.1)
    assert [axis[1] for axis in measured.correlation()] == pytest.approx([0, 2 / 3], abs=0.1)
    assert ScanNoise.of([Shown(0, "one", before, before, np.zeros_like(before), None)]) is None
    assert ScanNoise.of([Shown(0, "one", *[plane[:, -40:] for plane in (before, before, removed)], None)]) is None


def test_what_happened_to_slices_and_voxels_is_told() -> None:
    measures = measures_of(np.zeros((32, 32)), np.random.default_rng(0).normal(size=(32, 32)))
    reasons = ["non-finite", "clean", "clean", "constant", "steps"]
    under = [[], [], [], [], ["under-fitted: after 9 steps more was left"]]
    records = [
        {"sigma": 1, "steps": 0, "stop_reason": reason, "warnings": texts}
        for reason, texts in zip(reasons, under, strict=True)
    ]
    voxels = {"all": 100, "left_out": 7, "changed": 90, "clipped": 1}
    warnings = [*under[-1], "slices are 1 to 2 mm apart"]
    found = findings(sidecar(slices=records, voxels=voxels, warnings=warnings), measures, None)
    assert [(one.level, one.title) for one in found] == [
        ("Caution", "1 slice could not be denoised"),
        ("Caution", "Under-fitted"),
        ("Caution", "Slices are 1 to 2 mm apart"),
        ("Caution", "1 voxel clipped"),
        ("Note", "2 slices left alone"),
        ("Note", "1 slice left alone"),
        ("Note", "7 voxels left out"),
    ]
    assert found[1].text == "After 9 steps more was left. In 1 of 5 slices."
    assert "2–3" in found[4].text
    assert list_slices([]) == ""


def test_what_was_not_touched_does_not_count() -> None:
    removed = np.zeros((1, 20, 20), np.float32)
    removed[:, 5:10, 5:10] = 1
    image = np.ones((1, 20, 20), np.float32)
    image[:, 6, 6] = np.nan
    where = changed_pixels(Shown(0, "", image, image, removed, None))
    assert where.sum() == 7 * 7 - 1


def test_charts_hold_any_values() -> None:
    for points in ([], [(1, 2)], [(1, 0), (2, 0)], [(0, float("nan")), (1, 1e9)], [(0, -1e-7), (5, 1e-7)]):
        for logarithmic in (False, True):
            text = chart([Curve(points)], alt="<&>", x_label="x", y_label="y", logarithmic=logarithmic)
            assert 'aria-label="&lt;&amp;&gt;"' in text
            assert not re.search(r"nan|inf", text)
    assert Scales.of([(0, 1)], [Shown(0, "", *[np.zeros((1, 4, 4))] * 3, None)], False).removed == 1
