"""Publishing: what is up to date and sound goes into DVC's cache, its provenance into git, and both to where colleagues find them."""

import functools
import logging
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from dvc.config import RemoteConfigError
from dvc_data.hashfile.transfer import transfer

from saesteer.core.files import file_digest
from saesteer.core.store import mixed_versions
from saesteer.settings.base import DOWNLOADS
from saesteer.sharing.commands import SharingError, dvc, git, git_top, set_up_merging
from saesteer.sharing.dvc_metadata import remove_broken_lock, repository
from saesteer.sharing.provenance import FOLDER, SHARED, Statement, faults, is_manifest, is_result, read_statements, write_statements
from saesteer.sharing.snakemake_metadata import read_record

SOURCES = ("Snakefile", "rules", "scripts", "src", "config", "envs", "data/world", "data/public")
"""What the workflow reads from git: published results belong to a commit of these."""

log = logging.getLogger(__name__)


def record(folder: Path, configuration: list[str]) -> list[Path]:
    """Write the provenance of all outputs of a configuration and put them under DVC. Gives the folders and files that DVC tracks."""
    outputs = _finished_outputs(folder, configuration)
    for output in outputs:
        for path, fault in faults(folder / output).items():
            raise SharingError(f"{path.relative_to(folder)} {fault}: `{_again(output, configuration)}` makes it again; other rows are kept")
    _say_mixed_versions(folder, outputs)
    digest = functools.cache(lambda name: file_digest(folder / name))  # an input of many outputs is read once
    statements: dict[str, list[Statement]] = defaultdict(list)
    for output in outputs:
        values = read_record(folder, output)
        if values is None:
            raise SharingError(f"{output}: Snakemake has no record of how it was made: `{_again(output, configuration)}` gives it one")
        inputs = {name: digest(name) for name in values["input"] if not _is_local(name)}
        statements[_experiment(output)].append(Statement(output, digest(output), inputs, values))
    for experiment, stated in statements.items():
        write_statements(folder, experiment, stated)
    tracked = sorted({_tracked(output) for output in outputs})
    with repository(folder) as repo:
        remove_broken_lock(repo)
    if not dvc(folder, "add", *map(str, tracked)):
        raise SharingError("DVC could not take the results into its cache (above: why); nothing was published, run the same command again")
    return tracked


def _again(output: str, configuration: list[str]) -> str:
    """The command that makes an output again."""
    return shlex.join(["snakemake", "--force", output, "--cores", "all", *configuration])


def push(folder: Path, configuration: list[str], settings: Sequence[Path] = ()) -> list[Path]:
    """Record, upload the data, then commit and push the files that name it: git never names data that the remote does not have. `settings`
    are files and folders of settings, which have to be committed as SOURCES have."""
    set_up_merging(folder)
    with repository(folder) as repo:
        remote = repo.config["core"].get("remote")
    if remote is None:
        raise SharingError(
            "DVC has no remote to push to: `dvc remote add --default storage PATH_OR_URL`, commit .dvc/config (docs/sharing.md)"
        )
    top = git_top(folder)
    ours = [str(path) for path in settings if top and path.exists() and path.resolve().is_relative_to(top)]
    _refuse_uncommitted(folder, *SOURCES, *ours)
    tracked = record(folder, configuration)
    experiments = sorted({_experiment(str(path)) for path in tracked})
    stated = [one for experiment in experiments for of_output in read_statements(folder, experiment).values() for one in of_output]
    read = {name for one in stated for name in one.inputs if top and (folder / name).resolve().is_relative_to(top)}
    _refuse_uncommitted(folder, *read, untracked="no")  # texts that are in no commit stay here
    _upload(folder, tracked)
    names = [*(f"{path}.dvc" for path in tracked), *(f"{FOLDER}/{name}" for name in experiments)]
    git(folder, "add", "--", *names)
    if git(folder, "status", "--porcelain", "--", *names).strip():
        git(folder, "commit", "--quiet", "--message", f"Results of {', '.join(experiments)}", "--", *names)
    push_commits(folder)
    return tracked


def _refuse_uncommitted(folder: Path, *names: str, untracked: str = "normal") -> None:
    if changed := git(folder, "--literal-pathspecs", "status", "--porcelain", f"--untracked-files={untracked}", "--", *names).rstrip():
        raise SharingError(f"commit these first, since published results belong to a commit of what made them:\n{changed}")


