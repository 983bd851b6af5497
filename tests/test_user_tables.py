"""Tables of users, as JSON lines, CSV and Parquet: all rows say what columns there are, and a fault is named by file, row and column."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner
from workflow_folder import ROOT

from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.exchange.imported import imported_texts
from saesteer.settings import LabelledTexts
from saesteer.sources.concept_texts import texts_of_file
from saesteer.sources.corpus import check_texts, read_texts, text_ids

ENDINGS = ("jsonl", "csv", "parquet")


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in a file of its ending's form; a key that a row lacks is left out of JSON lines, and empty elsewhere."""
    if path.suffix == ".jsonl":
        return lines(path, rows)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def text(method: str = "mine", number: int = 0, factor: float = 1, **values: Any) -> dict[str, Any]:
    row = {"method": method, "concept": "sea", "prompt": f"Prompt {number}", "factor": factor, "text": "a text"}
    return row | {"concept_rating": 2, "fluency_rating": 2} | values


def test_a_rating_that_first_stands_in_row_101_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last 40 of 140 texts are rated 0 for their instruction, so their harmonic mean is 0; the others have none, so no score."""
    monkeypatch.chdir(tmp_path)
    rows = [text("unsteered", number, 0) for number in range(50)] + [text("diffmean", number) for number in range(50)]
    rows += [text("mine", number, instruction_rating=0) for number in range(40)]
    done = CliRunner().invoke(app, ["import", str(saved(Path("texts.jsonl"), rows)), "out"])
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if line.startswith("  ")] == [
        "  layer 0, mine: 0.000, 1 of 1 concepts",
        "  layer 0, DiffMean: no score, 0 of 1 concepts, 50 of 50 texts unrated",
        "  layer 0, Unsteered: no score, 0 of 1 concepts, 50 of 50 texts unrated",
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_openers_that_begin_in_row_106_are_read(tmp_path: Path, ending: str) -> None:
    """Of 200 rows the last 95; the texts of two concepts alternate."""
    rows = [{"concept": ("sea", "tea")[row % 2], "text": f"text {row}"} for row in range(200)]
    rows[105:] = [row | {"opener": "So,"} for row in rows[105:]]
    source = LabelledTexts(kind="texts", texts=saved(tmp_path / f"texts.{ending}", rows), names=("sea", "tea"))
    texts = texts_of_file(source, [], 100, 100, 0)[1].filter(positive=True)
    assert dict(texts["input"].value_counts().iter_rows()) == {"So,": 95, "": 105}


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_and_texts_are_read_whatever_the_rows_before_hold(tmp_path: Path, ending: str) -> None:
    rows = [text(number=number, concept_rating=1, perplexity=None) for number in range(100)]
    rows += [text(number=100, concept_rating=1.5, perplexity=3.25), text(number=101, sample=0), text(number=101, sample=1)]
    path = saved(tmp_path / f"texts.{ending}", [row if "sample" in row else row | {"sample": 0} for row in rows])
    read = imported_texts(path, 0).rows
    assert read["concept_rating"].to_list() == [1.0] * 100 + [1.5, 2.0, 2.0]
    assert read["perplexity"].to_list() == [None] * 100 + [3.25, None, None]
    assert read["sample"].to_list()[-2:] == [0, 1]


@pytest.mark.parametrize("column", ["layer", "sample"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_that_rows_before_lack_is_not_made_up(tmp_path: Path, ending: str, column: str) -> None:
    rows = [text(number=number) for number in range(100)] + [text(number=100, **{column: 3})]
    with pytest.raises(SettingsError, match=rf"texts.{ending}, row 1, column {column}: it has to be a whole number"):
        imported_texts(saved(tmp_path / f"texts.{ending}", rows), 0)


FAULTS = {
    "half a surrogate pair": (json.dumps(text(text="a \ud83d b")), r"row 2, column 'text': it has half of a surrogate pair"),
    "half a pair in a name": (json.dumps({"a\udc00": 1}), r"row 2, column 'a\\udc00': it has half of a surrogate pair"),
    "a key twice": (json.dumps(text())[:-1] + ', "text": "b"}', "row 2: the key 'text' is given twice"),
    "a list": (json.dumps(text(concept=["sea"])), "row 2, column concept: it holds a list, but has to be text or a number"),
    "an object": (json.dumps(text(concept_rating={"a": 1})), "row 2, column concept_rating: it holds an object, but has to be"),
    "no object": ("[1]", "row 2: it is no JSON object"),
    "no JSON": ('{"method": ', "row 2: it is no JSON: "),
    "nested too deeply": ("[" * 100_000, "row 2: it is no JSON: nested too deeply"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_json_lines_is_named_by_row_and_column(tmp_path: Path, fault: str) -> None:
    line, message = FAULTS[fault]
    path = lines(tmp_path / "texts.jsonl", [text()])
    path.write_text(path.read_text() + f"\n{line}\n")
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}, {message}"):
        imported_texts(path, 0)


def test_a_row_of_a_csv_with_more_values_than_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('method,concept,prompt,factor,text\nx,sea,"A\nB, C",1,a\n\nx,sea,A,1,a, b\n')
    with pytest.raises(SettingsError, match="texts.csv cannot be read: row 3 has 6 values, but the header names 5 columns: put quotes"):
        imported_texts(path, 0)


def test_what_is_not_read_may_be_anything_and_numbers_keep_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(text(seed={"a": [1]}, method=548)) + "\r\n\n" + json.dumps(text("a\u2028b", 1, fluency_rating=float("nan"))))
    texts = imported_texts(path, 0)
    assert texts.unread == ("seed",)
    assert texts.rows["method"].to_list() == ["548", "a\u2028b"]
    assert texts.rows["fluency_rating"].to_list() == [2.0, None]


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('method,concept,prompt,factor,text,"text"\nx,sea,A,1,a,b\n')
    with pytest.raises(SettingsError, match="texts.csv, column text: the header names it twice"):
        imported_texts(path, 0)
    path.write_text("method,concept,prompt,factor,text,,\nx,sea,A,1,a,,\n")  # as spreadsheets leave empty columns
    assert imported_texts(path, 0).rows["text"].to_list() == ["a"]


def test_a_type_that_is_no_text_is_named(tmp_path: Path) -> None:
    frame, path = pl.DataFrame([text()]), tmp_path / "texts.parquet"
    for values, kind in ((pl.Series([b"x"]), "Binary"), (pl.Series([["x"]]), r"List\(String\)")):
        frame.with_columns(concept=values, unread=values).write_parquet(path)
        with pytest.raises(SettingsError, match=f"texts.parquet, column concept: it has type {kind}, but has to be text or numbers"):
            imported_texts(path, 0)
        frame.with_columns(unread=values).write_parquet(path)
        assert imported_texts(path, 0).unread == ("unread",)
    for values in (pl.Series(["sea"], dtype=pl.Categorical), pl.Series(["sea"], dtype=pl.Enum(["sea"]))):
        frame.with_columns(concept=values).write_parquet(path)
        assert imported_texts(path, 0).rows["concept"].to_list() == ["sea"]


WORLD = ROOT / "data/world"
IDS = {
    "integers": pl.Series([7, 8]),
    "categories": pl.Series(["7", "8"], dtype=pl.Categorical),
    "enum": pl.Series(["7", "8"], dtype=pl.Enum(["8", "7"])),
    "texts": pl.Series(["7", "8"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_text_ids_of_any_kind_are_texts_for_every_step(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "texts.parquet"
    labelled = pl.DataFrame({"text": ["a", "b"], "token_ids": [[1, 2], [3]], "token_topics": [[255, 0], [1]]})
    labelled.with_columns(IDS[kind].alias("text_id")).write_parquet(path)
    assert check_texts(path) == 2
    (first, second), tokens = text_ids(path), read_texts(path, WORLD / "model", "tokenizer")
    assert (first[:2], second[:2]) == ("7-", "8-")
    assert tokens.rows() == [(first, [1, 2]), (second, [3])]


@pytest.mark.parametrize("names", [[0, 1], [text_id("the sea"), text_id("the tea")]], ids=["numbers", "digests of the texts"])
def test_the_same_texts_of_other_tokens_have_other_ids(tmp_path: Path, names: list[int] | list[str]) -> None:
    """By them its activations are stored: those of a text of another file, or of another tokenizer, do not count as computed."""
    path, ids = tmp_path / "texts.parquet", []
    for token_ids in ([[1, 2], [3]], [[1, 2], [4]]):
        pl.DataFrame({"text_id": names, "text": ["the sea", "the tea"], "token_ids": token_ids}).write_parquet(path)
        ids.append(text_ids(path))
    assert ids[0][0] == ids[1][0]
    assert ids[0][1] != ids[1][1]


@pytest.mark.parametrize("ids", [pl.Series([b"7", b"8"]), pl.Series([7.0, 8.0]), pl.Series([["7"], ["8"]]), pl.Series([None, None])])
def test_text_ids_that_name_no_text_are_refused_by_check(tmp_path: Path, ids: pl.Series) -> None:
    path = tmp_path / "texts.parquet"
    pl.DataFrame({"text_id": ids, "token_ids": [[1], [2]]}).write_parquet(path)
    with pytest.raises(SettingsError, match=r"texts.parquet: the column text_id holds .*, not texts or whole numbers"):
        check_texts(path)


def test_ids_without_token_ids_are_not_used_anywhere(tmp_path: Path) -> None:
    """A file with text and text_id is tokenised, and its texts are named by their digests, in the keys as in the rows."""
    path = tmp_path / "texts.parquet"
    pl.DataFrame({"text_id": ["x", "y"], "text": ["the sea", "the tea"]}).write_parquet(path)
    assert check_texts(path) == 2
    assert text_ids(path) == read_texts(path, WORLD / "model", "tokenizer")["text_id"].to_list() == [text_id("the sea"), text_id("the tea")]
