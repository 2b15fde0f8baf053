"""The HTML report: what it says, what it must not say, and how it behaves in a browser."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
import torch
from conftest import SHORT
from PIL import Image
from reports import Page, decoded, denoised, noisy_volume, write_volume
from scans import write_series
from test_readme import RELIABILITY, blocks

from monai_dnaprior.__main__ import main
from monai_dnaprior.cohort.all_scans import denoise_all
from monai_dnaprior.cohort.task import SOME_BAD
from monai_dnaprior.files.discovery import Source
from monai_dnaprior.files.scan import Caps, CorruptScan, ScanError, UnsupportedScan
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.report.before_after import STOPPED_BY
from monai_dnaprior.report.write import read_sidecar, report_all, write_index, write_report

pytest.importorskip("jinja2")
LARGEST = 5 * 2**20
AXE = os.environ.get("AXE")
CANARY = "KANARIENVOGEL"
RIGHT = "\ue014"  # the arrow keys of the WebDriver protocol
WAIT_FOR_AXE = "const done = arguments[0]; axe.run().then((found) => done(found.violations));"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    """A volume fitted twice, with the spread of that."""
    folder = tmp_path_factory.mktemp("case")
    scan = write_volume(folder / "scan.nii.gz", noisy_volume())
    return denoised(scan, folder / "out.nii.gz", options={**SHORT, "restarts": 2}, spread=True)


@pytest.fixture(scope="module")
def file(case: tuple[Source, Path]) -> Path:
    """Its report."""
    file = case[1].with_name("out.html")
    write_report(*case, file)
    return file


def test_the_report_says_what_was_done(file: Path) -> None:
    page = Page(file)
    sidecar = json.loads(file.with_name("out.json").read_text(encoding="utf-8"))
    for text in ("Not a medical device; keep the original.", "dna-prior", sidecar["output"], sidecar["input"][0]):
        assert text in page.text
    assert "3 of 3" in page.text
    assert f"torch {sidecar['versions']['torch']}" in page.text
    assert all(STOPPED_BY[record["stop_reason"]] in page.text for record in sidecar["slices"])
    headings = re.findall(r"<h(\d)", file.read_text(encoding="utf-8"))
    assert headings[0] == "1"
    assert all(int(after) - int(before) <= 1 for before, after in itertools.pairwise(headings))


def test_every_picture_and_chart_can_be_read_aloud(file: Path) -> None:
    page = Page(file)
    pictures, charts = page.all("img"), page.all("svg")
    assert len(pictures) == 3 * 4  # before, after, removed, spread
    assert all(one["alt"] and one["src"].startswith("data:image/png;base64,") for one in pictures)
    assert len(charts) == 8
    assert all(one["role"] == "img" and one["aria-label"] for one in charts)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) == 2
    assert {"header", "main", "footer"} <= {tag for tag, _ in page.elements}


def test_nothing_is_fetched_and_the_file_is_small(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert file.stat().st_size < LARGEST
    assert not re.search(r"(src|href|action)=[\"'](?!data:|#)", text)
    assert not re.search(r"https?:|url\(|@import|fetch\(|\{\{|\{%", text)


def test_the_voxels_are_those_of_the_scan_the_right_way_up(file: Path) -> None:
    """With x to the left, y to the front and z up, the picture's rows run from the front to the back."""
    image = decoded(Page(file).all("img")[0]["src"])
    volume = noisy_volume()[..., 0]
    assert image.shape == (24, 30)
    assert np.corrcoef(image.ravel(), volume.T[::-1].ravel())[0, 1] > 0.95


