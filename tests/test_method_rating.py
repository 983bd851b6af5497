"""Ratings and losses of methods' texts, against one text at a time."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import judge_texts
import polars as pl
import pytest
from engine_models import WORLD, shipped_model, tiny_model
from judge_server import Judge, judge_server
from judge_texts import INSTRUCTIONS, KEY, asker
from oracles import plain_hooks
from polars.testing import assert_frame_equal

from saesteer.analysis.concepts import with_concept
from saesteer.core.files import text_id
from saesteer.core.tables import validate
from saesteer.core.tokens import load_tokens
from saesteer.engine.perplexity import text_losses
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.world.judges import WorldJudge, load_judge
from saesteer.world.oracle_judge import concept_rating, fluency_rating, load_oracle
from saesteer.world.rating import rate

CONCEPTS = ("weather", "chess")
PROMPTS = tuple(INSTRUCTIONS)
TEXTS = (
    " the storm was stormy and the fog was misty.",
    " the queen was in the valley.",
    " the grandmaster sacrificed a bishop.",
    " the was of the",
    "",
    " \n",
    " the sea is calm and the puddle was damp.",
)
RATINGS = ["concept_rating", "instruction_rating", "fluency_rating", "judge_score", "reason"]


def steered(texts: tuple[str | None, ...] = TEXTS, layers: tuple[int, ...] = (2, 5)) -> pl.DataFrame:
    """Each text for each concept and layer, under alternating prompts; the rows of a layer apart from each other."""
    rows = [
        (layer, "diffmean", text_id(concept), "0.4", PROMPTS[number % 2], number, *_text(text))
        for number, text in enumerate(texts)
        for concept in CONCEPTS
        for layer in layers
    ]
    return validate(GENERATIONS, pl.DataFrame(rows, schema=GENERATIONS.schema, orient="row"), "test")


def _text(text: str | None) -> tuple[Any, ...]:
    """The columns of a text."""
    return (None if text is None else [5, 6, 7], text, 3, True, 0.1, None if text is not None else "the method abstains")


def concept_rows(*concepts: str) -> pl.DataFrame:
    return pl.DataFrame({"concept_id": [text_id(concept) for concept in concepts or CONCEPTS], "concept": concepts or CONCEPTS})


def losses(rows: pl.DataFrame) -> pl.DataFrame:
    """A made-up loss of each text, on both sides of the oracle's cuts; null for some."""
    nll = [None if number % 5 == 4 else (number + 3) % 11 / 2 for number in range(len(rows))]
    return rows.select(GENERATIONS.keys).with_columns(mean_nll=pl.Series(nll, dtype=pl.Float64))


@cache
def judge() -> tuple[WorldJudge, list[str]]:
    return load_judge(WORLD / "oracle", load_tokens(WORLD / "model")), json.loads((WORLD / "topics.json").read_text())


def by_oracle(rows: pl.DataFrame, perplexity: pl.DataFrame, rates_blank: bool = False) -> pl.DataFrame:
    return rate(with_concept(rows, concept_rows()), perplexity, *judge(), rates_blank)


def test_the_oracle_rates_steered_texts_as_a_loop_over_them_does():
    rows = steered()
    perplexity = losses(rows)
    (_, topics), oracle, reader = judge(), load_oracle(WORLD / "oracle"), load_tokens(WORLD / "model")
    names = {text_id(concept): concept for concept in CONCEPTS}
    nll = {row[:-1]: row[-1] for row in perplexity.iter_rows()}
    ratings = validate(JUDGEMENTS, by_oracle(rows, perplexity.sample(fraction=1, shuffle=True, seed=1)), "test")
    assert_frame_equal(ratings.select(GENERATIONS.keys), rows.select(GENERATIONS.keys))
    assert set(ratings["judge_score"].drop_nulls()) >= {0.0, 2.0}
    for row in ratings.join(rows, on=GENERATIONS.keys).iter_rows(named=True):
        (ids,) = reader.retokenise([row["text"]])
        concept = concept_rating(oracle, ids, topics.index(names[row["target"]]))
        fluency = fluency_rating(oracle, ids, nll[tuple(row[key] for key in GENERATIONS.keys)])
        assert (row["concept_rating"], row["fluency_rating"], row["instruction_rating"]) == (concept, fluency, None)
        if concept is None or fluency is None:
            assert row["judge_score"] is None
            assert row["reason"] == ("no content to rate" if concept is None else "no loss to rate")
        else:
            assert row["judge_score"] == pytest.approx(0 if 0 in (concept, fluency) else 2 / (1 / concept + 1 / fluency))


def test_a_method_that_abstains_is_never_rated():
    rows = steered(("", None, TEXTS[0], None), layers=(2,))
    ratings = by_oracle(rows, losses(rows)).with_columns(rows["text"])
    abstained = ratings.filter(pl.col("text").is_null())
    assert abstained["reason"].to_list() == ["the method abstains"] * 4
    assert abstained.select(RATINGS[:-1]).null_count().row(0) == (4, 4, 4, 4)
    assert ratings["reason"].to_list()[:2] == ["no content to rate"] * 2
    assert ratings["concept_rating"].to_list()[4:6] == [2, 0]
    written = rows.filter(pl.col("text").is_not_null())
    assert_frame_equal(ratings.filter(pl.col("text").is_not_null()).drop("text"), by_oracle(written, losses(rows)))
    only = by_oracle(abstained_only := steered((None,)), losses(abstained_only))
    assert set(validate(JUDGEMENTS, only, "test")["reason"]) == {"the method abstains"}


