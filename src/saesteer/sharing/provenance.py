"""What was published: one line for each output, in git, sorted, one file for each rule of an experiment.

    provenance/tiny/generations.jsonl

Lines are statements, each true by itself: "these bytes were made from those bytes, by this job". So git may merge two branches' files by
keeping the lines of both (merge=union); of several statements about one output, the one that agrees with the files on disk counts.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from saesteer.core.confined import confined
from saesteer.core.files import write_text
from saesteer.sharing.commands import SharingError
from saesteer.sharing.snakemake_metadata import FIELDS

FOLDER = Path("provenance")
SHARED = ("data", "figures")
"""Where results are."""


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


class ProvenanceError(SharingError):
    """A line that is no statement; the message names file and line."""


def published_experiments(folder: Path) -> list[str]:
    """Names of the experiments of which something was published."""
    return sorted(path.name for path in (folder / FOLDER).glob("*") if path.is_dir())


def write_statements(folder: Path, experiment: str, statements: Iterable[Statement]) -> None:
    """Replace what is stated about an experiment."""
    target = folder / FOLDER / experiment
    by_rule = groupby(sorted(statements, key=lambda s: (s.record["rule"], s.output)), key=lambda s: s.record["rule"])
    lines = {rule: [_line(statement) for statement in group] for rule, group in by_rule}
    for rule, texts in lines.items():
        write_text(target / f"{rule}.jsonl", "\n".join(texts) + "\n")
    for path in target.glob("*.jsonl"):
        if path.stem not in lines:
            path.unlink()


def read_statements(folder: Path, experiment: str) -> dict[str, list[Statement]]:
    """Output -> what is stated about it."""
    statements: dict[str, list[Statement]] = {}
    for path in sorted((folder / FOLDER / experiment).glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            statement = _parsed(line, f"{path}, line {number}")
            if not statement.output.startswith(tuple(f"{home}/{experiment}/" for home in SHARED)) or not confined(folder, statement.output):
                raise ProvenanceError(f"{path}, line {number}: {statement.output!r} is no result of {experiment}, or lies behind a link")
            statements.setdefault(statement.output, []).append(statement)
    return statements


def _line(statement: Statement) -> str:
    """The output first, so that sorted lines are sorted by output."""
    inputs, record = dict(sorted(statement.inputs.items())), dict(sorted(statement.record.items()))
    return json.dumps({"output": statement.output, "sha256": statement.sha256, "inputs": inputs, "record": record}, ensure_ascii=False)


def _parsed(line: str, where: str) -> Statement:
    advice = "finish the merge if one is under way, else `git checkout` the file"
    try:
        statement = _STATEMENT.validate_json(line)
    except ValidationError as error:
        raise ProvenanceError(f"{where}: not a statement ({error.errors()[0]['msg']}): {advice}") from error
    if set(statement.record) != set(FIELDS) or not str(statement.record["rule"]).isidentifier():
        raise ProvenanceError(f"{where}: not a statement (its record has other fields, or its rule is no name): {advice}")
    return statement
