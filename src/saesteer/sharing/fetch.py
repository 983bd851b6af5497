"""Fetching what a commit names: data from the remote, checked against its provenance, adopted where it agrees."""

from collections.abc import Sequence
from pathlib import Path

from saesteer.sharing.adopt import Examination, adopt, examine
from saesteer.sharing.commands import SharingError, dvc
from saesteer.sharing.merge import set_up_merging
from saesteer.sharing.provenance import published_experiments
from saesteer.sharing.versions import (
    check_out_what_is_there,
    drop_from_cache,
    dvc_files,
    forget_what_was_collected,
    keep_unpublished,
    put_back,
)


def pull(folder: Path, experiments: Sequence[str]) -> dict[str, Examination]:
    """Bring the checkout's version of the experiments (none named: of all that were published), and adopt it.

    Parts that were computed here and are not published yet stay. What the remote lacks or holds damaged is left to be made again.
    """
    known = published_experiments(folder)
    if unknown := sorted(set(experiments) - set(known)):
        raise SharingError(f"nothing was published of {', '.join(unknown)} at this commit; published: {', '.join(known) or 'nothing'}")
    names = list(experiments) or known
    files = dvc_files(folder, names)
    set_up_merging(folder)
    keep_unpublished(folder, files)
    try:
        _check_out(folder, files)
    finally:
        put_back(folder)
    examined = {name: examine(folder, name) for name in names}
    if drop_from_cache(folder, files, [path for examination in examined.values() for path in examination.damaged]):
        _check_out(folder, files)
        examined = {name: examine(folder, name) for name in names}
    for examination in examined.values():
        adopt(folder, examination)
    return examined


def _check_out(folder: Path, files: Sequence[Path]) -> None:
    """`dvc pull`; where some of a folder's files cannot be had, the others are put in place all the same."""
    forget_what_was_collected(folder)
    if not dvc(folder, "pull", "--force", *map(str, files)):
        dvc(folder, "checkout", "--force", "--quiet", *map(str, files))
        check_out_what_is_there(folder, files)
