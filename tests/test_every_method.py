"""What holds for every steering method of the table: a fit depends on its problem alone, leaves the model as it was, and a vector has unit
norm and the scale that the papers give it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from engine_models import threads
from methods_world import problem, random_effects
from slow_vectors import slow_residuals
from small_adapters import left_as_it_was

from saesteer.engine.interventions import (
    ActivationEdit,
    Addition,
    ConditionalAddition,
    ConditionalClamp,
    DecayingAddition,
    ProjectionFloor,
    ScaledComponent,
    features_of,
    packed,
)
from saesteer.methods.fit import sae_features, sae_ssv
from saesteer.methods.fit.fits import fit_of
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.methods.fit.training import Trained
from saesteer.settings.registry import METHODS, method

NAMES = [row.name for row in METHODS]
DRAWING = {"random_vector", "prompt_search", "lat", "probe", "sdcv_probe", "ssv", "sae_ssv", "reft_r1", "supervised_random"}
DRAWING |= {"lora", "loreft", "sft", "reps", "reps_loreft", "reps_lora"}
"""Those that draw random numbers: pairs, order of texts, where to start, features."""
TRAINING = ("ssv", "reps", "reft_r1", "lora", "loreft", "sft")
EPOCHS = {"reps": 2, "reps_loreft": 2, "loreft": 6, "sft": 2, "probe": 6}
"""Fewer than published. LoRA keeps its own, also with RePS, where a GPU's numbers are compared: its B starts at 0, and Adam's first steps
there are the signs of small gradients, which bfloat16 rounds either way."""
BRIEF = {**EPOCHS, "loreft": 2, "lora": 2, "reps_lora": 2}
N_TEXTS = {"supervised": 50, "supervised_random": 50, **dict.fromkeys(("reps", "reps_loreft", "reps_lora"), 4)}
MANY_FEATURES = ("sae_top_k", "supervised", "supervised_random")


def given(name: str, topic: str = "garden", seed: int = 0, epochs: Mapping[str, int] = EPOCHS) -> Problem:
    """A fresh problem that every method has an intervention for."""
    published = problem(topic, n_texts=N_TEXTS.get(name, 8), seed=seed, effects=random_effects())
    vector = -published.sae.W_dec[3] + 2 * published.sae.W_dec[4]
    recipes = {key: replace(recipe, epochs=epochs.get(key, recipe.epochs)) for key, recipe in published.training.recipes.items()}
    label = published.label if published.label is not None else 7
    return replace(published, vector=vector, label=label, training=replace(published.training, recipes=recipes))


def fit(name: str, to: Problem) -> object:
    """Trained briefly: what is tested of all methods does not depend on how long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sae_ssv, "STEPS", 5)
        patch.setattr(sae_ssv, "N_PROBES", 5)
        made = fit_of(method(name))(to)
    return made.intervention if isinstance(made, Trained) else made


@cache
def fitted(name: str) -> object:
    """A method's fit to its problem, which leaves the model and torch's random numbers as they were."""
    to, before = given(name, epochs=BRIEF), torch.get_rng_state()
    with left_as_it_was(to.lm):
        intervention = fit(name, to)
    assert torch.equal(torch.get_rng_state(), before)
    return intervention


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_depends_on_its_problem_alone_and_leaves_the_model_as_it_was(name: str) -> None:
    """Not on what was drawn or fitted before, nor on whether gradients are recorded; the seed and the concept's name matter to those that
    draw."""
    first = packed(fitted(name))
    torch.randn(7)
    again = given(name, epochs=BRIEF)
    fit("lat", again)
    fit("diffmean", again)
    with torch.no_grad(), left_as_it_was(again.lm):
        assert packed(fit(name, again)) == first
    assert (packed(fit(name, given(name, seed=1, epochs=BRIEF))) != first) == (name in DRAWING)
    if name in DRAWING - {"supervised_random"}:
        assert packed(fit(name, replace(again, concept="law"))) != first


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_fit_is_the_same_on_two_threads(name: str) -> None:
    with threads(2):
        assert packed(fit(name, given(name, epochs=BRIEF))) == packed(fitted(name))


@pytest.mark.parametrize("name", [row.name for row in METHODS if row.text_use == "none" and row.chosen_by == "label"])
def test_a_method_that_steers_with_the_labelled_feature_says_so(name: str) -> None:
    assert features_of(fitted(name)) == [given(name, epochs=BRIEF).label]


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_has_unit_norm_and_the_papers_scale(name: str) -> None:
    """A vector's is its largest activation on the concept's texts, that of an SAE feature its max activation or, with CorrSteer, its mean
    over positive texts of the largest code."""
    to, intervention = given(name, epochs=BRIEF), fitted(name)
    if isinstance(intervention, ConditionalAddition):
        intervention = Addition(intervention.vector, intervention.scale)
    if isinstance(intervention, DecayingAddition | ProjectionFloor):
        intervention = Addition(intervention.vector, intervention.scale, features=intervention.features)
    if isinstance(intervention, ScaledComponent):  # which has no scale of its own
        assert int((to.sae.W_dec @ intervention.vector).argmax()) == to.label
        assert intervention.vector.norm().item() == pytest.approx(1, abs=1e-5)
        return
    if not isinstance(intervention, Addition):
        assert (name in {"unsteered", "prompting", "prompt_search", "lora", "loreft", "sft", "reps_lora", "reps_loreft"}) or isinstance(
            intervention, ActivationEdit | ConditionalClamp
        )
        return
    assert intervention.positions == "all"
    assert intervention.vector.norm().item() == pytest.approx(1, abs=1e-5)
    assert not intervention.vector.requires_grad
    assert set(intervention.features) <= set(sae_features.candidates(to)["feature"])
    if len(intervention.features) == 1 and name not in MANY_FEATURES:
        (feature,) = intervention.features
        assert int((to.sae.W_dec @ intervention.vector).argmax()) == feature
        code = float(to.largest_activations[0][:, feature].mean()) if name == "corrsteer" else sae_features.max_activation(to, feature)
        assert intervention.scale == pytest.approx(code, rel=1e-3)
    elif name not in ("ssv", "reps"):  # which keep their length: test_vector_methods.py, test_reps.py
        largest = max(float((slow_residuals(to, text) @ intervention.vector.double().numpy()).max()) for text in to.positive)
        assert intervention.scale == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("name", TRAINING)
def test_the_model_is_left_as_it_was_when_training_fails(name: str) -> None:
    broken = replace(given(name), positive=(TrainingText([0, 10**6], 1),))  # no such token
    with left_as_it_was(broken.lm), pytest.raises(IndexError):
        fit(name, broken)
