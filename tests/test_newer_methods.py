"""Steering methods published after P1 to P6: each against cases worked by hand, another library, or its formula written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from methods_world import problem, toy_tokens
from scipy.stats import pearsonr
from selection_problems import by_codes, one_token_each
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from slow_vectors import cosine, gradient_of, slow_loss, slow_residuals

from saesteer.engine.conditional import similarity
from saesteer.engine.interventions import ConditionalAddition
from saesteer.engine.saes import written_size
from saesteer.methods.fit import cast, corrsteer, means, probe, sae_logits, sae_ssv, sdcv, srs
from saesteer.methods.fit.problem import Abstains, Problem

# Texts of the shipped world: codes from the definition of a JumpReLU SAE, on transformers' own hidden states.


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=12)


def slow_activations(given: Problem) -> list[list[np.ndarray]]:
    """Of each positive and each negative text, feature activations [token feature]."""
    sae = given.sae
    rows = [[torch.tensor(slow_residuals(given, text)).float() for text in texts] for texts in (given.positive, given.negative)]
    pre = [[row @ sae.W_enc + sae.b_enc for row in texts] for texts in rows]
    return [[torch.where(text > sae.threshold, text, 0).double().numpy() for text in texts] for texts in pre]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# --- SDCV


def test_sdcv_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mean activations differ by 3, -4 and 0: the second is scaled up. Of the denoised tokens (4 5 2), (4 5 2) and (1 25 2) the
    # difference of means is (3 -20 0).
    monkeypatch.setattr(sdcv, "K", 1)
    given = by_codes([[[4, 1, 2], [4, 1, 2]]], [[[1, 5, 2]]])
    assert torch.allclose(means.difference_of_means(*sdcv.denoised_tokens(given)), torch.tensor(unit(np.array([3.0, -20, 0]))).float())
    with pytest.raises(Abstains, match="no positive activation"):  # 4 * 3 - 20 is below 0, so there is no strength
        sdcv.diffmean(given)
    assert sdcv.diffmean(by_codes([[[4, 1, 2]]], [[[1, 1, 2]]])).vector.tolist() == [1, 0, 0]


def slow_denoised(given: Problem) -> list[list[list[list[float]]]]:
    """Positive and negative texts, token by token; what the SAE does not rebuild is left out."""
    positive, negative = slow_activations(given)
    apart = np.mean([text.mean(axis=0) for text in positive], axis=0) - np.mean([text.mean(axis=0) for text in negative], axis=0)
    scale = np.ones(1024)
    scale[np.argsort(-np.abs(apart))[: sdcv.K]] = sdcv.SCALE
    decoder, bias = given.sae.W_dec.double().numpy(), given.sae.b_dec.double().numpy()
    return [[[(scale * token @ decoder + bias).tolist() for token in text] for text in texts] for texts in (positive, negative)]


def test_sdcv_is_diffmean_and_the_probe_of_residuals_rebuilt_token_by_token(sea: Problem) -> None:
    rebuilt, texts = problem("sea", n_texts=12), slow_denoised(sea)
    positive, negative = (np.concatenate(side).mean(axis=0) for side in texts)
    assert cosine(sdcv.diffmean(sea).vector, positive - negative) > 1 - 1e-6
    assert cosine(sdcv.diffmean(sea).vector, means.diffmean(sea).vector) < 0.999
    rebuilt.__dict__.update(positive_tokens=toy_tokens(texts[0]), negative_tokens=toy_tokens(texts[1]))
    ours, expected, plain = (fit.intervention.vector for fit in (sdcv.linear_probe(sea), probe.fit(rebuilt), probe.fit(sea)))
    assert cosine(ours, expected) > 1 - 1e-5
    assert cosine(ours, plain) < 0.99


# --- SRS


def test_srs_moves_the_features_of_largest_divergence_by_their_mean_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srs, "K", 2)
    positive, negative = [[9, 1, 4], [9, 1, 0]], [[0, 4, 4], [0, 4, 0]]
    given = by_codes(one_token_each(positive), one_token_each(negative), decoder=torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 1]]))
    addition = srs.fit(given)
    assert addition.vector.tolist() == pytest.approx([9 / np.sqrt(117), -6 / np.sqrt(117), 0])  # 9 * (1 0 0) - 3 * (0 2 0)
    assert set(addition.features) == {0, 1}
    assert addition.scale == pytest.approx((81 - 6) / np.sqrt(117))


def test_divergences_are_those_of_numpys_histograms(sea: Problem) -> None:
    positive, negative = (np.stack([text.mean(axis=0) for text in texts]) for texts in slow_activations(sea))
    ours = srs.divergences(torch.tensor(positive), torch.tensor(negative))
    for feature in range(0, 1024, 7):
        largest = max(positive[:, feature].max(), negative[:, feature].max())
        if largest > 0:
            edges = [-np.inf, *np.nextafter(np.linspace(0, largest, 11), np.inf)]  # bins closed on the right
            p, q = (np.histogram(codes[:, feature], edges)[0] + 1.0 for codes in (positive, negative))
            p, q = p / p.sum(), q / q.sum()
            assert ours[feature].item() == pytest.approx(float((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()), abs=1e-9)


# --- CorrSteer


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.gamma(1, 2, (9, 6)) + np.array([0, 0, 1, 1, 5, 0]), rng.gamma(1, 2, (7, 6))
    positive[:, 5] = negative[:, 5] = 1.5
    ours = corrsteer.correlations(torch.tensor(positive), torch.tensor(negative)).numpy()
    both, label = np.concatenate([positive, negative]), [1.0] * 9 + [0.0] * 7
    assert ours[:5] == pytest.approx([pearsonr(both[:, feature], label).statistic for feature in range(5)], abs=1e-12)
    assert ours[5] == 0


def test_corrsteer_adds_the_mean_largest_code_of_successes() -> None:
    # Feature 1 is higher on average in positive texts, but feature 0 goes with the label throughout; its largest codes are 6 and 2.
    positive, negative = [[[1, 50], [6, 0]], [[2, 0], [0, 1]]], [[[0.0, 1]], [[0, 2]]]
    decoder = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    addition = corrsteer.fit(by_codes(positive, negative, decoder=decoder))
    assert addition.features == (0,)
    assert addition.vector.tolist() == pytest.approx([0.6, 0.8])
    assert addition.scale == pytest.approx(4 * 5)
    with pytest.raises(Abstains, match="correlate"):
        corrsteer.fit(by_codes(negative, positive))


# --- SAELogits


def test_weights_do_not_let_weight_times_logit_rise() -> None:
    # Weight * logit is 2, 6, 2: the first is raised to 6. A logit that is not positive leaves it as it is.
    assert sae_logits.falling_weights(torch.tensor([2.0, 3, 4]), torch.tensor([1.0, 2, 0.5])).tolist() == [6, 3, 4]
    assert sae_logits.falling_weights(torch.tensor([2.0, 3]), torch.tensor([0.0, 2])).tolist() == [2, 3]
    assert sae_logits.falling_weights(torch.tensor([2.0, 3]), torch.tensor([-1.0, 2])).tolist() == [2, 3]


def test_features_are_set_apart_by_strength_and_by_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    # 8 positive tokens, 2 negative ones. Features 0 and 3 never fire on negative tokens: gap 1; 1 fires always, 4 against 1: gap 3/4; 2 is
    # weaker where it fires; 4 fires twice only. Of gap * share ^ .05 feature 0 (share 1/2) is best, of gap * share ^ 20 feature 1.
    positive = one_token_each([[9, 4, 1, 1, 9]] * 2 + [[9, 4, 1, 1, 0]] + [[9, 4, 1, 0, 0]] + [[0, 4, 1, 0, 0]] * 4)
    negative = one_token_each([[0, 1, 2, 0, 0], [0, 1, 0, 0, 0]])
    rows = sae_logits.promising(by_codes(positive, negative))
    assert rows["feature"].to_list() == [0, 1, 3]
    assert rows["code"].to_list() == [9, 4, 1]  # where they fire
    assert rows["gap"].to_list() == [1, 0.75, 1]
    monkeypatch.setattr(sae_logits, "MOST", 1)
    assert sae_logits.promising(by_codes(positive, negative))["feature"].to_list() == [0, 1]


def test_features_name_the_concept_by_their_top_logit_lens_tokens(sea: Problem) -> None:
    """Against the model's own norm and head, one feature at a time. Words: one token of the feature with the largest mean logit and two of
    the one with the smallest."""
    rows, lens = sae_logits.promising(sea), {}
    for feature in rows["feature"].to_list():
        logits, ids = sea.lm.model.lm_head(sea.lm.model.model.norm(sea.sae.W_dec[feature])).topk(5)
        lens[feature] = (float(logits.mean()), float(logits[0]), [sea.lm.tokenizer.decode(one).strip().casefold() for one in ids.tolist()])
    by_logit = sorted(lens, key=lambda feature: lens[feature][0])
    given = replace(sea, words=(lens[by_logit[-1]][2][0], *lens[by_logit[0]][2][:2]))
    overlap = {feature: len(set(lens[feature][2]) & set(given.words)) for feature in lens}
    expected = sorted((feature for feature in lens if overlap[feature]), key=lambda one: (-overlap[one], -lens[one][0]))
    named = sae_logits.naming(given, rows)
    assert named["feature"].to_list() == expected
    assert expected.index(by_logit[0]) < expected.index(by_logit[-1])
    assert named["largest_logit"].to_list() == pytest.approx([lens[feature][1] for feature in expected], rel=1e-4)
    addition = sae_logits.fit(given)
    weights = sae_logits.falling_weights(*(torch.tensor(named[name].to_list()) for name in ("code", "largest_logit")))
    written = sum(float(one) * given.sae.W_dec[feature] for one, feature in zip(weights, named["feature"], strict=True))
    assert cosine(addition.vector, written) > 1 - 1e-6


def test_sae_logits_needs_words_that_a_feature_promotes(sea: Problem) -> None:
    for words, why in (((), "no words are given"), (("zzzz",), "promotes one of its words")):
        with pytest.raises(Abstains, match=why):
            sae_logits.fit(replace(sea, words=words))
    upper = replace(sea, words=tuple(word.upper() for word in sea.words))
    assert torch.equal(sae_logits.fit(upper).vector, sae_logits.fit(sea).vector)
    alike = by_codes([[[1.0]]], [[[2.0]]])
    alike.__dict__["words"] = ("sea",)
    with pytest.raises(Abstains, match="set no feature apart"):
        sae_logits.fit(alike)


# --- SAE-SSV


def test_f_statistics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.gamma(1, 2, (9, 5)) + np.array([0, 1, 3, 0, 0]), rng.gamma(1, 2, (7, 5))
    positive[:, 4] = negative[:, 4] = 2.0
    ours = sae_ssv.f_statistics(torch.tensor(positive), torch.tensor(negative)).numpy()
    expected, _ = f_classif(np.concatenate([positive, negative])[:, :4], [1] * 9 + [0] * 7)
    assert ours == pytest.approx([*expected, 0])
    assert sae_ssv.f_statistics(torch.ones(2, 1).double(), torch.zeros(2, 1).double()).item() == float("inf")


def test_probes_are_scikit_learns_logistic_regressions() -> None:
    rng = np.random.default_rng(1)
    codes, label = rng.normal(size=(3, 30, 12)), rng.integers(0, 2, (3, 30)).astype(float)
    label[0] = codes[0, :, 0] > 0  # separable: only the penalty bounds its weights
    ours = sae_ssv.probes(torch.tensor(codes), torch.tensor(label)).numpy()
    for own, rows, labels in zip(ours, codes, label, strict=True):
        assert own == pytest.approx(LogisticRegression(tol=1e-10, max_iter=10_000).fit(rows, labels).coef_[0], abs=1e-4)


def test_separations_by_hand() -> None:
    # Weights (4 3): cosines with (4 0) are those with the first axis, 1 and 0; with (4 3) they are 4/5 and 3/5.
    ours = sae_ssv.separations(torch.eye(2).double(), torch.tensor([True, False]), torch.tensor([4.0, 3.0]).double())
    assert ours.tolist() == pytest.approx([1, 0.2])


def test_the_smallest_best_subspace_is_kept() -> None:
    """Feature 2 alone tells the texts apart, whatever the halves; the others are noise."""
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(size=(2, 40, 4))
    positive[:, 2] += 8
    kept = sae_ssv.subspace(torch.tensor(positive), torch.tensor(negative), torch.Generator().manual_seed(0))
    assert kept.tolist() == [2]


def test_ssv_descends_by_hand(monkeypatch: pytest.MonkeyPatch, sea: Problem) -> None:
    """Without the language model's part: negative texts are all at (1 0), positive ones at (3 -2), so that the gradient is
    2 (v - (2 -2)) - v + .01 (1 -1)."""
    monkeypatch.setattr(sae_ssv, "LANGUAGE_MODEL", 0.0)
    monkeypatch.setattr(sae_ssv, "STEPS", 5)
    codes = torch.tensor([[3.0, -2.0]] * 3).double(), torch.tensor([[1.0, 0.0]] * 4).double()
    v = np.array([1, -1]) / np.sqrt(2)
    for _ in range(5):
        v = v - 0.01 * (2 * (v - [2, -2]) - v + 0.01 * np.sign(v))
    assert sae_ssv.trained(sea, torch.tensor([3, 5]), *codes).numpy() == pytest.approx(v, abs=1e-7)


def test_ssv_descends_the_loss_of_positive_texts_under_what_it_writes(monkeypatch: pytest.MonkeyPatch, sea: Problem) -> None:
    """One step, against transformers' own loss with a plain hook."""
    for name, value in (("STEPS", 1), ("BATCH", 3), ("LANGUAGE_MODEL", 50.0)):
        monkeypatch.setattr(sae_ssv, name, value)
    codes = torch.tensor([[3.0, -2.0]] * 12).double(), torch.tensor([[1.0, 0.0]] * 12).double()
    start = torch.tensor([1.0, -1.0]) / 2**0.5
    texts = [sea.positive[place] for place in torch.randint(12, (3,), generator=sea.generator("sae_ssv")).tolist()]
    directions = sea.sae.W_dec[[3, 5]]
    slope = gradient_of(lambda v: slow_loss(sea, texts, lambda residual, _: residual + v.float() @ directions), start.double())
    assert float(slope.norm()) > 1e-4
    expected = start - 0.01 * (2 * (start - torch.tensor([2.0, -2.0])) - start + 50 * slope + 0.01 * start.sign())
    assert torch.allclose(sae_ssv.trained(sea, torch.tensor([3, 5]), *codes), expected.double(), atol=1e-5)


