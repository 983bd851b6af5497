"""RePS: against its formulas written out text by text, with plain hooks on an unpadded model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from methods_world import problem, texts_of
from oracles.plain_hooks import token_losses
from slow_vectors import cosine
from torch import Tensor, nn

from saesteer.engine.adapters import LowRankSubspace, LowRankWeights, adapter_layers
from saesteer.engine.hook_points import HookPoint
from saesteer.methods.fit import loreft, reps
from saesteer.methods.fit.means import diffmean
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.methods.fit.training import Trainee, first_hook_point


@pytest.fixture(scope="module")
def sea() -> Problem:
    return problem("sea", n_texts=6)


Steer = Callable[[TrainingText, float], AbstractContextManager[None]]


@contextmanager
def hooked(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """A module's output [seq d] replaced by change(its input, it)."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> Tensor:
        return change(args[0][0], out[0])[None]

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


def slow_log_p(given: Problem, text: TrainingText, steered: AbstractContextManager[None]) -> Tensor:
    """Sum of log p over what a text says, by an unpadded model."""
    with steered:
        return -token_losses(given.lm.model, text.ids, text.n_context).sum()


def slow_loss(given: Problem, pair: reps.Pair, steer: Steer) -> Tensor:
    """Equation by equation."""

    def said(text: TrainingText) -> int:
        return len(text.ids) - text.n_context

    def log_p(text: TrainingText, factor: float) -> Tensor:
        return slow_log_p(given, text, steer(text, factor))

    concept, own, a = pair.concept.text, pair.plain.text, pair.factor
    p_c, p = (float(slow_log_p(given, text, nullcontext()).detach()) for text in (concept, own))
    n_c, n = said(concept), said(own)
    plus = max(p - p_c, 1) / n_c * log_p(concept, a) - log_p(own, a) / n
    minus = max(p_c - p, 1) / n * log_p(own, -a) - log_p(concept, -a) / n_c
    return (-torch.log(torch.sigmoid(plus)) - torch.log(torch.sigmoid(minus))) / 2


def slow_vector(given: Problem, w: Tensor) -> Steer:
    def steer(_text: TrainingText, factor: float) -> AbstractContextManager[None]:
        def change(_read: Tensor, h: Tensor) -> Tensor:
            return h + factor * w if factor > 0 else torch.stack([row - torch.relu(row @ w) / (w @ w) * w for row in h])

        return hooked(given.lm.model.model.layers[given.layer], change)

    return steer


