"""Hashes of what every method, transform and command makes: equal before and after a change that should change nothing.

    python benchmarks/same_bits.py --output before.json          # at the commit before
    python benchmarks/same_bits.py --compare before.json         # after: says what differs, and fails if anything does

Fits are short and images small; on one machine with one version of PyTorch the same code gives the same hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch import Tensor

from monai_dnaprior import (
    DenoiseDict,
    DNAPriorDenoise,
    DNAPriorDenoised,
    IDDPDenoised,
    create_denoiser,
    denoising_records,
    list_denoisers,
)
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

BUNDLES = Path(__file__).parents[1] / "bundles"
MR = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
SKIP = {"steps": 20, "width": 8, "scales": 2}
SHORT: dict[str, dict[str, Any]] = {
    "dna-prior": {"steps": 30, "width": 8},
    "dip": SKIP,
    "dip-tv": SKIP,
    "dsp": SKIP,
    "wire": {"steps": 20, "hidden": 8},
    "ds-n2n": {"steps": 20, "width": 4},
    "self2self": {"steps": 20, "width": 4, "scales": 2},
}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "fast": ("dna-prior", {"preset": "fast", "steps": 20}),
    "best": ("dna-prior", {"preset": "best", "steps": 20, "restarts": 3}),
    "paper": ("dna-prior", {"preset": "paper", **SKIP}),
    "paper, reflected": ("dna-prior", {"preset": "paper", **SKIP, "scales": 3}),
    "dna-prior by variance": ("dna-prior", {"steps": 60, "width": 8, "stopping": "variance"}),
    "dna-prior to the noise": ("dna-prior", {"steps": 400, "least_steps": 20}),
    "dip by variance": ("dip", {**SKIP, "steps": 400, "stopping": "variance"}),
    "bfloat16": ("dna-prior", {"steps": 20, "precision": "bfloat16"}),
    "iddp, refined": ("iddp", {"refinements": 1}),
    "iddp, of eight orientations": ("iddp", {"ensemble": True}),
    "iddp, unlimited, in tiles": ("iddp", {"limited": False, "tile": 64}),
    "bm3d, given": ("bm3d", {"sigma": 0.1}),
}
REPEATED_BY_BM3D = ("grey",)  # its package gives smaller images other bits each time
COMMON = ["--quiet", "--option=width=8", "--steps=20"]
ABOUT_TIME = ("seconds", "versions", "output")  # a derived DICOM file is named and dated anew each time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file for the hashes")
    parser.add_argument("--compare", type=Path, help="file with hashes of before")
    parser.add_argument("--only", default="", help="what the names begin with")
    options = parser.parse_args()
    before = json.loads(options.compare.read_text(encoding="utf-8")) if options.compare else {}
    found: dict[str, str] = {}
    for name, value in everything(options.only):
        found[name] = value
        if before.get(name, value) != value:
            print(f"differs: {name}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    absent = [name for name in before if name.startswith(options.only) and name not in found]
    changed = [name for name in found if before.get(name, found[name]) != found[name]]
    print(f"{len(found)} hashes, {len(changed)} differ, {len(absent)} are missing {absent or ''}")
    sys.exit(bool(changed or absent))


def everything(only: str) -> Iterator[tuple[str, str]]:
    for part in (methods, large_images, transforms, commands, bundles):
        if part.__name__.startswith(only):
            for name, value in part():
                yield f"{part.__name__}: {name}", value


def methods() -> Iterator[tuple[str, str]]:
    """Every method on every kind of image."""
    cases = {name: (name, SHORT.get(name, {})) for name in list_denoisers()} | FURTHER
    for label, (name, extra) in cases.items():
        for kind, noisy in images().items():
            if name == "bm3d" and kind not in REPEATED_BY_BM3D:
                continue
            yield f"{label}, {kind}", of_result(create_denoiser(name, **extra)(noisy))


def images() -> dict[str, Tensor]:
    volume = real_volume()[20:116, 8:88, 10:14]
    clean = torch.tensor(np.clip(volume / np.percentile(volume, 99.9), 0, 1), dtype=torch.float32).movedim(-1, 0)
    noise = torch.randn(3, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    grey = clean[:3, None] + 0.1 * noise[:, :1]
    generator = torch.Generator().manual_seed(1)
    poisson = torch.poisson(40 * clean[:1, None].clamp(min=0), generator=generator) / 40
    empty = grey[:1].clone()
    empty[..., :30, :] = 0
    return {
        "grey": grey[:1],
        "odd": grey[:1, :, :45, :39],
        "colour": clean[None, :3, :64, :64] + 0.1 * noise[:1, :, :64, :64],
        "a batch": torch.cat((grey[:2, :, :48, :48], torch.full((1, 1, 48, 48), 0.5), clean[:1, None, :48, :48])),
        "dependent on brightness": poisson,
        "an empty background": empty,
        "tiny": grey[:1, :, 30:37, 30:35],
    }


def large_images() -> Iterator[tuple[str, str]]:
    """Images larger than a tile, and memory that does not suffice for whole ones."""
    strip = torch.cat([images()["grey"][..., :24]] * 11, -2)
    for name in ("dna-prior", "dip", "wire", "iddp"):
        yield f"{name}, in tiles", of_result(create_denoiser(name, **SHORT.get(name, {}))(strip))
    whole = create_denoiser("dna-prior", **SHORT["dna-prior"])

    def little_memory(noisy: Tensor, **others: Any) -> Any:
        if len(noisy) > 1 or max(noisy.shape[-2:]) > 200:
            raise MemoryError
        return whole(noisy, **others)

    volume = torch.stack([strip[0, ..., :300, :], strip[0, ..., 30:330, :]], -1)
    yield "little memory", of_result(denoise_volume(volume, little_memory, Slicing(batch_size=2)))


def transforms() -> Iterator[tuple[str, str]]:
    """Volumes in chains, with all that a transform can give."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_nifti(Path(folder) / "case.nii.gz")
        chains = {
            "dna-prior": DNAPriorDenoised("image", preset="fast", steps=20, residual=True),
            "dna-prior, spread": DNAPriorDenoised("image", steps=20, restarts=2, spread=True, batch_size=1),
            "dna-prior, along the first axis": DNAPriorDenoised("image", steps=20, slice_dim=0, rician=True),
            "iddp": IDDPDenoised("image", residual=True, batch_size=3),
            "median": DenoiseDict("image", "median", channel_wise=True),
        }
        for name, transform in chains.items():
            chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), transform])
            output = chain({"image": path})
            arrays = [np.asarray(output[key]) for key in sorted(output) if isinstance(output[key], MetaTensor)]
            yield name, of_values(*arrays, denoising_records(output["image"]))
        image = images()["colour"][0]
        yield "an array", of_values(DNAPriorDenoise(steps=20)(image.numpy()))


