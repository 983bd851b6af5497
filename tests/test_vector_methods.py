"""Methods that end in one vector: against scikit-learn, slow loops over transformers' own hidden states, and cases worked by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch
from methods_world import problem, texts_not_of, texts_of, toy_problem, toy_tokens
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from slow_vectors import cosine, gradient_of, slow_adamw, slow_batches, slow_residuals
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import caa, diffmean, from_file, lat, pca, probe, random_vector, reft_r1, ssv
from saesteer.methods.fit.problem import Abstains, Problem, Text

FITTED_TO_TEXTS: dict[str, ModuleType] = {
    "diffmean": diffmean,
    "caa": caa,
    "pca": pca,
    "lat": lat,
    "probe": probe,
    "ssv": ssv,
    "reft_r1": reft_r1,
}
METHODS = {**FITTED_TO_TEXTS, "random_vector": random_vector}
DRAWING = ("lat", "probe", "ssv", "reft_r1", "random_vector")
"""Those that draw random numbers: pairs, order of texts, where to start."""


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=8)


# Means


def test_diffmean_is_the_difference_of_means_over_tokens(sea: Problem):
    positive, negative = (np.concatenate([slow_residuals(sea, text) for text in texts]) for texts in (sea.positive, sea.negative))
    expected = sum(positive) / len(positive) - sum(negative) / len(negative)
    assert np.allclose(diffmean.fit(sea).vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_caa_is_the_mean_over_pairs_of_differences_of_text_means(sea: Problem):
    pairs = zip(sea.positive, sea.negative, strict=True)
    differences = [slow_residuals(sea, one).mean(axis=0) - slow_residuals(sea, other).mean(axis=0) for one, other in pairs]
    expected = sum(differences) / len(differences)
    assert np.allclose(caa.fit(sea).vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_means_worked_by_hand():
    # Tokens: mean of (0 3) (0 3) (0 3) (12 3) is (3 3). Texts: mean of (0 3) and (12 3) is (6 3). Negative: (3 -1) by either.
    given = toy_problem([[[0, 3], [0, 3], [0, 3]], [[12, 3]]], [[[3, -1]]])
    tokens, texts = diffmean.fit(given), caa.fit(given)
    assert tokens.vector.tolist() == [0, 1]  # (0 4) / 4
    assert tokens.scale == 3
    assert texts.vector.tolist() == pytest.approx([0.6, 0.8])  # (3 4) / 5
    assert texts.scale == pytest.approx(12 * 0.6 + 3 * 0.8)


# Components


@pytest.mark.parametrize("topic", ["sea", "chess", "french"])
def test_pca_is_scikit_learns(topic: str):
    given = problem(topic)
    rows = np.concatenate([slow_residuals(given, text) for text in given.positive])
    expected = PCA(n_components=1, svd_solver="full").fit(rows).components_[0]
    # Same rows up to float32 rounding of the residuals (1e-6 of their norm), the gap to the second component being several per cent.
    assert abs(cosine(pca.fit(given).vector, expected)) > 1 - 1e-6


def test_lat_is_scikit_learns_component_of_a_slow_loop_over_pairs():
    given = problem("chess")
    rows = np.concatenate([slow_residuals(given, text) for text in given.positive])
    order = torch.randperm(len(rows), generator=given.generator("lat")).tolist()
    n_pairs = len(rows) // 2
    differences = [rows[one] - rows[other] for one, other in zip(order[:n_pairs], order[n_pairs:], strict=False)]
    normalised = [one / np.linalg.norm(one) for one in differences if np.linalg.norm(one) > 1e-6]
    expected = PCA(n_components=1, svd_solver="full").fit(normalised).components_[0]
    assert abs(cosine(lat.fit(given).vector, expected)) > 1 - 1e-6


def test_pairs_are_random_and_each_token_is_in_one_at_most():
    pairs = []
    for seed in (0, 1):
        differences = lat.pair_differences(torch.eye(9) * torch.arange(1, 10)[:, None], torch.Generator().manual_seed(seed))
        assert differences.shape == (4, 9)
        assert torch.allclose(differences.norm(dim=1), torch.ones(4))
        pairs.append([(int(row.argmax()), int(row.argmin())) for row in differences])
        assert len({place for pair in pairs[-1] for place in pair}) == 8
        for row, (one, other) in zip(differences, pairs[-1], strict=True):  # of 3 e_2 - 5 e_4: 3 and -5 over their length
            assert float(row[one] / -row[other]) == pytest.approx((one + 1) / (other + 1))
    assert pairs[0] != pairs[1]
    assert any(one > other for one, other in pairs[0])


def test_equal_tokens_make_no_pair():
    rows = torch.ones(6, 3)
    assert len(lat.pair_differences(rows, torch.Generator())) == 0
    with pytest.raises(Abstains, match="2 rows, there are 0"):
        lat.fit(toy_problem([[[1.0, 1.0]] * 6], [[[0.0, 0.0]]]))


@pytest.mark.parametrize("method", [pca, lat])
@pytest.mark.parametrize(("negative", "sign"), [([5.0, 0.0], -1), ([-5.0, 0.0], 1)])
def test_components_point_from_negative_to_positive_texts(method: ModuleType, negative: list[float], sign: int):
    # Tokens lie along the first axis about 0, so that this is the component; only where negative texts lie says which end is positive.
    given = toy_problem([[[place / 4, 0.1 * (-1) ** place] for place in range(-8, 9)]], [[negative]])
    found = method.fit(given)
    assert float(found.vector[0]) == pytest.approx(sign, abs=0.01)
    assert found.scale == pytest.approx(2, abs=0.05)


def test_pca_is_about_the_mean():
    # About 0 the component would be the first axis, along which all tokens lie far out; about their mean it is the second.
    found = pca.fit(toy_problem([[[10, 0]], [[10, 1]], [[10, -1]]], [[[10, -5]]]))
    assert found.vector.tolist() == pytest.approx([0, 1])
    assert found.scale == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["sea", "chess", "french", "code"])
@pytest.mark.parametrize("method", [pca, lat])
def test_positive_texts_project_higher(method: ModuleType, topic: str):
    given = problem(topic)
    vector = method.fit(given).vector.double().numpy()
    positive, negative = (
        np.concatenate([slow_residuals(given, text) for text in texts]) @ vector for texts in (given.positive, given.negative)
    )
    assert positive.mean() > negative.mean()


# Probe


def overlapping(n_texts: int, n_tokens: int, seed: int) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Two Gaussians that overlap, far from 0 in the last coordinate (a probe without bias fails), with a covariance that turns the best
    direction well away from the difference of the means."""
    rng = np.random.default_rng(seed)
    mix = np.array([[1, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0.3, 1]])
    shift = np.array([0.25, 0.05, 0.1, 0.05])
    drawn = rng.normal(size=(2, n_texts, n_tokens, 4)) @ mix.T + [0, 0, 0, 2]
    return (drawn[0] + shift).tolist(), (drawn[1] - shift).tolist()


