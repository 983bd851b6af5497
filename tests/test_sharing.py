"""A colleague's clone: what was pushed is pulled, checked and adopted; what differs is made again, and only that."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from sharing_folders import Clone, clone_of, damage, damaged_objects, first_clone, object_of
from workflow_folder import Folder, new_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A's clone after `saesteer push`."""
    folder = tmp_path_factory.mktemp("published")
    clone = first_clone(folder / "a", finished, str(folder / "store"))
    assert "published" in clone.tool("saesteer", "push", "micro")
    return clone


@pytest.fixture(scope="module")
def pulled(published: Clone) -> Clone:
    """B's clone after `saesteer pull`; tests change copies of it only."""
    clone = clone_of(published, published.path.parent / "b")
    assert "micro: 58 outputs adopted, 0 to be made again" in clone.tool("saesteer", "pull")
    return clone


def copy_of(clone: Clone, path: Path) -> Clone:
    shutil.copytree(clone.path, path, symlinks=True)
    return Clone(path)


def test_a_clone_has_nothing_left_to_do(published: Clone, pulled: Clone) -> None:
    assert pulled.has_nothing_to_do()
    assert pulled.git("status", "--porcelain") == ""
    assert pulled.table("generations").equals(published.table("generations"))


def test_provenance_is_sorted_and_names_no_place(published: Clone) -> None:
    texts = [path.read_text() for path in (published.path / "provenance/micro").glob("*.jsonl")]
    assert len(texts) == 22
    assert all(text.splitlines() == sorted(text.splitlines()) for text in texts)
    assert not any(str(published.path) in text for text in texts)


@pytest.mark.exhaustive
def test_pushing_again_changes_nothing(published: Clone) -> None:
    before = published.git("rev-parse", "HEAD")
    published.tool("saesteer", "push", "micro")
    assert published.git("rev-parse", "HEAD") == before
    assert published.git("status", "--porcelain") == ""


def _a_module(clone: Clone) -> None:
    path = clone.path / "src/saesteer/analysis/pmi.py"
    path.write_text(path.read_text() + "\n\nADDED = 1\n")


def _a_comment(clone: Clone) -> None:
    path = clone.path / "src/saesteer/analysis/pmi.py"
    path.write_text(path.read_text() + "\n# a comment\n")


def _an_input_by_one_byte(clone: Clone) -> None:
    damage(clone.path / "config/prefixes.txt")


def _a_feature(clone: Clone) -> None:
    clone.edit("micro", features={"kind": "explicit", "features": {2: [3, 141, 592, 653, 700], 6: [27, 182, 818, 284]}})


@pytest.mark.parametrize(
    ("change", "n_due"),
    [
        (_a_feature, 51),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ((_a_module, 5), (_a_comment, 0), (_an_input_by_one_byte, 39))),
    ],
)
def test_a_change_in_the_clone_is_seen_as_if_it_had_computed_everything(
    published: Clone, pulled: Clone, tmp_path: Path, change: Callable[[Clone], None], n_due: int
) -> None:
    """The same outputs are due as in A's folder, where Snakemake's own records are, after the same change."""
    original, clone = copy_of(published, tmp_path / "a"), copy_of(pulled, tmp_path / "b")
    shutil.rmtree(clone.path / ".snakemake")
    change(original)
    change(clone)
    clone.tool("saesteer", "pull")
    due = original.due()
    assert clone.due() == due
    assert len(due) == n_due


@pytest.mark.exhaustive
def test_a_plain_dvc_pull_computes_no_row(published: Clone, tmp_path: Path) -> None:
    clone = clone_of(published, tmp_path / "b")
    clone.tool("dvc", "pull", "--quiet")
    parts = clone.parts()
    code, output = clone.run()
    assert code == 0, output
    assert clone.parts() == parts
    assert clone.table("judge").equals(published.table("judge"))


def test_what_was_damaged_or_lost_in_the_clone_is_fetched_again(pulled: Clone, tmp_path: Path) -> None:
    """A leaf output edited, a table lost, a part edited, and another part's object damaged in DVC's cache."""
    clone = copy_of(pulled, tmp_path / "b")
    damage(clone.path / "figures/micro/roles.csv")
    (clone.path / "data/micro/tables/outcomes.parquet").unlink()
    damage(min(clone.parts()["judge"]))
    rotten = min(clone.parts()["generations"])
    damage(object_of(clone.path / ".dvc/cache", rotten))
    damage(rotten)
    clone.tool("saesteer", "pull")
    assert clone.has_nothing_to_do()
    assert damaged_objects(clone.path / ".dvc/cache") == []
    assert clone.table("generations").equals(pulled.table("generations"))


