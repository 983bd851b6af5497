"""Vectors trained on the language-model loss, SSV and ReFT-r1: against slow loops, AdamW written out, and held-out texts."""

from types import ModuleType

import pytest
import torch
from methods_world import problem, read, texts_of, trained_by_recipe
from slow_vectors import cosine, gradient_of, slow_adamw, slow_batches, slow_loss, slow_reft_loss, slow_residuals
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import reft_r1, ssv
from saesteer.methods.fit.controls import random_vector
from saesteer.methods.fit.problem import Problem, TrainingText, steering_scale


def long_texts(topic: str, n: int) -> list[TrainingText]:
    """Three sentences each, so that there are more tokens than the top k."""
    parts = texts_of(topic, 3 * n, seed=5)
    joined = [(a, [*a.ids, *b.ids[b.n_context :], *c.ids[c.n_context :]]) for a, b, c in zip(*[iter(parts)] * 3, strict=True)]
    return [TrainingText(ids, first.n_context) for first, ids in joined]


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=8)


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
