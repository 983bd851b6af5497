"""What steering does besides, and what would foresee it: each quantity against loops, SciPy, or a case by hand."""

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import model_and_sae
from oracles import plain_hooks
from question_tables import synthetic_side_effects
from scipy import stats
from synthetic_tables import main_tables, selection_settings

from saesteer.core.tokens import load_tokens
from saesteer.core.uncertainty import difference_interval
from saesteer.world.judges import load_judge
from studies import ROOT
from studies.questions import side_effects as study
from studies.questions.choice_rules import chosen_by_judge
from studies.questions.side_effects import (
    co_activation,
    holm,
    lens_entropy,
    nearest_cosines,
    other_topics,
    recommended_halves,
    side_effect_correlations,
    spread,
    topic_ratings,
)
from studies.questions.summaries.side_effects import EFFECTS, PREDICTORS

SETTINGS = selection_settings()
FEATURE = {"layer": pl.UInt16, "feature": pl.UInt32}


def test_of_labelled_features_the_factor_that_the_other_half_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    made = main_tables(n_layers=2, n_features=40)
    features, steering = made["features"], made["steering"]
    labelled = set(features.drop_nulls("concept").select("layer", "feature").iter_rows())
    wanted = {
        (row["layer"], row["feature"], row["half"]): row["strength"]
        for row in chosen_by_judge(steering).iter_rows(named=True)
        if row["chosen"] > 0 and (row["layer"], row["feature"]) in labelled
    }
    halves = recommended_halves(features, steering)
    assert {(layer, feature, half): strength for layer, feature, _, half, strength in halves.iter_rows()} == wanted
    failing = steering.with_columns(judge_score=pl.when(pl.col("half") == 1).then(0.0).otherwise("judge_score"))
    assert set(recommended_halves(features, failing)["half"]) == {1}  # half 1's factors are chosen on half 0; half 0's nowhere
    monkeypatch.setattr(study, "MOST_FEATURES", 4)
    few = recommended_halves(features, steering)
    for layer in (0, 1):
        every = sorted(set(halves.filter(layer=layer)["feature"]))
        shown = sorted(set(few.filter(layer=layer)["feature"]))
        places = [every.index(feature) for feature in shown]
        assert len(shown) == 4
        assert max(np.diff(places)) - min(np.diff(places)) <= 1  # evenly
        assert few.filter(layer=layer).equals(halves.filter(pl.col("feature").is_in(shown), layer=layer))


def test_cosines_with_other_rows_and_entropy_of_the_lens() -> None:
    lm, sae = model_and_sae("shipped", 3)
    numbers = [7, 0, 500]
    made = nearest_cosines(sae.W_dec, numbers)
    entropies = lens_entropy(lm, sae.W_dec[numbers])
    for row, feature in enumerate(numbers):
        others = torch.cat([sae.W_dec[:feature], sae.W_dec[feature + 1 :]])
        cosines = sorted((abs(float(torch.cosine_similarity(sae.W_dec[feature], other, dim=0))) for other in others), reverse=True)
        assert made.row(row) == pytest.approx((cosines[0], np.mean(cosines[:10])), abs=1e-5)
        logits = plain_hooks.lens_logits(lm.model, sae.W_dec[feature]).double() * lm.structure.logit_scale
        assert entropies[row] == pytest.approx(stats.entropy(logits.softmax(dim=0).numpy()), rel=1e-4)


def test_co_activation_is_the_jaccard_index_of_tokens_by_hand() -> None:
    """Tokens of feature 0: a1, a2, b1; of 1: a1, b1; of 2: b2. A text in which nothing is active counts for nothing."""
    rows = [("a", [1, 1, 2], [0, 1, 0]), ("c", [], []), ("b", [1, 1, 2], [0, 1, 2])]
    schema = {"text_id": pl.String, "token_index": pl.List(pl.UInt16), "feature": pl.List(pl.UInt32)}
    assert co_activation(pl.DataFrame(rows, schema=schema, orient="row"), 4, [2, 0, 1, 3]) == [
        0.0,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        None,
    ]


def test_the_spread_is_over_prompts_by_hand() -> None:
    """Half 0: prompts score 0 and 2; half 1: the samples of a prompt are averaged to 1, the other prompt could not be rated."""
    rows = [(3, 5, 0, "p", 0.0), (3, 5, 0, "q", 2.0), (3, 5, 1, "r", 0.5), (3, 5, 1, "r", 1.5), (3, 5, 1, "s", None)]
    texts = pl.DataFrame(rows, schema=FEATURE | {"half": pl.Int64, "prefix_id": pl.String, "judge_score": pl.Float64}, orient="row")
    assert spread(texts).row(0, named=True) == {"layer": 3, "feature": 5, "judge_score": 1.0, "score_sd": pytest.approx(2**0.5), "n": 4}