def test_probe_is_near_scikit_learns_logistic_regression():
    positive, negative = overlapping(300, 6, seed=0)
    given = toy_problem(positive, negative)
    found = probe.probe_weights(given.positive_tokens, given.negative_tokens, given.generator("probe")).numpy()
    rows = np.concatenate([np.reshape(positive, (-1, 4)), np.reshape(negative, (-1, 4))])
    labels = np.repeat([1, 0], 1800)
    best = LogisticRegression(C=1e6, tol=1e-8).fit(rows, labels).coef_[0]
    # 1,200 steps at a mean rate of 2.5e-3 can move a weight by 3, the largest is under 1: trained to the end, all but the last coordinate,
    # which the bias nearly replaces (off by .005 to .04 over seeds, the others by about .01).
    assert 0.4 < np.abs(best).max() < 1
    assert cosine(found, best) > 0.998
    assert np.allclose(found, best, atol=0.05)
    assert cosine(diffmean.fit(given).vector, best) < 0.9  # a probe is something else
    assert cosine(probe.fit(given).vector, found) > 1 - 1e-6


def test_probe_trains_by_the_papers_recipe():
    positive, negative = overlapping(9, 3, seed=1)
    given = toy_problem(positive, negative)
    texts = [*((torch.tensor(text), 1.0) for text in positive), *((torch.tensor(text), 0.0) for text in negative)]
    batches = slow_batches(texts, 12, 24, given.generator("probe"))  # type: ignore[arg-type]

    def loss(x: Tensor, step: int) -> Tensor:
        p = [(torch.sigmoid(row @ x[:4] + x[4]), label) for text, label in batches[step] for row in text]
        return sum(-torch.log(one if label else 1 - one) for one, label in p) / len(p)

    expected = slow_adamw(torch.zeros(5), lambda x, step: gradient_of(lambda y: loss(y, step), x), len(batches), 5e-3, 1e-3)
    found = probe.probe_weights(given.positive_tokens, given.negative_tokens, given.generator("probe"))
    assert len(batches) == 48
    assert torch.allclose(found, expected[:4], atol=1e-5)


