"""Merging two branches' versions of a folder: git calls this for *.dvc files (merge driver; `push` and `pull` set it up).

Parts are named by their content, so the union of both listings is right. Manifests, tables and figures may differ: ours are taken, and
since they disagree with the merged configuration, Snakemake makes them again without computing a row. DVC's own driver stops at such
files, and needs the other branch's listing in the local cache; this one fetches it.
"""

import sys
from pathlib import Path

from dvc.dvcfile import load_file
from dvc.repo import Repo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

from saesteer.sharing.commands import SharingError, git
from saesteer.sharing.versions import listing, repository

DRIVER = "saesteer"


def set_up_merging(folder: Path) -> None:
    """Tell this clone's git how to merge *.dvc files (.gitattributes names the driver; what it runs is each clone's own setting)."""
    command = f'"{sys.executable}" -m saesteer merge-versions %A %B'
    git(folder, "config", f"merge.{DRIVER}.name", "union of DVC folders")
    git(folder, "config", f"merge.{DRIVER}.driver", command)


def merge_versions(ours: Path, theirs: Path) -> None:
    """Write the union of two .dvc files' folders into `ours`; of two versions of a single file, ours stays."""
    with repository(Path()) as repo:
        file = load_file(repo, str(ours), verify=False)
        stage = file.stage
        out, other = stage.outs[0], load_file(repo, str(theirs), verify=False).stage.outs[0]
        if not (out.is_dir_checksum and other.is_dir_checksum):
            return
        mine, yours = listing(repo, out), listing(repo, other)
        if mine is None or yours is None:
            raise SharingError(
                f"{out.def_path}: neither DVC's cache nor the remote has the {'other' if mine else 'own'} branch's listing of it:"
                " `git merge --abort`, have that branch pushed (`make push`), merge again"
            )
        merged = _union(mine, yours)
        out.cache.add(merged.path, merged.fs, merged.oid)
        _upload(repo, mine, yours, merged)
        out.hash_info, out.meta, out.files = merged.hash_info, Meta(nfiles=len(merged)), None
        file.dump(stage)


def _union(mine: Tree, yours: Tree) -> Tree:
    merged = Tree()
    for tree in (yours, mine):
        for key, _, digest in tree:
            merged.add(key, None, digest)
    merged.digest()
    return merged


def _upload(repo: Repo, mine: Tree, yours: Tree, merged: Tree) -> None:
    """Both branches' files are in the remote when their listings are; then the merged listing may go there too, and a pull finds it."""
    remote = repo.cloud.get_remote_odb(None, "push")
    if remote.exists(mine.oid) and remote.exists(yours.oid):
        remote.add(merged.path, merged.fs, merged.oid)
