"""Files that are never half-written: temporary name, fsync, rename; and their digests."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary path in the target's folder, flush it to disk, give it its name. On failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(
                error.errno, "the disk is full: free some space and run the same command again; what is finished is kept", str(path)
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values are equal bytes."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safetensors_fault(file: Path) -> str | None:
    """What is wrong with a safetensors file's header or length, None when it can be read. Reads the header only."""
    try:
        with safe_open(file, framework="numpy"):
            return None
    except (SafetensorError, OSError) as error:
        return str(error)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(values: Any) -> str:
    """SHA-256 of a JSON value written canonically, in hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def text_id(text: str) -> str:
    """Name of a text in keys: the first 16 hex digits of the SHA-256 of its UTF-8 bytes, so an edited text is a new key."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