def push_commits(folder: Path) -> None:
    """Push the branch to the remote that it follows; one that follows none to `origin`, or to the only remote."""
    remotes, branch = git(folder, "remote").split(), git(folder, "branch", "--show-current").strip()
    followed = git(folder, "for-each-ref", "--format=%(upstream:remotename)", f"refs/heads/{branch}").strip() if branch else ""
    if followed:
        git(folder, "push", "--quiet", followed, "HEAD")
    elif remotes:
        remote = "origin" if "origin" in remotes else remotes[0]
        if remote != "origin" and len(remotes) > 1:
            raise SharingError(
                f"the data is uploaded and the results are committed, but branch {branch} follows none of {', '.join(remotes)}: push it to"
                " where colleagues find it (`git push --set-upstream REMOTE HEAD`)"
            )
        git(folder, "push", "--quiet", "--set-upstream", remote, "HEAD")


def _finished_outputs(folder: Path, configuration: list[str]) -> list[str]:
    """All outputs of a configuration, by Snakemake's own list; refused unless each is up to date."""
    command = [sys.executable, "-m", "snakemake", "--summary", *configuration]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SharingError(f"Snakemake cannot say what is up to date:\n{done.stderr.strip()}")
    header, *lines = (line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    all_rows = [dict(zip(header, line, strict=True)) for line in lines]
    rows = [row for row in all_rows if not _is_local(row["output_file"])]
    if outside := [name for row in rows if not is_result(folder, "".join(Path(name := row["output_file"]).parts[1:2]), name)]:
        raise SharingError(f"{outside[0]} lies outside {' and '.join(SHARED)}: DVC tracks what is in the repository (see data_dir)")
    # Snakemake may do without an intermediate file while what was made from it is there.
    due = [row for row in rows if row["plan"] != "no update" or not (folder / row["output_file"]).is_file()]
    if due:
        listed = "\n".join(f"  {row['output_file']}: {row['status']}" for row in due[:5])
        raise SharingError(f"{len(due)} of {len(rows)} outputs are not up to date, so run the workflow first (`saesteer run`):\n{listed}")
    return sorted(row["output_file"] for row in rows)


def _say_mixed_versions(folder: Path, outputs: Sequence[str]) -> None:
    """Name the steps of whose rows some were made with one version of a library and some with another."""
    by_step = groupby((folder / output for output in outputs if is_manifest(folder / output)), key=lambda manifest: manifest.parent)
    for step, manifests in by_step:
        for library, versions in mixed_versions(manifests).items():
            log.warning("%s: its rows were made with several versions of %s: %s", step.relative_to(folder), library, ", ".join(versions))


def _upload(folder: Path, tracked: Sequence[Path]) -> None:
    """Bring everything that the .dvc files of folders and files name into the remote.

    Where the remote has a folder's listing, `dvc push` takes the folder's files to be there too, so what it did is looked up. And DVC's
    open issue 10977: a push that is killed while it collects leaves a list of what is to travel, and the next one takes that list for
    whole. So DVC's lists are dropped before each push, and after it the remote is asked for each object; a pull does without them. When
    the issue is closed, and the release of DVC that closes it is the one in pyproject.toml, this function and `_is_complete` become
    `dvc push`, provided that test_sharing_places.py stays green.
    """
    with repository(folder) as repo:
        repo.drop_data_index()  # its other lists, and the digests that it knows, stay
    if not dvc(folder, "push", *map(str, tracked)) or not _is_complete(folder, tracked):
        raise SharingError(
            "the data could not be uploaded (above: why); git was not touched and nothing is lost: run the same command again"
        )


def _is_complete(folder: Path, tracked: Sequence[Path]) -> bool:
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


def _is_local(name: str) -> bool:
    """Whether a file says where this machine put what it fetched. Colleagues fetch for themselves; pins say what it was."""
    return Path(name).is_relative_to(Path("data", DOWNLOADS))


def _experiment(output: str) -> str:
    """data/tiny/generations/... and figures/tiny/... are of the experiment tiny."""
    return Path(output).parts[1]


def _tracked(output: str) -> Path:
    """What DVC tracks of an output: data/tiny/generations (a step's folder), data/tiny/metrics.json, figures/tiny."""
    parts = Path(output).parts
    return Path(*parts[:3]) if parts[0] != "figures" else Path(*parts[:2])
