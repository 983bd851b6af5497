"""What was published: one line for each output, in git, sorted, one file for each rule of an experiment.

    provenance/tiny/generations.jsonl

Lines are statements, each true by itself: "these bytes were made from those bytes, by this job". So git may merge two branches' files by
keeping the lines of both (merge=union); of several statements about one output, the one that agrees with the files on disk counts.

A manifest is an output that speaks for files which Snakemake does not know of: whether those are on disk, byte for byte, is told here too.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from saesteer.core.files import confined, file_digest, write_text
from saesteer.sharing.commands import SharingError
from saesteer.sharing.snakemake_metadata import FIELDS

FOLDER = Path("provenance")
SHARED = ("data", "figures")
"""Where results are."""
NAMED_BY_DIGEST = re.compile(r"[0-9a-f]{64}\.parquet")
"""Names of parts and of a judge's answers."""


@dataclass(frozen=True)
class Statement:
    output: str
    """Path, relative to the repository, as Snakemake names it."""
    sha256: str
    inputs: Mapping[str, str]
    """Path of each input -> SHA-256 of the bytes that the output was made from."""
    record: Mapping[str, Any]
    """Snakemake's record of the job."""


_STATEMENT = TypeAdapter(Statement)


def is_result(folder: Path, experiment: str, name: str) -> bool:
    """Whether a path can be that of a rule's output: in the experiment's folders of this repository, behind no link, and no part."""
    is_inside = name.startswith(tuple(f"{home}/{experiment}/" for home in SHARED)) and confined(folder, name) is not None
    return is_inside and not NAMED_BY_DIGEST.fullmatch(name.rpartition("/")[2])


def write_statements(folder: Path, experiment: str, statements: Iterable[Statement]) -> None:
    """Replace what is stated about an experiment."""
    target = folder / FOLDER / experiment
    lines: dict[str, list[str]] = defaultdict(list)
    for statement in sorted(statements, key=lambda stated: stated.output):
        # The output comes first, so that sorted lines are sorted by output.
        values = {"output": statement.output, "sha256": statement.sha256, "inputs": dict(sorted(statement.inputs.items()))}
        values["record"] = dict(sorted(statement.record.items()))
        lines[statement.record["rule"]].append(json.dumps(values, ensure_ascii=False))
    for rule, of_rule in lines.items():
        write_text(target / f"{rule}.jsonl", "\n".join(of_rule) + "\n")
    for path in target.glob("*.jsonl"):
        if path.stem not in lines:
            path.unlink()


def read_statements(folder: Path, experiment: str) -> dict[str, list[Statement]]:
    """Output -> what is stated about it."""
    advice = "finish the merge if one is under way, else `git checkout` the file"
    statements: dict[str, list[Statement]] = defaultdict(list)
    for path in sorted((folder / FOLDER / experiment).glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            where = f"{path}, line {number}"
            try:
                statement = _STATEMENT.validate_json(line)
            except ValidationError as error:
                raise SharingError(f"{where}: not a statement ({error.errors()[0]['msg']}): {advice}") from error
            is_record = set(statement.record) == set(FIELDS) and isinstance(statement.record["input"], list | None)
            if not is_record or not str(statement.record["rule"]).isidentifier():
                raise SharingError(f"{where}: not a statement (its record has other fields, or its rule is no name): {advice}")
            if not is_result(folder, experiment, statement.output):
                raise SharingError(f"{where}: {statement.output!r} is no result of {experiment}, or lies behind a link")
            statements[statement.output].append(statement)
    return dict(statements)


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
