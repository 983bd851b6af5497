"""Whether steering lasts: stretches of texts cut, rated and averaged, against cases by hand."""

import polars as pl
import pytest
from method_rows import LAYER, method_settings

from saesteer.core.tables import validate
from saesteer.world.judges import WorldJudge
from studies.questions.summaries.persistence import held_out_texts, persistence, stretch_ratings
from studies.questions.tables import PERSISTENCE

TITLES = pl.DataFrame(
    [{"layer": LAYER, "method": "diffmean", "title": "DiffMean", "family": "Vectors"}], schema_overrides={"layer": pl.UInt16}
)


def counting_judge() -> WorldJudge:
    """Reads each word's first letter; a stretch's rating for topic t is how often letter t occurs, 2 at most."""
    return WorldJudge(
        read=lambda texts: [["abcdefgh".find(word[0].lower()) for word in text.split()] for text in texts],
        concept=lambda ids, topic: min(2, list(ids).count(topic)) if ids else None,
        log_odds=lambda ids, topic: None,
        fluency=lambda ids, nll: None,
        n_topics=2,
    )


def test_whole_stretches_are_rated_each_by_itself() -> None:
    texts = pl.DataFrame(
        {"key": [1, 2, 3], "concept": ["a", "b", "a"], "text": ['Ada and Bo. "Be far,” he Cried. An end', "Bo", None]},
    )
    rows = stretch_ratings(texts, counting_judge(), ["a", "b"], 4)
    assert rows["key"].to_list() == [1, 1]  # nine words are two stretches of four, and no text else has four words
    assert rows["stretch"].to_list() == [1, 2]
    assert rows["concept_rating"].to_list() == [2, 1]  # Ada and Bo. "Be | far,” he Cried. An
    assert rows["capitals"].to_list() == [0.25, 0.25]  # Bo, and Cried: Ada, Be and An begin sentences


def test_no_text_long_enough_gives_no_row() -> None:
    texts = pl.DataFrame({"key": [1], "concept": ["a"], "text": ["Ada and"]})
    assert stretch_ratings(texts, counting_judge(), ["a", "b"], 4).is_empty()


def test_texts_are_of_the_prompts_that_did_not_choose_their_factor() -> None:
    texts = pl.DataFrame(
        [
            {"layer": LAYER, "method": "diffmean", "concept_id": "a", "factor": factor, "prefix_id": prompt}
            for factor in ("1", "2")
            for prompt in ("p", "q")
        ]
    )
    fit = {"layer": LAYER, "method": "diffmean", "concept_id": "a"}
    choices = pl.DataFrame([fit | {"reported_on": "0", "factor": "1"}, fit | {"reported_on": "1", "factor": "2"}])
    own = held_out_texts(texts, choices, {"p": 0, "q": 1})
    assert sorted(own.select("factor", "prefix_id").rows()) == [("1", "p"), ("2", "q")]
    same = held_out_texts(texts, pl.DataFrame([fit | {"reported_on": "all", "factor": "2"}]), {"p": 0, "q": 0})
    assert sorted(same.select("factor", "prefix_id").rows()) == [("2", "p"), ("2", "q")]
    abstaining = pl.DataFrame([fit | {"reported_on": "0", "factor": None}], schema=choices.schema)
    assert held_out_texts(texts, abstaining, {"p": 0, "q": 1}).is_empty()


def test_concepts_count_alike_whatever_their_number_of_texts() -> None:
    rows = [("a", "p", 1, 2), ("a", "q", 1, 2), ("a", "r", 1, 0), ("b", "p", 1, 0), ("a", "r", 2, 1)]
    fit = {"layer": LAYER, "method": "diffmean", "factor": "1", "sample": 0, "capitals": 0.5}
    rated = pl.DataFrame(
        [
            fit | {"concept_id": concept, "prefix_id": prompt, "stretch": stretch, "concept_rating": rating}
            for concept, prompt, stretch, rating in rows
        ],
        schema_overrides={"layer": pl.UInt16, "stretch": pl.UInt16, "concept_rating": pl.UInt8},
    )
    table = validate(PERSISTENCE, persistence(rated, TITLES, method_settings()), "test")
    assert table["concept_rating"].to_list() == pytest.approx([4 / 6, 1.0])  # (4/3 + 0) / 2; a alone
    assert table["n"].to_list() == [2, 1]
    assert table["n_texts"].to_list() == [4, 1]
    assert table["concept_rating_low"].to_list()[1] is None
    assert table["capitals"].to_list() == [0.5, 0.5]
    assert table["change"].to_list() == pytest.approx([0.0, 1.0])  # of the one text that goes on, not less the mean of all
