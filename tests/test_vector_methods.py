"""Methods that end in one vector: against scikit-learn, slow loops over transformers' own hidden states, AdamW written out, held-out texts,
and cases worked by hand."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from methods_world import problem, read, texts_of, toy_problem, toy_tokens, trained_by_recipe
from sklearn.decomposition import PCA
from slow_vectors import cosine, gradient_of, slow_adamw, slow_batches, slow_loss, slow_reft_loss, slow_residuals
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import probe, reft_r1, ssv
from saesteer.methods.fit.components import lat, pair_differences, pca
from saesteer.methods.fit.controls import from_file, random_vector
from saesteer.methods.fit.means import caa, diffmean, mean_of_text_means
from saesteer.methods.fit.problem import Abstains, Problem, TrainingText, steering_scale

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


def test_a_concept_without_a_vector_abstains():
    with pytest.raises(Abstains, match="none for 'sea'"):
        from_file(problem("sea", n_texts=2))


def test_texts_that_are_alike_or_not_activated_abstain():
    for method in (diffmean, caa):
        with pytest.raises(Abstains, match="norm 0"):
            method(toy_problem([[[1.0, 2.0]]], [[[1.0, 2.0]]]))
    with pytest.raises(Abstains, match="no positive activation"):
        diffmean(toy_problem([[[-1.0, 0.0]]], [[[-2.0, 0.0]]]))


def test_text_that_says_nothing_does_not_count():
    tokens = toy_tokens([[[2.0, 0.0]], [], [[4.0, 2.0]]])
    assert mean_of_text_means(tokens).tolist() == [3, 1]


# SSV and ReFT-r1


def long_texts(topic: str, n: int) -> list[TrainingText]:
    """Three sentences each, so that there are more tokens than the top k."""
    parts = texts_of(topic, 3 * n, seed=5)
    joined = [(a, [*a.ids, *b.ids[b.n_context :], *c.ids[c.n_context :]]) for a, b, c in zip(*[iter(parts)] * 3, strict=True)]
    return [TrainingText(ids, first.n_context) for first, ids in joined]


def test_ssv_loss_and_gradient_are_those_of_a_slow_loop(sea: Problem):
    vector = 3 * torch.randn(128, generator=torch.Generator().manual_seed(0))

    def slow(x: Tensor) -> Tensor:
        return slow_loss(sea, sea.positive, lambda residual, _text: residual + x)  # every position

    assert float(ssv.steered_losses(sea, read(sea, sea.positive), vector).mean()) == pytest.approx(float(slow(vector)), abs=1e-5)
    fast_gradient = gradient_of(lambda x: ssv.steered_losses(sea, read(sea, sea.positive), x).mean(), vector)
    assert torch.allclose(fast_gradient, gradient_of(slow, vector), atol=1e-6)


def test_ssv_trains_by_the_papers_recipe(sea: Problem):
    batches = slow_batches(sea.positive, 6, 3, sea.generator("ssv"))

    def gradient(x: Tensor, step: int) -> Tensor:
        return gradient_of(lambda y: slow_loss(sea, batches[step], lambda residual, _text: residual + y), x)

    expected = slow_adamw(torch.full((128,), 0.01), gradient, len(batches), 1e-2, 0.0)
    # Adam divides a gradient by its size, so where one is almost 0 float32 rounding reaches the step (1e-2): looser than the loss.
    assert torch.allclose(trained_by_recipe(ssv, sea, read(sea, sea.positive)), expected, atol=1e-4)


@pytest.fixture(scope="module")
def chess() -> Problem:
    return problem("chess", n_texts=48)


@pytest.mark.slow
@pytest.mark.parametrize("method", [ssv, reft_r1])
def test_steering_lowers_the_loss_of_held_out_positive_texts(method: ModuleType, chess: Problem):
    held_out = texts_of("chess", 16, seed=77)
    assert not {tuple(text.ids) for text in held_out} & {tuple(text.ids) for text in chess.positive}

    def loss(addition: Addition, factor: float) -> float:
        assert addition.scale is not None
        with torch.no_grad():
            return float(slow_loss(chess, held_out, lambda residual, _text: residual + factor * addition.scale * addition.vector))

    trained, control = method.fit(chess).intervention, random_vector(chess)
    assert loss(trained, 0.4) < loss(trained, 0) - 0.1
    assert loss(trained, -0.4) > loss(trained, 0) + 0.1
    assert abs(loss(control, 0.4) - loss(control, 0)) < 0.05


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_reft_loss_and_gradient_are_those_of_a_slow_loop(progress: float):
    given = problem("sea", n_texts=4)
    texts = [*long_texts("sea", 2), *given.negative]  # longer and shorter than the top 8
    w = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(1)), dim=0)
    fast = reft_r1.losses(given, read(given, texts), w, progress).mean()
    assert float(fast) == pytest.approx(float(slow_reft_loss(given, texts, w, progress)), abs=1e-5)
    fast_gradient = gradient_of(lambda x: reft_r1.losses(given, read(given, texts), x, progress).mean(), w)
    assert torch.allclose(fast_gradient, gradient_of(lambda x: slow_reft_loss(given, texts, x, progress), w), atol=1e-6)


def test_ssv_keeps_its_length_as_the_papers_program_does(sea: Problem):
    """Factor 1 adds (largest h . w) * w: for w of length 3 nine times what its direction alone adds."""
    vector = torch.randn(128, generator=torch.Generator().manual_seed(2))
    direction = vector / vector.norm()
    made = ssv.steering(sea, 3 * direction)
    largest = max(float(torch.tensor(slow_residuals(sea, text) @ (3 * direction).double().numpy()).max()) for text in sea.positive)
    assert torch.allclose(made.scale * made.vector, largest * 3 * direction, rtol=1e-4)
    assert made.scale == pytest.approx(9 * steering_scale(direction, sea.positive_tokens), rel=1e-5)


def test_reft_trains_by_the_papers_recipe():
    given = problem("sea", n_texts=4)
    generator = given.generator("reft_r1")
    drawn = torch.randn(128, generator=generator)
    batches = slow_batches([*given.positive, *given.negative], 6, 3, generator)

    def gradient(w: Tensor, step: int) -> Tensor:
        g = gradient_of(lambda x: slow_reft_loss(given, batches[step], x, step / len(batches)), w)
        across = g - (g @ w) * w
        return across / max(1.0, float(across.norm()))

    expected = slow_adamw(drawn / drawn.norm(), gradient, len(batches), 1e-2, 0.01, after=lambda w: w / w.norm())
    direction = trained_by_recipe(reft_r1, given, read(given, given.positive), read(given, given.negative))
    assert len(batches) == 6
    assert cosine(direction, drawn) < 0.99
    assert torch.allclose(direction, expected, atol=1e-4)
