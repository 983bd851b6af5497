"""Power lost at every moment of a write, with what is not yet durable lost or out of order: crash_states.py says what that covers."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from crash_states import Trace, put, traced
from test_store import rows_of, wanted

from saesteer.core.files import file_digest, write_atomically, write_json, write_text
from saesteer.core.store import complete, missing_keys, read_rows
from saesteer.judge.answers import AnswerBook, JudgeAnswer
from saesteer.steps.output_score import OUTPUT_SCORE

JUDGE = {"model": "judge"}
ROWS = rows_of(wanted(range(9)).keys(OUTPUT_SCORE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, which is on the disk already."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "write",
    [
        write_text,
        lambda path, text: write_json(path, {"a": text}),
        lambda path, text: write_atomically(path, pl.DataFrame({"a": text}).write_parquet),
    ],
    ids=["text", "JSON", "Parquet"],
)
def test_a_file_is_whole_or_as_it_was(folder: Path, write: Callable[[Path, str], None]) -> None:
    path, written = folder / "new/newer/file", [None]
    with traced(folder) as trace:
        for text in ("first " * 9, "second, longer " * 9):
            write(path, text)
            written.append(path.read_bytes())
            trace.done(text)
    crashes = [(state.get("new/newer/file"), len(done)) for state, done in trace.crashes()]
    assert {data for data, _ in crashes} == set(written), "none is half-written, and each can be what a crash leaves"
    assert all(written.index(data) >= n_done for data, n_done in crashes), "what was written is lost"


def store(folder: Path, trace: Trace | None = None) -> int:
    """A run of a step, then one with further features: three parts each, and a manifest each."""

    def compute(missing: pl.DataFrame):
        for rows in missing.iter_slices(2):
            yield rows_of(rows)
            if trace:  # goes on once the rows are a part
                trace.done(tuple(rows["feature"]))

    manifest = folder / "layers_05-05.json"
    n_computed = 0
    for n_features in (5, 9):
        n_computed += complete(folder, OUTPUT_SCORE, [wanted(range(n_features))], compute, manifest, part_seconds=-1.0)
        if trace:
            trace.done(f"a manifest of {n_features} rows")
    return n_computed


def test_parts_and_manifests(folder: Path, tmp_path: Path) -> None:
    with traced(folder) as trace:
        store(folder, trace)
    for number, (state, done) in enumerate(trace.crashes()):
        after = tmp_path / str(number)
        put(state, after)
        durable = {feature for rows in done if isinstance(rows, tuple) for feature in rows}
        parts = list(after.glob("*/layer_*/*.parquet"))
        assert all(file_digest(part) == part.stem for part in parts), "a part is half-written"
        assert all(json.loads(path.read_text()) == wanted([]).fingerprint for path in after.glob("*/fingerprint.json"))
        assert not parts or list(after.glob("*/fingerprint.json")), "parts whose fingerprint is lost"
        missing = missing_keys(after, OUTPUT_SCORE, wanted(range(9)))
        assert durable.isdisjoint(missing["feature"]), "a finished part is lost"
        manifest = after / "layers_05-05.json"
        n_rows = read_rows(OUTPUT_SCORE, [manifest]).height if manifest.is_file() else 0
        assert n_rows in (0, 5, 9)
        assert n_rows >= max([int(what.split()[3]) for what in done if isinstance(what, str)], default=0), "a manifest is lost"
        assert store(after) == missing.height, "the next run computes what is missing, and nothing else"
        assert read_rows(OUTPUT_SCORE, [manifest]).equals(ROWS)
    assert number > 40


def test_answers_of_a_judge(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with traced(folder) as trace, AnswerBook(folder / "answers", JUDGE, part_seconds=99.0) as book:
        for name in ("first", "second", "third"):
            book.add(JudgeAnswer(name, 0, "concept", "text", f"Rating: [[2]] for the {name}", "stop", 5, 3, "judge"))
            book.flush()
            trace.done(name)
    with caplog.at_level(logging.WARNING):
        for number, (state, done) in enumerate(trace.crashes()):
            put(state, tmp_path / str(number))
            after = AnswerBook(tmp_path / str(number) / "answers", JUDGE, part_seconds=99.0)
            assert all((name, 0) in after for name in done), "an answer is lost"
            assert all(json.loads(path.read_text()) == JUDGE for path in after.folder.glob("fingerprint.json"))
    assert number > 20
    assert caplog.text == "", "an answer is half-written"
