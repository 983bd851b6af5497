"""Agreement of two judges: weighted kappa against hand-worked tables and another package's, and its interval."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from sklearn.metrics import cohen_kappa_score

from saesteer.rating.agreement import SCHEMA, agreement, jackknife_interval, weighted_kappa
from saesteer.rating.sheet import RATINGS
from saesteer.steps.judge import JUDGEMENTS


def judgements(concept: list[int | None], fluency: list[int | None], n_features: int = 4) -> pl.DataFrame:
    keys = {"layer": 1, "method": "feature", "factor": "2", "prefix_id": "0" * 16}
    known = pl.DataFrame({"concept_rating": concept, "fluency_rating": fluency}, schema=dict.fromkeys(RATINGS, pl.UInt8))
    literals = {name: pl.lit(value) for name, value in keys.items()}
    rows = known.with_row_index("sample").with_columns(target=(pl.col("sample") % n_features).cast(pl.String), **literals)
    return pl.concat([pl.DataFrame(schema=JUDGEMENTS.schema), rows], how="diagonal_relaxed")


def row(table: pl.DataFrame, aspect: str) -> dict[str, object]:
    return table.row(by_predicate=pl.col("aspect") == aspect, named=True)


def test_kappa_by_hand():
    # 10 texts; observed disagreement: 1 text off by one, 2 off by two: (1*1 + 2*4)/10 = .9. Marginals 4, 3, 3 and 4, 2, 4: expected
    # (4*2*1 + 4*4*4 + 3*4*1 + 3*4*1 + 3*4*4 + 3*2*1)/100 = 1.5. kappa = 1 - .9/1.5 = .4
    a = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    b = [0, 0, 0, 2, 1, 1, 2, 2, 2, 0]
    measured = row(agreement(judgements(a, a), judgements(b, b)), "concept")
    assert (measured["kappa"], measured["equal"]) == (pytest.approx(0.4), pytest.approx(0.7))
    assert (measured["n"], measured["n_missing"], measured["n_features"]) == (10, 0, 4)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]):
    counts = np.zeros((1, 3, 3))
    for a, b in pairs:
        counts[0, a, b] += 1
    ours = weighted_kappa(counts)[0]
    if not np.isfinite(ours):
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 1
        return
    assert ours == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True), labels=[0, 1, 2], weights="quadratic"), abs=1e-12)


def test_what_one_did_not_rate_is_counted():
    a, b = judgements([0, 1, None, 2], [1, 1, 1, 1]), judgements([0, None, None, 2], [1, 1, 1, 1])
    table = agreement(a, b[:3])
    assert table.schema == SCHEMA
    concept, instruction, fluency = (row(table, aspect) for aspect in ("concept", "instruction", "fluency"))
    assert (concept["n"], concept["n_missing"], concept["kappa"], concept["low"]) == (1, 2, None, None)
    assert (instruction["n"], instruction["n_missing"], instruction["equal"]) == (0, 3, None)
    assert (fluency["n"], fluency["equal"], fluency["kappa"]) == (3, 1.0, None)  # all 1: nothing can differ by chance


def test_one_rating_of_all_texts_has_a_kappa_and_no_interval():
    varied, same = judgements([0, 2, 1, 2] * 5, [0, 2, 1, 2] * 5), judgements([2] * 20, [2] * 20)
    for one, other in ((varied, same), (same, varied)):
        measured = row(agreement(one, other), "concept")
        assert (measured["kappa"], measured["low"], measured["high"]) == (0, None, None)


def test_the_interval_is_the_jackknifes_by_the_pseudovalues():
    """By the definition: the standard error of the mean of n kappa - (n - 1) kappa without a feature."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 3, (6, 10)), rng.integers(0, 3, (6, 10))
    b[:4] = a[:4]
    whole, without = cohen_kappa_score(a.ravel(), b.ravel(), weights="quadratic"), []
    for feature in range(6):
        others = [row for row in range(6) if row != feature]
        without.append(cohen_kappa_score(a[others].ravel(), b[others].ravel(), weights="quadratic"))
    pseudo = 6 * whole - 5 * np.array(without)
    reach = t.ppf(0.975, 5) * pseudo.std(ddof=1) / 6**0.5
    first, second = (judgements(ratings.T.ravel().tolist(), ratings.T.ravel().tolist(), 6) for ratings in (a, b))
    table = agreement(first, second)
    assert agreement(first.sample(fraction=1.0, shuffle=True, seed=3), second).equals(table)
    made = row(table, "concept")
    assert (made["low"], made["high"]) == (pytest.approx(max(whole - reach, -1)), pytest.approx(min(whole + reach, 1)))


def test_a_concept_at_two_layers_is_one_and_a_feature_of_two_layers_two():
    rows = [judgements([0, 1, 2, 2], [0, 1, 2, 2]).with_columns(layer=pl.lit(layer)) for layer in (1, 2)]
    of_features = pl.concat(rows)
    of_concepts = of_features.with_columns(method=pl.lit("diffmean"))
    counted = [row(agreement(texts, texts), "concept")["n_features"] for texts in (of_features, of_concepts)]
    assert counted == [8, 4]


@pytest.mark.parametrize("n", [8, 16, 34])
def test_the_interval_covers(n: int):
    """Two judges with errors of their own, 20 texts of each feature, features that differ."""
    rng = np.random.default_rng(n)

    def counts(features: int) -> np.ndarray:
        truth = rng.normal(0, 1.5, (features, 1)) + rng.normal(0, 1, (features, 20))
        a, b = (np.digitize(truth + rng.normal(0, 1, truth.shape), [-0.5, 0.7]) for _ in range(2))
        tables = np.zeros((features, 3, 3))
        np.add.at(tables, (np.arange(features)[:, None], a, b), 1.0)
        return tables

    true = weighted_kappa(counts(40_000).sum(0)[None])[0]
    intervals = [jackknife_interval(weighted_kappa(of.sum(0)[None])[0], of) for of in (counts(n) for _ in range(1000))]
    assert np.mean([interval.low <= true <= interval.high for interval in intervals]) > 0.94 - 0.015  # two standard errors
