"""The learning rate and number of epochs of trained methods: what held-out texts choose, worked out apart from it."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_world import problem, texts_of

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import lora, loreft, probe, reft_r1, reps, sft, ssv
from saesteer.methods.fit.fits import fitted_rows
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.training import Trainee, held_out, token_losses, trained
from saesteer.settings.registry import Recipe, Training, recipes_of

RATES = {
    **dict.fromkeys((lora, loreft), (0.003, 1000.0)),
    sft: (3e-4, 1e3),
    ssv: (1e-2, 1e3),
    reps: (3e-2, 1e6),
    probe: (3e-3, 1e9),
    reft_r1: (1e-2,),
}
"""Of each method one at which a few steps teach something, and one at which they break it, if there is one: ReFT-r1's direction keeps its
length at any."""


def parabola(given: Problem, _generator: torch.Generator) -> Trainee[float]:
    """Each item t has the loss (x - t)^2; x starts at 0."""
    x = torch.zeros(1, requires_grad=True)

    def result() -> Addition:
        return Addition(x.detach().clone(), 1.0)

    return Trainee([x], lambda targets, _: (x - torch.tensor(targets)) ** 2, result)


def with_recipe(rates: tuple[float, ...], recipe: Recipe, share: float = 0.25) -> Problem:
    return replace(problem(n_texts=2), training=Training({"toy": recipe}, rates, share))


def adam_by_hand(targets: list[float], rate: float, epochs: int, stop: int) -> float:
    """One item a step, in the order given by equal targets; AdamW without decay, the rate falling to 0 over all epochs."""
    x, m, v, step, n = 0.0, 0.0, 0.0, 0, epochs * len(targets)
    for _ in range(stop):
        for target in targets:
            g = 2 * (x - target)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            now = rate * (n - step) / n
            x -= now * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-8)
            step += 1
    return x


def test_rate_and_epoch_of_lowest_held_out_loss_by_hand() -> None:
    """Equal targets of 1: the order of texts does not matter. Rate .01 falls short, 3 goes far beyond; .5 is best after some epochs."""
    rates, epochs = (0.01, 0.5, 3.0), 6
    made = trained(with_recipe(rates, Recipe(9.0, 1, 1, epochs)), "toy", parabola, [1.0] * 8)
    after = {(rate, stop): (adam_by_hand([1.0] * 6, rate, epochs, stop) - 1) ** 2 for rate in rates for stop in range(1, epochs + 1)}
    rate, stop = min(after, key=lambda key: after[key])
    assert (made.learning_rate, made.n_epochs) == (rate, stop)
    assert made.loss_before == 1
    assert made.loss_after == pytest.approx(after[rate, stop], abs=1e-6)
    assert isinstance(made.intervention, Addition)
    assert float(made.intervention.vector) == pytest.approx(adam_by_hand([1.0] * 8, rate, epochs, stop), abs=1e-5)


def counted(tried: list[list[float]]) -> Callable[[Problem, torch.Generator], Trainee[float]]:
    """`parabola`; where x is after each step is listed, a list a training."""

    def start(problem: Problem, generator: torch.Generator) -> Trainee[float]:
        trainee = parabola(problem, generator)
        steps: list[float] = []
        tried.append(steps)
        return replace(trainee, after_step=lambda: steps.append(trainee.parameters[0].item()))

    return start


def held_out_at(given: Problem, target: float) -> list[float]:
    """Eight texts that pull to 1, but for those that will be held out, which lie elsewhere."""
    _, held = held_out(range(8), 0.25, given.generator("held out"))
    return [target if place in held else 1.0 for place in range(8)]


def test_steps_are_stopped_where_texts_held_out_get_worse() -> None:
    """The best x is the nearest to .5, not the last."""
    given = with_recipe((0.1,), Recipe(0.1, 1, 1, 8))
    made = trained(given, "toy", parabola, held_out_at(given, 0.5))
    path = [adam_by_hand([1.0] * 6, 0.1, 8, stop) for stop in range(1, 9)]
    assert made.n_epochs == min(range(8), key=lambda epoch: abs(path[epoch] - 0.5)) + 1 < 8
    assert made.loss_after < made.loss_before


def test_a_rate_is_given_up_after_four_epochs_without_a_lower_loss() -> None:
    """Held-out texts lie where x starts, so the first epoch is the best, and the last of five."""
    given, tried = with_recipe((0.1,), Recipe(0.1, 1, 1, 20)), []
    made = trained(given, "toy", counted(tried), held_out_at(given, 0.0))
    assert made.n_epochs == 1
    assert [len(steps) for steps in tried] == [0, 5 * 6, 8]


def test_a_rate_is_given_up_after_four_epochs_behind_the_best() -> None:
    """At .3 the loss is far lower after each of the first four epochs than at .01, which is therefore not tried for twenty."""
    tried: list[list[float]] = []
    made = trained(with_recipe((0.01, 0.3), Recipe(9.0, 1, 1, 20)), "toy", counted(tried), [1.0] * 8)
    assert made.learning_rate == 0.3
    untrained, at_large, at_small, final = (len(steps) / n for steps, n in zip(tried, (6, 6, 6, 8), strict=True))
    assert (untrained, at_small, final) == (0, 4, made.n_epochs)
    assert made.n_epochs <= at_large <= 20


def test_without_rates_the_recipe_holds_and_nothing_is_held_out() -> None:
    made = trained(with_recipe((), Recipe(0.1, 1, 1, 3)), "toy", parabola, [1.0] * 8)
    assert (made.learning_rate, made.n_epochs, made.loss_before, made.loss_after) == (0.1, 3, None, None)
    assert float(made.intervention.vector) == pytest.approx(adam_by_hand([1.0] * 8, 0.1, 3, 3), abs=1e-5)


def test_a_rate_that_diverges_is_never_chosen_and_one_text_cannot_be_held_out() -> None:
    made = trained(with_recipe((0.1, 1e30), Recipe(0.1, 1, 1, 3)), "toy", parabola, [1.0] * 8)
    assert made.learning_rate == 0.1
    with pytest.raises(Abstains, match="training diverges at every learning rate"):
        trained(with_recipe((1e30,), Recipe(0.1, 1, 1, 3)), "toy", parabola, [1.0] * 8)
    with pytest.raises(Abstains, match=r"training at learning rate 1e\+30 diverges"):
        trained(with_recipe((), Recipe(1e30, 1, 1, 3)), "toy", parabola, [1.0] * 8)
    with pytest.raises(Abstains, match="1 training texts: one cannot be held out"):
        trained(with_recipe((0.1,), Recipe(0.1, 1, 1, 3)), "toy", parabola, [1.0])


@settings(max_examples=50)
@given(n=st.integers(2, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_held_out_parts_are_a_partition_in_order(n: int, share: float, seed: int) -> None:
    learnt, held = held_out(range(n), share, torch.Generator().manual_seed(seed))
    assert sorted(learnt + held) == list(range(n))
    assert (learnt, held) == (sorted(learnt), sorted(held))
    assert min(len(learnt), len(held)) > 0
    assert abs(len(held) - share * n) <= 1


SLOW = {**dict.fromkeys((lora, loreft, sft), pytest.mark.slow), reps: pytest.mark.exhaustive}


@pytest.mark.parametrize("method", [pytest.param(m, marks=SLOW[m]) if m in SLOW else m for m in RATES])
def test_every_trained_method_finds_its_rate(method: ModuleType) -> None:
    """At the smallest rate nothing is learnt, at the largest everything is unlearnt; between them held-out loss falls."""
    given = problem("sea", n_texts=12, learning_rates=(1e-9, *RATES[method]))
    recipes = {name: replace(recipe, epochs=min(6, recipe.epochs)) for name, recipe in given.training.recipes.items()}
    made = (reps.vector if method is reps else method.fit)(replace(given, training=replace(given.training, recipes=recipes)))
    assert made.learning_rate == RATES[method][0]
    assert made.loss_after < made.loss_before


def test_the_table_of_recipes_is_the_papers() -> None:
    """P4's program, its configurations for gemma-2-2b-it and gemma-2-9b-it."""
    of_reps = {"reps_loreft": 9e-4, "reps_lora": 9e-4}
    small, large = recipes_of("google/gemma-2-2b-it"), recipes_of("google/gemma-2-9b-it")
    assert {name: recipe.learning_rate for name, recipe in small.items()} == {
        "probe": 5e-3, "ssv": 1e-2, "reft_r1": 1e-2, "loreft": 9e-4, "lora": 9e-4, "sft": 4e-5, "reps": 8e-2, **of_reps,
    }  # fmt: skip
    assert {name: recipe.learning_rate for name, recipe in large.items()} == {
        "probe": 1e-3, "ssv": 1e-2, "reft_r1": 5e-3, "loreft": 4e-4, "lora": 5e-3, "sft": 4e-5, "reps": 8e-2, **of_reps,
    }  # fmt: skip
    assert (large["loreft"].batch, large["loreft"].accumulated) == (9, 4)
    assert large["probe"].weight_decay == 1e-4
    assert small["lora"].layers == ()
    assert recipes_of("a-model-of-ones-own") == small


