"""Texts from elsewhere: what each form says, what is refused, and that they are scored as a comparison scores its own."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import judge_server, label
from method_rows import BEST_FACTOR, LAYER, method_settings, scored, shuffled, synthetic_rows
from polars.testing import assert_frame_equal
from typer.testing import CliRunner
from workflow_folder import ROOT

from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.core.files import file_digest
from saesteer.core.tables import read_summary
from saesteer.core.texts import RATING_COLUMNS
from saesteer.exchange.comparison import to_axbench
from saesteer.exchange.imported import import_texts, imported_texts
from saesteer.methods.compare.protocol import ProtocolError
from saesteer.methods.compare.summaries import imported_scores, with_scores
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import open_run
from saesteer.settings import ProtocolSettings, Workflow
from saesteer.settings.registry import METHODS

SETTINGS = method_settings(methods=("unsteered", "diffmean", "prompting", "sae_label", "fgaa"))
PROMPTS = {f"{number:016x}": f"Prompt {number}" for number in range(4)}
AS_THERE = ("n_halves", "n_choices", "n_at_smallest", "n_at_largest", "n", "n_missing", "abstains", "factors", "score", *RATING_COLUMNS)
"""Columns of METHOD_SCORES that a file in AxBench's form holds everything for."""


@pytest.mark.parametrize("changes", [{}, {"score": "product_of_means", "factor_choice": "first_half"}, {"factor_choice": "same_texts"}])
def test_what_axbench_exports_comes_back_as_the_same_scores(tmp_path: Path, changes: dict[str, str]) -> None:
    """Exactly: abstentions, for every concept too, missing ratings and further samples included, whatever the order of the rows."""
    chosen, path = SETTINGS.model_copy(update=changes), tmp_path / "steering_data.parquet"
    rows = shuffled(synthetic_rows(chosen, 5, (*PROMPTS, *list(PROMPTS)[:2])), 1)
    never = pl.when(pl.col("method") != "fgaa").then("kind").alias("kind")
    rows = replace(rows, fits=rows.fits.with_columns(never), texts=rows.texts.filter(pl.col("method") != "fgaa"))
    scores = scored(rows, list(PROMPTS), chosen, BEST_FACTOR)["method_scores"]
    to_axbench(rows, rows.concepts["concept_id"].sort().to_list(), PROMPTS, LAYER, "x").sample(fraction=1, shuffle=True).write_parquet(path)
    back = imported_scores(with_scores(imported_texts(path, LAYER).rows), chosen)["method_scores"]
    keys = ["layer", "method", "concept"]
    back, scores = back.sort(keys), scores.sort(keys)
    assert (scores["abstains"].any(), rows.judgements["judge_score"].null_count() > 0) == (True, True)
    assert_frame_equal(back.select(*keys, *AS_THERE), scores.select(*keys, *AS_THERE), check_exact=True)
    assert back["log_perplexity"].to_list() == pytest.approx(scores["log_perplexity"].to_list())


def written(path: Path, rows: str, header: str = "method,concept,prompt,factor,text,concept_rating,fluency_rating") -> Path:
    path.write_text(f"{header}\n{rows}", encoding="utf-8")
    return path


def block(method: str, *by_factor: tuple[str, str], concept: str = "sea") -> str:
    """CSV rows of two prompts; each factor with the two ratings of both."""
    return "".join(
        f"{method},{concept},{prompt},{factor},a text,{ratings}\n" for factor, ratings in by_factor for prompt in ("Why?", "How?")
    )


def test_a_table_is_scored_as_by_hand(tmp_path: Path) -> None:
    """The factor of the larger score on one prompt is scored on the other; a method may be one that the registry does not have."""
    rows = block("mine", ("2.0", "1,2"), ("4", "2,1")) + "mine,sea,Why?,8,a text,2,2\nmine,sea,How?,8,a text,0,2\n"
    path = written(tmp_path / "texts.csv", rows + block("diffmean", ("1", "2,2")))
    texts = imported_texts(path, 3)
    assert (texts.form, texts.unread, set(texts.rows["layer"]), texts.rows["sample"].sum()) == ("table", (), {3}, 0)
    tables = imported_scores(with_scores(texts.rows), ProtocolSettings())
    choices = tables["method_choices"].filter(method="mine").sort("reported_on")
    # Why? (half 0) prefers 8 (score 2), which scores 0 on How? (half 1); How? prefers 2 and 4 (4/3 each), of equals the smaller.
    assert choices.select("factor", "score").rows() == [("2", pytest.approx(4 / 3)), ("8", 0.0)]
    scores = dict(tables["method_scores"].select("method", "score").iter_rows())
    assert scores == {"mine": pytest.approx(2 / 3), "diffmean": 2.0}


