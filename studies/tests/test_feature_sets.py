"""Sets of features for a concept: how they are chosen, by hand and against every order of adding; their direction."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import saesteer
from saesteer.core.uncertainty import RATINGS, mean_interval, of_differences
from studies import ROOT
from studies.pages.questions import BLOCKS, LABEL_FOLDER
from studies.questions.feature_sets import BY_ACTIVATION, GREEDY, LARGEST, Chosen, Means, Members, chosen_sets, set_addition
from studies.questions.tables import FEATURE_SETS

FACTORS = ("1", "2")


def means_of(table: Mapping[tuple[Members, str], float | None], sets: Sequence[Members]) -> Means:
    return {(members, factor): table[members, factor] for members in sets for factor in FACTORS}


def test_greedy_adds_to_the_best_single_feature_and_activation_takes_the_first():
    """By hand: 9 is the best alone, with it 5; 7 has the largest max activation. The factor is chosen for each set."""
    table = {(members, factor): 0.0 for size in (1, 2, 3) for members in combinations((5, 7, 9), size) for factor in FACTORS}
    table |= {((9,), "2"): 1.0, ((7,), "1"): 0.5, ((5, 9), "1"): 1.5, ((7, 9), "2"): 1.25, ((5, 7, 9), "2"): 0.75}
    chosen = chosen_sets([7, 9, 5], lambda sets: means_of(table, sets))
    assert chosen == [
        Chosen(GREEDY, (9,), "2"),
        Chosen(GREEDY, (5, 9), "1"),
        Chosen(GREEDY, (5, 7, 9), "2"),
        Chosen(BY_ACTIVATION, (7,), "1"),
        Chosen(BY_ACTIVATION, (7, 9), "2"),
        Chosen(BY_ACTIVATION, (5, 7, 9), "2"),
    ]


def test_ties_go_to_the_first_of_the_pool_and_the_smaller_factor_and_what_is_not_rated_is_not_chosen():
    table = {((7,), "1"): 1.0, ((7,), "2"): 1.0, ((9,), "1"): 1.0, ((9,), "2"): None, ((7, 9), "1"): None, ((7, 9), "2"): 0.0}
    singles = {of.rule: of for of in chosen_sets([7, 9], lambda sets: means_of(table, sets)) if len(of.members) == 1}
    assert singles == {GREEDY: Chosen(GREEDY, (7,), "1"), BY_ACTIVATION: Chosen(BY_ACTIVATION, (7,), "1")}
    pairs = [of for of in chosen_sets([9, 7], lambda sets: means_of(table, sets)) if len(of.members) == 2]
    assert pairs == [Chosen(GREEDY, (7, 9), "2"), Chosen(BY_ACTIVATION, (7, 9), "2")]


@settings(max_examples=30)
@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_every_step_of_greedy_is_the_best_of_all_that_could_be_added(n: int, random):
    pool = random.sample(range(100), n)
    table = {
        (tuple(sorted(members)), factor): random.random()
        for size, factor in product(range(1, n + 1), FACTORS)
        for members in combinations(pool, size)
    }
    greedy = [of for of in chosen_sets(pool, lambda sets: means_of(table, sets)) if of.rule == GREEDY]
    assert [len(of.members) for of in greedy] == list(range(1, min(LARGEST, n) + 1))
    before: set[int] = set()
    for of in greedy:
        reachable = [cell for cell in table if len(cell[0]) == len(of.members) and before <= set(cell[0])]
        assert table[of.members, of.factor] == max(table[cell] for cell in reachable)
        before = set(of.members)


def test_a_sets_direction_is_the_sum_at_unit_norm():
    sae = saesteer.load_sae(ROOT / "data/world/saes/layer_03", device="cpu")
    summed = sae.W_dec[3].double() + sae.W_dec[8].double()
    addition = set_addition(sae, (3, 8))
    torch.testing.assert_close(addition.vector.double(), summed / summed.norm(), atol=1e-6, rtol=0)
    assert float(addition.vector.norm()) == pytest.approx(1, abs=1e-6)
    assert (addition.scale, addition.positions) == (None, "last")


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_gains_over_seeds_cover_other_concepts_and_other_seeds(shift: float, tmp_path: Path) -> None:
    """Where the second seed's gains are the first's and a constant, the variance of the seeds' mean is the square of half of it."""
    gains = np.array([0.1, 0.3, 0.2, 0.5, -0.1])
    for name, of_seed in (("one", gains), ("one-seed-1", gains + shift)):
        scores = {(concept, size): 1 + gain * (size == 2) for concept, gain in zip("abcde", of_seed, strict=True) for size in (1, 2)}
        rows = [(3, concept, GREEDY, size, 2, "1", "1", score) for (concept, size), score in scores.items()]
        (tmp_path / LABEL_FOLDER / name).mkdir(parents=True)
        pl.DataFrame(rows, FEATURE_SETS.schema, orient="row").write_csv(tmp_path / LABEL_FOLDER / name / "feature_sets.csv")
    mean = gains.mean() + shift / 2
    concepts = mean_interval(gains + shift / 2, 0.95, of_differences(RATINGS))
    assert concepts is not None
    reach = stats.t.ppf(0.975, 1) * shift / 2
    low, high = mean - np.hypot(mean - concepts.low, reach), mean + np.hypot(concepts.high - mean, reach)
    (row,) = BLOCKS["open-feature-set-gains"].markdown(tmp_path).splitlines()[2:]
    assert row == f"| `one` | 3 | {GREEDY} | 2 | 2 | 5 | {mean:.2f} [{low:.2f}, {high:.2f}] |".replace("-", "−")