def test_dicom_looks_as_it_is_stored_and_nothing_of_its_header_is_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 900, (3, 20, 24)).astype("<i2")
    write_series(tmp_path / "ct", pixels, PatientName=CANARY, PatientID=CANARY, SeriesDescription=CANARY)
    source, output = denoised(tmp_path / "ct", tmp_path / "out", method="median")
    write_report(source, output, tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert CANARY not in text
    assert str(tmp_path) not in text
    image = decoded(Page(tmp_path / "out.html").all("img")[0]["src"])
    assert np.corrcoef(image.ravel(), pixels[0].ravel())[0, 1] > 0.99


def test_small_values_are_bright_in_monochrome1(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 900, (1, 20, 24)).astype("<i2")
    write_series(tmp_path / "xray", pixels, PhotometricInterpretation="MONOCHROME1")
    source, output = denoised(tmp_path / "xray", tmp_path / "out", method="median")
    write_report(source, output, tmp_path / "out.html")
    image = decoded(Page(tmp_path / "out.html").all("img")[0]["src"])
    assert np.corrcoef(image.ravel(), pixels[0].ravel())[0, 1] < -0.99


def test_names_are_escaped(tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scan.nii", noisy_volume())
    source, output = denoised(scan, tmp_path / "<b onload=x>.nii", method="median")
    write_report(source, output, tmp_path / "out.html")
    assert "<b onload" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<b onload=x>" in Page(tmp_path / "out.html").text


@pytest.mark.parametrize("kind", ["time", "colour", "flat"])
def test_scans_of_other_shapes_have_reports(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 200, (20, 24, 2, 3))
    if kind == "colour":
        Image.fromarray(values[..., 0, :].astype(np.uint8)).save(tmp_path / "scan.png")
        scan, output = tmp_path / "scan.png", tmp_path / "out.png"
    else:
        scan, output = tmp_path / "scan.nii", tmp_path / "out.nii"
        write_volume(scan, (values if kind == "time" else values[..., 0, 0]).astype(np.int16))
    write_report(*denoised(scan, output, method="median"), tmp_path / "out.html")
    pictures = Page(tmp_path / "out.html").all("img")
    assert len(pictures) == {"time": 6 * 3, "colour": 3, "flat": 3}[kind]
    assert "Volume 2, slice 1 of 2, noisy" in pictures[6]["alt"] if kind == "time" else True


def test_the_measured_noise_stands_beside_what_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deviation = torch.linspace(0.5, 1.5, 98)[:, None].expand(1, 1, 98, 96)
    known = NoiseModel(0.1, torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 0.0, 0.0]]), deviation)
    monkeypatch.setattr(NoiseModel, "of", lambda noisy: known)
    scan = write_volume(tmp_path / "scan.nii", np.random.default_rng(0).integers(0, 201, (96, 98, 1)).astype(np.int16))
    write_report(*denoised(scan, tmp_path / "out.nii", method="median"), tmp_path / "out.html")
    text, page = (tmp_path / "out.html").read_text(encoding="utf-8"), Page(tmp_path / "out.html")
    rows = dict(re.findall(r'<th scope="row">([^<]*)</th><td[^>]*>([^<]*)<', text))
    assert rows == {
        "Standard deviation": "20",
        "10th to 90th percentile of it over the slice": "11.9 to 28.1",
        "Correlation of neighbours along rows": "0.50",
        "Correlation length along rows, mm": "1.26",  # of pixels 1 mm apart, as the columns are 2
        "Correlation of neighbours along columns": "0.00",
        "Correlation length along columns, mm": "1.26",
    }
    assert ">noise<" in text
    image = decoded(page.all("img")[-1]["src"])
    np.testing.assert_allclose(image, (255 * deviation[0, 0] / 1.5).numpy(), atol=1)


