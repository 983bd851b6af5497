"""Attribution and ablation of SAE features on the shipped model, against hooks and differences written here."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from methods_world import problem
from oracles.plain_hooks import at_hook_point
from selection_problems import by_codes, without
from slow_vectors import slow_loss

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import problem as fit_problem
from saesteer.methods.fit import sae_ablation, sae_features, sae_gradient_input, sae_gradient_output
from saesteer.methods.fit.problem import Abstains, Problem, TrainingText

FEW = (8, 53, 77, 98, 397, 665, 640, 898)  # features of layer 5 for what is too slow for all


@pytest.fixture(scope="module")
def french() -> Problem:
    """More texts than one forward takes, and few enough features for slow formulas."""
    return problem("french", 36, features=FEW)


def loss(given_: Problem, texts: tuple[TrainingText, ...], feature: int = 0, share: float = 0.0) -> float:
    """Mean loss of texts by the slow loop, with a share of what a feature writes taken off."""
    with torch.no_grad():
        return float(slow_loss(given_, texts, without(given_, feature, share)))


def slope_of_removal(given_: Problem, texts: tuple[TrainingText, ...], feature: int, step: float = 0.05) -> float:
    """Central difference of the mean loss in the share of the feature that is removed."""
    more, less = (loss(given_, texts, feature, share) for share in (step, -step))
    return (more - less) / (2 * step)


@pytest.mark.slow
def test_the_first_order_rise_is_the_losss_slope_when_a_feature_is_removed(french: Problem) -> None:
    rises = sae_gradient_input.first_order_rise(french, french.positive)
    for feature in FEW[2:6]:
        assert rises[feature].item() == pytest.approx(slope_of_removal(french, french.positive, feature), rel=0.01, abs=5e-6)
    assert rises[list(FEW[2:6])].abs().min() > 5e-4


def extremes(given_: Problem, fit: Callable[[Problem], Addition], scores: dict[int, float]) -> int:
    """The feature of largest score, which the method takes; it takes that of the smallest where texts are exchanged."""
    best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    assert scores[best] > 0 > scores[worst]
    assert torch.allclose(fit(given_).vector, sae_features.direction(given_, best))
    turned_round = replace(given_, positive=given_.negative, negative=given_.positive)
    assert torch.allclose(fit(turned_round).vector, sae_features.direction(given_, worst))
    return best


@pytest.mark.slow
def test_gradient_attribution_takes_the_largest_slope_positive_less_negative() -> None:
    given_ = problem("sea", 6, features=FEW)
    slopes = {f: slope_of_removal(given_, given_.positive, f) - slope_of_removal(given_, given_.negative, f) for f in FEW}
    extremes(given_, sae_gradient_input.fit, slopes)


def test_ablation_measures_the_rise_that_a_hook_written_here_measures(french: Problem) -> None:
    features = list(FEW[2:6])
    rises = sae_ablation.measured_rise(french, french.positive, features)
    unchanged = loss(french, french.positive)
    for place, feature in enumerate(features):
        expected = loss(french, french.positive, feature, 1.0) - unchanged
        assert rises[place].item() == pytest.approx(expected, abs=2e-6)
    assert rises.abs().min() > 5e-4


@pytest.mark.slow
def test_ablation_takes_the_largest_rise_of_the_best_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = problem("sea", 6, features=FEW)
    order = sae_features.ranked(sae_features.with_auroc(given_), "auroc")["feature"].to_list()

    def rise(feature: int, texts: tuple[TrainingText, ...]) -> float:
        return loss(given_, texts, feature, 1.0) - loss(given_, texts)

    rises = {feature: rise(feature, given_.positive) - rise(feature, given_.negative) for feature in order}
    best = extremes(given_, sae_ablation.fit, rises)
    better_detectors = order[: order.index(best)]
    second = max(better_detectors, key=rises.__getitem__)
    assert rises[best] > rises[second] > 0
    monkeypatch.setattr(sae_ablation, "N_CANDIDATES", len(better_detectors))
    assert torch.allclose(sae_ablation.fit(given_).vector, sae_features.direction(given_, second))


def test_a_feature_that_never_fires_raises_nothing(french: Problem) -> None:
    dead = replace(french, sae=replace(french.sae, threshold=torch.full_like(french.sae.threshold, 1e6)))
    assert not sae_gradient_input.first_order_rise(dead, dead.positive).any()
    assert not sae_ablation.measured_rise(dead, dead.positive, list(FEW)).any()
    for method in (sae_gradient_input, sae_ablation):
        with pytest.raises(Abstains, match="positive texts more than on negative ones"):
            method.fit(dead)


def test_attribution_and_ablation_do_not_know_how_many_texts_run_together(french: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    features = list(FEW)
    together = sae_ablation.measured_rise(french, french.positive, features), sae_gradient_input.first_order_rise(french, french.positive)
    monkeypatch.setattr(fit_problem, "TEXTS_AT_A_TIME", 7)
    apart = sae_ablation.measured_rise(french, french.positive, features), sae_gradient_input.first_order_rise(french, french.positive)
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def slow_promotion(given_: Problem, feature: int, token_ids: list[int], step: float = 0.2) -> float:
    """Central difference of the mean log-probability of tokens after each context, when the direction is added at its last position."""
    unit = given_.sae.W_dec[feature] / given_.sae.W_dec[feature].norm()
    slopes = []
    for context in sae_gradient_output.contexts(given_):
        means = []
        for change in (step, -step):

            def add(residual: torch.Tensor, change: float = change) -> torch.Tensor:
                return torch.cat([residual[:, :-1], residual[:, -1:] + change * unit], dim=1)

            with torch.no_grad(), at_hook_point(given_.lm.model, given_.layer, "resid_post", add) as model:
                logits = model(torch.tensor([context.ids])).logits[0, -1].double().numpy()
            means.append(np.mean([logits[token] - np.log(np.exp(logits).sum()) for token in token_ids]))
        slopes.append((means[0] - means[1]) / (2 * step))
    return float(np.mean(slopes))


def test_the_output_gradient_is_the_slope_of_the_top_logit_lens_tokens_log_probability(french: Problem) -> None:
    rows = french.features.filter(french.features["feature"].is_in(FEW[2:6])).sort("feature")
    features, lens = rows["feature"].to_list(), rows["top_logit_lens_token_ids"].to_list()
    slopes = sae_gradient_output.promotions(french, features, lens)
    expected = [slow_promotion(french, feature, tokens) for feature, tokens in zip(features, lens, strict=True)]
    assert np.allclose(slopes.numpy(), expected, rtol=0.02, atol=1e-4)
    assert np.abs(expected).max() > 0.05


@pytest.mark.slow
def test_the_output_gradient_takes_the_largest_slope_of_the_concepts_features() -> None:
    given_ = problem("french", 24)
    rows = sae_features.detectors(given_)
    slopes = sae_gradient_output.promotions(given_, rows["feature"].to_list(), rows["top_logit_lens_token_ids"].to_list())
    best = rows["feature"][int(slopes.argmax())]
    assert torch.allclose(sae_gradient_output.fit(given_).vector, sae_features.direction(given_, best))
    swapped = replace(
        given_, features=given_.features.with_columns(top_logit_lens_token_ids=given_.features["top_logit_lens_token_ids"].reverse())
    )
    assert not torch.allclose(sae_gradient_output.fit(swapped).vector, sae_features.direction(given_, best))


def test_contexts_are_the_texts_each_once_in_turn() -> None:
    given_ = replace(
        by_codes([[[1.0]]], [[[0.0]]]),
        positive=(TrainingText([1, 5, 9], 2), TrainingText([1, 6, 9], 2), TrainingText([1, 5, 8], 2), TrainingText([1, 4, 8, 8], 3)),
        negative=(TrainingText([1, 7, 9], 2), TrainingText([1, 6, 7], 2)),
    )
    contexts = sae_gradient_output.contexts(given_)
    assert [text.ids for text in contexts] == [[1, 5], [1, 7], [1, 6], [1, 4, 8]]
    assert [text.n_context for text in contexts] == [2, 2, 2, 3]
    many = replace(given_, positive=tuple(TrainingText([1, token, 9], 2) for token in range(40)))
    assert len(sae_gradient_output.contexts(many)) == 16