def commands() -> Iterator[tuple[str, str]]:
    """Files through the command line: what is written, but for times and versions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in" / "series").mkdir(parents=True)
        write_nifti(folder / "in" / "sub-01_T1w.nii.gz")
        write_nifti(folder / "in" / "scan.nii", depth=2)
        write_series(folder / "in" / "series")
        shutil.copytree(folder / "in" / "series", folder / "series")
        nifti = [str(folder / "in" / "sub-01_T1w.nii.gz"), str(folder / "one.nii.gz")]
        runs = {
            "NIfTI": ["denoise", *nifti, "--residual", "--spread", "--option=restarts=2"],
            "NIfTI, resumed": ["denoise", *nifti, "--residual", "--spread", "--option=restarts=2", "--resume"],
            "DICOM": ["denoise", str(folder / "series"), str(folder / "derived"), "--residual"],
            "a folder": ["denoise", str(folder / "in"), str(folder / "out")],
            "a cohort": ["cohort", str(folder / "in"), str(folder / "cohort"), "--workers=1", "--dashboard=:0"],
        }
        for label, arguments in runs.items():
            subprocess.run([sys.executable, "-m", "monai_dnaprior", *arguments, *COMMON], check=True)
            made = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(folder / "in")]
            made = [path for path in made if not path.is_relative_to(folder / "series")]
            yield label, of_values(*[(str(path.relative_to(folder)), of_file(path, folder)) for path in sorted(made)])


def bundles() -> Iterator[tuple[str, str]]:
    """Both bundles, run as their pages say."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in" / "series").mkdir(parents=True)
        write_nifti(folder / "in" / "scan.nii.gz")
        write_series(folder / "in" / "series")
        for bundle, further in (("dnaprior_denoise", ["--steps=10"]), ("iddp_denoise", [])):
            command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLES / bundle)]
            command += ["--config_file", str(BUNDLES / bundle / "configs" / "inference.json"), "--device=cpu"]
            command += [f"--dataset_dir={folder / 'in'}", f"--output_dir={folder / bundle}", "--progress=False"]
            subprocess.run([*command, *further], check=True, capture_output=True)
            made = sorted((folder / bundle).rglob("*.nii.gz"))
            arrays = [nibabel.load(path).get_fdata() for path in made]  # type: ignore[attr-defined]
            yield bundle, of_values([str(path.relative_to(folder)) for path in made], *arrays)


def real_volume() -> np.ndarray:
    return nibabel.load(MR).get_fdata()[..., 0]  # type: ignore[attr-defined]


def write_nifti(path: Path, depth: int = 3) -> Path:
    volume = real_volume()[20:84, 8:56, 10 : 10 + depth]
    noisy = np.hypot(volume + np.random.default_rng(0).normal(0, 20, volume.shape), 5).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noisy, np.diag([-2.0, 2, 2.2, 1])), path)
    return path


def write_series(folder: Path) -> None:
    """Three slices of a CT that pydicom ships, with noise, 3 mm apart."""
    dataset = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm")
    for index in range(3):
        noise = np.random.default_rng(index).normal(0, 30, dataset.pixel_array.shape)
        dataset.PixelData = np.rint(dataset.pixel_array + noise).astype(dataset.pixel_array.dtype).tobytes()
        dataset.InstanceNumber, dataset.ImagePositionPatient = index + 1, [-158.0, -179.0, -75.0 + 3 * index]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.3.{index + 1}")
        dataset.save_as(folder / f"{index}.dcm")


def of_result(result: Any) -> str:
    return of_values(result.image, result.spread, [asdict(record) for record in result.records])


def of_file(path: Path, folder: Path) -> str:
    """Of pixels, of JSON without times, versions and places, or of all bytes."""
    if path.suffix == ".json":
        return of_values(json.loads(path.read_text(encoding="utf-8").replace(str(folder), "")))
    if pydicom.misc.is_dicom(path):
        return of_values(pydicom.dcmread(path).pixel_array)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_values(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, (Tensor, np.ndarray)):
            array = np.ascontiguousarray(value)
            digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
        else:
            digest.update(json.dumps(timeless(value), sort_keys=True).encode())
    return digest.hexdigest()[:24]


def timeless(value: Any) -> Any:
    """Without what differs from one run to the next: times, versions, and hashes of files that hold them."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if key not in ABOUT_TIME}
    if isinstance(value, (list, tuple)):
        return [timeless(entry) for entry in value]
    return value


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
