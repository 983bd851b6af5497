"""Publishing: what is up to date and sound goes into DVC's cache, its provenance into git, and both to where colleagues find them."""

import functools
import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from saesteer.core.files import file_digest
from saesteer.core.store import mixed_versions
from saesteer.sharing.commands import SharingError, dvc, git, set_up_merging, summary
from saesteer.sharing.dvc_issue_10977 import upload
from saesteer.sharing.dvc_metadata import default_remote
from saesteer.sharing.provenance import FOLDER, SHARED, Statement, write_statements
from saesteer.sharing.snakemake_metadata import read_record
from saesteer.sharing.soundness import faults, is_manifest

SOURCES = ("Snakefile", "rules", "scripts", "src", "config", "envs", "data/world", "data/world-books")
"""What the workflow reads from git: published results belong to a commit of these."""
_UP_TO_DATE = "no update"
_SHOWN = 5

log = logging.getLogger(__name__)


def record(folder: Path, configuration: list[str]) -> list[Path]:
    """Write the provenance of all outputs of a configuration and put them under DVC. Gives the folders and files that DVC tracks."""
    outputs = _finished_outputs(folder, configuration)
    _refuse_damage(folder, outputs)
    _say_mixed_versions(folder, outputs)
    digest = functools.cache(lambda name: file_digest(folder / name))  # an input of many outputs is read once
    statements: dict[str, list[Statement]] = {}
    for output in outputs:
        statements.setdefault(_experiment(output), []).append(_statement(folder, output, digest))
    for experiment, stated in statements.items():
        write_statements(folder, experiment, stated)
    tracked = sorted({_tracked(output) for output in outputs})
    if not dvc(folder, "add", "--quiet", *map(str, tracked)):
        raise SharingError("DVC could not take the results into its cache (above: why); nothing was published, run the same command again")
    return tracked


def push(folder: Path, configuration: list[str]) -> list[Path]:
    """Record, upload the data, then commit and push the files that name it: git never names data that the remote does not have."""
    set_up_merging(folder)
    if default_remote(folder) is None:
        raise SharingError(
            "DVC has no remote to push to: `dvc remote add --default storage PATH_OR_URL`, commit .dvc/config (README, Sharing results)"
        )
    if changed := git(folder, "status", "--porcelain", "--", *SOURCES).rstrip():
        raise SharingError(f"commit these first, since published results belong to a commit of what made them:\n{changed}")
    tracked = record(folder, configuration)
    upload(folder, tracked)
    _commit(folder, tracked)
    return tracked


def _commit(folder: Path, tracked: Sequence[Path]) -> None:
    names = [*(f"{path}.dvc" for path in tracked), *(f"{FOLDER}/{name}" for name in sorted({_experiment(str(path)) for path in tracked}))]
    git(folder, "add", "--", *names)
    if git(folder, "status", "--porcelain", "--", *names).strip():
        experiments = ", ".join(sorted({_experiment(str(path)) for path in tracked}))
        git(folder, "commit", "--quiet", "--message", f"Results of {experiments}", "--", *names)
    if git(folder, "remote").strip():
        git(folder, "push", "--quiet", "--set-upstream", git(folder, "remote").split()[0], "HEAD")


def _finished_outputs(folder: Path, configuration: list[str]) -> list[str]:
    rows = [row for row in summary(folder, configuration) if not is_local(row["output_file"])]
    if outside := [row["output_file"] for row in rows if Path(row["output_file"]).parts[0] not in SHARED]:
        raise SharingError(f"{outside[0]} lies outside {' and '.join(SHARED)}: DVC tracks what is in the repository (see data_dir)")
    # Snakemake may do without an intermediate file while what was made from it is there.
    due = [row for row in rows if row["plan"] != _UP_TO_DATE or not (folder / row["output_file"]).is_file()]
    if due:
        listed = "\n".join(f"  {row['output_file']}: {row['status']}" for row in due[:_SHOWN])
        raise SharingError(f"{len(due)} of {len(rows)} outputs are not up to date, so run the workflow first (`make figures`):\n{listed}")
    return sorted(row["output_file"] for row in rows)


def _refuse_damage(folder: Path, outputs: Sequence[str]) -> None:
    for output in outputs:
        for path, fault in faults(folder / output).items() if is_manifest(folder / output) else ():
            raise SharingError(
                f"{path.relative_to(folder)} {fault}: `snakemake --cores all --force {output}` makes it again; other rows are kept"
            )


def _say_mixed_versions(folder: Path, outputs: Sequence[str]) -> None:
    """Name the steps of whose rows some were made with one version of a library and some with another."""
    by_step = groupby((folder / output for output in outputs if is_manifest(folder / output)), key=lambda manifest: manifest.parent)
    for step, manifests in by_step:
        for library, versions in mixed_versions(manifests).items():
            log.warning("%s: its rows were made with several versions of %s: %s", step.relative_to(folder), library, ", ".join(versions))


def _statement(folder: Path, output: str, digest: Callable[[str], str]) -> Statement:
    values = read_record(folder, output)
    if values is None:
        raise SharingError(f"{output}: Snakemake has no record of how it was made: `snakemake --cores all --force {output}` gives it one")
    return Statement(output, digest(output), {name: digest(name) for name in values["input"] if not is_local(name)}, values)


def is_local(name: str) -> bool:
    """Whether a file says where this machine put what it fetched. Colleagues fetch for themselves; pins say what it was."""
    return "downloads" in Path(name).parts


def _experiment(output: str) -> str:
    """data/tiny/generations/... and figures/tiny/... are of the experiment tiny."""
    return Path(output).parts[1]


def _tracked(output: str) -> Path:
    """What DVC tracks of an output: data/tiny/generations (a step's folder), data/tiny/metrics.json, figures/tiny."""
    parts = Path(output).parts
    return Path(*parts[:3]) if parts[0] != "figures" else Path(*parts[:2])
