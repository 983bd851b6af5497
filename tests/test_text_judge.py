"""The topic judge of natural text (data/topic-judge): its ratings by hand, and what is stored of it."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from jaxtyping import Float
from safetensors.numpy import save_file

from saesteer.core.tokens import load_tokens
from saesteer.world.books import judge
from saesteer.world.books.judge import TextJudge
from saesteer.world.judges import load_judge

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data/topic-judge"
WORDS = {"moon": 0, "the": 1, "tea": 2}
LIKELIHOOD = np.log(np.array([[0.55, 0.4, 0.05], [0.05, 0.4, 0.55]]))


def of(likelihood: Float[np.ndarray, "topic word"], left_out: int = 0, cuts: tuple[float, float] = (0.4, 0.6)) -> TextJudge:
    return TextJudge(WORDS, likelihood, 0.5, left_out, cuts, (2.0, 4.0), 0.6)


def test_the_topic_is_that_of_bayes_rule() -> None:
    (ids,) = judge.word_ids(of(LIKELIHOOD), ["The moon's unknown"])
    odds = (0.55 / 0.05) ** 0.5  # "the" says nothing, "unknown" is not known
    assert judge.topic_posterior(of(LIKELIHOOD), ids)[0] == pytest.approx(odds / (1 + odds), rel=1e-6)


def test_ratings_change_at_their_cuts_and_are_missing_where_nothing_is_to_be_rated() -> None:
    rater = of(LIKELIHOOD)
    texts = judge.word_ids(rater, ["moon moon", "the", "tea tea", "unknown"])
    assert [judge.concept_rating(rater, ids, 0) for ids in texts] == [2, 0, 0, None]
    assert [judge.fluency_rating(rater, [0, 1], nats) for nats in (1.0, 3.0, 5.0, math.nan, None)] == [2, 1, 0, None, None]
    # What is said over and over is expected: of 1, 3 and 7 pairs 1, 2 and 2 are distinct.
    assert [judge.fluency_rating(rater, [0, 1] * n, 1.0) for n in (1, 2, 4)] == [2, 2, 0]
    assert judge.fluency_rating(rater, [], 1.0) == 2
    with pytest.raises(ValueError, match="topic 2 is out of range"):
        judge.concept_rating(rater, [0], 2)


def test_a_word_counts_once_and_those_that_speak_most_for_the_topic_do_not_count() -> None:
    likelihood = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4]]))
    ratio = likelihood[0] - likelihood[1]  # of topic 0's words the first speaks most, the third least
    judges = [of(likelihood, left_out, (0.3, 0.62)) for left_out in range(4)]
    for ids in ([0, 1, 2], [2, 0, 0, 1, 0]):
        expected = [0.5 * ratio[[0, 1, 2][n:]].sum() for n in range(4)]
        assert [judge.concept_log_odds(each, ids, 0) for each in judges] == pytest.approx(expected)
        assert judge.concept_log_odds(judges[1], ids, 1) == pytest.approx(-0.5 * ratio[[0, 1]].sum())
    assert judge.concept_log_odds(judges[0], [], 0) is None
    # P of word 0 is .63, of 0 and 1 .60, of 1 alone .46: no likelier than before the text was read, as of a text without words.
    assert [judge.concept_rating(judges[0], ids, 0) for ids in ([0], [0, 1, 0], [1], [2, 2])] == [2, 1, 0, 0]
    assert [judge.concept_rating(judges[1], ids, 0) for ids in ([0], [0, 0], [0, 1], [2])] == [0, 0, 0, 0]
    of_two = of(np.repeat(likelihood[:, :1], 2, axis=1), 1, (0.3, 0.62))
    assert [judge.concept_rating(of_two, ids, 0) for ids in ([0], [0, 1])] == [0, 2]


def test_a_stored_judge_is_read_as_it_was_written(tmp_path: Path) -> None:
    rater = of(LIKELIHOOD)
    save_file({"log_likelihood": LIKELIHOOD.astype(np.float16)}, tmp_path / judge.WEIGHTS)
    (tmp_path / judge.WORDS).write_text("\n".join(WORDS) + "\n")
    cuts = {name: getattr(rater, name) for name in (*judge.NUMBERS, *judge.PAIRS)}
    (tmp_path / judge.SETTINGS).write_text(json.dumps(cuts))
    loaded = judge.load_text_judge(tmp_path)
    assert np.allclose(loaded.log_likelihood, LIKELIHOOD, atol=2e-3)
    assert (loaded.words, loaded.sharpness, loaded.concept_cuts, loaded.fluency_nats) == (WORDS, 0.5, (0.4, 0.6), (2.0, 4.0))
    either = load_judge(tmp_path, load_tokens(ROOT / "data/world/model"))
    on, off = either.read(["Moon moon", "tea and tea"])
    assert (either.concept(on, 0), either.concept(off, 0), either.fluency(on, 3.0), either.n_topics) == (2, 0, 1, 2)
    assert either.log_odds(on, 0) == pytest.approx(judge.concept_log_odds(loaded, on, 0))
    (tmp_path / "words.txt").write_text("moon\n")
    with pytest.raises(ValueError, match="do not belong together"):
        judge.load_text_judge(tmp_path)


def test_the_shipped_judge_has_its_topics_sentences_and_books_and_says_how_often_it_errs() -> None:
    names = json.loads((SHIPPED / "topics.json").read_text(encoding="utf-8"))
    assert len(judge.load_text_judge(SHIPPED / "judge").log_likelihood) == len(names) == 16
    sentences = pl.read_parquet(SHIPPED / "concept_texts.parquet")
    assert set(sentences["concept"]) == set(names)
    assert sentences.group_by("concept").len()["len"].min() >= 72  # AxBench's number of texts a concept
    with (SHIPPED / "books.csv").open(encoding="utf-8", newline="") as source:
        books = list(csv.DictReader(source))
    assert {book["topic"] for book in books} == set(names)
    assert all(book["repository"] and book["commit"] and "Public domain" in book["rights"] for book in books)
    measured = json.loads((SHIPPED / "judge/text_judge.json").read_text(encoding="utf-8"))["measured"]
    rates = [np.trace(table) / np.sum(table) for table in (measured["concept_ratings"], measured["fluency_ratings"])]
    assert min(rates) > 0.55  # of three ratings
    assert f"{measured['topic_accuracy']:.3f} of them" in (SHIPPED / "README.md").read_text(encoding="utf-8")
