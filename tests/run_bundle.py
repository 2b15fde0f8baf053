"""A bundle's command inside this process, without the seconds that a process of its own takes to start."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import fire
import monai.bundle


def run_bundle(words: Sequence[str], folder: Path) -> str:
    """Run ``python -m monai.bundle`` with these words from a folder, and return what it writes to its output."""
    written, before = io.StringIO(), Path.cwd()
    with contextlib.redirect_stdout(written), warnings.catch_warnings(), logging_left_as_it_is():
        warnings.simplefilter("ignore")  # as far as a process of its own would go on
        os.chdir(folder)
        try:
            fire.Fire({"run": monai.bundle.run}, command=list(words))
        finally:
            os.chdir(before)
    return written.getvalue()


@contextlib.contextmanager
def logging_left_as_it_is() -> Iterator[None]:
    """Take back what the logging.conf of a bundle sets."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