def slow_loreft(given: Problem, one: LowRankSubspace) -> Steer:
    @contextmanager
    def steer(text: TrainingText, factor: float) -> Iterator[None]:
        n = text.n_context
        places = sorted({*range(min(5, n)), *range(max(0, n - 5), n)})

        def edited(R: Tensor, W: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            def change(_read: Tensor, h: Tensor) -> Tensor:
                return torch.stack([row + factor * R.T @ (W @ row + b - R @ row) if i in places else row for i, row in enumerate(h)])

            return change

        with ExitStack() as stack:
            for layer, R, W, b in zip(one.layers, one.R, one.W, one.b, strict=True):
                stack.enter_context(hooked(given.lm.model.model.layers[layer], edited(R, W, b)))
            yield

    return steer


def slow_lora(given: Problem, one: LowRankWeights) -> Steer:
    @contextmanager
    def steer(_text: TrainingText, factor: float) -> Iterator[None]:
        def adapted(A: Tensor, B: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, out: out + factor * 16 * (x @ A.T) @ B.T  # rsLoRA: 32 / sqrt(4)

        with ExitStack() as stack:
            for layer, A, B in zip(one.layers, one.A, one.B, strict=True):
                stack.enter_context(hooked(given.lm.model.model.layers[layer].self_attn.o_proj, adapted(A, B)))
            yield

    return steer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same_loss(given: Problem, trainee: Trainee[reps.Pair], steer: Steer, hook_point: HookPoint) -> None:
    """Losses, and gradients of their mean with respect to the last parameter."""
    some = reps.pairs(given, hook_point)[:3]
    fast, slow = trainee.losses(some, 0.0), torch.stack([slow_loss(given, pair, steer) for pair in some])
    torch.testing.assert_close(fast.double(), slow.double(), rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(loss.mean(), trainee.parameters[-1])[0] for loss in (fast, slow))
    assert float(theirs.norm()) > 1e-3
    assert float((ours - theirs).norm()) < 1e-3 * float(theirs.norm())


def test_losses_and_gradient_of_a_vector_are_those_of_the_formulas(sea: Problem) -> None:
    trainee = reps.untrained_vector(sea, seeded())
    assert_same_loss(sea, trainee, slow_vector(sea, trainee.parameters[0]), sea.hook_point)


def test_losses_and_gradient_of_an_adapter_are_those_of_the_formulas(sea: Problem) -> None:
    trainee = reps.untrained_lora(sea, seeded())
    A, B = trainee.parameters
    B.data = 0.01 * torch.randn(B.shape, generator=seeded(1))
    assert_same_loss(sea, trainee, slow_lora(sea, LowRankWeights(adapter_layers(8), A, B, 16.0)), first_hook_point(sea, "reps_lora"))


def test_losses_and_gradient_of_edits_are_those_of_the_formulas(sea: Problem) -> None:
    """Of the edits as they are; what trains is behind R's parametrisation."""
    layers, edits = loreft.new_edits(sea, "reps_loreft", seeded())
    one = loreft.edits_together(layers, edits)
    some = reps.pairs(sea, first_hook_point(sea, "reps_loreft"))[:3]
    slow = torch.stack([slow_loss(sea, pair, slow_loreft(sea, one)) for pair in some])
    torch.testing.assert_close(reps.untrained_loreft(sea, seeded()).losses(some, 0.0).double(), slow.double(), rtol=1e-4, atol=1e-4)


def test_factor_1_of_what_is_fitted_is_the_middle_of_the_factors_of_training(sea: Problem) -> None:
    """The edits' and the adapter's texts at factor 1 are read as what was trained reads them at 11."""
    text = sea.positive[0]
    layers, edits = loreft.new_edits(sea, "reps_loreft", seeded())
    vector = reps.untrained_vector(sea, seeded())
    torch.testing.assert_close(vector.result().scale * vector.result().vector, 11 * vector.parameters[0])
    trainee = reps.untrained_lora(sea, seeded())
    trainee.parameters[1].data = torch.randn(trainee.parameters[1].shape, generator=seeded(1)) / 100
    adapter = LowRankWeights(adapter_layers(8), *trainee.parameters, 16.0)
    pairs = (
        (slow_loreft(sea, loreft.edits_together(layers, edits)), slow_loreft(sea, reps.untrained_loreft(sea, seeded()).result())),
        (slow_lora(sea, adapter), slow_lora(sea, trainee.result())),
    )
    with torch.no_grad():
        for as_trained, fitted in pairs:
            log_p = float(slow_log_p(sea, text, fitted(text, 1)))
            assert log_p == pytest.approx(float(slow_log_p(sea, text, as_trained(text, 11))), rel=1e-4)
            assert log_p != pytest.approx(float(slow_log_p(sea, text, as_trained(text, 1))), rel=1e-3)


def test_pairs_share_a_prompt_and_the_models_own_text_is_no_longer(sea: Problem) -> None:
    made = reps.pairs(sea, sea.hook_point)
    assert [pair.concept.text for pair in made] == list(sea.positive)
    for pair in made:
        concept, own = pair.concept.text, pair.plain.text
        assert own.ids[: own.n_context] == concept.ids[: concept.n_context]
        assert own.n_context < len(own.ids) <= len(concept.ids)
        assert pair.factor in reps.FACTORS
        assert pair.plain_log_p == pytest.approx(float(slow_log_p(sea, own, nullcontext()).detach()), abs=1e-3)
    again = reps.pairs(problem("sea", n_texts=6), sea.hook_point)
    drawn, drawn_again = ([(pair.plain.text, pair.factor, pair.plain_log_p) for pair in each] for each in (made, again))
    assert drawn == drawn_again


@pytest.mark.exhaustive
def test_the_vector_writes_the_concept() -> None:
    """Added in the middle of the factors it was trained with, it makes unseen texts of the concept likelier, unlike its opposite."""
    chess = problem("chess", n_texts=32, learning_rates=(1e-2, 3e-2))
    made = reps.vector(chess).intervention
    new = texts_of("chess", 12, seed=77)

    def pushed(factor: float) -> AbstractContextManager[None]:
        return hooked(chess.lm.model.model.layers[chess.layer], lambda _read, h: h + factor * made.scale * made.vector)

    def log_p(factor: float) -> float:
        with torch.no_grad():
            return float(sum(slow_log_p(chess, text, pushed(factor)) for text in new))

    assert log_p(0.5) > log_p(0) > log_p(-0.5)
    assert cosine(made.vector, diffmean(chess).vector) > 0.2


def test_a_text_with_a_long_prompt_is_compared_with_what_there_is_room_for(sea: Problem) -> None:
    """Others are compared as they are without it."""
    n = sea.lm.n_positions
    long = TrainingText((sea.positive[0].ids * 200)[:n], n - 4)
    usual = reps.pairs(sea, sea.hook_point)
    given = replace(sea, positive=(*sea.positive, long))
    *others, last = reps.pairs(given, given.hook_point)
    assert last.plain.text.n_output <= 4
    assert [len(pair.plain.text.ids) for pair in others] == [len(pair.plain.text.ids) for pair in usual]