def test_the_provenance_says_how_many_neighbours_helped(tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scan.nii", noisy_volume())
    for count in (0, 2):
        output = tmp_path / f"out{count}.nii"
        write_report(*denoised(scan, output, method="iddp", neighbours=count), tmp_path / "out.html")
        assert ("each denoised with 2 on either side" in Page(tmp_path / "out.html").text) == (count == 2)


def test_a_scan_that_was_left_alone_has_a_report_without_empty_charts(tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scan.nii", np.full((20, 24, 2), 7, np.int16))
    write_report(*denoised(scan, tmp_path / "out.nii", method="median"), tmp_path / "out.html")
    page = Page(tmp_path / "out.html")
    assert "2 slices left alone" in page.text
    assert "0 of 2" in page.text
    assert "2 left alone: nothing to fit" in page.text
    assert "Nothing was changed" in page.text
    assert "Spectrum" not in page.text


def test_a_report_that_cannot_be_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scan, output = write_volume(tmp_path / "scan.nii", noisy_volume()), tmp_path / "out.nii"
    arguments = ["report", str(scan), str(output)]

    def refused(code: int, words: str) -> None:
        assert main(arguments) == code
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not list(tmp_path.glob("*.html*"))

    refused(2, "does not exist")
    source, _ = denoised(scan, output, method="median")
    content = (tmp_path / "out.json").read_text(encoding="utf-8")
    (tmp_path / "out.json").unlink()
    refused(2, "has no out.json beside it")
    (tmp_path / "out.json").write_text("{", encoding="utf-8")
    refused(4, "is no JSON")
    (tmp_path / "out.json").write_text("[]", encoding="utf-8")
    refused(4, "is not what denoise writes")
    for name in ("voxels", "sigma", "clipped", "slice_dim"):
        (tmp_path / "out.json").write_text(content.replace(f'"{name}"', '"another"'), encoding="utf-8")
        refused(4, "is not what denoise writes")
    (tmp_path / "out.json").write_text(content, encoding="utf-8")
    assert read_sidecar(source, output)["fallbacks"] == 0
    bytes_of_scan = scan.read_bytes()
    scan.write_bytes(bytes_of_scan[:-1] + b"\x01")
    refused(2, "is not the scan that out.json tells of")
    scan.write_bytes(bytes_of_scan)
    output.write_bytes(output.read_bytes()[:-1] + b"\x01")
    refused(2, "was changed after out.json was written")


def test_without_jinja2_the_error_says_what_to_install(
    case: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'monai-dnaprior[report]'")):
        write_report(*case, tmp_path / "out.html")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, one in a folder of its own, and a broken one; what became of them."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "study" / "inner #1").mkdir(parents=True)
    write_volume(folder / "study" / "a.nii", noisy_volume(2))
    write_volume(folder / "study" / "inner #1" / "b.nii", noisy_volume(2))
    (folder / "study" / "broken.nii").write_bytes(b"no header")
    list(denoise_all(folder / "study", folder / "denoised_study", caps=Caps(), method="median"))
    return folder


@pytest.fixture
def cohort(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, elsewhere."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_cohort_has_a_report_a_scan_and_an_index(finished: Path, cohort: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(cohort / "study"), str(cohort / "denoised_study")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    page = Page(cohort / "denoised_study" / "index.html")
    links = [link["href"] for link in page.all("a")]
    assert links == ["a_denoised.html", "inner%20%231/b_denoised.html"]
    assert (cohort / "denoised_study" / "inner #1" / "b_denoised.html").exists()
    assert "2 denoised" in page.text
    assert "1 refused" in page.text
    assert "does not begin with a NIfTI header" in page.text
    assert str(finished) not in page.text


def test_an_index_finds_the_reports_after_the_folder_was_moved(cohort: Path) -> None:
    (cohort / "denoised_study").rename(cohort / "moved")
    moved = cohort / "moved"
    write_index(moved / "manifest.json", moved / "index.html")
    assert Page(moved / "index.html").all("a") == []
    (moved / "a_denoised.html").write_text("", encoding="utf-8")
    write_index(moved / "manifest.json", cohort / "elsewhere.html")
    assert [link["href"] for link in Page(cohort / "elsewhere.html").all("a")] == ["moved/a_denoised.html"]


def test_a_scan_of_a_cohort_that_has_no_report_stops_no_other(cohort: Path, capsys: pytest.CaptureFixture) -> None:
    (cohort / "denoised_study" / "a_denoised.json").unlink()
    assert main(["report", str(cohort / "study"), str(cohort / "denoised_study"), "--quiet"]) == SOME_BAD
    assert "has no a_denoised.json beside it" in capsys.readouterr().err
    assert (cohort / "denoised_study" / "inner #1" / "b_denoised.html").exists()
    with pytest.raises(UnsupportedScan, match="cannot be named"):
        list(report_all(cohort / "study", cohort / "denoised_study", html=cohort / "one.html"))


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedScan, match="cannot be read"):
        write_index(tmp_path / "manifest.json", tmp_path / "index.html")
    for content in ("{", "[1]", '[{"source": "a"}]', '{"a": 1}'):
        (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
        with pytest.raises(CorruptScan, match="is not what denoise writes"):
            write_index(tmp_path / "manifest.json", tmp_path / "index.html")


def test_the_input_must_be_one_scan_where_the_output_is(case: tuple[Source, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="holds 0 scans, not one"):
        list(report_all(tmp_path / "empty", case[1]))


def test_report_command_runs_as_shown(case: tuple[Source, Path], cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cohort)
    for made, name in ((case[0].files[0], "scan.nii.gz"), (case[1], "denoised.nii.gz")):
        shutil.copy(made, name)
    shutil.copy(case[1].with_name("out.json"), "denoised.json")
    commands = re.findall(r"^monai-dnaprior report [^#\n]*", "".join(blocks(RELIABILITY, "bash")), flags=re.M)
    assert len(commands) == 2
    for command in commands:
        assert main([*shlex.split(command)[1:], "--quiet"]) == 0
    assert Path("denoised.html").exists()
    assert Path("denoised_study", "index.html").exists()


needs_browser = pytest.mark.skipif(not browser.is_here(), reason="Chromium and its chromedriver are not installed")
CLIP = "return getComputedStyle(document.getElementById('after')).clipPath"
PLACE = "const box = document.getElementById('compare').getBoundingClientRect(); return [box.x, box.y, box.width]"


@needs_browser
def test_the_page_works_with_keyboard_and_mouse(file: Path) -> None:
    with browser.Browser() as window:
        window.open(file)
        assert "50%" in window.run(CLIP)
        window.press("#divider", RIGHT * 3)
        assert "53%" in window.run(CLIP)
        assert window.run("return document.getElementById('divider').ariaValueText") == "53 % noisy, 47 % denoised"
        window.run("document.getElementById('compare').scrollIntoView()")
        x, y, width = window.run(PLACE)
        window.drag((x + 0.53 * width, y + 40), (x + 0.2 * width, y + 60))
        moved = re.search(r"(\d+)%", window.run(CLIP))
        assert moved
        assert abs(int(moved[1]) - 20) <= 2
        before = window.run("return document.getElementById('after').src")
        window.press("#slice", RIGHT)
        assert window.run("return document.getElementById('slice-name').textContent") == "Slice 3 of 3"
        assert window.run("return document.getElementById('after').src") != before
        assert window.run("return document.querySelectorAll('.trace.chosen').length") == 2
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
        assert window.messages() == []


@needs_browser
def test_without_a_script_both_images_stand_side_by_side(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.html"
    plain.write_text(re.sub(r"<script>.*</script>", "", file.read_text(encoding="utf-8"), flags=re.S), encoding="utf-8")
    with browser.Browser() as window:
        window.open(plain)
        script = "return [...document.querySelectorAll('img')].map((one) => one.getBoundingClientRect().toJSON())"
        first, second = window.run(script)[:2]
        assert first["width"] == pytest.approx(second["width"], abs=1)
        assert first["width"] > 100
        assert first["y"] == second["y"]
        assert first["right"] <= second["left"]
        assert not window.run("return document.getElementById('divider').checkVisibility()")


@needs_browser
def test_paper_has_the_images_and_the_tables(file: Path, tmp_path: Path) -> None:
    with browser.Browser() as window:
        window.open(file)
        window.print(tmp_path / "out.pdf")
        assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
        window.devtools("Emulation.setEmulatedMedia", media="print")
        shown = "return [...document.querySelectorAll('.group, .stage')].filter((one) => one.checkVisibility()).length"
        assert window.run(shown) == 1


@needs_browser
@pytest.mark.skipif(not AXE, reason="AXE does not name the axe.min.js of the npm package axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(file: Path, cohort: Path, scheme: str) -> None:
    list(report_all(cohort / "study", cohort / "denoised_study"))
    with browser.Browser() as window:
        window.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for page in (file, cohort / "denoised_study" / "index.html"):
            window.open(page)
            window.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            window.run(Path(str(AXE)).read_text(encoding="utf-8"))
            faults = window.wait_for(WAIT_FOR_AXE)
            assert [
                (fault["id"], fault["impact"]) for fault in faults if fault["impact"] in ("serious", "critical")
            ] == []