def test_sae_ssv_writes_with_its_subspace_alone(monkeypatch: pytest.MonkeyPatch, sea: Problem) -> None:
    monkeypatch.setattr(sae_ssv, "STEPS", 5)
    monkeypatch.setattr(sae_ssv, "N_PROBES", 5)
    addition = sae_ssv.fit(sea)
    assert 1 <= len(addition.features) <= sae_ssv.K
    directions = sea.sae.W_dec[list(addition.features)].double().T.numpy()
    activations, *_ = np.linalg.lstsq(directions, addition.vector.double().numpy(), rcond=None)
    assert np.allclose(directions @ activations, addition.vector.numpy(), atol=1e-5)
    positive, negative = (np.mean([text.mean(axis=0) for text in texts], axis=0) for texts in slow_activations(sea))
    apart = (positive - negative)[list(addition.features)]
    assert cosine(directions @ apart, addition.vector) > 0.9  # where the first two terms of the loss lead


# --- CAST


def test_similarity_by_hand() -> None:
    # (3 4) on (2 0): 3 / 2 of it, (3 0); tanh of that is (tanh 3, 0), whose cosine with (3 4) is 3/5. On (1 1): (3.5 3.5), 7 / (5 sqrt 2).
    h = torch.tensor([3.0, 4.0])
    assert similarity(h, torch.tensor([2.0, 0.0])).item() == pytest.approx(0.6)
    assert similarity(h, torch.tensor([-2.0, 0.0])).item() == pytest.approx(0.6)
    assert similarity(h, torch.tensor([1.0, 1.0])).item() == pytest.approx(7 / 5 / 2**0.5)
    # Not the plain projection: (1 2) on itself is (1 2), whose tanh is (.762 .964).
    squashed = np.tanh([1, 2])
    assert similarity(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).item() == pytest.approx(float(cosine(np.array([1, 2]), squashed)))


