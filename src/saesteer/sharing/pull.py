"""Pulling what a commit names: data from the remote, checked against git and its provenance, put in place without removing what anybody
else wrote, and adopted where it agrees.

`pull` notes the files that it writes in a ledger, where neither git nor a pull can write. It replaces what the ledger names, unchanged, and
what rules of this checkout make; a damaged part is set aside. It removes what the ledger names, unchanged, once a version is without it.
Anything else stays, whatever provenance says of it, and where such a file is in the way the pull stops before it writes. Files named by
their own digest (parts, a judge's answers) are never removed.

Adopted outputs are up to date here too; all others are made again. Back-dating or touching files would hide changes. Instead an output is
adopted only when its bytes are those that were published *and* every input on this disk has the bytes that it was made from; then Snakemake
gets the published record of its job, and goes on to compare that record with the code, parameters and inputs of this checkout. What does
not agree is removed, so that it can never pass for current.
"""

import functools
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc_data.hashfile.checkout import Link
from dvc_objects.fs.generic import test_links
from dvc_objects.fs.local import localfs

from saesteer.core.errors import did_you_mean
from saesteer.core.files import confined, file_digest, write_atomically, write_json
from saesteer.sharing.commands import SharingError, set_up_merging
from saesteer.sharing.dvc_metadata import bring, files_of, md5, read_version, repository
from saesteer.sharing.provenance import FOLDER, NAMED_BY_DIGEST, Statement, faults, is_result, read_statements
from saesteer.sharing.snakemake_metadata import drop_record, read_record, write_record

Files = Mapping[Path, str]
"""Absolute path -> MD5."""
_LEDGERS = Path(".dvc/tmp/pulled")
_SPENT = "spent.jsonl"
"""Name of a judge's ledger, beside the folders that are shared."""
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
    """Refused outputs that were never published, and so are possibly somebody's work here."""


def pull(folder: Path, experiments: Sequence[str], planned: Callable[[str], Collection[str]]) -> dict[str, Examination]:
    """Bring the checkout's version of the experiments (none named: of all that were published), and adopt it.

    `planned` gives the outputs that this checkout's configuration plans for an experiment. What was computed, paid for or written here
    stays. What the remote lacks or holds damaged is left to be made again.
    """
    published = sorted(path.name for path in (folder / FOLDER).glob("*") if path.is_dir())
    if unknown := sorted(set(experiments) - set(published)):
        near, listed = did_you_mean(unknown[0], published), ", ".join(published) or "nothing"
        raise SharingError(f"nothing was published of {', '.join(unknown)} at this commit.{near} Published: {listed}")
    folder = folder.resolve()
    with repository(folder) as repo:
        plans = {name: _plan(folder, name, planned(name)) for name in list(experiments) or published}
        for name in plans:
            read_statements(folder, name)  # what is no statement is refused before anything is written
        set_up_merging(folder)
        named = {name: _named_files(folder, repo, name) for name in plans}
        due = {
            name: {path: digest for path, digest in files.items() if not path.is_file() or md5(path) != digest}
            for name, (files, _) in named.items()
        }
        for name, outputs in plans.items():
            _refuse_in_the_way(folder, name, due[name], outputs)
        bring(repo, {digest for files in due.values() for digest in files.values()})
        for name, (files, is_whole) in named.items():
            _put_in_place(folder, name, due[name], repo.cache.local)
            if is_whole:
                _remove_what_is_gone(folder, name, files)
    examined = {name: examine(folder, name, outputs) for name, outputs in plans.items()}
    for examination in examined.values():
        adopt(folder, examination)
    return examined


def _plan(folder: Path, experiment: str, planned: Collection[str]) -> Collection[str]:
    """The outputs that a configuration plans; refused where a file of another folder could pass for one."""
    if outside := next((name for name in planned if not is_result(folder, experiment, name)), None):
        raise SharingError(
            f"{outside} is planned, but lies outside data/{experiment} and figures/{experiment}, or behind a link: data_dir and figures_dir"
            " of the configuration lead to files that no pull may touch, so nothing was pulled"
        )
    return planned


