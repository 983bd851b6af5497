"""Methods that steer with SAE features which they select: each against another library, a slow formula or a case worked by hand."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods_world import problem, random_effects
from scipy.spatial.distance import cdist
from selection_problems import by_codes, one_token_each
from sklearn.metrics import mutual_info_score, roc_auc_score

from saesteer.engine.interventions import Addition, packed
from saesteer.methods.fit import sae_choice, sae_features, sae_gradient_output, sae_mutual_information
from saesteer.methods.fit.fits import fit_of, n_choosing_texts
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.settings.registry import METHODS, Method

BY_LABEL = (sae_choice.by_label_and_output_score, sae_choice.by_label_and_delta_confidence, sae_choice.by_label_and_max_activation)
small = st.integers(0, 4).map(float)  # small numbers, so that ties are common


def chosen(addition: Addition) -> int:
    """The feature whose direction a vector is, where decoder rows are axes."""
    (place,) = torch.nonzero(addition.vector).flatten().tolist()
    return int(place)


def texts_with_auroc(*aurocs: float) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Positive and negative texts, 10 each, of one token, on which features have these AUROCs (in tenths): every negative text's code is 1,
    and that share of the positive ones' lies above it."""
    positive = [[2.0 if place < round(10 * one) else 0.5 for one in aurocs] for place in range(10)]
    return one_token_each(positive), one_token_each([[1.0] * len(aurocs)] * 10)


# --- how well a feature tells texts apart


@given(st.lists(small, min_size=1, max_size=8), st.lists(small, min_size=1, max_size=8))
def test_auroc_is_scikit_learns_and_the_share_of_pairs(positive: list[float], negative: list[float]) -> None:
    auroc = sae_features.auroc(torch.tensor(positive)[:, None], torch.tensor(negative)[:, None]).item()
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in product(positive, negative)]
    assert auroc == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc == pytest.approx(roc_auc_score([1] * len(positive) + [0] * len(negative), positive + negative), abs=1e-12)


# --- one feature


def test_sae_a_takes_the_best_auroc_of_each_texts_largest_code() -> None:
    # Feature 0 is large on average in positive texts, but feature 2 is by its largest code in every one of them.
    positive = [[[3.0, 0, 5.0], [3.0, 0, 0]], [[0.5, 0, 4.0], [0.5, 0, 0]]]
    negative = [[[1.0, 0, 3.0], [1.0, 0, 3.0]], [[1.0, 0, 0.0], [1.0, 0, 2.0]]]
    addition = sae_choice.by_auroc(by_codes(positive, negative))
    assert chosen(addition) == 2
    assert addition.scale == 4.0
    assert addition.positions == "all"


@pytest.mark.parametrize("choose", [sae_choice.by_auroc, sae_gradient_output.fit])
def test_a_feature_without_a_direction_is_no_candidate(choose: Callable[[Problem], Addition]) -> None:
    whole = problem("sea", 8, features=range(0, 1024, 3))
    first, decoder = choose(whole).features, whole.sae.W_dec.clone()
    decoder[list(first)] = 0
    assert choose(replace(whole, sae=replace(whole.sae, W_dec=decoder))).features not in (first, ())


def test_sae_a_on_the_shipped_world_is_scikit_learns_choice() -> None:
    given_ = problem("sea", 24, features=range(0, 1024, 3))
    label, codes = [1] * 24 + [0] * 24, []
    for tokens in (given_.positive_tokens, given_.negative_tokens):
        pre = tokens.residual @ given_.sae.W_enc + given_.sae.b_enc
        active = torch.where(pre > given_.sae.threshold, pre, torch.zeros(()))
        codes += [of_text.amax(dim=0).numpy() for of_text in active.split(tokens.lengths)]
    table = np.stack(codes)
    alive = set(given_.features.drop_nulls("max_activation")["feature"].to_list())
    scores = [roc_auc_score(label, table[:, feature]) if feature in alive else -1 for feature in range(table.shape[1])]
    best = int(np.argmax(scores))  # the first among equals
    mine = sae_features.with_auroc(given_)
    assert np.allclose(mine["auroc"], np.array(scores)[mine["feature"].to_list()])
    assert torch.allclose(sae_choice.by_auroc(given_).vector, given_.sae.W_dec[best] / given_.sae.W_dec[best].norm())


def test_the_cosine_with_diffmean_is_scipys() -> None:
    given_ = problem("sea", 24, features=range(0, 1024, 3))
    positive, negative = (tokens.residual.double().mean(dim=0) for tokens in (given_.positive_tokens, given_.negative_tokens))
    distances = cdist(given_.sae.W_dec.double(), (positive - negative)[None], "cosine")[:, 0]
    alive = given_.features.filter(pl.col("max_activation") > 0)["feature"].to_list()
    expected = min(alive, key=lambda feature: distances[feature])
    assert sae_choice.by_cosine(given_).features == (expected,)


