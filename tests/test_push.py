"""Where `saesteer push` pushes commits."""

import subprocess
from pathlib import Path

import pytest

from saesteer.sharing.commands import SharingError, git
from saesteer.sharing.publish import push_commits


def test_commits_go_where_the_branch_goes(tmp_path: Path) -> None:
    """Of several remotes to the one that the branch follows, whatever their names; else to origin, or to the only one."""
    for name in ("alice", "origin", "repo"):
        subprocess.run(
            ["git", "init", "--quiet", "--initial-branch=main", *["--bare"] * (name != "repo"), str(tmp_path / name)], check=True
        )
    repo = tmp_path / "repo"

    def has(name: str, branch: str) -> bool:
        return git(repo, "ls-remote", str(tmp_path / name), f"refs/heads/{branch}").startswith(git(repo, "rev-parse", "HEAD").strip())

    def commit() -> None:
        git(repo, "-c", "user.name=N", "-c", "user.email=n@h", "commit", "--quiet", "--allow-empty", "--message", "Results")

    commit()
    push_commits(repo)  # no remote: nothing to do
    for name in ("alice", "origin"):
        git(repo, "remote", "add", name, str(tmp_path / name))
    push_commits(repo)
    assert (has("origin", "main"), has("alice", "main")) == (True, False)
    git(repo, "checkout", "--quiet", "-b", "mine")
    git(repo, "push", "--quiet", "--set-upstream", "alice", "mine")
    commit()
    push_commits(repo)
    assert (has("origin", "mine"), has("alice", "mine")) == (False, True)
    followed = [git(repo, "rev-parse", "--abbrev-ref", f"{branch}@{{upstream}}").strip() for branch in ("main", "mine")]
    assert followed == ["origin/main", "alice/mine"]
    git(repo, "remote", "rename", "origin", "bob")
    git(repo, "checkout", "--quiet", "-b", "new")
    with pytest.raises(SharingError, match="branch new follows none of alice, bob"):
        push_commits(repo)