def test_blank_texts_are_rated_where_that_is_asked_for(server: Judge, tmp_path: Path):
    """P4 puts them to its judge; a blank text shows nothing, so the oracle says 0. Other texts' ratings stay."""
    rows = steered((TEXTS[0], "", " \n", None), layers=(2,))
    blank = rows["text"].str.strip_chars() == ""
    by_either = [by_oracle(rows, losses(rows), rates) for rates in (False, True)]
    by_either += [judged(rows, server, tmp_path / str(rates), rates_blank=rates) for rates in (False, True)]
    for kind, (without, rated) in enumerate((by_either[:2], by_either[2:])):
        without, rated = (frame.sort(GENERATIONS.keys) for frame in (without, rated))
        is_blank = rows.with_columns(blank=blank).sort(GENERATIONS.keys)["blank"].fill_null(False)
        assert_frame_equal(without.filter(~is_blank), rated.filter(~is_blank))
        assert set(without.filter(is_blank)["reason"]) == {"no content to rate"}
        assert rated.filter(is_blank).select("concept_rating", "fluency_rating", "judge_score").null_count().row(0) == (0, 0, 0)
        if not kind:
            assert set(rated.filter(is_blank).select("concept_rating", "fluency_rating", "judge_score").rows()) == {(0, 0, 0.0)}


def test_ratings_of_what_was_not_asked_for_are_refused():
    rows = steered()
    with pytest.raises(ValueError, match=f"target {text_id('chess')}, of which no concept is known"):
        with_concept(rows, concept_rows("weather"))
    with pytest.raises(ValueError, match="the judge knows no topic 'storms at sea'"):
        rate(with_concept(rows, concept_rows()).with_columns(concept=pl.lit("storms at sea")), losses(rows), *judge())


@pytest.fixture
def server() -> Iterator[Judge]:
    with judge_server(key=KEY) as running:
        yield running


def judged(rows: pl.DataFrame, server: Judge, folder: Path, rates_blank: bool = False) -> pl.DataFrame:
    return judge_texts.judged(rows, asker(server), folder, concepts=concept_rows(), rates_blank=rates_blank)


def test_questions_are_about_the_concepts_text_and_none_is_asked_where_a_method_abstains(server: Judge, tmp_path: Path):
    ratings = judged(steered((TEXTS[0], None)), server, tmp_path)
    about = [prompt for prompt in server.answered if "about the concept" in prompt]
    assert len(about) == len(CONCEPTS)
    assert all(sum(concept in prompt for prompt in about) == 1 for concept in CONCEPTS)
    abstained = ratings.filter(sample=1)
    assert abstained["reason"].to_list() == ["the method abstains"] * 4
    assert abstained.select(RATINGS[:-1]).null_count().row(0) == (4, 4, 4, 4)
    assert ratings.filter(sample=0)["judge_score"].null_count() == 0
    n_answered = len(server.answered)
    assert set(judged(steered((None,)), server, tmp_path)["reason"]) == {"the method abstains"}
    assert len(server.answered) == n_answered


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_losses_are_those_of_one_text_after_its_prompt(prompt_format: str):
    shipped = prompt_format == "plain"  # the oracle adds up token texts, and the shipped tokenizer writes a line's end as a byte
    lm = shipped_model() if shipped else tiny_model("gpt_neox")
    prompts = dict(zip(PROMPTS, ("On the other hand,", "It is known that") if shipped else ("ba be?", "Di do tu"), strict=True))
    rows = steered((TEXTS[0], None, "", TEXTS[2]) if shipped else ("ba", None, "", "di do, ba."))
    frames = list(text_losses(lm, rows, prompts, prompt_format))
    assert all(frame["layer"].n_unique() == 1 for frame in frames)
    table = validate(PERPLEXITY, pl.concat(frames), "test")
    assert_frame_equal(table.select(GENERATIONS.keys), rows.select(GENERATIONS.keys), check_row_order=False)
    for row in table.join(rows, on=GENERATIONS.keys).iter_rows(named=True):
        if row["text"]:
            before = prompts[row["prefix_id"]] + ("\n" if prompt_format == "chat" else "")
            mean, n_scored = plain_hooks.continuation_nll(lm.model, lm.tokenizer, before, row["text"])
            assert (row["mean_nll"], row["n_scored"], row["reason"]) == (pytest.approx(mean, rel=1e-5), n_scored, None)
        else:
            reason = "the method abstains" if row["text"] is None else "the continuation is empty"
            assert (row["mean_nll"], row["n_scored"], row["reason"]) == (None, 0, reason)


@pytest.mark.slow
def test_losses_do_not_depend_on_order_or_frames(monkeypatch: pytest.MonkeyPatch):
    lm = tiny_model("gpt2")
    words = [" ba be", " di", None, "", " do du tuda."]
    rows = steered(tuple(random.Random(0).choices(words, k=20)))
    prompts = dict.fromkeys(PROMPTS, "From ba be")
    whole = pl.concat(text_losses(lm, rows, prompts, "plain")).sort(GENERATIONS.keys)
    monkeypatch.setattr("saesteer.engine.perplexity.AT_A_TIME", (3, 3))
    frames = list(text_losses(lm, rows.sample(fraction=1, shuffle=True, seed=2), prompts, "plain"))
    assert len(frames) == 2 * 14
    assert_frame_equal(pl.concat(frames).sort(GENERATIONS.keys), whole, check_exact=True)
    with pytest.raises(ValueError, match=f"prefix_id {min(PROMPTS)}, but no such prompt"):
        list(text_losses(lm, rows, {max(PROMPTS): "ba"}, "plain"))
