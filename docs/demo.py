"""Denoise the MR volume that nibabel ships with the DNA-Prior bundle, and draw before, after and what was removed."""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import nibabel
import numpy as np
from monai.bundle import create_workflow

from monai_dnaprior import denoising_records

BUNDLE = Path(__file__).parent.parent / "bundles" / "dnaprior_denoise"
VOLUME = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
NAME = "example4d_first_volume"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--steps", type=int, help="at most this many steps a slice (the preset's if not given)")
    parser.add_argument("--slices", type=int, help="only so many, from the middle (all if not given)")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    noisy_path = write_first_volume(options.output / "noisy", options.slices)
    denoised, records = run_bundle(noisy_path.parent, options.output, steps=options.steps)
    picture = options.output / "before_after_removed.png"
    draw(nibabel.Nifti1Image.from_filename(noisy_path).get_fdata(), denoised, records, picture)
    print(f"Denoised {len(records)} slices in {time.perf_counter() - started:.0f} s with the bundle {BUNDLE.name}.")
    print(f"  volume   {options.output / (NAME + '_denoised.nii.gz')}")
    print(f"  picture  {picture}")


def write_first_volume(folder: Path, slices: int | None = None) -> Path:
    """The first of the two volumes of the series, or its middle, as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.nii.gz"
    volume = nibabel.Nifti1Image.from_filename(VOLUME).slicer[..., 0]
    first = 0 if slices is None else (volume.shape[-1] - slices) // 2
    nibabel.save(volume.slicer[..., first : None if slices is None else first + slices], path)
    return path


def run_bundle(dataset_dir: Path, output_dir: Path, **overrides: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """What ``python -m monai.bundle run`` does, and the volume and its records."""
    workflow = create_workflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(BUNDLE),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        **overrides,
    )
    workflow.run()
    denoised = workflow.evaluator.state.output[0]["pred"]
    workflow.finalize()
    return denoised[0].cpu().numpy(), denoising_records(denoised)


def draw(noisy: np.ndarray, denoised: np.ndarray, records: list[dict[str, Any]], path: Path) -> None:
    """One slice from the middle: noisy, denoised, removed (its contrast stated)."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    index = noisy.shape[-1] // 2
    record = records[index]
    before, after = noisy[..., index].T, denoised[..., index].T
    white, limit = (
        np.percentile(before, 99.8),
        max(4 * record["residual"] * np.ptp(np.percentile(noisy, (0.5, 99.5))), 1),
    )
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    panels = [
        ("noisy", before, {"vmin": 0, "vmax": white}),
        (f"denoised: {record['steps']} steps ({record['stop_reason']})", after, {"vmin": 0, "vmax": white}),
        (
            f"removed (±{limit:.0f}), sigma {100 * record['sigma']:.1f} %",
            before - after,
            {"vmin": -limit, "vmax": limit},
        ),
    ]
    for axis, (title, image, contrast) in zip(axes, panels, strict=True):
        axis.imshow(image, cmap="gray", origin="lower", **contrast)
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    warnings.filterwarnings("ignore", category=UserWarning, message="parsing config_file|NvImgCodec")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    main()
