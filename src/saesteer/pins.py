"""Pins: what a model folder or a data file holds, as a small JSON that steps' fingerprints are made from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.files import file_digest, value_digest
from saesteer.settings import Experiment, SettingsError


def pinned_path(experiment: Experiment, name: str) -> Path:
    """The folder or file behind each name that can be pinned."""
    paths = {
        "model": experiment.model.path,
        "perplexity_model": experiment.perplexity.model.path,
        "texts": experiment.records.texts,
        "topics": experiment.concepts.topics,
        "oracle": experiment.judge.oracle,
    }
    return paths[name]


def pinned_files(path: Path) -> list[Path]:
    """The files that count: the file itself, or of a folder its weights (safetensors) and JSON files."""
    if path.is_file():
        return [path]
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    if not files:
        raise SettingsError(
            f"{path} is neither a file nor a folder with .safetensors and .json files; check the path in the experiment file"
        )
    return files


def pin(path: Path, revision: str | None = None) -> dict[str, Any]:
    """Digests of the files behind a path. The path itself is no part of the digest: the same bytes elsewhere are the same model."""
    files = {file.name: file_digest(file) for file in pinned_files(path)}
    return {"path": str(path), "revision": revision, "files": files, "digest": value_digest([revision, files])}


def is_current(made: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a converted file is there, sound, and by the JSON beside it made from what is expected."""
    record = made.with_suffix(".json")
    if not (made.is_file() and record.is_file()):
        return False
    values = json.loads(record.read_text(encoding="utf-8"))
    return expected.items() <= values.items() and values["sha256"] == file_digest(made)
