"""PMI against its definition over sets of texts, and by hand."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import pmi as slow_pmi
from synthetic_tables import (
    FACTORS,
    selection_settings,
    synthetic_features,
    synthetic_generations,
    synthetic_outcomes,
    synthetic_texts,
)

from saesteer.analysis.pmi import N_TOP, feature_pmi, holding_matrix, mean_pmi, pmi_by_threshold, top_tokens
from saesteer.analysis.tables import FEATURE_PMI, PMI
from saesteer.core.tables import validate

TOKENS = st.integers(0, 6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(TOKENS, max_size=5), min_size=1, max_size=8),
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
)
def test_is_the_definition(texts: list[list[int]], generated: list[int], lens: list[int]) -> None:
    holds = holding_matrix(texts)
    measured = mean_pmi(top_tokens(generated, holds), lens, holds)
    values, absent = slow_pmi(texts, generated, lens, N_TOP)
    assert (measured["n_pairs"], measured["n_absent"]) == (len(values), absent)
    assert measured["pmi"] == (pytest.approx(float(np.mean(values)), abs=1e-12) if values else None)


def test_top_tokens_are_the_most_frequent_known_ones_smallest_id_first() -> None:
    holds = holding_matrix([list(range(40))])
    assert top_tokens([50, 50, 50, 3, 3, 2, 2, 9], holds) == [2, 3, 9]
    assert top_tokens(range(39, -1, -1), holds) == list(range(N_TOP))


def test_only_texts_at_chosen_factors_count() -> None:
    features = synthetic_features(1, 3)
    generations = synthetic_generations(features, ("0", "2", "4"))
    keys = features.select("layer", "feature").rows()
    outcomes = synthetic_outcomes(1, 3, ("0", "2", "4")).filter(rule="capped").sort("layer", "feature")
    outcomes = outcomes.with_columns(factors=pl.Series([["2", "2"], ["4", None], [None, None]]))
    texts = synthetic_texts()
    table = feature_pmi(generations, outcomes, features, texts, "capped").sort("layer", "feature")
    for row, (layer, feature), factor in zip(table.iter_rows(named=True), keys, ("2", "4", None), strict=True):
        ids = generations.filter(layer=layer, feature=feature, factor=factor)["token_ids"].explode().to_list() if factor else []
        lens = features.filter(layer=layer, feature=feature)["top_logit_lens_token_ids"].item().to_list()
        values, absent = slow_pmi(texts["token_ids"].to_list(), ids, lens, N_TOP)
        assert (row["n_pairs"], row["n_absent"]) == (len(values), absent)
        assert row["pmi"] == (pytest.approx(float(np.mean(values))) if values else None)
    assert table["pmi"].null_count() == 1
    validate(FEATURE_PMI, table, "test")


def test_by_threshold_is_the_mean_of_kept_features() -> None:
    features = synthetic_features(4, 32)
    measured = feature_pmi(synthetic_generations(features, FACTORS), synthetic_outcomes(4, 32), features, synthetic_texts(), "capped")
    pmi = measured.with_row_index().with_columns(pmi=pl.when(pl.col("index") != 127).then("pmi")).drop("index")
    table = validate(PMI, pmi_by_threshold(pmi, selection_settings(late_layers_from=2)), "test")
    kept = pmi.filter((pl.col("layer") >= 2) & (pl.col("output_score") >= 0.01))
    row = table.filter(layers="late", threshold=0.01).row(0, named=True)
    assert row["mean"] == pytest.approx(kept["pmi"].mean())
    assert (row["n_kept"], row["n_missing"]) == (kept["pmi"].count(), kept["pmi"].null_count())
    assert row["n_kept"] >= 30
    assert row["low"] <= row["mean"] <= row["high"]
    few = table.filter((pl.col("n_kept") > 1) & (pl.col("n_kept") < 30))
    assert few.height == few["low"].null_count() > 0
    nothing = pmi_by_threshold(pmi, selection_settings(late_layers_from=99)).filter(layers="late").row(0, named=True)
    assert (nothing["n_kept"], nothing["mean"], nothing["low"]) == (0, None, None)
