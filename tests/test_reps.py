"""RePS: against its two formulas written out text by text, with plain hooks on an unpadded model."""

import math

import pytest
import torch
from methods_world import problem, texts_of
from slow_vectors import cosine, gradient_of
from torch import Tensor

from saesteer.methods.fit import reps
from saesteer.methods.fit.means import diffmean
from saesteer.methods.fit.problem import Problem, Text


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=6)


def slow_log_p(given: Problem, text: Text, change: object) -> Tensor:
    """Sum of log p over what a text says, the residual [seq d_model] after the layer changed by a plain hook."""
    block = given.lm.model.model.layers[given.layer]
    handle = block.register_forward_hook(lambda _module, _args, out: change(out[0])[None])  # type: ignore[operator]
    logits = given.lm.model(input_ids=torch.tensor([text.ids])).logits[0].double().log_softmax(dim=1)
    handle.remove()
    return sum((logits[place - 1, text.ids[place]] for place in range(text.n_context, len(text.ids))), torch.zeros(()))


def slow_loss(given: Problem, pair: reps.Pair, w: Tensor) -> Tensor:
    """Equation by equation."""

    def said(text: Text) -> int:
        return len(text.ids) - text.n_context

    def null(h: Tensor) -> Tensor:
        return torch.stack([row - torch.relu(row @ w) / (w @ w) * w for row in h])

    def add(h: Tensor) -> Tensor:
        return h + pair.factor * w

    p_c, p = (float(slow_log_p(given, text, lambda h: h).detach()) for text in (pair.concept, pair.own))
    n_c, n = said(pair.concept), said(pair.own)
    plus = max(p - p_c, 1) / n_c * slow_log_p(given, pair.concept, add) - slow_log_p(given, pair.own, add) / n
    minus = max(p_c - p, 1) / n * slow_log_p(given, pair.own, null) - slow_log_p(given, pair.concept, null) / n_c
    return (-torch.log(torch.sigmoid(plus)) - torch.log(torch.sigmoid(minus))) / 2


def test_losses_and_gradient_are_those_of_the_formulas(sea: Problem) -> None:
    some = reps.pairs(sea)[:3]
    w = torch.randn(128, generator=torch.Generator().manual_seed(0)) * 0.3
    fast = reps.losses(sea, some, w)
    slow = torch.stack([slow_loss(sea, pair, w) for pair in some])
    torch.testing.assert_close(fast.double(), slow.double(), rtol=1e-4, atol=1e-4)
    fast_gradient = gradient_of(lambda x: reps.losses(sea, some, x).mean(), w)
    slow_gradient = gradient_of(lambda x: torch.stack([slow_loss(sea, pair, x) for pair in some]).mean(), w)
    assert torch.allclose(fast_gradient, slow_gradient, atol=1e-4)


def test_a_model_that_is_indifferent_has_the_loss_of_a_coin(sea: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both texts have log p -3 and three tokens, both differences are 0: log 2."""
    text = Text([2, 5, 6, 7], 1)
    monkeypatch.setattr(reps, "log_probabilities", lambda _problem, texts: torch.full((len(texts),), -3.0))
    assert reps.losses(sea, [reps.Pair(text, text, 4.0, -3.0, -3.0)], torch.ones(128)).tolist() == pytest.approx([math.log(2)])
    # Five nats more surprising than the model's own: D+ = 5 / 3 * -3 + 1 = -4, D- as before.
    lost = reps.losses(sea, [reps.Pair(text, text, 4.0, -8.0, -3.0)], torch.ones(128)).tolist()
    assert lost == pytest.approx([(math.log(1 + math.exp(4)) + math.log(2)) / 2])


def test_pairs_share_a_prompt_and_the_models_own_text_is_no_longer(sea: Problem) -> None:
    made = reps.pairs(sea)
    assert [pair.concept for pair in made] == list(sea.positive)
    for pair in made:
        assert pair.own.ids[: pair.own.n_context] == pair.concept.ids[: pair.concept.n_context]
        assert pair.own.n_context < len(pair.own.ids) <= len(pair.concept.ids)
        assert pair.factor in reps.FACTORS
        assert pair.own_log_p == pytest.approx(float(slow_log_p(sea, pair.own, lambda h: h)), abs=1e-3)
    assert made == reps.pairs(problem("sea", n_texts=6))


@pytest.mark.exhaustive
def test_the_vector_writes_the_concept() -> None:
    """Added in the middle of the factors it was trained with, it makes unseen texts of the concept likelier, unlike its opposite."""
    chess = problem("chess", n_texts=32, learning_rates=(1e-2, 3e-2))
    made = reps.fit(chess).intervention
    new = texts_of("chess", 12, seed=77)

    def log_p(factor: float) -> float:
        with torch.no_grad():
            return float(sum(slow_log_p(chess, text, lambda h: h + factor * made.scale * made.vector) for text in new))

    assert log_p(0.5) > log_p(0) > log_p(-0.5)
    assert cosine(made.vector, diffmean(chess).vector) > 0.2
