"""One of everything, run where nothing can be imported but what a plain ``pip install monai-dnaprior`` brings.

Run as a script, in an empty folder.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def plain_requirements() -> set[str]:
    """The packages that ``install_requires`` names, and all that they require."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found: set[str] = set()
    wanted = config["options"]["install_requires"].split("\n")
    while wanted:
        requirement = Requirement(wanted.pop()) if wanted[-1] else wanted.pop()
        if isinstance(requirement, str) or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            found.add(name)
            wanted += requires(name) or []
    return found


class RefuseTheRest:
    """An entry of ``sys.meta_path`` that knows every module of the other packages, and refuses it."""

    def __init__(self, allowed: set[str]) -> None:
        allowed = allowed | {"monai-dnaprior"}
        self.refused = {
            module
            for module, packages in packages_distributions().items()
            if not {canonicalize_name(package) for package in packages} & allowed
        }

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in self.refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run_all() -> Iterator[str]:
    """Run one of everything, and name what was run."""
    import nibabel
    import numpy as np
    from run_bundle import run_bundle

    from monai_dnaprior import DNAPriorDenoise, IDDPDenoise
    from monai_dnaprior.__main__ import main

    volume = np.random.default_rng(0).normal(100, 10, (20, 24, 2)).astype(np.float32)
    Path("scans").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), "scans/scan.nii.gz")
    assert DNAPriorDenoise(steps=2)(volume[None]).shape == (1, 20, 24, 2)
    assert IDDPDenoise()(volume[None]).shape == (1, 20, 24, 2)
    yield "transforms"
    small = ["--dataset_dir", str(Path("scans").absolute()), "--device", "cpu"]
    inference = [*small, "--output_dir", str(Path("eval").absolute()), "--progress", "False", "--steps", "2"]
    run_bundle(bundle_command("dnaprior_denoise", "inference", *inference), ROOT / "bundles")
    assert Path("eval/scan_denoised.nii.gz").exists()
    yield "inference"
    training = [*small, "--ckpt_dir", str(Path("trained").absolute()), "--epochs", "2", "--steps_per_epoch", "2"]
    training += ["--side", "16", "--held_back", "2", "--features", "[4, 8]"]
    run_bundle(bundle_command("iddp_denoise", "train", *training), ROOT / "bundles")
    assert Path("trained/weights.safetensors").exists()
    assert len(Path("trained/log.csv").read_text(encoding="utf-8").splitlines()) == 3
    yield "training"
    commands: dict[Sequence[str], int] = {
        ("denoise", "scans/scan.nii.gz", "out.nii.gz", "--method", "iddp", "--quiet"): 0,
        ("report", "scans/scan.nii.gz", "out.nii.gz", "--quiet"): 0,
        ("compare", "scans/scan.nii.gz", "--methods", "tv,iddp", "--quiet", "--output", "compared"): 0,
        ("methods",): 0,
        ("cohort", "scans", "cohort", "--method", "iddp"): 2,  # one line, which names the extra
    }
    for words, code in commands.items():
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(words) == code, words
    assert Path("compared/table.md").exists()
    yield "commands"


def bundle_command(name: str, config: str, *overrides: str) -> list[str]:
    return ["run", "--config_file", f"{name}/configs/{config}.json", "--bundle_root", name, *overrides]


if __name__ == "__main__":
    if "--as-installed" not in sys.argv:
        sys.meta_path.insert(0, RefuseTheRest(plain_requirements()))  # type: ignore[arg-type]
    for name in run_all():
        print(name, flush=True)
