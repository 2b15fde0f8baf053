"""The bundles as MONAI's model zoo and Hugging Face take them."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import monai.bundle
import pytest
from test_readme import ROOT

from monai_dnaprior import __version__

BUNDLES = [path.parents[1] for path in sorted((ROOT / "bundles").glob("*/configs/metadata.json"))]
LARGEST = 25 * 10**6  # bytes of a file in the model zoo
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python bundles/make_cards.py OWNER FOLDER`` writes."""
    folder = tmp_path_factory.mktemp("cards")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bundles")
        patch.setattr(sys, "argv", ["make_cards.py", "someone", str(folder)])
        importlib.import_module("make_cards").main()
    return folder


@every_bundle
@pytest.mark.parametrize("p", [1, 3])
def test_monai_finds_the_network_to_take_and_give_what_is_said(bundle: Path, p: int) -> None:
    configs = bundle / "configs"
    verify = partial(
        monai.bundle.verify_net_in_out,
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        n=p,
        any=17 * p,
        bundle_root=str(bundle),
    )
    verify()
    with pytest.raises(ValueError, match="output channel number `1` doesn't match: `2`"):
        verify(**{"_meta_#network_data_format#outputs#pred#num_channels": 2})


@every_bundle
def test_the_bundle_and_its_entry_for_the_model_zoo_are_whole(bundle: Path, cards: Path) -> None:
    whole, entry = cards / bundle.name, cards / "hf_models" / bundle.name
    page = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    for folder in (whole, entry):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: monai\n")
        assert card.endswith(page)
        assert (folder / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert all(path.stat().st_size <= LARGEST for path in whole.rglob("*"))
    assert (whole / "models" / "model.pt").read_bytes() == (bundle / "models" / "model.pt").read_bytes()
    metadata = json.loads((entry / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["huggingface_url"] == f"https://huggingface.co/someone/{bundle.name}"
    assert metadata["required_packages_version"]["monai-dnaprior"] == __version__
    assert metadata["name"]
    assert metadata["version"] in metadata["changelog"]


@every_bundle
def test_versions_are_those_that_are_tested(bundle: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(
        reversed([line.partition(";")[0].lower().split("==") for line in lines if "==" in line.partition(";")[0]])
    )
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    named = {name.lower(): version for name, version in metadata["required_packages_version"].items()}
    named |= {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    del named["monai-dnaprior"]
    assert {name: pinned[name] for name in named} == named
