"""Two colleagues, two branches, one merge: nothing is lost and nothing computed twice; and every version can be had again."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from sharing_folders import Clone, clone_of, damaged_objects, first_clone, object_of, objects
from workflow_folder import PER_FEATURE, PER_GENERATION, Folder, new_rows

from saesteer.sharing.commands import set_up_merging

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

FEATURES = {2: [3, 141, 592, 653], 6: [27, 182, 818, 284]}
COMPUTED = dict.fromkeys(PER_FEATURE, 1) | dict.fromkeys(PER_GENERATION, 3 * 4)
"""Rows of one more feature: one a step, or one for each of three factors and four prefixes."""


@dataclass(frozen=True)
class Story:
    a: Clone
    b: Clone
    store: Path
    computed: dict[str, dict[str, int]]
    """Colleague -> step -> rows computed."""
    sent: dict[Path, int]
    """What A's second push added to the remote, in bytes."""
    merged: str
    """What `git merge` said."""


def _add_feature(clone: Clone, layer: int, feature: int) -> dict[str, int]:
    """One more feature, computed; the rows of each step that this took."""
    before = clone.parts()
    clone.edit("micro", features={"kind": "explicit", "features": FEATURES | {layer: [*FEATURES[layer], feature]}})
    code, output = clone.run()
    assert code == 0, output
    clone.commit(f"Feature {feature} of layer {layer}")
    return {step: rows.height for step, rows in new_rows(before, clone.parts()).items()}


