"""Methods that end in one vector: against scikit-learn, slow loops over transformers' own hidden states, and cases worked by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from methods_world import problem, toy_problem, toy_tokens, trained_by_recipe
from sklearn.decomposition import PCA
from slow_vectors import cosine, gradient_of, slow_adamw, slow_batches, slow_residuals
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import probe
from saesteer.methods.fit.components import lat, pair_differences, pca
from saesteer.methods.fit.controls import from_file
from saesteer.methods.fit.means import caa, diffmean, mean_of_text_means
from saesteer.methods.fit.problem import Abstains, Problem, TrainingText

Vector = Callable[[Problem], Addition]


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=8)


# Means


def test_prompts_tokens_count_where_they_are_asked_for_and_the_first_never_does(sea: Problem):
    """Means over tokens and over texts from transformers' own hidden states; the beginning-of-sequence token is in neither."""
    every = replace(sea, n_prefix=1)
    for given, start in ((sea, None), (every, 1)):
        residuals = [
            [slow_residuals(given, TrainingText(text.ids, start or text.n_context)) for text in texts]
            for texts in (given.positive, given.negative)
        ]
        token_means = [np.concatenate(of_texts).mean(axis=0) for of_texts in residuals]
        text_means = [np.mean([rows.mean(axis=0) for rows in of_texts], axis=0) for of_texts in residuals]
        for method, (positive, negative) in ((diffmean, token_means), (caa, text_means)):
            addition = method(given)
            expected = (positive - negative) / np.linalg.norm(positive - negative)
            assert np.allclose(addition.vector, expected, atol=1e-5)
            assert addition.scale == pytest.approx(max(float((rows @ expected).max()) for rows in residuals[0]), rel=1e-4)
    assert not np.allclose(diffmean(sea).vector, diffmean(every).vector, atol=1e-2)


# Components


def test_pca_is_scikit_learns():
    given = problem("french")
    rows = np.concatenate([slow_residuals(given, text) for text in given.positive])
    expected = PCA(n_components=1, svd_solver="full").fit(rows).components_[0]
    # Same rows up to float32 rounding of the residuals (1e-6 of their norm), the gap to the second component being several per cent.
    assert abs(cosine(pca(given).vector, expected)) > 1 - 1e-6


def test_lat_is_scikit_learns_component_of_a_slow_loop_over_pairs():
    given = problem("chess")
    rows = np.concatenate([slow_residuals(given, text) for text in given.positive])
    order = torch.randperm(len(rows), generator=given.generator("lat")).tolist()
    n_pairs = len(rows) // 2
    differences = [rows[one] - rows[other] for one, other in zip(order[:n_pairs], order[n_pairs:], strict=False)]
    normalised = [one / np.linalg.norm(one) for one in differences if np.linalg.norm(one) > 1e-6]
    expected = PCA(n_components=1, svd_solver="full").fit(normalised).components_[0]
    assert abs(cosine(lat(given).vector, expected)) > 1 - 1e-6


def test_equal_tokens_make_no_pair():
    rows = torch.ones(6, 3)
    assert len(pair_differences(rows, torch.Generator())) == 0
    with pytest.raises(Abstains, match="2 rows, there are 0"):
        lat(toy_problem([[[1.0, 1.0]] * 6], [[[0.0, 0.0]]]))


@pytest.mark.parametrize("method", [pca, lat])
@pytest.mark.parametrize(("negative", "sign"), [([5.0, 0.0], -1), ([-5.0, 0.0], 1)])
def test_components_point_from_negative_to_positive_texts(method: Vector, negative: list[float], sign: int):
    # Tokens lie along the first axis about 0, so that this is the component; only where negative texts lie says which end is positive.
    given = toy_problem([[[place / 4, 0.1 * (-1) ** place] for place in range(-8, 9)]], [[negative]])
    addition = method(given)
    assert float(addition.vector[0]) == pytest.approx(sign, abs=0.01)
    assert addition.scale == pytest.approx(2, abs=0.05)


# Probe


def overlapping(n_texts: int, n_tokens: int, seed: int) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Two Gaussians that overlap, far from 0 in the last coordinate (a probe without bias fails), with a covariance that turns the best
    direction well away from the difference of the means."""
    rng = np.random.default_rng(seed)
    mix = np.array([[1, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0.3, 1]])
    shift = np.array([0.25, 0.05, 0.1, 0.05])
    drawn = rng.normal(size=(2, n_texts, n_tokens, 4)) @ mix.T + [0, 0, 0, 2]
    return (drawn[0] + shift).tolist(), (drawn[1] - shift).tolist()


def test_probe_trains_by_the_papers_recipe():
    positive, negative = overlapping(9, 3, seed=1)
    given = toy_problem(positive, negative)
    texts = [*((torch.tensor(text), 1.0) for text in positive), *((torch.tensor(text), 0.0) for text in negative)]
    batches = slow_batches(texts, 12, 24, given.generator("probe"))  # type: ignore[arg-type]

    def loss(x: Tensor, step: int) -> Tensor:
        p = [(torch.sigmoid(row @ x[:4] + x[4]), label) for text, label in batches[step] for row in text]
        return sum(-torch.log(one if label else 1 - one) for one, label in p) / len(p)

    expected = slow_adamw(torch.zeros(5), lambda x, step: gradient_of(lambda y: loss(y, step), x), len(batches), 5e-3, 1e-3)
    weights = trained_by_recipe(probe, given, *probe.labelled(given.positive_tokens, given.negative_tokens))
    assert len(batches) == 48
    assert torch.allclose(weights, expected[:4], atol=1e-5)
    assert cosine(probe.fit(given).intervention.vector, weights) > 1 - 1e-6
    assert cosine(diffmean(given).vector, weights) < 0.99  # a probe is something else


# From a file


def test_vector_from_a_file_is_taken_at_unit_norm():
    given = problem("sea", n_texts=8)
    direction = given.positive_tokens.residual[3]
    addition = from_file(problem("sea", n_texts=8, vector=7 * direction))
    assert torch.allclose(addition.vector, direction / direction.norm(), atol=1e-6)
    largest = max(float((slow_residuals(given, text) @ addition.vector.double().numpy()).max()) for text in given.positive)
    assert addition.scale == pytest.approx(largest, rel=1e-5)


def test_a_concept_without_a_vector_abstains_and_one_of_another_model_is_refused():
    with pytest.raises(Abstains, match="none for 'sea'"):
        from_file(problem("sea", n_texts=2))
    with pytest.raises(ValueError, match=r"'sea' has shape \(64,\), not \(128,\)"):
        from_file(problem("sea", n_texts=2, vector=torch.ones(64)))


def test_texts_that_are_alike_or_not_activated_abstain():
    for method in (diffmean, caa):
        with pytest.raises(Abstains, match="norm 0"):
            method(toy_problem([[[1.0, 2.0]]], [[[1.0, 2.0]]]))
    with pytest.raises(Abstains, match="no positive activation"):
        diffmean(toy_problem([[[-1.0, 0.0]]], [[[-2.0, 0.0]]]))


def test_text_that_says_nothing_does_not_count():
    tokens = toy_tokens([[[2.0, 0.0]], [], [[4.0, 2.0]]])
    assert mean_of_text_means(tokens).tolist() == [3, 1]