def _named_files(folder: Path, repo: Repo, experiment: str) -> tuple[Files, bool]:
    """The files that git names of an experiment, and whether these are all: no listing is missing."""
    patterns = (f"data/{experiment}/*.dvc", f"figures/{experiment}.dvc")
    dvc_files = sorted(path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    if forged := [file for file in dvc_files if file.stem.lower() == _SPENT]:
        raise SharingError(f"{forged[0].stem} is each clone's own, so nothing was pulled: `git rm {forged[0]}`, and ask who committed it")
    listings = [files_of(repo, *read_version(folder, file)) for file in dvc_files]
    return {path: digest for files in listings for path, digest in (files or {}).items()}, None not in listings


def _refuse_in_the_way(folder: Path, experiment: str, due: Files, outputs: Collection[str]) -> None:
    """Stop where a file that is due would take the place of something that neither a rule nor an earlier pull wrote; `outputs`: planned."""
    written = _read_ledger(folder, experiment)
    blocking = {place for path in due if (place := _in_the_way(folder, path, written, outputs))}
    if blocking:
        listed = "\n".join(f"  {path.relative_to(folder)}" for path in sorted(blocking))
        raise SharingError(
            f"these are in the way of published files and may be yours, so nothing was pulled: move them, then pull again\n{listed}"
        )


def _in_the_way(folder: Path, path: Path, written: Files, outputs: Collection[str]) -> Path | None:
    """What is in the way of a file; None: nothing, or what may be replaced."""
    if parent := next((parent for parent in path.parents if parent.is_relative_to(folder) and parent.is_file()), None):
        return parent
    if not path.is_symlink() and not path.exists():
        return None
    if path.is_dir():
        return path
    is_output = is_output_here(folder, str(path.relative_to(folder)), outputs)
    replaceable = is_output or _is_store_file(path) or written.get(path) == md5(path)
    return None if replaceable else path


def _is_store_file(path: Path) -> bool:
    """A file whose name or folder says which bytes it has to have: a part, a judge's answers, a fingerprint, a converted SAE."""
    return bool(NAMED_BY_DIGEST.fullmatch(path.name)) or path.name == "fingerprint.json" or path.parent.name == "saes"


def _put_in_place(folder: Path, experiment: str, due: Files, cache: Any) -> None:
    """Link or copy the files that are due from DVC's cache, as DVC is configured, and note them; those that it lacks are left out."""
    available = {path: source for path, digest in due.items() if Path(source := cache.oid_to_path(digest)).is_file()}
    if not available:
        return
    link = Link(test_links(cache.cache_types, cache.fs, cache.path, localfs, str(folder / "data/any")))
    for path, source in available.items():
        partial = path.with_name(f".{path.name}.pulled.partial")
        partial.unlink(missing_ok=True)
        link(cache, source, localfs, str(partial))
        if _is_store_file(path) and path.exists():
            set_aside(path)
        partial.replace(path)
    _write_ledger(folder, experiment, {**_read_ledger(folder, experiment), **{path: due[path] for path in available}})


def _remove_what_is_gone(folder: Path, experiment: str, files: Files) -> None:
    """Remove what an earlier pull wrote, if nobody has changed it, where this version is without it."""
    written = _read_ledger(folder, experiment)
    for path in written.keys() - files.keys():
        if path.is_file() and md5(path) == written[path]:
            path.unlink()
            drop_record(folder, str(path.relative_to(folder)))
    _write_ledger(folder, experiment, {path: digest for path, digest in written.items() if path in files})


def _read_ledger(folder: Path, experiment: str) -> dict[Path, str]:
    """Absolute path -> MD5 of what an earlier pull wrote."""
    file = folder / _LEDGERS / f"{experiment}.json"
    noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {folder / name: digest for name, digest in noted.items()}


def _write_ledger(folder: Path, experiment: str, written: Files) -> None:
    """Parts and answers are left out, as they are never removed."""
    noted = {str(path.relative_to(folder)): digest for path, digest in written.items() if not NAMED_BY_DIGEST.fullmatch(path.name)}
    write_json(folder / _LEDGERS / f"{experiment}.json", noted)


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
    """The statement without the inputs that nobody published and that are not in this folder: a model or texts that stayed where the
    results were made, or lie on a shared disk. Its job counts as one that read none of them, so it is due, and they are compared, as soon
    as they are here."""
    absent = {name for name in statement.inputs if name not in outputs and not ((path := confined(folder, name)) and path.exists())}
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
