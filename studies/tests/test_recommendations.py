"""What `saesteer recommend` would say of each concept, by hand."""

import polars as pl
from test_recommendation import SETTINGS, ratings

from saesteer.cli.application import run_of
from studies import ROOT
from studies.questions.summaries.fresh_prompts import fresh_prompts, unused_prompts
from studies.questions.summaries.recommendations import recommendations
from studies.questions.tables import RECOMMENDATIONS


def test_regret_is_against_choosing_among_all_features_with_the_label():
    """By hand: 7 has the larger example, 9 steers better; a candidate a layer is 7, so the regret is .5."""
    features = pl.DataFrame(
        {
            "layer": [3, 3, 3],
            "feature": [7, 9, 5],
            "concept": ["sea", "sea", None],
            "explanation": [None, None, None],
            "top_logit_lens_tokens": [["a"], ["b"], ["sea"]],
            "max_activation": [9.0, 2.0, 99.0],
        },
        schema_overrides={"explanation": pl.String},
    )
    rows = pl.concat(
        [ratings("feature", 3, name, factor, [score] * 8) for name, factor, score in (("7", "0", 0), ("7", "1", 1), ("9", "1", 1.5))]
    )
    texts = rows.drop("kind").with_columns(feature=pl.col("name").cast(pl.Int64)).drop("name")
    (row,) = recommendations(features, texts, 1, SETTINGS).rows(named=True)
    assert (row["concept"], row["n_candidates"], row["verdict"], row["feature"], row["factor"]) == ("sea", 1, "weak", 7, "1")
    assert (row["score"], row["best"], row["regret"]) == (1.0, 1.5, 0.5)
    assert (row["best_layer"], row["best_feature"], row["best_factor"]) == (3, 9, "1")
    (all_of_them,) = recommendations(features, texts, 2, SETTINGS).rows(named=True)
    assert (all_of_them["feature"], all_of_them["regret"]) == (9, 0.0)


def test_both_choices_are_scored_on_prompts_that_neither_saw():
    """By hand: the recommended 3/7 scores .5 there, brute force's 3/9 1.25."""
    row = {"concept": "sea", "verdict": "use", "layer": 3, "feature": 7, "factor": "1", "best_layer": 3, "best_feature": 9}
    row |= {"best_factor": "2", "score": 1.0, "score_low": 0.5, "score_high": 1.5, "best": 1.5, "regret": 0.5, "n_candidates": 1}
    means = {(3, 7, "1"): 0.5, (3, 9, "2"): 1.25}
    recommended = pl.DataFrame([row, {"concept": "war", "verdict": "none"}], schema=RECOMMENDATIONS.schema)
    table = fresh_prompts(recommended, lambda concept, choices: [{"mean": means[one], "low": 0.0, "high": 2.0} for one in choices], 40)
    (fresh,) = table.rows(named=True)
    assert (fresh["concept"], fresh["n"], fresh["fresh"], fresh["best"], fresh["regret"]) == ("sea", 40, 0.5, 1.25, 0.75)
    run = run_of("tiny-brute", ROOT / "studies/config.yaml")
    unused = unused_prompts(run)
    assert len(unused) == 40
    assert not set(unused) & set(run.prompts())
