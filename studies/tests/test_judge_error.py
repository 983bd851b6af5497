"""Means corrected for a judge's errors: a case by hand, a simulated judge, and the rows of the table by loops."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from question_tables import COUNTS, synthetic_judgements, synthetic_quantities
from synthetic_tables import main_tables, selection_settings

from saesteer.world.books.judge import TextJudge
from studies.books.fit_judge import save_text_judge
from studies.questions.choice_rules import RANDOM, RULES, chosen_by_judge, with_quantities
from studies.questions.summaries.judge_error import (
    ALL,
    KEPT,
    REMOVED,
    SCORES,
    RatingCounts,
    _means,
    corrected_scores,
    judge_error,
    read_counts,
)

SETTINGS = selection_settings()
PERFECT = np.eye(3, dtype=np.int64) * 10


def test_a_judge_without_errors_is_not_corrected():
    assert np.allclose(corrected_scores(PERFECT, PERFECT), SCORES)
    assert SCORES.tolist() == [[0, 0, 0], [0, 1, 4 / 3], [0, 4 / 3, 2]]


def test_a_judge_who_misses_half_of_the_texts_on_topic_by_hand():
    concept = np.array([[10, 0, 0], [0, 10, 0], [5, 0, 5]])  # what is on topic is rated 0 as often as 2
    table = corrected_scores(concept, PERFECT)
    assert np.allclose(table[2], 2 * SCORES[2])  # each 2 that it gives stands for two
    assert np.allclose(table[:2], SCORES[:2])


def test_the_correction_gives_back_what_a_simulated_judge_blurs():
    rng = np.random.default_rng(0)
    rates = [counts / counts.sum(1, keepdims=True) for counts in COUNTS]
    made = rng.integers(0, 3, (400, 50, 2))  # [unit text aspect]
    made[..., 0] = np.where(rng.random((400, 50)) < 0.6, 2, made[..., 0])
    rated = np.stack([[rng.choice(3, p=rate[m]) for m in made[..., aspect].ravel()] for aspect, rate in enumerate(rates)], axis=-1)
    cells = np.eye(9)[(rated[:, 0] * 3 + rated[:, 1]).reshape(400, 50)].mean(1)
    line = _means(cells, RatingCounts(COUNTS.concept * 50, COUNTS.fluency * 50), SETTINGS, (0, "simulated"))
    truth = SCORES[made[..., 0], made[..., 1]].mean()
    assert line["corrected_low"] < truth < line["corrected_high"]
    assert line["score_high"] < truth - 0.1
    few = _means(cells, COUNTS, SETTINGS, (0, "simulated"))
    assert few["corrected"] == pytest.approx(line["corrected"])
    assert few["corrected_high"] - few["corrected_low"] > 1.5 * (line["corrected_high"] - line["corrected_low"])


def test_scores_are_means_over_the_texts_at_the_factor_that_the_other_half_chooses():
    made = main_tables(n_layers=2, n_features=60)
    steering = made["steering"]
    judgements = synthetic_judgements(steering)
    known = with_quantities(made["features"], synthetic_quantities(made["features"]))
    table = judge_error(known, steering, judgements, COUNTS, SETTINGS)
    assert set(table["group"]) == {*RULES, RANDOM, ALL, KEPT, REMOVED}
    chosen = chosen_by_judge(steering).filter(layer=1)
    scores: dict[int, list[float]] = {}
    for row in chosen.iter_rows(named=True):
        texts = judgements.filter(pl.col("factor").cast(pl.Float64) == row["strength"], layer=1, feature=row["feature"], half=row["half"])
        own = [SCORES[c, f] for c, f in texts.select("concept_rating", "fluency_rating").iter_rows()]
        scores.setdefault(row["feature"], []).append(float(np.mean(own)))
    by_hand = {feature: float(np.mean(halves)) for feature, halves in scores.items()}
    line = table.row(by_predicate=(pl.col("layer") == 1) & (pl.col("group") == ALL), named=True)
    assert (line["n"], line["units"]) == (len(by_hand), "features")
    assert line["score"] == pytest.approx(np.mean(list(by_hand.values())))
    features = made["features"].filter(pl.col("concept").is_not_null(), pl.col("feature").is_in(list(by_hand)), layer=1)
    picks = [
        by_hand[max(own.iter_rows(named=True), key=lambda row: (row["output_score"], -row["feature"]))["feature"]]
        for own in features.partition_by("concept")
        if own.height > 1
    ]
    line = table.row(by_predicate=(pl.col("layer") == 1) & (pl.col("group") == "output_score"), named=True)
    assert line["score"] == pytest.approx(np.mean(picks))
    assert line["n"] == len(picks)


def test_n_counts_the_concepts_for_which_a_rule_picks_one():
    made = main_tables(n_layers=1, n_features=60)
    known = made["features"].with_columns(pl.lit(0.0).alias(name) for name in RULES if name not in made["features"].columns)
    (concept,) = known.drop_nulls("concept")["concept"].head(1)
    some = known.with_columns(gradient=pl.when(pl.col("concept") != concept).then(pl.col("gradient")))
    table = judge_error(some, made["steering"], synthetic_judgements(made["steering"]), COUNTS, SETTINGS)
    counts = dict(table.select("group", "n").iter_rows())
    assert counts["gradient"] == counts["ablation"] - 1
    assert judge_error(known, made["steering"], synthetic_judgements(made["steering"]), None, SETTINGS).is_empty()


def test_counts_are_read_where_a_judge_has_them(tmp_path: Path):
    judge = TextJudge({"moon": 0}, np.zeros((2, 1), dtype=np.float32), 1.0, 0, (0.3, 0.6), (2.0, 4.0), 0.3)
    save_text_judge(judge, {"concept_ratings": COUNTS.concept.tolist(), "fluency_ratings": COUNTS.fluency.tolist()}, tmp_path)
    counts = read_counts(tmp_path / "text_judge.json")
    assert counts is not None
    assert all(np.array_equal(own, other) for own, other in zip(counts, COUNTS, strict=True))
    assert read_counts(tmp_path / "oracle.json") is None