def test_halves_are_of_each_concepts_own_prompts(tmp_path: Path) -> None:
    first = "x,sea,A,1,t,2,2\nx,sea,B,1,t,0,2\n"
    second = "x,tea,C,1,t,2,2\nx,tea,A,1,t,0,2\n"
    texts = imported_texts(written(tmp_path / "texts.csv", first + second), 0)
    assert dict(texts.rows.select(pl.concat_str("concept", "prompt"), "number").iter_rows()) == {"seaA": 0, "seaB": 1, "teaC": 0, "teaA": 1}
    halves = imported_scores(with_scores(texts.rows), ProtocolSettings())["method_halves"]
    assert halves.group_by("half").agg("score").sort("half")["score"].to_list() == [[2.0, 2.0], [0.0, 0.0]]


def test_a_sentence_for_every_prompt_scores_0_as_in_a_comparison(tmp_path: Path) -> None:
    """By any rating: it was learnt by heart, and steers nothing."""
    words = ("ships sail far away", "waves break on rocks", "gulls cry all day", "salt dries on skin")
    rows = [("learnt", number, "the sea is deep and wide") for number in range(4)] + [("varied", *pair) for pair in enumerate(words)]
    table = "\n".join(f"{method},sea,prompt {number},1,{text},2,2" for method, number, text in rows)
    (tmp_path / "out").mkdir()
    lines = list(import_texts(written(tmp_path / "texts.csv", table), 3, None, None, tmp_path / "out"))
    assert "4 texts repeat those of other prompts, and score 0" in lines
    scores = read_summary(METHOD_SUMMARIES["method_scores"], tmp_path / "out/tables/method_scores.parquet")
    assert dict(scores.select("method", "score").iter_rows()) == {"learnt": 0, "varied": 2}


def test_missing_ratings_are_missing_and_instructions_count_where_some_are_rated(tmp_path: Path) -> None:
    header = "feature,concept,prompt,factor,text,sample,concept_rating,instruction_rating,fluency_rating,perplexity,seed"
    rows = '6/548,sea,"Why, then?",1,"two\nlines",0,2,1,2,3.5,7\n6/548,sea,"Why, then?",1,,1,,1,2,,7\n6/548,sea,How?,1,b,0,2,,1.5,inf,7\n'
    texts = imported_texts(written(tmp_path / "texts.csv", rows, header), 0)
    assert (texts.unread, texts.rows["method"].unique().to_list(), texts.rows["text"].to_list()) == (
        ("seed",),
        ["6/548"],
        ["two\nlines", "", "b"],
    )
    assert with_scores(texts.rows)["judge_score"].to_list() == [pytest.approx(1.5), None, None]
    assert texts.rows["perplexity"].to_list() == [3.5, None, None]


FAULTS = {
    "x,sea,A,one,t,2,2\n": "row 1, column factor: 'one' is no decimal number",
    "x,sea,A,1,t,2,2\nx,sea,A,nan,t,2,2\n": "row 2, column factor: a factor is a number from -10000 to 10000, not 'nan'",
    "x,sea,A,1,t,2,2\nx,sea,B,1,t,3,2\n": "row 2, column concept_rating: it has to be a number from 0 to 2, or empty; it is '3'",
    "x,sea,A,1,t,2,good\n": "row 1, column fluency_rating: it has to be a number from 0 to 2, or empty; it is 'good'",
    "x,sea,A,1,t,2,-0.1\n": "row 1, column fluency_rating: it has to be",
    "x,,A,1,t,2,2\n": "row 1, column concept: it is empty",
    "x,sea, ,1,t,2,2\n": "row 1, column prompt: it is empty",
    ",sea,A,1,t,2,2\n": "row 1, column method: it is empty",
    "x,sea,A,2,t,2,2\nx,sea,B,2,t,2,2\nx,sea,A,2.0,u,1,1\n": "rows 1 and 3 have the same layer, method, concept, prompt, factor, sample",
}


@pytest.mark.parametrize("rows", FAULTS)
def test_a_fault_is_named_by_file_row_and_column(tmp_path: Path, rows: str) -> None:
    path = written(tmp_path / "texts.csv", rows)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}.*{re.escape(FAULTS[rows])}"):
        imported_texts(path, 0)


