"""Whether what a manifest names is on disk, byte for byte."""

import json
from collections.abc import Iterator
from pathlib import Path

from saesteer.core.confined import confined
from saesteer.core.files import file_digest


def is_manifest(output: Path) -> bool:
    """Whether a declared output speaks for files that Snakemake does not know of: parts, converted SAEs."""
    return output.suffix == ".json" and output.name.startswith("layers_")


def named_files(manifest: Path) -> Iterator[tuple[Path, str | None]]:
    """The files that a manifest speaks for, with the SHA-256 that each has to have (None: any)."""
    for entry in json.loads(manifest.read_text(encoding="utf-8"))["layers"].values():
        for part in entry.get("parts", []):
            yield (path := manifest.parent / part["path"]), path.stem
        if "sha256" in entry:  # a converted SAE; those from the hub stay where they were fetched
            yield (path := manifest.parent / entry["file"]), entry["sha256"]
            yield path.with_suffix(".json"), None


def faults(manifest: Path) -> dict[Path, str]:
    """What is missing or damaged of the files that a manifest names. Damaged parts and SAEs are never read."""
    return {path: fault for path, expected in named_files(manifest) if (fault := _fault(manifest.parent, path, expected))}


def _fault(folder: Path, path: Path, expected: str | None) -> str | None:
    if not path.is_relative_to(folder) or confined(folder, str(path.relative_to(folder))) is None:
        return "does not lie below the manifest that names it"
    if not path.is_file():
        return "is missing"
    if expected is None or file_digest(path) == expected:
        return None
    return "is damaged: its bytes do not have the digest that they are named by"