def test_rows_say_how_a_method_was_trained() -> None:
    rows = pl.DataFrame({"layer": [5, 5], "method": ["ssv", "diffmean"], "concept_id": ["0" * 16] * 2})
    tuned = problem("sea", n_texts=8, learning_rates=(1e-3, 1e-2))
    ssv_row, diffmean_row = pl.concat(fitted_rows(tuned, rows, [[2, 5, 6]])).iter_rows(named=True)
    assert ssv_row["learning_rate"] in (1e-3, 1e-2)
    assert 1 <= ssv_row["n_epochs"] <= 3
    assert ssv_row["loss_after"] < ssv_row["loss_before"]
    assert [diffmean_row[name] for name in ("learning_rate", "n_epochs", "loss_before", "loss_after")] == [None] * 4


@pytest.mark.exhaustive
def test_what_is_chosen_is_better_on_texts_that_the_fit_never_saw() -> None:
    """LoReFT at the rate published for 2.6 billion parameters, and at the one chosen."""
    tuned = problem("chess", n_texts=48, learning_rates=(1e-3, 1e-2))
    published = replace(tuned, training=Training(recipes_of("shipped")))
    new = texts_of("chess", 24, seed=77)

    def loss(given: Problem) -> float:
        made = loreft.fit(given).intervention
        with torch.no_grad(), made.edited(given.lm, torch.ones(24), 0, torch.tensor([text.n_context for text in new])):
            return float(token_losses(given.lm, new).mean())

    assert loss(tuned) < loss(published) - 0.1