def test_other_topics_rise_above_the_unsteered_texts_of_the_half_by_hand() -> None:
    """Steering with a feature of the sea raises war by 2 - 1 on half 0 and by 1 - 0 on half 1, and lowers chess; the sea does not count,
    nor do texts that could not be rated."""
    ratings = {"a": (2, 2, 0), "b": (2, 1, 0), "x": (0, 1, 1), "y": (0, 0, 0), "blank": (None, None, None)}
    rows = [(text, topic, rating) for text, of in ratings.items() for topic, rating in zip(("sea", "war", "chess"), of, strict=True)]
    rated = pl.DataFrame(rows, schema={"text": pl.String, "topic": pl.String, "rating": pl.Float64}, orient="row")
    schema = FEATURE | {"half": pl.Int64, "concept": pl.String, "text": pl.String}
    steered = pl.DataFrame([(3, 5, 0, "sea", "a"), (3, 5, 0, "sea", "blank"), (3, 5, 1, "sea", "b")], schema=schema, orient="row")
    unsteered = pl.DataFrame([(3, 5, 0, "", "x"), (3, 6, 0, "", "x"), (3, 6, 1, "", "y")], schema=schema, orient="row")
    made = other_topics(steered, unsteered.select("layer", "half", "text"), rated)
    assert made.row(0) == (3, 5, 1.0, 0.25)  # war 1, chess (-1 + 0) / 2


def test_a_text_is_rated_for_every_topic_as_the_judge_does() -> None:
    world = ROOT / "data/world"
    judge, topics = load_judge(world / "oracle", load_tokens(world / "model")), ["first", "second", "third"]
    texts = pl.Series("text", ["the sea and the ship", None, "the sea and the ship", "the"], dtype=pl.String)
    made = topic_ratings(judge, topics, texts)
    assert made.height == 6
    for text, topic, rating in made.iter_rows():
        (ids,) = judge.read([text])
        assert rating == judge.concept(ids, topics.index(topic))


def test_p_values_are_corrected_as_holm_does() -> None:
    """The least corrected level at which each is rejected, by stepping down until one is not."""
    p = [0.01, 0.04, 0.03, 0.005, 0.9, 0.03]
    levels = np.arange(0, 1.0001, 0.0005)

    def rejected(level: float) -> set[int]:
        passed = set()
        for step, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
            if p[place] * (len(p) - step) > level + 1e-12:
                break
            passed.add(place)
        return passed

    for place, corrected in enumerate(holm(p)):
        assert corrected == pytest.approx(min((level for level in levels if place in rejected(level)), default=1.0), abs=1e-9)
    assert holm([]) == []


def test_the_table_says_what_the_filter_leaves_and_finds_what_was_planted() -> None:
    table = synthetic_side_effects(pl.DataFrame({"layer": [1] * 90, "feature": range(90), "concept": ["sea"] * 90}))
    table = table.with_columns(loss_rise=pl.col("density") ** 3, score_sd=pl.lit(0.5))
    made = side_effect_correlations(table, SETTINGS)
    assert made.height == len(PREDICTORS) * len(EFFECTS)
    raw = []
    for line in made.iter_rows(named=True):
        ordered = sorted(table.iter_rows(named=True), key=lambda row: -row[line["predictor"]])
        values = np.array([row[line["side_effect"]] for row in ordered])
        assert (line["n"], line["n_left_out"], line["mean"]) == (90, 30, pytest.approx(values.mean()))
        assert line["difference"] == pytest.approx(values[30:].mean() - values[:30].mean())
        interval = difference_interval(values[30:], values[:30], SETTINGS.confidence)
        assert (line["difference_low"], line["difference_high"]) == pytest.approx(interval)
        if line["side_effect"] == "score_sd":
            assert (line["rho"], line["p"]) == (None, None)
            continue
        test = stats.spearmanr(table[line["predictor"]], table[line["side_effect"]])
        assert line["rho"] == pytest.approx(test.statistic)
        raw.append((test.pvalue, line["p"]))
    assert [corrected for _, corrected in raw] == pytest.approx(holm([p for p, _ in raw]))
    planted = made.row(by_predicate=(pl.col("predictor") == "density") & (pl.col("side_effect") == "loss_rise"), named=True)
    assert planted["rho"] == pytest.approx(1)
    assert planted["p"] < 1e-9
    assert planted["difference_high"] < 0
    others = made.filter(pl.col("predictor") != "density", pl.col("side_effect") == "loss_rise")
    assert others["p"].min() > 0.05
