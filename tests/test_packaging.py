"""What goes to PyPI: a source archive, and the wheel that is built of it, with all that the package reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from test_readme import ROOT, blocks

from monai_dnaprior import __version__

pytest.importorskip("setuptools", "77")
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, 'build_' + sys.argv[1])(sys.argv[2])"
CONTRIBUTING = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def run(words: Sequence[object], folder: Path, **environment: str) -> str:
    finished = subprocess.run(
        [*map(str, words)], cwd=folder, env=environment or None, capture_output=True, encoding="utf-8", check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from the source archive, whose README has the links that the page about releases makes."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT / "monai_dnaprior", folder / "monai_dnaprior", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (line,) = (line for line in "".join(blocks(CONTRIBUTING, "bash")).splitlines() if line.startswith("sed"))
    run(["bash", "-c", line.replace("URL", "https://example.org/project")], folder)
    run([sys.executable, "-c", BUILD, "sdist", folder / "dist"], folder)
    with tarfile.open(next((folder / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run([sys.executable, "-c", BUILD, "wheel", folder / "dist"], source)
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_the_wheel_holds_the_whole_package_and_no_more(wheel: zipfile.ZipFile) -> None:
    files = [
        path for path in (ROOT / "monai_dnaprior").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {path.relative_to(ROOT).as_posix() for path in files}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_pictures_and_links_of_its_page_lead_somewhere(wheel: zipfile.ZipFile) -> None:
    metadata = metadata_of(wheel)
    page = metadata.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", str(page))
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    assert any("/raw/" in link and link.endswith(".png") for link in links)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License"] == "Apache-2.0"


def test_the_package_runs_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = """if True:
    import torch, monai_dnaprior
    from monai_dnaprior.__main__ import main
    print(monai_dnaprior.__file__)
    monai_dnaprior.create_denoiser("median")(torch.rand(1, 1, 16, 16))
    main(["methods", "iddp"])"""
    shown = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert shown.startswith(str(tmp_path / "site"))
    assert "refinements" in shown


def test_the_version_is_the_same_everywhere(wheel: zipfile.ZipFile) -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    bundles = [json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("bundles/*/configs/metadata.json")]
    found = {metadata["required_packages_version"]["monai-dnaprior"] for metadata in bundles}
    found |= {metadata_of(wheel)["Version"], re.search(r"^version: (.*)$", citation, flags=re.M)[1]}  # type: ignore[index]
    changes = (ROOT / "docs" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert found == {__version__}
    assert re.search(r"^## (\S+)", changes, flags=re.M)[1] == __version__  # type: ignore[index]


def test_both_papers_are_cited() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    yaml = pytest.importorskip("yaml")
    first, second = (reference["title"] for reference in yaml.safe_load(citation)["references"])
    assert first.startswith("DNA-Prior: ")
    assert second.endswith("Implicit Deep Denoiser Prior")
