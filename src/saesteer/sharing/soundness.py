"""Whether what a manifest names is on disk, byte for byte."""

import json
from pathlib import Path

from saesteer.core.confined import confined
from saesteer.core.files import file_digest


def is_manifest(output: Path) -> bool:
    """Whether a declared output speaks for files that Snakemake does not know of: parts, converted SAEs."""
    return output.suffix == ".json" and output.name.startswith("layers_")


def faults(output: Path) -> dict[Path, str]:
    """What is missing or damaged of the files that a manifest names; nothing for other outputs. Damaged parts and SAEs are never read."""
    if not is_manifest(output):
        return {}
    try:
        digests = _digests(output)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {output: "is no manifest"}
    return {path: fault for path, digest in digests.items() if (fault := _fault(output.parent, path, digest))}


def _digests(output: Path) -> dict[Path, str | None]:
    """The digest that each file of a manifest has to have; None: any."""
    digests: dict[Path, str | None] = {}
    for entry in json.loads(output.read_text(encoding="utf-8"))["layers"].values():
        parts = [output.parent / part["path"] for part in entry.get("parts", [])]
        digests |= {path: path.stem for path in parts}
        if "sha256" in entry:  # a converted SAE; those from the hub stay where they were fetched
            sae = output.parent / entry["file"]
            digests |= {sae: entry["sha256"], sae.with_suffix(".json"): None}
    return digests


def _fault(folder: Path, path: Path, digest: str | None) -> str | None:
    if not path.is_relative_to(folder) or confined(folder, str(path.relative_to(folder))) is None:
        return "does not lie below the manifest that names it"
    if not path.is_file():
        return "is missing"
    if digest is None or file_digest(path) == digest:
        return None
    return "is damaged: its bytes do not have the digest that they are named by"
