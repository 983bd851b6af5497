"""Adopting what a colleague made: outputs that agree with what was published become up to date here too; all others are made again.

Back-dating or touching files would hide changes. Instead an output is adopted only when its bytes are those that were published *and* every
input on this disk has the bytes that it was made from; then Snakemake gets the published record of its job, and goes on to compare that
record with the code, parameters and inputs of this checkout. What does not agree is removed, so that it can never pass for current.
"""

import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from saesteer.core.files import confined, file_digest, write_atomically
from saesteer.sharing.provenance import Statement, faults, read_statements
from saesteer.sharing.snakemake_metadata import drop_record, read_record, write_record

SET_ASIDE = ".corrupt"
"""Ending of files that were damaged or that nothing speaks for; never part of a version (.dvcignore)."""


@dataclass(frozen=True)
class Examination:
    """What of an experiment's outputs agrees with what was published."""

    agreeing: Mapping[str, Statement]
    """Output -> the statement that its bytes and its inputs' bytes agree with."""
    refused: Mapping[str, str]
    """Output -> why it has to be made again."""
    unaccounted: frozenset[str]
    """Those refused of which nothing was published, so that somebody here may have made them."""


def examine(folder: Path, experiment: str, planned: Collection[str]) -> Examination:
    """Compare the files of an experiment, whose configuration plans some outputs, with its provenance. Changes nothing.

    A file that nothing but provenance calls an output, which git brings, is somebody's: it can be adopted, but is never refused.
    """
    stated = read_statements(folder, experiment)

    @functools.cache
    def digest(name: str) -> str | None:
        """SHA-256 of a file of the folder; None of one that is missing, or not in the folder."""
        path = confined(folder, name)
        return file_digest(path) if path and path.is_file() else None

    # What neither a statement nor a record of this checkout speaks for, Snakemake would take on trust.
    unstated = [name for name in planned if name not in stated and (folder / name).is_file()]
    unaccounted = frozenset(name for name in unstated if read_record(folder, name) is None)
    refused = dict.fromkeys(unaccounted, "nothing was published about it")
    for output, statements in stated.items():
        if digest(output) is None:
            refused[output] = "missing"
        elif all(statement.sha256 != digest(output) for statement in statements):
            refused[output] = "its bytes are not those that were published"
        elif faulty := faults(folder / output):
            refused[output] = "; ".join(f"{path.relative_to(folder)} {fault}" for path, fault in faulty.items())
    at_hand = {output: [_at_hand(folder, one, stated) for one in statements] for output, statements in stated.items()}
    agreeing = _agreeing(at_hand, refused, digest)
    to_be_made = {name for name in refused if is_output_here(folder, name, planned) or not (folder / name).exists()}
    return Examination(agreeing, {name: refused[name] for name in sorted(to_be_made)}, unaccounted)


def is_output_here(folder: Path, name: str, planned: Collection[str]) -> bool:
    """Whether a file is made again where it is missing: the configuration plans it, or Snakemake has made or adopted it here."""
    return name in planned or read_record(folder, name) is not None


def adopt(folder: Path, examination: Examination) -> None:
    """Make agreeing outputs up to date for Snakemake. The others are removed, or set aside where nothing was published about them."""
    for output in examination.refused:
        if output in examination.unaccounted:
            set_aside(folder / output)
        (folder / output).unlink(missing_ok=True)
        drop_record(folder, output)
    moment = time.time()
    for statement in examination.agreeing.values():
        path = folder / statement.output
        if path.is_symlink() or path.stat().st_nlink > 1 or not os.access(path, os.W_OK):
            # A link into DVC's cache, perhaps a group's: its times are not ours to set.
            write_atomically(path, functools.partial(shutil.copyfile, path))
        os.utime(path, (moment, moment))
        write_record(folder, statement.output, statement.record, statement.inputs, moment)


def set_aside(path: Path) -> None:
    """Give a file that must not be read another name, under which it stays; those set aside before stay too."""
    names = (path.with_name(f"{path.name}{f'.{number}' if number else ''}{SET_ASIDE}") for number in itertools.count())
    path.replace(next(name for name in names if not name.exists()))


def _at_hand(folder: Path, statement: Statement, outputs: Collection[str]) -> Statement:
    """The statement without the inputs that nobody published and that are not on this machine: a model or texts that stayed where the
    results were made. Its job counts as one that read none of them, so it is due, and they are compared, as soon as they are here."""
    absent = {name for name in statement.inputs if name not in outputs and not (folder / name).exists()}
    if not absent:
        return statement
    record = {**statement.record, "input": [name for name in statement.record["input"] or [] if name not in absent]}
    return replace(statement, inputs={name: digest for name, digest in statement.inputs.items() if name not in absent}, record=record)


def _agreeing(stated: Mapping[str, list[Statement]], refused: dict[str, str], digest: Callable[[str], str | None]) -> dict[str, Statement]:
    """The statement of each output that agrees with the disk; those without one, and what was made from them, go to `refused`."""
    agreeing: dict[str, Statement] = {}
    n_refused = -1
    while n_refused != len(refused):
        n_refused, agreeing = len(refused), {}
        for output in stated.keys() - refused.keys():
            true_here = [statement for statement in stated[output] if statement.sha256 == digest(output)]
            reasons = [_change(statement, refused, digest) for statement in true_here]
            if None in reasons:
                agreeing[output] = true_here[reasons.index(None)]
            else:
                refused[output] = str(reasons[-1])
    return dict(sorted(agreeing.items()))


def _change(statement: Statement, refused: Mapping[str, str], digest: Callable[[str], str | None]) -> str | None:
    """What is different here from what the statement says, None when nothing is."""
    for name, published in statement.inputs.items():
        if name in refused:
            return f"made from {name}, which has to be made again"
        if digest(name) is None:
            return f"made from {name}, which is missing"
        if digest(name) != published:
            return f"made from {name}, which is different here"
    return None