def test_files_that_are_no_such_table(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    with pytest.raises(SettingsError, match="has no column method; it has way, concept"):
        imported_texts(written(path, "x,sea,A,1,t\n", "way,concept,prompt,factor,text"), 0)
    with pytest.raises(SettingsError, match="no column method and no concept.*; separate its columns by commas"):
        imported_texts(written(path, "x;sea;A;1;t\n", "method;concept;prompt;factor;text"), 0)
    for encoding in ("utf-16", "latin-1"):
        path.write_bytes("method,concept,prompt,factor,text\nx,für,A,1,t\n".encode(encoding))
        with pytest.raises(SettingsError, match=r"texts.csv is no text in UTF-8 \(byte \d+\): save it in that encoding"):
            imported_texts(path, 0)
    with pytest.raises(SettingsError, match="holds no texts"):
        imported_texts(written(path, ""), 0)
    rows = "x,sea,A,1,t,2,2\nx,sea,B,1,t,2,2\n"
    plain = imported_texts(written(path, rows), 0)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert imported_texts(path, 0).rows.equals(plain.rows)
    gap = imported_texts(written(path, rows + "x,sea,A,2,t,2,2\n"), 0)
    with pytest.raises(
        ProtocolError, match=r"'method': 'x', 'concept': 'sea', 'factor': '2'}: there are texts for prompts of one half only"
    ):
        imported_scores(with_scores(gap.rows), ProtocolSettings())


def test_two_prompts_of_one_number_are_refused(tmp_path: Path) -> None:
    row = {"input_concept": "sea", "input_id": 0, "original_prompt": "A", "factor": 1.0, "X_steered_generation": "t"}
    path = tmp_path / "steering_data.parquet"
    pl.DataFrame([row, row | {"original_prompt": "B"}]).write_parquet(path)
    with pytest.raises(SettingsError, match="row 1: another row of its concept has the same input_id"):
        imported_texts(path, 0)


def test_the_command_needs_no_project_and_a_files_names_command_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = block("unsteered", ("0", "0,2")) + block("\x1b[31m$\\frac", ("1", "2,2"), ("2", "1,2")) + block("x", ("1", "2,"))
    done = CliRunner().invoke(app, ["import", str(written(tmp_path / "texts.csv", rows)), "out"])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    lines = [line for line in done.output.splitlines() if line.startswith("  ")]
    assert lines == [
        "  layer 0, \N{REPLACEMENT CHARACTER}[31m$\\frac: 2.000, 1 of 1 concepts",
        "  layer 0, Unsteered: 0.000, 1 of 1 concepts",
        "  layer 0, x: no score, 0 of 1 concepts, 2 of 2 texts unrated",
    ]
    figures = {f"{name}.{kind}" for name in ("methods", "method_curves", "method_differences") for kind in ("pdf", "png", "csv")}
    assert {path.name for path in Path("out").iterdir()} == {*figures, "import.json", "tables", "texts.parquet"}
    for name in ("method_halves", "method_choices", "method_scores", "method_differences", "method_curves"):
        read_summary(METHOD_SUMMARIES[name], Path(f"out/tables/{name}.parquet"))


SUBJECTS = ("", " of red roses", " by the old harbour", " on a long night")


def p1_folder(folder: Path) -> Path:
    """P1's files of two features: texts that go on from their instructions, as published."""
    folder.mkdir()
    prompts = {f"20_{feature}": [f"{name} {number}?" for number in range(4)] for feature, name in ((7, "Why"), (8, "How"))}
    (folder / "gemma2_instructions_cache.json").write_text(json.dumps(prompts))
    for factor in ("0_4", "10_0"):
        texts = {
            key: [f"{prompt}\n\nAnswer {factor}{subject}" for prompt, subject in zip(of_key, SUBJECTS, strict=True)]
            for key, of_key in prompts.items()
        }
        (folder / f"gemma2_generations_cache_{factor}.json").write_text(json.dumps(texts))
    (folder / "gemma2_best_steering_factors.json").write_text("{}")
    refs = {"sea": "https://np/20-gemmascope-res-131k/7", "tea": "https://np/20-gemmascope-res-131k/8"}
    concepts = [
        {"concept_id": number, "concept": name, "ref": ref, "concept_genres_map": {name: ["text"]}}
        for number, (name, ref) in enumerate(refs.items())
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(concept) + "\n" for concept in concepts))
    return folder