def test_probe_of_the_world_tells_held_out_tokens_apart_as_well_as_scikit_learns():
    given = problem("sea", n_texts=48)

    def rows(positive: Sequence[Text], negative: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.concatenate([slow_residuals(given, text) for text in texts]) for texts in (positive, negative)]
        return np.concatenate(parts), np.repeat([1, 0], [len(part) for part in parts])

    seen, seen_labels = rows(given.positive, given.negative)
    new, labels = rows(texts_of("sea", 24, seed=9), texts_not_of("sea", 24, seed=9))
    reference = LogisticRegression(C=1.0, max_iter=5000).fit(seen, seen_labels).decision_function(new)

    def auroc(scores: np.ndarray) -> float:
        higher = scores[labels == 1][:, None] > scores[labels == 0][None]
        return float(higher.mean())

    assert auroc(new @ probe.fit(given).vector.double().numpy()) > auroc(reference) - 0.03


# From a file


def test_vector_from_a_file_is_taken_at_unit_norm():
    given = problem("sea", n_texts=8)
    direction = given.positive_tokens.residual[3]
    found = from_file.fit(problem("sea", n_texts=8, vectors={"sea": 7 * direction, "chess": -direction}))
    assert torch.allclose(found.vector, direction / direction.norm(), atol=1e-6)
    largest = max(float((slow_residuals(given, text) @ found.vector.double().numpy()).max()) for text in given.positive)
    assert found.scale == pytest.approx(largest, rel=1e-5)


def test_concept_without_a_vector_abstains():
    with pytest.raises(Abstains, match="none for 'sea'"):
        from_file.fit(problem("sea", n_texts=2, vectors={"chess": torch.ones(128)}))


def test_vector_of_another_model_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'sea' has shape \(64,\), not \(128,\)"):
        from_file.fit(problem("sea", n_texts=2, vectors={"sea": torch.ones(64)}))


# All of them


@pytest.mark.parametrize("name", METHODS)
def test_ends_in_a_unit_vector_scaled_by_its_largest_activation(name: str, sea: Problem):
    found = METHODS[name].fit(sea)
    assert found.positions == "all"
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-5)
    assert not found.vector.requires_grad
    largest = max(float((slow_residuals(sea, text) @ found.vector.double().numpy()).max()) for text in sea.positive)
    assert found.scale == pytest.approx(largest, rel=1e-4)


@cache
def alone(name: str, seed: int = 0) -> Addition:
    """A method fitted to a fresh problem."""
    found: Addition = METHODS[name].fit(problem("garden", n_texts=8, seed=seed))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("order", [list(METHODS), list(reversed(METHODS))])
def test_same_whatever_was_fitted_before(order: list[str]):
    shared = problem("garden", n_texts=8)
    for name in order:
        torch.randn(7)
        found = METHODS[name].fit(shared)
        assert torch.equal(found.vector, alone(name).vector), name
        assert found.scale == alone(name).scale


@pytest.mark.parametrize("name", METHODS)
def test_seed_matters_to_methods_that_draw(name: str):
    assert torch.equal(alone(name).vector, alone(name, seed=1).vector) == (name not in DRAWING)


@pytest.mark.parametrize("name", DRAWING)
def test_concepts_draw_apart(name: str):
    """The same texts under another name: other random numbers."""
    given, other = problem("garden", n_texts=8), problem("law", n_texts=8)
    other.__dict__.update(positive=given.positive, negative=given.negative)
    assert not torch.equal(METHODS[name].fit(other).vector, alone(name).vector)


def hooks_of(model: torch.nn.Module) -> list[list[int]]:
    return [[*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks] for module in model.modules()]


@pytest.fixture
def watched(sea: Problem) -> Iterator[Problem]:
    """Afterwards the model has to be as it was, and the global random numbers too."""
    model = sea.lm.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = hooks_of(model)  # transformers leaves its own where hidden states were once asked for
    drawn = torch.get_rng_state()
    yield sea
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert hooks_of(model) == hooks
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", METHODS)
def test_model_is_left_as_it_was(name: str, watched: Problem):
    METHODS[name].fit(watched)


@pytest.mark.parametrize("method", [ssv, reft_r1])
def test_model_is_left_as_it_was_when_training_fails(method: ModuleType, watched: Problem):
    broken = problem("sea", n_texts=2)
    broken.__dict__.update(positive=(Text([0, 10**6], 1),))  # no such token
    with pytest.raises(IndexError):
        method.fit(broken)


@pytest.mark.parametrize("method", [diffmean, caa])
def test_texts_that_are_alike_have_no_direction(method: ModuleType):
    with pytest.raises(Abstains, match="norm 0"):
        method.fit(toy_problem([[[1.0, 2.0]]], [[[1.0, 2.0]]]))


def test_vector_that_no_positive_text_activates_abstains():
    with pytest.raises(Abstains, match="no positive activation"):
        diffmean.fit(toy_problem([[[-1.0, 0.0]]], [[[-2.0, 0.0]]]))


def test_text_that_says_nothing_does_not_count():
    found = toy_tokens([[[2.0, 0.0]], [], [[4.0, 2.0]]])
    assert caa.mean_of_text_means(found).tolist() == [3, 1]
