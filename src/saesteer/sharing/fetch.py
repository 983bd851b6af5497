"""Fetching what a commit names: data from the remote, checked against git and its provenance, adopted where it agrees."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from dvc.repo import Repo

from saesteer.sharing.adopt import Examination, adopt, examine
from saesteer.sharing.checkout import Files, missing_or_different, put_in_place, refuse_in_the_way, remove_what_is_gone
from saesteer.sharing.commands import SharingError, git, set_up_merging
from saesteer.sharing.dvc_metadata import bring, dvc_files, files_of, read_version, repository
from saesteer.sharing.provenance import SHARED, published_experiments, read_statements

_LINK = "120000"
"""git's mode of a symbolic link."""


def pull(folder: Path, experiments: Sequence[str], planned: Callable[[str], Collection[str]]) -> dict[str, Examination]:
    """Bring the checkout's version of the experiments (none named: of all that were published), and adopt it.

    `planned` gives the outputs that this checkout's configuration plans for an experiment. What was computed, paid for or written here
    stays. What the remote lacks or holds damaged is left to be made again.
    """
    known = published_experiments(folder)
    if unknown := sorted(set(experiments) - set(known)):
        raise SharingError(f"nothing was published of {', '.join(unknown)} at this commit; published: {', '.join(known) or 'nothing'}")
    folder = folder.resolve()
    _refuse_links(folder)
    stated = {name: read_statements(folder, name) for name in list(experiments) or known}
    set_up_merging(folder)
    with repository(folder) as repo:
        named = {name: _named_files(folder, repo, name) for name in stated}
        due = {name: missing_or_different(files) for name, (files, _) in named.items()}
        for name, outputs in stated.items():
            refuse_in_the_way(folder, name, due[name], outputs)
        bring(repo, {digest for files in due.values() for digest in files.values()})
        for name, (files, is_whole) in named.items():
            put_in_place(folder, name, due[name], repo.cache.local)
            if is_whole:
                remove_what_is_gone(folder, name, files)
    examined = {name: examine(folder, name, planned(name)) for name in stated}
    for examination in examined.values():
        adopt(folder, examination)
    return examined


def _named_files(folder: Path, repo: Repo, experiment: str) -> tuple[Files, bool]:
    """The files that git names of an experiment, and whether these are all: no listing is missing."""
    listings = [files_of(repo, read_version(folder, file)) for file in dvc_files(folder, [experiment])]
    return {path: digest for files in listings for path, digest in (files or {}).items()}, None not in listings


def _refuse_links(folder: Path) -> None:
    """git must hold no link where results are: it would lead a pull elsewhere."""
    for line in git(folder, "ls-files", "--stage", "--", *SHARED).splitlines():
        if line.startswith(_LINK):
            raise SharingError(f"git holds a symbolic link among the results, so nothing was pulled: {line.split(chr(9))[1]}")
