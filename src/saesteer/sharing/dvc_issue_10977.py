"""What makes up for DVC's open issue 10977: a push or pull that is killed while it collects leaves a list of what is to travel, and the
next one takes that list for whole. Data is left out, and nobody is told.

So DVC's lists are dropped before each push, and after it the remote is asked for each object; a pull does without them. When the issue is
closed, and the release of DVC that closes it is the one in pyproject.toml, this module can go: `upload` becomes `dvc push`, provided that
test_sharing_places.py stays green.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from dvc.config import RemoteConfigError
from dvc_data.hashfile.transfer import transfer

from saesteer.sharing.commands import SharingError, dvc
from saesteer.sharing.dvc_metadata import repository

log = logging.getLogger(__name__)


def upload(folder: Path, tracked: Sequence[Path]) -> None:
    """Bring everything that the .dvc files of folders and files name into the remote.

    Where the remote has a folder's listing, `dvc push` takes the folder's files to be there too, so what it did is looked up.
    """
    with repository(folder) as repo:
        repo.drop_data_index()  # its other lists, and the digests that it knows, stay
    if not dvc(folder, "push", *map(str, tracked)) or not _complete(folder, tracked):
        raise SharingError(
            "the data could not be uploaded (above: why); git was not touched and nothing is lost: run the same command again"
        )


def _complete(folder: Path, tracked: Sequence[Path]) -> bool:
    """Upload the objects that the remote does not have, asking it and not DVC's own lists; whether it has all of them now."""
    with repository(folder) as repo:
        try:
            remote = repo.cloud.get_remote_odb(None, "push")
        except RemoteConfigError as error:  # a bucket with versions of its own holds files, not objects
            log.info("what DVC uploaded is not looked up: %s", error)
            return True
        cache = repo.cache.local
        named = {version for versions in repo.used_objs([f"{path}.dvc" for path in tracked], push=True).values() for version in versions}
        nowhere: set[str] = set()
        try:
            # Without an index, the remote is asked for each object; a folder's listing goes up after its files.
            done = transfer(
                cache,
                remote,
                named,
                cache_odb=cache,
                shallow=False,
                validate_status=lambda status: nowhere.update(str(version.value) for version in status.missing),
            )
        except OSError as error:
            log.error("%s", error)
            return False
    if nowhere:
        log.error("neither DVC's cache nor the remote has %s", ", ".join(sorted(nowhere)))
    if done.transferred:
        log.info("%d objects that DVC had taken to be in the remote were uploaded", len(done.transferred))
    return not done.failed and not nowhere