def test_the_condition_is_the_main_direction_within_pairs() -> None:
    # Pairs differ by (0 6) and (1 4), whatever lies between pairs; a third positive text has no partner.
    positive, negative = torch.tensor([[100.0, 6], [5, 4], [9, 9]]), torch.tensor([[100.0, 0], [4, 0]])
    halves = np.array([[0, 3], [0.5, 2], [0, -3], [-0.5, -2]])
    expected = np.linalg.svd(halves)[2][0]
    assert abs(cosine(cast.condition_vector(positive, negative), expected)) > 1 - 1e-6


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([0.8, 0.9], [0.1, 0.2], (0.5, True)),
        ([0.1, 0.2], [0.8, 0.9], (0.5, False)),
        # Above .15: 3 of 3 and 1 wrong, F1 6/7; above .25 or .35: 2 of 3, none wrong, F1 4/5.
        ([0.2, 0.4, 0.5], [0.1, 0.3], (0.15, True)),
    ],
)
def test_the_rule_of_highest_f1_is_taken(positive: list[float], negative: list[float], expected: tuple[float, bool]) -> None:
    threshold, above = cast.best_rule(torch.tensor(positive), torch.tensor(negative))
    assert (threshold, above) == (pytest.approx(expected[0]), expected[1])
    with pytest.raises(Abstains, match="equally similar"):
        cast.best_rule(torch.tensor([0.5]), torch.tensor([0.5]))


