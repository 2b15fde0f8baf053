"""What a run has finished of an output: kept beside it, whole or not at all, until the output is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from .disk import hash_of, synchronise, write_whole
from .names import CHECKPOINT_SUFFIX

KEY = "run.json"


@dataclass(frozen=True)
class FinishedSlices:
    """Some slices, denoised.

    Attributes:
        indices: their numbers.
        place: where they are in the volume.
        arrays: the stored numbers there, and the spread if there is one.
        records: one a slice.
        clipped: how many voxels the file's type cannot hold.
    """

    indices: range
    place: tuple[slice, ...]
    arrays: dict[str, np.ndarray]
    records: list[dict[str, Any]]
    clipped: int


class Checkpoint:
    """The folder ``OUTPUT.partial``: finished parts of one output, and its files until they take their places.

    Every part is a file that appears at once and carries its hash in its name, so that a run that was killed at any
    moment leaves nothing that another could mistake for a result. Several may keep parts there at once, if the folder
    was made with their key before.

    Args:
        output: where the output is going to be.
        key: what the output depends on; what a run with another key has left is removed.
        resume: go on with what a run with the same key has left; otherwise that is removed too.
    """

    def __init__(self, output: Path, key: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder_of(output)
        self.files = self.folder / "files"
        if self.folder.is_symlink():
            raise OSError(f"{self.folder} is a symbolic link; remove it.")
        text = json.dumps(dict(key), sort_keys=True)
        if not (resume and read_text(self.folder / KEY) == text):
            self.remove()
            self.folder.mkdir(parents=True)
            write_whole(self.folder / KEY, text.encode())

    def stage(self) -> Path:
        """The folder for the output's files until they are complete, empty."""
        if self.files.exists():
            shutil.rmtree(self.files)
        self.files.mkdir()
        return self.files

    def keep(self, slices: FinishedSlices) -> None:
        """Store finished slices."""
        arrays = {name: np.ascontiguousarray(array) for name, array in slices.arrays.items()}
        native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
        place = [[axis.start, axis.stop] for axis in slices.place]
        texts = {"place": place, "records": slices.records, "clipped": slices.clipped}
        content = save(native, {name: json.dumps(value) for name, value in texts.items()})
        name = f"{slices.indices.start:06d}-{slices.indices.stop:06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        write_whole(self.folder / name, content)

    def read(self) -> Iterator[FinishedSlices]:
        """The finished slices whose hashes are those of their names; others are removed."""
        for path in sorted(self.folder.glob("*.safetensors")):
            first, behind, digest = path.stem.split("-")
            if hash_of(path) != digest:
                path.unlink()
                continue
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary
                texts = {name: json.loads(text) for name, text in file.metadata().items()}
            place = tuple(slice(*ends) for ends in texts["place"])
            yield FinishedSlices(range(int(first), int(behind)), place, arrays, texts["records"], texts["clipped"])

    def publish(self, folder: Path, *, first: str, last: str) -> None:
        """Give the files their places in a folder, those of these names first and last, and remove the rest."""
        for source in sorted(self.files.iterdir(), key=lambda file: (file.name == last, file.name != first)):
            for path in (*source.rglob("*"), source):
                synchronise(path)
            os.replace(source, folder / source.name)
            synchronise(folder)
        self.remove()

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)


def folder_of(output: Path) -> Path:
    return output.with_name(output.name + CHECKPOINT_SUFFIX)


def remove_leftover(output: Path) -> None:
    """Remove the folder of a run that was killed when its output had taken its place."""
    folder = folder_of(output)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
