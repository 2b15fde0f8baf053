"""F5: derived DICOM as other programs see it, and F13: nothing about the patient anywhere else."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import SHARED_DATA
from scans import write_series

from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.files.scan import Caps

pytestmark = pytest.mark.fault("F5")

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SOURCES: dict[str, tuple[str, ...]] = {
    "CT": ("CT_small.dcm",),
    "MR": ("MR_small.dcm",),
    "MR JPEG-LS": ("MR_small_jpeg_ls_lossless.dcm",),
    "MR JPEG 2000": ("MR_small_jp2klossless.dcm",),
    "MR RLE": ("MR_small_RLE.dcm",),
    "MR implicit": ("MR_small_implicit.dcm",),
}
COLLECTED: dict[str, tuple[str, ...]] = {
    "CT series": ("dicom/STS_008_CT",),
    "MR series": ("dicom/STS_008_MR_T1",),
    "PET, a slope each": ("dicom/STS_008_PET",),
    "PET": ("dicom/qinhn0024_PET_head",),
    "gantry tilt": ("dicom/ge_head_CT_tilt",),
    "MONOCHROME1": ("dicom/monochrome1/dx_image.dcm",),
    "MONOCHROME1 JPEG 2000": ("dicom/monochrome1/RG3_J2KI.dcm",),
    "CT JPEG-LS": ("dicom/wg04_CT1_syntaxes/CT1_JLSL.dcm",),
    "CT JPEG 2000": ("dicom/wg04_CT1_syntaxes/CT1_J2KR.dcm",),
    "CT JPEG": ("dicom/wg04_CT1_syntaxes/CT1_JPLL.dcm",),
    "CT RLE": ("dicom/wg04_CT1_syntaxes/CT1_RLE.dcm",),
    "enhanced CT": ("dicom/enhanced_CT/eCT_Supplemental.dcm",),
    "enhanced MR, a slope each": ("dicom/enhanced_MR_philips/IM_0027_fMAP.dcm",),
    "enhanced MR": ("dicom/enhanced_MR_siemens_xa10/6_1.dcm",),
    "frames in colour": ("dicom/us_multiframe/examples_ybr_color.dcm",),
}
CASES = [*SOURCES, *COLLECTED]
WITHOUT_AFFINE = ("MONOCHROME1", "MONOCHROME1 JPEG 2000", "frames in colour")
NOT_OURS = (
    "may not be present otherwise",  # the acquisition of a derived MR image: the standard lets it be
    "Character invalid for this VR = 'X'",  # a source's identifier
)
CANARY = "CANARY_7F3A"


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """The name of a case, the folder of its source, and that of what the identity makes of it."""
    case = request.param
    if case in COLLECTED and not SHARED_DATA.is_dir():
        pytest.skip(f"the collection of real images is not at {SHARED_DATA}")
    origin = SHARED_DATA / COLLECTED[case][0] if case in COLLECTED else SHIPPED / SOURCES[case][0]
    (tmp_path / "in").mkdir()
    for file in sorted(origin.iterdir()) if origin.is_dir() else [origin]:
        shutil.copy(file, tmp_path / "in" / file.name)
    path = tmp_path / "in" if origin.is_dir() else tmp_path / "in" / origin.name
    (row,) = denoise_all(path, tmp_path / "out", caps=Caps(), method="identity")
    assert row.status == "denoised", row
    return case, tmp_path / "in", tmp_path / "out"


def tool(name: str) -> str:
    """The path of a validator."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; apt-get install dicom3tools dcmtk dcm2niix")
    return path


def test_validators_find_nothing_that_the_source_lacks(pair: tuple[str, Path, Path], tmp_path: Path) -> None:
    case, source, derived = pair
    assert errors_in(derived) <= errors_in(source)
    if case not in WITHOUT_AFFINE:
        assert_same_nifti(decompressed(source, tmp_path / "plain"), derived, tmp_path)
    assert_sent(derived, tmp_path)


def errors_in(folder: Path) -> set[str]:
    """The lines in which dciodvfy finds an error."""
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    outputs = (subprocess.run([tool("dciodvfy"), file], **options) for file in folder.iterdir())
    lines = (line for output in outputs for line in (output.stderr + output.stdout).splitlines())
    return {line for line in lines if line[:5] == "Error" and not any(text in line for text in NOT_OURS)}


def decompressed(source: Path, folder: Path) -> Path:
    """The files without the compression that Debian's dcm2niix cannot read."""
    folder.mkdir()
    for file in source.iterdir():
        dataset = pydicom.dcmread(file)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(generate_instance_uid=False)
        dataset.save_as(folder / file.name)
    return folder


def assert_same_nifti(source: Path, derived: Path, folder: Path) -> None:
    """What dcm2niix makes of the two has one affine and one content."""
    images = []
    for path in (source, derived):
        target = folder / f"nifti-{path.name}"
        target.mkdir()
        subprocess.run(
            [tool("dcm2niix"), "-z", "n", "-b", "n", "-f", "x%s", "-o", target, path], capture_output=True, check=True
        )
        images.append([nibabel.load(file) for file in sorted(target.glob("*.nii"))])
    assert len(images[0]) == len(images[1]) >= 1
    for before, after in zip(*images, strict=True):
        assert np.array_equal(before.affine, after.affine)
        assert np.array_equal(before.get_fdata(), after.get_fdata())


def assert_sent(derived: Path, folder: Path) -> None:
    """An archive takes every file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "archive").mkdir()
    archive = subprocess.Popen([tool("storescp"), "-od", folder / "archive", port], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.05)
        command = [tool("storescu"), "-v", "-R", "+sd", "127.0.0.1", port, derived]
        sent = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    finally:
        archive.terminate()
        archive.wait()
    answers = [line for line in (sent.stdout + sent.stderr).splitlines() if "Received Store Response" in line]
    assert sent.returncode == 0, sent.stderr
    assert len(answers) == len(list(derived.iterdir()))
    assert all("Success" in line for line in answers), answers


@pytest.mark.fault("F13")
def test_nothing_about_the_patient_is_said_elsewhere(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 16, 16)).astype("<i2")
    told = {keyword: CANARY for keyword in ("PatientName", "PatientID", "PatientComments", "AccessionNumber",
            "StudyDescription", "SeriesDescription", "InstitutionName", "ImageComments", "StudyID")}  # fmt: skip
    write_series(tmp_path / "in" / "sound", pixels, **told)
    write_series(tmp_path / "in" / "colours", pixels, **told, PhotometricInterpretation=CANARY)
    write_series(tmp_path / "in" / "odd", pixels, **told, RescaleSlope=None, WindowCenter=None)
    (file := next((tmp_path / "in" / "odd").iterdir())).write_bytes(file.read_bytes()[:-300])
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "median", "--residual"]) == 8
    captured = capfd.readouterr()
    assert "slices denoised" in captured.out
    texts = [captured.out, captured.err, *map(str, tmp_path.rglob("*"))]
    files = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file() and file.suffix != ".dcm"]
    assert len(files) == 3  # manifest, sidecar, residual
    assert not any(CANARY in text for text in texts)
    assert not any(CANARY.encode() in content for content in files)
    derived = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert derived.PatientName == derived.PatientID == CANARY