def test_equals_go_to_the_lowest_feature() -> None:
    positive, negative = texts_with_auroc(0.8, 0.9, 0.9, 0.9)
    assert chosen(sae_choice.by_auroc(by_codes(positive, negative))) == 1
    assert chosen(sae_mutual_information.fit(by_codes([[[0, 1.0, 1, 1]]], [[[0, 0.0, 0, 0]]]))) == 1
    assert chosen(sae_choice.by_delta_confidence(by_codes(positive, negative))) == 0


def test_a_feature_without_a_example_is_no_candidate() -> None:
    positive, negative = texts_with_auroc(0.8, 1.0, 0.9, 1.0)
    given_ = by_codes(positive, negative, max_activation=[4.0, None, 3.0, 0.0])
    addition = sae_choice.by_auroc(given_)
    assert (chosen(addition), addition.scale) == (2, 3.0)
    with pytest.raises(Abstains, match="ever active"):
        sae_choice.by_auroc(by_codes(positive, negative, max_activation=[None] * 4))


def test_factor_1_adds_the_max_activation_times_the_decoder_row_or_sets_it() -> None:
    decoder = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    addition = sae_choice.by_label(by_codes([[[1.0, 1.0]]], [[[0.0, 0.0]]], decoder=decoder, label=0, max_activation=[2.0, 7.0]))
    assert torch.allclose(addition.vector, torch.tensor([0.6, 0.8]))
    assert addition.scale == pytest.approx(10.0)
    edit = sae_choice.clamped(by_codes([[[1.0, 1.0, 1.0]]], [[[0.0, 0.0, 0.0]]], label=2, max_activation=[2.0, 7.0, 5.5]))
    assert (edit.features.tolist(), edit.values.tolist()) == ([2], [5.5])


def test_other_ways_of_steering_with_the_labelled_feature_take_its_strength_too() -> None:
    decoder = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    given = by_codes([[[1.0, 1.0]]], [[[0.0, 0.0]]], decoder=decoder, label=0, max_activation=[2.0, 7.0])
    clamp, component = sae_choice.clamped_where_active(given), sae_choice.component_scaled(given)
    floor, decaying = sae_choice.component_raised(given), sae_choice.decaying(given)
    assert (clamp.features.tolist(), clamp.values.tolist()) == ([0], [2.0])
    assert (floor.scale, decaying.scale, decaying.decay) == (pytest.approx(10.0), pytest.approx(10.0), 0.9)
    for vector in (component.vector, floor.vector, decaying.vector):
        assert torch.allclose(vector, torch.tensor([0.6, 0.8]))


STEERING_BY_LABEL = (sae_choice.by_label, sae_choice.clamped, sae_choice.clamped_where_active, sae_choice.component_raised)


@pytest.mark.parametrize("method", [*STEERING_BY_LABEL, sae_choice.decaying, sae_choice.by_label_and_output_score])
def test_methods_by_label_abstain_without_a_feature_that_has_a_strength(method: object) -> None:
    texts = [[[1.0, 1.0]]], [[[0.0, 0.0]]]
    with pytest.raises(Abstains, match="no feature is labelled"):
        method(by_codes(*texts))
    for largest in (None, 0.0):
        with pytest.raises(Abstains, match="feature 1 has no positive example"):
            method(by_codes(*texts, label=1, max_activation=[4.0, largest]))
    with pytest.raises(Abstains, match="feature 7 is not among"):
        method(by_codes(*texts, label=7))


# Features 1, 3 and 4 are labelled with the concept; 3 is the one that the label's row takes.
LABELLED = {
    "concept": ["another", "by hand", None, "by hand", "by hand"],
    "max_activation": [9.0, 7.0, 9.0, 2.0, None],
    "delta_token_confidence": [9.0, -0.5, 9.0, 0.3, 9.0],
    "output_score": [0.9, 0.9, 0.9, 0.1, 0.9],
}
ALIKE = [[[1.0] * 5]], [[[1.0] * 5]]  # texts that no feature tells apart