def test_p1s_texts_are_rated_by_the_judge_of_a_comparison(tmp_path: Path) -> None:
    source = p1_folder(tmp_path / "p1")
    texts = imported_texts(source, 0)
    assert (texts.form, texts.unread) == ("P1's texts", ("gemma2_best_steering_factors.json",))
    first = texts.rows.row(0, named=True)
    assert [first[name] for name in ("layer", "method", "concept", "prompt", "factor", "number", "text")] == [
        20, "feature", "sea", "Why 0?", "0.4", 0, "\n\nAnswer 0_4",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match=r"p1 has no concept_rating and no fluency_rating: name a comparison whose judge .*--judge"):
        list(import_texts(source, 0, None, None, tmp_path / "out"))
    config = tmp_path / "config"
    config.mkdir()
    workflow = Workflow(experiments=("judged",), experiments_dirs=(config, ROOT / "config/experiments"), data_dir=tmp_path / "data")

    def answer(prompt: str) -> str:
        """A text at factor 10 is not fluent."""
        fluent = "about the concept" in prompt or "instruction asks" in prompt or "10_0" not in prompt
        return f"{label(prompt)}: {(1 if 'about the concept' in prompt else 2) if fluent else 0}"

    with judge_server(answer=answer) as judge:
        endpoint = f"judge: {{kind: endpoint, base_url: '{judge.base_url}', model: m, key_variable: null}}"
        (config / "judged.yaml").write_text(f"extends: gemma-2-2b-it-methods\ndescription: Its judge.\n{endpoint}\n")
        run = open_run("judged", workflow)
        lines = list(import_texts(source, 0, None, run, tmp_path / "out"))
    # Of each text its concept, its instruction and its fluency; a question that occurs again is asked once.
    assert len(judge.answered) == 2 * 2 * 4 + 2 * 2 * 4 + 2 * 4
    assert re.fullmatch(r"  layer 20, feature: 1\.500 \[0\.\d+, 1\.\d+\], 2 of 2 concepts", lines[1])
    assert pl.read_parquet(tmp_path / "out/tables/method_scores.parquet")["factors"].to_list() == [["0.4", "0.4"]] * 2
    made = json.loads((tmp_path / "out/import.json").read_text())
    assert made["files"] == {path.name: file_digest(path) for path in source.iterdir() if "best" not in path.name}
    assert (made["judge"]["experiment"], made["n_texts"], made["n_unrated"]) == ("judged", 16, 0)


def test_what_p1s_folder_lacks_is_said(tmp_path: Path) -> None:
    source = p1_folder(tmp_path / "p1")
    texts = source / "gemma2_generations_cache_0_4.json"
    for values, message in (
        ({"20_7": ["one"]}, "key 20_7: 1 texts, but gemma2_instructions_cache.json has 4 instructions"),
        ({"20_9": ["one"]}, "key 20_9: 1 texts, but no list of concepts in .* has it"),
        ({"L20_7": []}, "key 'L20_7': keys have to be LAYER_FEATURE"),
        ({"20_7": [1]}, "20_7 0: Input should be a valid string"),
    ):
        texts.write_text(json.dumps(values))
        with pytest.raises(SettingsError, match=f"0_4.json, {message}"):
            imported_texts(source, 0)
    (source / "metadata.jsonl").unlink()
    with pytest.raises(SettingsError, match="it has 2, 1 and 0 of them"):
        imported_texts(source, 0)


ANY = st.characters(codec="utf-8", exclude_characters="\r\0")
WORDS = st.text(ANY, min_size=1, max_size=12).filter(str.strip)
COLUMNS = {
    "method": pl.String, "concept": pl.String, "prompt": pl.String, "factor": pl.Int64, "text": pl.String, "fluency_rating": pl.Float64
}  # fmt: skip
ROWS = st.tuples(WORDS, WORDS, WORDS, st.integers(-5, 5), st.text(ANY, max_size=20), st.sampled_from([None, 0.0, 1.5, 2.0]))


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6, unique_by=lambda row: row[:4]))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    """Any texts, with quotes, commas and line breaks, as a CSV, JSON lines and Parquet; and prompts are numbered as a plain loop does."""
    frame, folder = pl.DataFrame(rows, schema=COLUMNS, orient="row"), tmp_path_factory.mktemp("written")
    numbers: dict[str, dict[str, int]] = {}
    for _, concept, prompt, *_ in rows:
        numbers.setdefault(concept, {}).setdefault(prompt, len(numbers[concept]))
    frame.write_csv(folder / "texts.csv")
    frame.write_ndjson(folder / "texts.jsonl")
    frame.write_parquet(folder / "texts.parquet")
    keys = {row.name: row.key for row in METHODS}
    for ending in ("csv", "jsonl", "parquet"):
        read = imported_texts(folder / f"texts.{ending}", 0).rows
        assert read.select("concept", "prompt", "text", "fluency_rating").rows() == [(row[1], row[2], *row[4:]) for row in rows]
        assert read["method"].to_list() == [keys.get(row[0], row[0]) for row in rows]
        assert read["factor"].to_list() == [str(row[3]) for row in rows]
        assert read["number"].to_list() == [numbers[row[1]][row[2]] for row in rows]
