"""Files that are on the disk whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either there with all of its content or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            flush(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def synchronise(path: Path) -> None:
    """Have a file on the disk; or a folder, where the system can do that for folders."""
    if path.is_dir():
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return
    with path.open("r+b") as file:  # Windows flushes only what may be written
        flush(file.fileno())


def flush(handle: int) -> None:
    """Have an open file on the disk, unless its file system knows no such thing."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, or of a folder's files and their names."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            digest.update(f"{file.name} {hash_of(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