def test_rules_by_label_choose_among_the_concepts_own_features_and_look_at_no_text() -> None:
    given_ = by_codes(*ALIKE, label=3, **LABELLED)
    assert [chosen(rule(given_)) for rule in (sae_choice.by_label_and_output_score, sae_choice.by_label_and_delta_confidence)] == [3, 3]
    largest = sae_choice.by_label_and_max_activation(given_)
    assert (chosen(largest), largest.scale, largest.features) == (1, 7.0, (1,))
    del given_.__dict__["positive_tokens"], given_.__dict__["negative_tokens"]
    unread = replace(given_, positive=(), negative=())
    for rule in BY_LABEL:
        assert packed(rule(unread)) == packed(rule(given_))


def test_p1_keeps_or_drops_the_labelled_feature_whatever_the_others_score() -> None:
    """The labelled feature at the threshold is kept, below it the method abstains, however well another feature of the concept scores."""
    below = by_codes(*ALIKE, label=3, **LABELLED | {"output_score": [0.9, 0.9, 0.9, 0.0999, 0.9]})
    with pytest.raises(Abstains, match=r"feature 3, labelled with the concept, has an output score of 0\.0999, below 0\.1"):
        sae_choice.by_label_and_output_score(below)
    # Output scores that P1 published, of 16/731, 18/9085, 19/10015 and 19/10204 of Gemma-2-2B.
    scores = [0.0, 0.142, 0.734, 0.451]
    kept = [feature for feature in range(4) if _kept(by_codes([[[1.0] * 4]], [[[1.0] * 4]], label=feature, output_score=scores))]
    assert kept == [1, 2, 3]


def _kept(given_: Problem) -> bool:
    try:
        return chosen(sae_choice.by_label_and_output_score(given_)) == given_.label
    except Abstains:
        return False


@pytest.mark.parametrize("rule", BY_LABEL)
def test_with_one_labelled_feature_every_rule_by_label_takes_it(rule: Callable[[Problem], Addition]) -> None:
    """As in published lists, which give the feature's number and no concept in the table; equals go to the lowest feature."""
    assert chosen(rule(by_codes(*ALIKE, label=2))) == 2
    with pytest.raises(Abstains, match="no feature is labelled"):
        rule(by_codes(*ALIKE))
    with pytest.raises(Abstains, match="labelled with the concept was ever active|no positive example"):
        rule(by_codes(*ALIKE, label=4, max_activation=[1.0, 1.0, 1.0, 1.0, None]))


# --- filtered features

AUROCS = (1.0, 0.6, 0.9, 0.7, 0.8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected", "by_both"),
    [
        ([None, 1.0, 1.0, 1.0, 1.0], [0.2, 0.9, 0.9, 0.9, 0.9], 0, 2),  # a threshold, not a ranking
        ([None, 1.0, 1.0, 1.0, 1.0], [0.0999, 0.5, 0.5, 0.5, 0.5], 2, 2),
        ([None, 1.0, 1.0, 1.0, 1.0], [0.0, 0.9, 0.0, 0.1, 0.0], 3, 3),  # feature 1 detects nothing; 3 is at both thresholds
        ([0.2] + [0.9] * 4, [0.2] + [0.9] * 4, 0, 0),
        ([None, 0.5, 0.05, 0.1, 0.5], [0.5, 0.5, 0.5, 0.1, 0.01], 0, 3),
        ([0.05, 0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.05, 0.05, 0.5], 0, 4),
    ],
)
def test_the_concepts_features_below_a_threshold_are_dropped(
    inputs: list[float | None], outputs: list[float], expected: int, by_both: int
) -> None:
    given_ = by_codes(*texts_with_auroc(*AUROCS), output_score=outputs, input_score=inputs)
    assert chosen(sae_choice.by_output_score(given_)) == expected
    assert chosen(sae_choice.by_both_scores(given_)) == by_both


def test_methods_that_filter_abstain_where_nothing_is_left() -> None:
    none_left = by_codes(*texts_with_auroc(*AUROCS), output_score=[0.0, 1.0, 0.0, 0.0, 0.0])
    nothing_detects = by_codes(*texts_with_auroc(0.6, 0.5))
    filters = (sae_choice.by_output_score, sae_choice.by_both_scores, sae_choice.top_k)
    for method in filters:
        with pytest.raises(Abstains, match=r"output score of at least 0\.1"):
            method(none_left)
    for method in (*filters, sae_choice.by_delta_confidence, sae_gradient_output.fit):
        with pytest.raises(Abstains, match=r"AUROC of at least 0\.7"):
            method(nothing_detects)


def test_delta_confidence_takes_the_highest_of_the_features_that_detect() -> None:
    given_ = by_codes(*texts_with_auroc(*AUROCS), delta_token_confidence=[-0.5, 9.0, 0.3, 2.5, 1.0], output_score=[0.0] * 5)
    assert chosen(sae_choice.by_delta_confidence(given_)) == 3