def test_cast_is_diffmean_with_a_condition_on_whole_texts(sea: Problem) -> None:
    fitted, plain = cast.diffmean(sea), means.diffmean(sea)
    assert isinstance(fitted, ConditionalAddition)
    assert torch.equal(fitted.vector, plain.vector)
    assert fitted.scale == plain.scale
    whole = [[slow_residuals(sea, replace(text, n_context=1)).mean(axis=0) for text in texts] for texts in (sea.positive, sea.negative)]
    positive, negative = (torch.tensor(np.array(rows)).float() for rows in whole)
    meets = [(similarity(rows, fitted.condition) > fitted.threshold) == fitted.above for rows in (positive, negative)]
    true, false = (int(of_texts.sum()) for of_texts in meets)
    assert 2 * true / (true + false + 12) > 2 / 3 + 0.05  # F1 on the texts that it was fitted on; 2/3 is that of steering always


def test_sae_ssv_trains_on_what_an_sae_writes_that_divides_by_its_inputs_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an SAE of longer decoder rows, whose activations write as much."""
    monkeypatch.setattr(sae_ssv, "STEPS", 5)
    monkeypatch.setattr(sae_ssv, "LANGUAGE_MODEL", 50.0)
    given = problem("sea", n_texts=8)
    dividing = replace(given, sae=replace(given.sae, meta=replace(given.sae.meta, scale="std")))
    size = written_size(dividing.sae.meta, dividing.positive_tokens.read).median()
    longer = replace(given, sae=replace(given.sae, W_dec=given.sae.W_dec * size))
    codes = torch.tensor([[3.0, -2.0]] * 8).double(), torch.tensor([[1.0, 0.0]] * 8).double()
    made = [sae_ssv.trained(one, torch.tensor([3, 5]), *codes) for one in (dividing, longer, given)]
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made[0], made[2], rtol=1e-3)