@pytest.mark.exhaustive
def test_what_the_remote_lacks_or_holds_damaged_is_named_and_made_again(published: Clone, tmp_path: Path) -> None:
    """As after a publish interrupted half-way: git names a part that never arrived; and two objects of the remote are damaged."""
    store = tmp_path / "store"
    shutil.copytree(published.path.parent / "store", store)
    lost, rotten = min(published.parts()["output_score"]), min(published.parts()["gen_success"])
    object_of(store, lost).unlink()
    damage(object_of(store, rotten))
    damage(object_of(store, published.path / "figures/micro/roles.csv"))
    clone = clone_of(published, tmp_path / "b")
    clone.tool("dvc", "remote", "modify", "--local", "storage", "url", str(store))
    output = clone.tool("saesteer", "pull")
    relative = [str(part.relative_to(published.path)) for part in (lost, rotten)]
    assert f"{relative[0]} is missing" in output
    assert f"{relative[1]} is missing" in output, "damaged bytes never reach its place"
    assert "figures/micro/roles.csv: missing" in output
    assert "data/micro/output_score/layers_02-06.json" in clone.due()
    assert "data/micro/generations/layers_02-06.json" not in clone.due()
    before = clone.parts()
    code, output = clone.run("data/micro/output_score/layers_02-06.json", "data/micro/gen_success/layers_02-06.json")
    assert code == 0, output
    rows = new_rows(before, clone.parts())
    assert set(rows) == {"output_score", "gen_success"}
    assert rows["output_score"].equals(pl.read_parquet(lost))
    assert (clone.path / relative[1]).read_bytes() == rotten.read_bytes(), "the same rows, so the same name"
    for step in ("output_score", "gen_success"):
        assert clone.table(step).equals(published.table(step))


@pytest.mark.exhaustive
def test_what_dvc_users_expect(published: Clone, pulled: Clone, tmp_path: Path) -> None:
    clone = copy_of(pulled, tmp_path / "b")
    assert "both_above_half" in clone.tool("dvc", "metrics", "show", "data/micro/metrics.json")
    assert "Nothing to be done" in clone.tool("dvc", "repro", "micro")
    assert clone.git("status", "--porcelain", "--", "data", "figures", "provenance") == ""


@pytest.mark.exhaustive
def test_one_table_goes_into_another_project(published: Clone, tmp_path: Path) -> None:
    other = Clone(tmp_path, new=True)
    other.tool("dvc", "init", "--quiet")
    other.tool("dvc", "import", "--quiet", str(published.path.parent / "git"), "data/micro/tables/features.parquet")
    assert (other.path / "features.parquet").read_bytes() == (published.path / "data/micro/tables/features.parquet").read_bytes()


@pytest.mark.exhaustive
def test_results_are_read_without_the_model_and_the_texts(finished: Folder, tmp_path: Path) -> None:
    """Model, SAEs and texts lie in folders that stay with their maker, as `saesteer init` has it: neither in git nor in the remote."""
    first = first_clone(tmp_path / "a", finished, str(tmp_path / "store"))
    first.git("rm", "-r", "--quiet", "--cached", "data/world")
    with (first.path / ".gitignore").open("a") as file:
        file.write("/data/world/\n")
    first.commit("A model of our own")
    first.tool("saesteer", "push", "micro")
    clone = clone_of(first, tmp_path / "b")
    assert not (clone.path / "data/world").exists()
    assert "micro: 58 outputs adopted, 0 to be made again" in clone.tool("saesteer", "pull")
    assert clone.has_nothing_to_do()
    assert clone.table("generations").equals(first.table("generations"))
    for name in ("data/micro/tables/features.parquet", "data/micro/metrics.json", "figures/micro/overview.pdf"):
        assert (clone.path / name).read_bytes() == (first.path / name).read_bytes()
    assert "in a browser" in clone.tool("saesteer", "report", "micro")
    code, output = clone.run()
    assert code == 0, output
    assert "Nothing to be done" in output
    assert clone.parts() == {step: {clone.path / part.relative_to(first.path) for part in parts} for step, parts in first.parts().items()}
    clone.edit("micro", sweep={"factors": [0, 2, 3, 4], "n_prefixes": 4})
    code, output = clone.run()
    assert code != 0, "what is to be computed needs the model"
    assert "data/world/model" in output
