"""What `saesteer recommend` would say of each concept, by hand."""

import polars as pl
from test_recommendation import SETTINGS, ratings

from studies.questions.summaries.recommendations import recommendations


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
    assert (row["concept"], row["n_candidates"], row["verdict"], row["feature"], row["factor"]) == ("sea", 1, "none", 7, "1")  # 8 prompts
    assert (row["score"], row["best"], row["regret"]) == (1.0, 1.5, 0.5)
    (all_of_them,) = recommendations(features, texts, 2, SETTINGS).rows(named=True)
    assert (all_of_them["feature"], all_of_them["regret"]) == (9, 0.0)