def test_top_k_adds_up_the_five_best_survivors_at_their_largest_examples() -> None:
    # Feature 1 does not survive, 5 and 6 share the last AUROC and 5 is the lower; 4 detects nothing.
    positive, negative = texts_with_auroc(1.0, 1.0, 0.9, 0.8, 0.6, 0.7, 0.7, 0.8)
    examples, outputs = [2.0, 50.0, 3.0, 1.0, 50.0, 4.0, 50.0, 5.0], [0.5, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    addition = sae_choice.top_k(by_codes(positive, negative, max_activation=examples, output_score=outputs))
    summed = np.array([2.0, 0, 3, 1, 0, 4, 0, 5])
    unit = summed / np.sqrt((summed**2).sum())
    assert np.allclose(addition.vector.numpy(), unit, atol=1e-6)
    assert addition.scale == pytest.approx(max(np.dot(text[0], unit) for text in positive), rel=1e-6)
    few = sae_choice.top_k(by_codes(*texts_with_auroc(0.9, 0.8, 0.2), max_activation=[3.0, 4.0, 1.0]))
    assert torch.allclose(few.vector, torch.tensor([0.6, 0.8, 0.0]))


# --- which texts a row's fits rest on


def test_labelled_texts_count_where_they_choose() -> None:
    """A label's feature rests on none; SAE-TS on them only where no feature has the label, a prompt only before a base model."""
    labelled = problem("sea", 4)
    assert labelled.label is not None
    counted = {row.name: n_choosing_texts(labelled, row) for row in METHODS}
    none = {"unsteered", "random_vector", "from_file", "sae_label", "sae_clamp", "sae_label_output_score", "sae_label_delta_confidence"}
    none |= {"sae_clamp_active", "sae_component", "sae_floor", "sae_decay", "sae_label_largest"}
    none |= {"sae_ts", "sae_ts_pinv", "sae_ts_rotation", "sae_ts_bias"}
    assert counted == {row.name: 0 if row.name in none else 8 for row in METHODS}
    changed = replace(labelled, label=None, lm=replace(labelled.lm, prompt_format="chat"))
    differs = {row.name: n for row in METHODS if (n := n_choosing_texts(changed, row)) != counted[row.name]}
    assert differs == {"sae_ts": 8, "sae_ts_pinv": 8, "sae_ts_rotation": 8, "prompting": 0}


@pytest.mark.parametrize("row", [row for row in METHODS if row.text_use in ("none", "scale")], ids=lambda row: row.name)
def test_methods_whose_texts_choose_nothing_give_the_same_direction_for_others(row: Method) -> None:
    vector = torch.ones(128)
    made = [problem("garden", 6, text_seed=seed, effects=random_effects(), vector=vector) for seed in (0, 1)]
    label = made[0].label or 7
    one, other = (fit_of(row)(replace(each, label=label)) for each in made)
    if isinstance(one, Addition):
        assert isinstance(other, Addition)
        assert torch.equal(one.vector, other.vector)
        assert (one.scale == other.scale) == (row.text_use == "none")
    else:
        assert packed(one) == packed(other)


# --- mutual information


def test_mutual_information_is_scikit_learns_for_every_count() -> None:
    n_positive, n_negative = 4, 7
    for p, n in product(range(n_positive + 1), range(n_negative + 1)):
        fires = [1] * p + [0] * (n_positive - p) + [1] * n + [0] * (n_negative - n)
        expected = mutual_info_score([1] * n_positive + [0] * n_negative, fires)
        information = sae_mutual_information.mutual_information(torch.tensor([p]), torch.tensor([n]), n_positive, n_negative)
        assert information.item() == pytest.approx(expected, abs=1e-12)


def test_mutual_information_takes_features_that_say_yes_and_asks_only_whether_they_fire() -> None:
    # Feature 0 fires in all negative texts only: most informative, but about the absence. 1: 3 of 4 against 0. 2: always, stronger in
    # positive texts. 3: 4 of 4 against 2 of 4, in one token of several.
    positive = [[[0, 1.0, 9, 0], [0, 0, 0, 1.0]]] * 3 + [[[0, 0.0, 9, 0], [0, 0, 0, 1.0]]]
    negative = [[[1.0, 0, 1, 5.0]], [[1.0, 0, 1, 5.0]], [[1.0, 0, 1, 0]], [[1.0, 0, 1, 0]]]
    assert chosen(sae_mutual_information.fit(by_codes(positive, negative))) == 1
    with pytest.raises(Abstains, match="larger share"):
        sae_mutual_information.fit(by_codes(negative, negative))
