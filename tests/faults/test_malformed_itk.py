"""F1 for NRRD, MetaImage, PNG and TIFF: damage that a checksum or a length can show is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from run_command import assert_refused, run, tries
from scans import read_scan

from monai_dnaprior.files.scan import CorruptScan

pytestmark = pytest.mark.fault("F1")

VOXELS = np.random.default_rng(0).integers(0, 3000, (5, 14, 12)).astype(np.int16)
HEADER_ENDS = {".nrrd": b"\n\n", ".mha": b"LOCAL\n", ".png": b"IHDR"}


def written(folder: Path, suffix: str, *, packed: bool = True) -> bytes:
    """A small volume, or a picture, as a file of this kind has it."""
    path = folder / f"sound{suffix}"
    array = VOXELS if suffix in (".nrrd", ".mha") else VOXELS[0].astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=packed)
    return path.read_bytes()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".png", ".tif"])
def test_cut_file_is_refused(tmp_path: Path, suffix: str, packed: bool, record_property: Any) -> None:
    content, path = written(tmp_path, suffix, packed=packed), tmp_path / f"scan{suffix}"
    cuts = [0, 4, 100, len(content) // 2]
    if suffix != ".tif":  # whose last bytes are a resolution and a program's name
        cuts.append(len(content) - 1)
    record_property("tried", len(cuts))
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(CorruptScan):
            read_scan(path)
    path.write_bytes(content)
    assert read_scan(path).stored.shape == ((1, 12, 14, 5) if suffix in (".nrrd", ".mha") else (1, 12, 14))


@pytest.mark.parametrize("suffix", HEADER_ENDS)
def test_flipped_bits_change_no_voxel(tmp_path: Path, suffix: str, record_property: Any) -> None:
    """Of compressed voxels, which have a checksum: every flip is refused, or is of no consequence."""
    content, path = written(tmp_path, suffix), tmp_path / f"scan{suffix}"
    sound = read_scan(tmp_path / f"sound{suffix}").stored
    generator, count = np.random.default_rng(0), tries(100, 1000)
    record_property("tried", count)
    start, refused = content.index(HEADER_ENDS[suffix]) + len(HEADER_ENDS[suffix]), 0
    for place in generator.integers(start, len(content), count):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        try:
            assert np.array_equal(read_scan(path).stored, sound)
        except CorruptScan:
            refused += 1
    assert refused > 0.9 * count


def test_command_refuses_what_is_cut(tmp_path: Path) -> None:
    path, output = tmp_path / "scan.mha", tmp_path / "out.mha"
    path.write_bytes(written(tmp_path, ".mha")[:-1])
    outcome = run("denoise", path, output, "--method", "identity", cwd=tmp_path)
    assert_refused(outcome, path, output)
    assert outcome.code == 4
