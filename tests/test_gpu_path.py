"""What runs on a GPU gives what a CPU gives: on a real one where there is one (`pytest -m gpu`), elsewhere on a pretended one, which
refuses what CUDA refuses. Every step with a model, every method, in float32 and bfloat16, at the tile sizes of a GPU."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
import test_every_method
import test_invariance
import torch
from engine_models import model_and_sae, tiny_model, tiny_sae
from methods_world import shipped_model, shipped_sae
from polars.testing import assert_frame_equal
from pretended_gpu import pretended_gpu
from small_adapters import model_of
from test_judge_local import judge_model
from torch import Tensor

from saesteer.engine.interventions import tensors_of
from saesteer.engine.models import LanguageModel, language_model
from saesteer.engine.saes import TENSORS, Sae
from saesteer.methods.fit.problem import Problem
from saesteer.settings.registry import METHODS

pytestmark = pytest.mark.gpu
REAL = torch.cuda.is_available()
DTYPES = ("float32", "bfloat16")


@pytest.fixture
def gpu() -> Iterator[Counter[tuple[str, str]]]:
    """A GPU for a test; on the pretended one, what was copied and waited for, by line."""
    if REAL:
        yield Counter()
    else:
        with pretended_gpu() as events:
            yield events


def placed(lm: LanguageModel, device: str, dtype: str) -> LanguageModel:
    """A copy of a model of the CPU."""
    model = copy.deepcopy(lm.model).to(getattr(torch, dtype)).to(device)
    return language_model(model, lm.tokenizer, lm.bos, lm.prompt_format)


def placed_sae(sae: Sae, device: str, dtype: str) -> Sae:
    return replace(sae, **{name: getattr(sae, name).to(getattr(torch, dtype)).to(device) for name in TENSORS})


@contextmanager
def steps_on(device: str, dtype: str) -> Iterator[None]:
    """Within the context, the steps of test_invariance are made of models and SAEs there."""

    def both(*args: Any) -> tuple[LanguageModel, Sae]:
        lm, sae = model_and_sae(*args)
        return placed(lm, device, dtype), placed_sae(sae, device, dtype)

    def moved(make: Callable[..., LanguageModel]) -> Callable[..., LanguageModel]:
        return lambda *args: placed(make(*args), device, dtype)

    def moved_sae(*args: Any) -> Sae:
        return placed_sae(tiny_sae(*args), device, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_invariance, "model_and_sae", both)
        patch.setattr(test_invariance, "tiny_sae", moved_sae)
        for name, make in (("tiny_model", tiny_model), ("model_of", model_of), ("judge_model", judge_model)):
            patch.setattr(test_invariance, name, moved(make))
        yield


STEPS = {
    "output score": partial(test_invariance.output_score_step, "gemma2"),
    "sweep": partial(test_invariance.sweep_step, "gemma2"),
    "sweep of the shipped model": partial(test_invariance.sweep_step, "shipped"),
    "sweep before a layer": partial(test_invariance.sweep_step, "gpt2", 2, "resid_pre"),
    "texts under every kind of intervention": test_invariance.texts_step,
    "perplexity": partial(test_invariance.perplexity_step, "gemma2"),
    "activations": test_invariance.activations_step,
    "effects of steering": test_invariance.effects_step,
    "top logit-lens tokens": test_invariance.lens_step,
    "local judge": test_invariance.judge_step,
}
EXACT = {"token_ids", "text", "n_tokens", "stopped", "feature", "token_index", "raw", "finish_reason"}


def assert_alike(got: pl.DataFrame, expected: pl.DataFrame, dtype: str) -> None:
    """Columns of numbers within what the format's rounding may move; texts, codes' places and lists in nearly every row."""
    assert got.columns == expected.columns
    tolerance = {"rel_tol": 1e-4, "abs_tol": 1e-5} if dtype == "float32" else {"rel_tol": 0.1, "abs_tol": 0.05}
    listed = [name for name, kind in got.schema.items() if kind.is_nested() or kind in (pl.String, pl.Binary, pl.Boolean, pl.UInt16)]
    same = np.mean([got[row].select(listed).equals(expected[row].select(listed)) for row in range(got.height)]) if listed else 1.0
    assert same >= (0.99 if dtype == "float32" and not REAL else 0.8), f"{same:.1%} of rows alike"
    assert_frame_equal(got.drop(listed), expected.drop(listed), check_exact=False, **tolerance)


def cases(names: Iterable[str], short: Iterable[tuple[str, str]]) -> list[Any]:
    """Every name in every dtype; all but a few under make test-all."""
    marks = (pytest.mark.slow, pytest.mark.exhaustive)
    return [pytest.param(name, dtype, marks=() if (name, dtype) in short else marks) for name in names for dtype in DTYPES]


@pytest.mark.parametrize(("name", "dtype"), cases(STEPS, {("output score", "bfloat16"), ("sweep", "float32"), ("local judge", "bfloat16")}))
def test_a_step_gives_what_a_cpu_gives(name: str, dtype: str, gpu: Counter[tuple[str, str]]) -> None:
    with steps_on("cpu", dtype):
        step = STEPS[name]()
        expected = step.run(list(range(step.n)), None)
    with steps_on("cuda", dtype):
        step = STEPS[name]()
        assert_alike(step.run(list(range(step.n)), None), expected, dtype)


@pytest.mark.parametrize(
    "name", ["output score", "sweep", "local judge", pytest.param("perplexity", marks=(pytest.mark.slow, pytest.mark.exhaustive))]
)
def test_a_row_does_not_depend_on_its_slot_or_its_neighbours(name: str, gpu: Counter[tuple[str, str]]) -> None:
    """In bfloat16: another order, and fewer rows in a forward of the same shape."""
    with steps_on("cuda", "bfloat16"):
        step = STEPS[name]()
        shuffled = np.random.default_rng(0).permutation(step.n).tolist()
        whole = step.run(list(range(step.n)), None)
        for places in (shuffled, shuffled[:5]):
            assert_frame_equal(step.run(places, None), whole[places], check_exact=True)


def on(problem: Problem, device: str, dtype: str) -> Problem:
    return replace(
        problem,
        lm=placed(shipped_model(), device, dtype),
        sae=placed_sae(shipped_sae(problem.layer), device, dtype),
        vector=problem.vector.to(device),
    )


@pytest.mark.parametrize(("name", "dtype"), cases([row.name for row in METHODS], {("ssv", "bfloat16"), ("supervised", "bfloat16")}))
def test_a_method_fits_what_it_fits_on_a_cpu(name: str, dtype: str, gpu: Counter[tuple[str, str]]) -> None:
    given = test_every_method.given(name)
    expected, fitted = (test_every_method.fit(name, on(given, device, dtype)) for device in ("cpu", "cuda"))
    assert type(fitted) is type(expected)
    error = 1e-4 if dtype == "float32" else 0.02
    for field in fields(expected):
        theirs, ours = getattr(expected, field.name), getattr(fitted, field.name)
        if not isinstance(theirs, Tensor | dict):
            assert ours == (pytest.approx(theirs, rel=error) if isinstance(theirs, float) else theirs)
    for key, tensor in tensors_of(expected).items():
        ours, theirs = tensors_of(fitted)[key].cpu().double(), tensor.double()
        assert float((ours - theirs).norm()) <= error * float(theirs.norm()), key
