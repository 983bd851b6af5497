"""AxBench's files of concepts and labelled texts, against a loop over plain dicts; broken ones are refused by line, row and column."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from axbench_files import CONCEPTS, lines_of, metadata, train_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from saesteer.core.files import text_id
from saesteer.settings import SettingsError
from saesteer.sources.concept_texts import published_texts
from saesteer.sources.published import labelled_concepts

N_OWN, N_SHARED = 6, 4
ROWS = train_rows(N_OWN, N_SHARED)


def files(folder: Path, lines: Any = None, rows: Any = None) -> tuple[Path, Path]:
    listed, train = folder / "metadata.jsonl", folder / "train_data.parquet"
    listed.write_text(lines_of(lines or metadata()))
    pl.DataFrame(rows or ROWS).write_parquet(train)
    return listed, train


def test_published_texts_are_each_concepts_own_and_its_genres(tmp_path: Path):
    concepts, texts = published_texts(*files(tmp_path), None, N_OWN, N_SHARED, 0)
    assert concepts.rows() == [(text_id(concept), concept, feature) for concept, _, feature in CONCEPTS]
    for concept, genre, _ in CONCEPTS:
        mine = texts.filter(concept_id=text_id(concept))
        own, shared = (mine.filter(positive=positive).sort("number") for positive in (True, False))
        assert own["number"].to_list() == list(range(N_OWN))
        assert set(own.select("input", "output").iter_rows()) == {(f"Ask {i}?", f"On {concept} {i}.") for i in range(N_OWN)}
        assert set(shared.select("input", "output").iter_rows()) == {(f"Ask {genre} {i}?", f"No {genre} {i}.") for i in range(N_SHARED)}


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(1, N_OWN), st.integers(1, N_SHARED), st.integers(1, 3), st.randoms(use_true_random=False), st.integers(0, 2))
def test_published_texts_are_nested_and_do_not_depend_on_rows_order(
    tmp_path_factory: pytest.TempPathFactory, n_positive: int, n_negative: int, n_concepts: int, rng: Any, seed: int
):
    rows = list(ROWS)
    whole = published_texts(*files(tmp_path_factory.mktemp("whole")), None, N_OWN, N_SHARED, seed)
    rng.shuffle(rows)
    concepts, texts = published_texts(*files(tmp_path_factory.mktemp("some"), rows=rows), n_concepts, n_positive, n_negative, seed)
    assert_frame_equal(concepts, whole[0][:n_concepts])
    most = pl.when("positive").then(n_positive).otherwise(n_negative)
    wanted = whole[1].join(concepts, on="concept_id", how="semi").filter(pl.col("number") < most)
    assert_frame_equal(texts, wanted, check_row_order=False)


def test_which_published_texts_are_taken_depends_on_seed_and_concept(tmp_path: Path):
    paths = files(tmp_path)
    negative = {
        (seed, concept): texts.filter(concept_id=text_id(concept), positive=False).sort("number")["output"].to_list()
        for seed in range(4)
        for texts in [published_texts(*paths, None, N_OWN, N_SHARED, seed)[1]]
        for concept in (CONCEPTS[0][0], CONCEPTS[2][0])
    }
    assert len({tuple(order) for order in negative.values()}) > 3
    assert all(sorted(order) == [f"No text {i}." for i in range(N_SHARED)] for order in negative.values())


def changed_line(**changes: Any) -> list[dict[str, Any]]:
    """The list with a changed second line; None takes a key out."""
    lines = metadata()
    lines[1] = {key: value for key, value in {**lines[1], **changes}.items() if value is not None}
    return lines


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (changed_line(concept=None), r"line 2: key concept: Field required"),
        (changed_line(concept_id="1"), r"line 2: key concept_id: Input should be a valid integer, not '1'"),
        (changed_line(concept_id=True), r"line 2: key concept_id: .*, not True"),
        (changed_line(ref="https://www.neuronpedia.org/gemma-2-2b"), r"line 2: ref is .* has to end with a source and a feature's number"),
        (
            changed_line(concept_genres_map={"something else": ["code"]}),
            r"line 2: concept_genres_map names no genre for 'loops in programs'",
        ),
        (changed_line(concept_id=0), r"lines 1 and 2 have the same number, 0"),
        ([*metadata(), {**metadata()[0], "concept_id": 9}], r"lines 1 and 4 have the same concept, 'words about boats'"),
        ([["a", "list"]], r"line 1: Input should be an object"),
    ],
)
def test_a_broken_list_of_concepts_is_refused_by_line_and_key(tmp_path: Path, lines: Any, message: str):
    with pytest.raises(SettingsError, match=f"metadata.jsonl.*{message}"):
        published_texts(*files(tmp_path, lines), None, 2, 2, 0)


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"concept_id": 0,\n', "line 1: Invalid JSON"), (b"\n", "holds no concepts"), (b"\xff\xfe", "UTF-8")]
)
def test_what_is_no_list_of_concepts_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"metadata.jsonl.*{message}"):
        labelled_concepts(path)


def changed_row(place: int, **changes: Any) -> list[dict[str, Any]]:
    rows = list(ROWS)
    rows[place] = {**rows[place], **changes}
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{key: value for key, value in row.items() if key != "output"} for row in ROWS], "no column output; it has input"),
        ([{**row, "concept_id": str(row["concept_id"])} for row in ROWS], "column concept_id has type String"),
        (changed_row(3, input=None), r"row 3 \(counted from 0\): input is null"),
        (changed_row(14, output=" \n"), r"row 14 \(counted from 0\): output is blank"),
        (changed_row(2, category="neutral"), r"row 2 \(counted from 0\): category is neither"),
        (
            [row for row in ROWS if row["concept_genre"] != "code" or row["concept_id"] >= 0],
            "concept_id 1 .*line 2.* genre 'code' has no negative texts .*there are: math, text",
        ),
        (changed_row(18, output_concept="other"), "concept_id 1 .*output_concept in row 18 is 'other'"),
        (
            ROWS[:-1],
            r"concept_id 2 \('names of rivers'; .*metadata.jsonl, line 3\) has 5 positive texts, but methods.n_positive asks",
        ),
        (ROWS[1:], r"concept_id 0 .*line 1\) has 3 negative texts, but methods.n_negative asks for 4"),
    ],
)
def test_broken_training_texts_are_refused_by_row_and_column(tmp_path: Path, rows: Any, message: str):
    with pytest.raises(SettingsError, match=f"train_data.parquet.*{message}"):
        published_texts(*files(tmp_path, rows=rows), None, N_OWN, N_SHARED, 0)


def test_too_many_concepts_and_no_parquet_are_refused(tmp_path: Path):
    listed, train = files(tmp_path)
    with pytest.raises(SettingsError, match="has 3 concepts, but methods.concepts.n_concepts asks for 4"):
        published_texts(listed, train, 4, 2, 2, 0)
    train.write_bytes(b"<html>not found</html>")
    with pytest.raises(SettingsError, match="cannot be read as Parquet"):
        published_texts(listed, train, 3, 2, 2, 0)
