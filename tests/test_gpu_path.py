"""What runs on a GPU gives what a CPU gives: on a real one where there is one (`pytest -m gpu`), elsewhere on a pretended one, which
refuses what CUDA refuses. Every step with a model, every method, in bfloat16 (on a real one in float32, too), at the tile sizes of a
GPU."""

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
from test_generate import recorded_steps
from test_judge_local import judge_model
from torch import Tensor

from saesteer.engine import continuation
from saesteer.engine.models import LanguageModel, language_model, pad_columns
from saesteer.engine.saes import TENSORS, Sae
from saesteer.engine.steering import Intervention
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
    model.set_attn_implementation("eager")  # on both devices: test_attention.py compares them
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


def assert_alike(got: pl.DataFrame, expected: pl.DataFrame, dtype: str) -> None:
    """Columns of numbers, and lists of them, within what the format's rounding may move; texts, codes' places and other lists in nearly
    every row. Codes, of which a few near the threshold come and go, one by one."""
    assert got.columns == expected.columns
    if "token_index" in got.columns:
        got, expected = codes_of_both(got, expected)
    tolerance = (1e-4, 1e-5) if dtype == "float32" else (0.1, 0.05)
    lists = [name for name, kind in got.schema.items() if kind == pl.List(pl.Float32)]
    others = got.drop(lists).schema.items()
    exact = [name for name, kind in others if kind.is_nested() or kind in (pl.String, pl.Binary, pl.Boolean, pl.UInt16)]
    same = [got[row].select(exact).equals(expected[row].select(exact)) for row in range(got.height)] if exact else []
    same += [np.allclose(*pair, *tolerance) for name in lists for pair in zip(got[name], expected[name], strict=True)]
    assert not same or np.mean(same) >= (0.99 if dtype == "float32" and not REAL else 0.8), f"{np.mean(same):.1%} alike"
    numbers = [table.drop(exact, lists) for table in (got, expected)]
    assert_frame_equal(*numbers, check_exact=False, rel_tol=tolerance[0], abs_tol=tolerance[1])


def codes_of_both(got: pl.DataFrame, expected: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of single codes that both tables have, nearly all of them."""
    place = ["text_id", "token_index", "feature"]
    ours, theirs = (table.explode("token_index", "feature", "value").sort(place) for table in (got, expected))
    both = ours.select(place).join(theirs, on=place, how="semi")
    assert both.height >= 0.95 * max(ours.height, theirs.height)
    return [table.join(both, on=place, how="semi") for table in (ours, theirs)]


def cases(names: Iterable[str], short: Iterable[tuple[str, str]]) -> list[Any]:
    """Every name in every dtype; all but a few under make test-all, and those in bfloat16 alone where the GPU is pretended."""
    marks = (pytest.mark.slow, pytest.mark.exhaustive)
    run = [(name, dtype) for name in names for dtype in DTYPES if REAL or dtype == "bfloat16" or (name, dtype) in short]
    return [pytest.param(name, dtype, marks=() if (name, dtype) in short else marks) for name, dtype in run]


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


def rounding(expected: Intervention, other: Intervention) -> float:
    """The largest relative difference of two fits' tensors, as far as they have the same shapes."""
    theirs = other.tensors
    pairs = ((tensor.cpu().double(), theirs[name].cpu().double()) for name, tensor in expected.tensors.items())
    return max((float((one - two).norm() / one.norm().clamp(min=1e-30)) for one, two in pairs if one.shape == two.shape), default=0.0)


@pytest.mark.parametrize(("name", "dtype"), cases([row.name for row in METHODS], {("ssv", "bfloat16"), ("supervised", "bfloat16")}))
def test_a_method_fits_what_it_fits_on_a_cpu(name: str, dtype: str, gpu: Counter[tuple[str, str]]) -> None:
    """A real GPU adds up in another order, which training magnifies: as much as bfloat16 moves the fit on a CPU is allowed there, and one
    in five of the features chosen from many may be others."""
    given = test_every_method.given(name)
    expected, fitted = (test_every_method.fit(name, on(given, device, dtype)) for device in ("cpu", "cuda"))
    assert type(fitted) is type(expected)
    error = 1e-4 if dtype == "float32" else 0.02
    if REAL:
        other = test_every_method.fit(name, on(given, "cpu", "bfloat16" if dtype == "float32" else "float32"))
        error = max(10 * error if dtype == "float32" else error, rounding(expected, other) * (1 if dtype == "float32" else 2))
        chosen, ours = (set(getattr(fit, "features", None) or ()) for fit in (expected, fitted))
        assert len(chosen & ours) >= 0.8 * len(chosen)
        if chosen != ours:
            return
    for field in fields(expected):
        theirs, ours = getattr(expected, field.name), getattr(fitted, field.name)
        if field.name == "features" and REAL:
            assert set(ours) == set(theirs)
        elif not isinstance(theirs, Tensor | dict):
            assert ours == (pytest.approx(theirs, rel=error) if isinstance(theirs, float) else theirs)
    for key, tensor in expected.tensors.items():
        ours, theirs = fitted.tensors[key].cpu().double(), tensor.double()
        assert float((ours - theirs).norm()) <= error * float(theirs.norm()), key


def test_on_a_gpu_sums_over_the_vocabulary_have_rows_of_whole_16_bytes(gpu: Counter[tuple[str, str]]) -> None:
    for n_columns, filled in ((341, 344), (342, 344), (343, 344), (344, 344)):
        rows = torch.ones(3, n_columns)
        assert pad_columns(rows, 0.0) is rows
        assert float(pad_columns(rows.to("cuda"), 0.0).sum().cpu()) == rows.sum()
        assert pad_columns(rows.to("cuda"), 0.0).shape == (3, filled)


def test_short_prompts_go_many_to_a_forward(gpu: Counter[tuple[str, str]]) -> None:
    """Whatever there is of them, so that no row's numbers depend on that."""
    with steps_on("cuda", "bfloat16"), recorded_steps() as (_, n_rows):
        STEPS["sweep"]().run(list(range(5)), None)
    assert n_rows == {continuation.TILE_OF_SHORT}
    assert [continuation.full_tile(torch.device("cuda"), length) for length in (1, 16, 17)] == [2048, 2048, 512]
    assert continuation.full_tile(torch.device("cpu"), 1) == 64