@pytest.fixture(scope="module")
def story(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A publishes v1; on branches, A adds feature 700 of layer 2, and B, whose files are hard links into the cache, 900 of layer 6."""
    folder = tmp_path_factory.mktemp("merge")
    a = first_clone(folder / "a", finished, str(folder / "store"))
    a.edit("micro", features={"kind": "explicit", "features": FEATURES})
    a.commit("One feature a line, so that branches merge")
    a.tool("saesteer", "push", "micro")
    a.git("tag", "v1")
    a.git("push", "--quiet", "--tags")
    b = clone_of(a, folder / "b")
    b.tool("dvc", "config", "--local", "cache.type", "hardlink")
    b.tool("saesteer", "pull")
    a.git("checkout", "--quiet", "-b", "feature-a")
    b.git("checkout", "--quiet", "-b", "feature-b")
    computed = {"a": _add_feature(a, 2, 700), "b": _add_feature(b, 6, 900)}
    before = objects(folder / "store")
    a.tool("saesteer", "push", "micro")
    sent = {path: size for path, size in objects(folder / "store").items() if path not in before}
    b.tool("saesteer", "push", "micro")
    assert b.has_nothing_to_do(), "putting files under DVC is no change"
    b.git("fetch", "--quiet")
    b.git("checkout", "--quiet", "main")
    b.git("merge", "--quiet", "feature-b")
    merged = b.tool("git", "merge", "--no-edit", "origin/feature-a")
    b.git("push", "--quiet")
    return Story(a, b, folder / "store", computed, sent, merged)


def test_each_computed_one_feature(story: Story) -> None:
    assert story.computed == {"a": COMPUTED, "b": COMPUTED}


def test_the_branches_merge_without_conflict(story: Story) -> None:
    assert "CONFLICT" not in story.merged
    assert story.b.git("status", "--porcelain") == ""


def test_after_one_pull_nothing_is_lost_and_nothing_computed_twice(story: Story, tmp_path: Path) -> None:
    clone = clone_of(story.a, tmp_path / "c")
    clone.tool("saesteer", "pull")
    for colleague in (story.a, story.b):
        parts = {part.relative_to(colleague.path) for parts in colleague.parts().values() for part in parts}
        assert parts <= {part.relative_to(clone.path) for parts in clone.parts().values() for part in parts}
    before = clone.parts()
    code, output = clone.run()
    assert code == 0, output
    assert new_rows(before, clone.parts()) == {}
    for step in COMPUTED:
        table = clone.table(step)
        assert {700, 900} < set(table["feature"])
        for colleague in (story.a, story.b):
            theirs = colleague.table(step)
            assert table.join(theirs, on=["layer", "feature"], how="semi", maintain_order="left").equals(theirs)
    clone.tool("saesteer", "push", "micro")
    assert clone.has_nothing_to_do()
    shutil.copytree(story.a.path, tmp_path / "a", symlinks=True)
    first = Clone(tmp_path / "a")
    first.git("checkout", "--quiet", "main")
    first.git("pull", "--quiet")
    first.tool("saesteer", "pull")
    assert first.has_nothing_to_do(), "what a colleague computed needs nothing here"


def test_only_new_data_travels(story: Story) -> None:
    """The new parts, manifests, tables and figures, and listings; not the activations, the converted SAEs or the parts of before."""
    new = {object_of(story.store, part) for parts in story.a.parts().values() for part in parts} & set(story.sent)
    assert len(new) == len(COMPUTED), "one part a step"
    folder = story.a.path / "data/micro"
    small = [path for path in (*folder.glob("*/*"), folder / "metrics.json", *(story.a.path / "figures/micro").iterdir()) if path.is_file()]
    others = {path: size for path, size in story.sent.items() if path not in new and path.suffix != ".dir"}
    assert others.keys() <= {object_of(story.store, path) for path in small if path.suffix != ".safetensors"}


def test_neither_snakemake_nor_our_writers_write_through_a_link(story: Story) -> None:
    """B's folder was hard-linked to its cache while a feature was added."""
    parts = [part for parts in story.b.parts().values() for part in parts]
    assert all(part.stat().st_nlink > 1 for part in parts)
    assert damaged_objects(story.b.path / ".dvc/cache") == []


def test_a_version_comes_back_with_nothing_to_do(story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.a.path, tmp_path / "a", symlinks=True)
    clone = Clone(tmp_path / "a")
    clone.git("checkout", "--quiet", "v1")
    clone.tool("saesteer", "pull")
    assert clone.has_nothing_to_do()
    assert 700 not in clone.table("generations")["feature"]
    assert any(700 in set(pl.read_parquet(part)["feature"]) for part in clone.parts()["input_score"]), "what was computed here stays"
    difference = clone.tool("dvc", "metrics", "diff", "v1", "feature-a", "--targets", "data/micro/metrics.json")
    assert "features.n" in difference
    clone.git("checkout", "--quiet", "feature-a")
    clone.tool("saesteer", "pull")
    assert clone.has_nothing_to_do()
    assert 700 in clone.table("generations")["feature"]


@pytest.mark.parametrize("project", [".", "steering"])
def test_branches_merge_where_the_project_is_a_folder_of_the_repository(project: str, tmp_path: Path) -> None:
    top, results = Path(), Path(project, "data/exp/judge")
    environment = os.environ | {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*command: str, folder: Path = top) -> None:
        subprocess.run(command, cwd=tmp_path / folder, env=environment, check=True, capture_output=True)

    def part(letter: str) -> None:
        (tmp_path / results / "f").mkdir(parents=True, exist_ok=True)
        (tmp_path / results / f"f/{letter}.parquet").write_text(letter)
        run(sys.executable, "-m", "dvc", "add", "--quiet", "data/exp/judge", folder=Path(project))
        run("git", "add", "--all")
        run("git", "commit", "--quiet", "--message", letter)

    run("git", "init", "--quiet", "--initial-branch=main")
    (tmp_path / project).mkdir(exist_ok=True)
    run(sys.executable, "-m", "dvc", "init", "--quiet", "--subdir" if project != "." else "--force", folder=Path(project))
    (tmp_path / project / ".dvc/config").write_text(f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path}/store\n")
    (tmp_path / project / ".dvc/config").replace(tmp_path / project / ".dvc/config.local")
    (tmp_path / ".gitattributes").write_text("*.dvc merge=saesteer\n")
    part("a")
    run("git", "checkout", "--quiet", "-b", "theirs")
    part("b")
    run("git", "checkout", "--quiet", "main")
    (tmp_path / results / "f/b.parquet").unlink()
    part("c")
    set_up_merging(tmp_path / project)
    run("git", "merge", "--no-edit", "theirs")
    assert "nfiles: 3" in (tmp_path / f"{results}.dvc").read_text()
    assert not list(tmp_path.rglob(".merge-*"))
