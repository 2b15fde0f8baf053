"""Write what is handed on: every bundle as Hugging Face takes it, and its entry for MONAI's model zoo.

``OUTPUT/NAME`` is the bundle with its page as a model card, for the repository OWNER/NAME; ``OUTPUT/hf_models/NAME``
the folder for a pull request to the model zoo, which names that repository. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

BUNDLES = Path(__file__).parent
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_hf_20250321.json"
HEADER = """---
license: apache-2.0
library_name: monai
pipeline_tag: image-to-image
tags:
- monai
- medical
- denoising
---

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("owner", help="whose repositories they are on Hugging Face")
    parser.add_argument("output", type=Path, help="folder that is made")
    options = parser.parse_args()
    for metadata in sorted(BUNDLES.glob("*/configs/metadata.json")):
        write_card(metadata.parents[1], options.owner, options.output)


def write_card(bundle: Path, owner: str, output: Path) -> None:
    """The bundle with its card, and the entry for the model zoo."""
    whole, entry, repository = output / bundle.name, output / "hf_models" / bundle.name, f"{owner}/{bundle.name}"
    shutil.copytree(bundle, whole)
    (whole / "README.md").write_text(
        HEADER + (bundle / "docs" / "README.md").read_text(encoding="utf-8"), encoding="utf-8"
    )
    entry.mkdir(parents=True)
    for path in (whole / "README.md", whole / "LICENSE"):
        shutil.copy(path, entry)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    del metadata["network_data_format"]  # of a bundle, which the entry is not
    url = f"https://huggingface.co/{repository}"
    metadata |= {"schema": SCHEMA, "huggingface_model_id": repository, "huggingface_url": url}
    (entry / "metadata.json").write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
