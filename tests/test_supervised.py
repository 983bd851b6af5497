"""Supervised selection of features (P3) and its random control."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from selection_problems import by_codes, one_token_each
from sklearn.metrics import f1_score

from saesteer.methods.fit import supervised
from saesteer.methods.fit.problem import Abstains, Problem

counts = st.integers(0, 60)
labelled_frequencies = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])), min_size=2, max_size=14).filter(
    lambda rows: len({positive for positive, _ in rows}) == 2
)


def calibrated(true_positives: float, false_positives: float, n_positive: int, weight: float) -> float:
    as_tensor = (torch.tensor([value], dtype=torch.float64) for value in (true_positives, false_positives))
    return supervised.calibrated_f1(*as_tensor, n_positive, weight).item()


# --- the formula


def test_calibrated_f1_by_hand() -> None:
    # pi = 72 / 144, pi0 = 1 / 1000: c = (.5 x .999) / (.001 x .5) = 999. TP 30, FP 1, FN 20: 60 / (60 + 999 + 20).
    weight = supervised.false_positive_weight(0.5)
    assert weight == pytest.approx(999)
    assert calibrated(30, 1, 50, weight) == pytest.approx(60 / 1079)
    # pi = 1 / 4: c = (.25 x .999) / (.001 x .75) = 333. TP 10, FP 2, FN 5: 20 / (20 + 666 + 5).
    weight = supervised.false_positive_weight(0.25)
    assert weight == pytest.approx(333)
    assert calibrated(10, 2, 15, weight) == pytest.approx(20 / 691)
    assert supervised.false_positive_weight(0.2, reference=0.2) == pytest.approx(1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.sampled_from([1.0, 3.5, 999.0]))
def test_calibrated_f1_is_scikit_learns_f1_with_every_negative_counted_c_times(rows: list[tuple[bool, bool]], weight: float) -> None:
    truth, answer = (np.array(column) for column in zip(*rows, strict=True))
    if not truth.any():
        return
    expected = f1_score(truth, answer, sample_weight=np.where(truth, 1.0, weight), zero_division=0)
    assert calibrated((truth & answer).sum(), (~truth & answer).sum(), int(truth.sum()), weight) == pytest.approx(expected)


# --- the threshold


def slow_best(frequencies: np.ndarray, positive: np.ndarray) -> float:
    """Every distinct frequency above 0 as the threshold, F1 by scikit-learn with the negatives weighted."""
    weight = supervised.false_positive_weight(positive.mean())
    sample_weight = np.where(positive, 1.0, weight)
    thresholds = [value for value in np.unique(frequencies) if value > 0]
    return max((f1_score(positive, frequencies >= one, sample_weight=sample_weight) for one in thresholds), default=0.0)


@given(labelled_frequencies)
def test_the_best_threshold_is_the_best_of_all(rows: list[tuple[bool, float]]) -> None:
    positive, frequencies = (np.array(column) for column in zip(*rows, strict=True))
    f1 = supervised.best_calibrated_f1(torch.tensor(frequencies)[:, None], torch.tensor(positive))
    assert f1.item() == pytest.approx(slow_best(frequencies, positive))


def test_features_tried_together_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    frequency = torch.randint(0, 4, (20, 11), generator=torch.Generator().manual_seed(0)) / 4
    positive = torch.arange(20) < 8
    together = supervised.best_calibrated_f1(frequency, positive)
    monkeypatch.setattr(supervised, "FEATURES_AT_A_TIME", 3)
    assert torch.equal(supervised.best_calibrated_f1(frequency, positive), together)
    assert together.numpy() == pytest.approx([slow_best(column.numpy(), positive.numpy()) for column in frequency.T])


def test_firing_frequencies_are_shares_of_tokens() -> None:
    given_ = by_codes([[[0.1, 0, 3], [9, 0, 0]], [[0, 0, 1], [0, 0, 1], [0, 2, 1], [0, 0, 0]]], [[[0.0, 0, 0]]])
    frequencies, _ = supervised.firing_frequencies(given_)
    assert frequencies.tolist() == [[1.0, 0.0, 0.5], [0.0, 0.25, 0.75]]


# --- the selection


def world(n_positive: int = 50, seed: int = 0, **columns: list[object]) -> Problem:
    """Eight features: 0 fires in negative texts only; feature f > 0 fires in n_positive - 4 f positive texts, 7 in a negative one too."""
    positive = [[0.0] + [float(text >= 4 * feature) for feature in range(1, 8)] for text in range(n_positive)]
    negative = [[1.0] + [0.0] * 6 + [float(text == 0)] for text in range(50)]
    return by_codes(one_token_each(positive), one_token_each(negative), seed=seed, **columns)


def test_the_best_five_are_set_to_their_largest_examples() -> None:
    edit = supervised.supervised(world(max_activation=[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
    assert edit.features.tolist() == [1, 2, 3, 4, 5]
    assert edit.values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_features_that_do_not_write_are_dropped_and_so_are_those_that_never_predict() -> None:
    outputs = [1.0, 0.9e-3, 1e-3, 0.0, 0.5, 0.5, 0.5, 0.5]
    assert supervised.selected(world(output_score=outputs)) == [2, 4, 5, 6, 7]
    few = [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0]  # 0 is wrong wherever it fires
    assert supervised.selected(world(output_score=few)) == [4, 6]
    with pytest.raises(Abstains, match=r"output score of at least 0\.001 predicts"):
        supervised.selected(world(output_score=[0.0] * 8))


def test_concepts_with_few_texts_are_dropped() -> None:
    with pytest.raises(Abstains, match="49 texts, fewer than 50"):
        supervised.supervised(world(49))
    with pytest.raises(Abstains, match="49 texts, fewer than 50"):
        supervised.random_control(world(49))


def test_equals_go_to_the_lowest_feature() -> None:
    same = one_token_each([[1.0] * 7] * 50)
    assert supervised.selected(by_codes(same, one_token_each([[0.0] * 7] * 50))) == [0, 1, 2, 3, 4]


# --- the random control


def test_the_control_draws_as_many_features_with_examples_and_edits_them_alike() -> None:
    examples, largest = [3, 0, 1, 1, 1, 1, 0, 2], [float(feature + 1) for feature in range(8)]
    drawn = [supervised.random_control(world(seed=seed, n_examples=examples, max_activation=largest)) for seed in range(60)]
    for one in drawn:
        assert len(set(one.features.tolist())) == 5
        assert one.values.tolist() == [feature + 1 for feature in one.features.tolist()]
    assert {feature for one in drawn for feature in one.features.tolist()} == {0, 2, 3, 4, 5, 7}
    # Each of six is drawn with probability 5 / 6; a share off by four standard deviations would be below .64.
    shares = [np.mean([feature in one.features.tolist() for one in drawn]) for feature in (0, 2, 3, 4, 5, 7)]
    assert min(shares) > 0.64


def test_the_control_draws_as_few_as_were_selected_and_the_same_again() -> None:
    few = [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0]
    first, again = (supervised.random_control(world(output_score=few)).features.tolist() for _ in range(2))
    assert len(first) == 2
    assert first == again
    by_seed = [sorted(supervised.random_control(world(output_score=few, seed=seed)).features.tolist()) for seed in range(8)]
    assert any(one != other for one, other in pairwise(by_seed))


def test_the_control_abstains_where_too_few_features_have_examples() -> None:
    with pytest.raises(Abstains, match="3 features have max-activating examples, fewer than the 5"):
        supervised.random_control(world(n_examples=[1, 1, 1, 0, 0, 0, 0, 0]))
