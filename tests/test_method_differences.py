"""Win rates, and simultaneous intervals of all pairs of methods, against SciPy, by hand, and by simulation."""

import numpy as np
import pytest
from method_rows import LAYER, method_settings, score_rows
from scipy import stats

from saesteer.core.uncertainty import SHARES, mean_interval
from saesteer.methods.compare.differences import method_differences, simultaneous
from saesteer.report.method_report import both_ways

SETTINGS = method_settings()


def test_the_win_rate_is_the_share_of_concepts_won_with_ties_as_halves() -> None:
    """By hand lat wins 2 of 4 concepts from pca and ties 1 (its sum differs in the last bit), (2 + .5) / 4; a concept that either lacks
    counts nowhere, and a pair without any has no rate. Then every pair of random scores, in plain Python, both ways round."""
    by_hand = {"lat": [2.0, 0.1 + 0.2, 1.0, 0.5, None], "pca": [1.0, 0.3, 0.0, 1.5, 2.0], "probe": [None] * 5}
    first, *without = method_differences(score_rows(by_hand), SETTINGS).to_dicts()
    columns = ("win_rate", "win_rate_low", "win_rate_high")
    assert (first["n"], first["win_rate"]) == (4, 0.625)
    assert [first[name] for name in columns[1:]] == pytest.approx(mean_interval(np.array([1, 0.5, 1, 0]), 0.95, SHARES))
    assert {row[name] for row in without for name in columns} == {None}
    rng = np.random.default_rng(3)
    drawn = {
        key: [None if rng.random() < 0.1 else float(rng.integers(0, 5)) / 2 for _ in range(16)] for key in ("lat", "pca", "ssv", "sft")
    }
    pairs = both_ways(method_differences(score_rows(drawn), SETTINGS)).to_dicts()
    assert len(pairs) == 12
    for row in pairs:
        both = [(a, b) for a, b in zip(drawn[row["method"]], drawn[row["other"]], strict=True) if a is not None and b is not None]
        won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in both]
        assert row["win_rate"] == pytest.approx(sum(won) / len(won))
        assert [row[name] for name in columns[1:]] == pytest.approx(mean_interval(np.array(won), 0.95, SHARES))
    every = method_differences(score_rows({"lat": [1.0] * 8, "pca": [0.0] * 8}), SETTINGS).row(0, named=True)
    assert every["win_rate_low"] == pytest.approx(stats.binomtest(8, 8).proportion_ci().low, abs=1e-6)  # Clopper and Pearson's


def test_of_one_pair_the_simultaneous_interval_is_students_and_of_many_it_is_sidaks() -> None:
    """Independent differences of many concepts: the level is that of confidence ** (1 / pairs), two-sided (Šidák)."""
    rng = np.random.default_rng(0)
    for keys in (("lat", "pca"), ("lat", "pca", "probe", "ssv", "caa", "lora", "sft")):
        # Against one method without spread, every difference is another's own noise.
        drawn = {key: np.zeros(400) if key == "lat" else rng.normal(size=400) for key in keys}
        pairs = [(a, b) for number, a in enumerate(keys) for b in keys[number + 1 :]]
        differences = np.stack([drawn[a] - drawn[b] for a, b in pairs], axis=1)
        if len(keys) > 2:
            differences[100:, 0] = np.nan  # a pair of fewer concepts: the same level, a larger t
        rows = simultaneous(differences, method_settings(bootstrap_draws=4000), LAYER)
        sidak = 0.95 ** (1 / len(pairs))
        for values, row in zip(differences.T, rows, strict=True):
            known = values[~np.isnan(values)]
            theirs = stats.ttest_1samp(known, 0).confidence_interval(sidak)
            ours = row["simultaneous_high"] - row["simultaneous_low"]
            assert ours == pytest.approx(theirs.high - theirs.low, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("are_missing", [False, True])
def test_the_simultaneous_intervals_cover_all_pairs_together(are_missing: bool) -> None:
    """200 worlds of eight equal methods and 16 concepts, shared by all methods, each with its own noise: some pair's own interval misses 0
    in many, some simultaneous one in about 5 %."""
    rng, settings, missed = np.random.default_rng(5), method_settings(bootstrap_draws=500), {"own": 0, "simultaneous": 0}
    for world in range(200):
        scores = rng.normal(size=(16, 1)) * 0.4 + rng.normal(size=(16, 8)) * np.linspace(0.1, 0.5, 8)
        if are_missing:
            scores[rng.random(scores.shape) < 0.1] = np.nan
        differences = np.stack([scores[:, a] - scores[:, b] for a in range(8) for b in range(a + 1, 8)], axis=1)
        own = [mean_interval(values[~np.isnan(values)], 0.95) for values in differences.T]
        missed["own"] += any(low > 0 or high < 0 for low, high in own)
        together = simultaneous(differences, settings, world)
        missed["simultaneous"] += any(row["simultaneous_low"] > 0 or row["simultaneous_high"] < 0 for row in together)
    assert missed["own"] > 60
    assert missed["simultaneous"] <= 19  # 10 are 5 %, three standard deviations above them
