"""Numbers that are not finite stop every step by name: of a faulty matrix unit, of a format that is too narrow, of an SAE's weights."""

# ruff: noqa: F811 (fixtures of another file)

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import test_invariance
import torch
from engine_models import rows_of_grid, shipped_sae, tiny_model, tiny_sae
from safetensors.torch import load_file, save_file
from served import post, serving
from test_evaluation import comparison, finished_fits  # noqa: F401
from test_every_method import BRIEF, fit, given
from test_generate import prefixes_of, swept
from test_saes import write_source
from test_serve import MEDICINE, PROMPT, page_in
from torch import Tensor, nn

from saesteer import api
from saesteer.core.errors import SaesteerError
from saesteer.core.tables import TableError, validate
from saesteer.engine.continuation import Sampling
from saesteer.engine.vector_formats import median_a_max
from saesteer.run import Run
from saesteer.serve.terminal import Request, texts_by_token
from saesteer.steps.activations import ACTIVATIONS

BAD = "not finite in float32 on cpu"
TEXTS = ["From ba be bi.", "ba di du ta tu.", "be bo by."]


@contextmanager
def faulty_from(first: int) -> Iterator[list[int]]:
    """Within the context, one column of sixteen is NaN in every product of `linear` from this call on; the number of calls is counted."""
    calls, product = [0], nn.functional.linear

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls[0] += 1
        made = product(rows, weight, bias)
        if calls[0] > first and weight.shape[0] > 12:
            made = made.index_fill(-1, torch.tensor([12]), math.nan)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", linear)
        yield calls


def of_a_step(step: Callable[[], test_invariance.Step]) -> Callable[[], Any]:
    made = step()
    return lambda: made.run(list(range(min(made.n, 40))), None)


def of_a_method(name: str) -> Callable[[], Any]:
    problem = given(name, epochs=BRIEF)
    return lambda: fit(name, problem)


def of_the_api(name: str) -> Callable[[], Any]:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    ways: dict[str, Callable[[], Any]] = {
        "model": lambda: api.load_model(lm.model, tokenizer=lm.tokenizer),
        "a_max": lambda: median_a_max(lm, sae, 1, [[2, 5, 6], [2, 7, 8]]),
    }
    return ways[name]


WAYS: dict[str, Callable[[], Callable[[], Any]]] = {
    "output score": lambda: of_a_step(partial(test_invariance.output_score_step, "llama")),
    "output score at hook_z": lambda: of_a_step(partial(test_invariance.output_score_step, "gemma2", hook_point="hook_z")),
    "sweep": lambda: of_a_step(partial(test_invariance.sweep_step, "llama")),
    "texts under every kind of intervention": lambda: of_a_step(test_invariance.texts_step),
    "perplexity": lambda: of_a_step(partial(test_invariance.perplexity_step, "llama")),
    "damage": lambda: of_a_step(test_invariance.damage_step),
    "activations": lambda: of_a_step(test_invariance.activations_step),
    "effects": lambda: of_a_step(test_invariance.effects_step),
    "top logit-lens tokens": lambda: of_a_step(test_invariance.lens_step),
    "local judge": lambda: of_a_step(test_invariance.judge_step),
    **{f"api: {name}": partial(of_the_api, name) for name in ("model", "a_max")},
    **{f"fit: {name}": partial(of_a_method, name) for name in ("diffmean", "lora", "reft_r1", "sae_ablation", "sae_gradient_output")},
}


@pytest.mark.parametrize("name", WAYS)
def test_no_number_of_a_faulty_unit_leaves_a_forward(name: str) -> None:
    """Whether it fails before the first product, on the way, or at the very last."""
    way = WAYS[name]()
    with faulty_from(10**9) as calls:
        way()
    for first in (0, calls[0] // 2, calls[0] - 1):
        way = WAYS[name]()
        with faulty_from(first), pytest.raises(SaesteerError, match=BAD):
            way()


def test_the_row_is_named() -> None:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    grid = [(3, "2", prefix, 0) for prefix in prefixes_of("llama")]
    with faulty_from(0), pytest.raises(SaesteerError, match=r"From ba be"):
        api.max_activating_examples(lm, sae, [3], TEXTS)
    with faulty_from(10**9) as calls:
        swept(lm, sae, rows_of_grid(grid), "llama", Sampling(4))
    with faulty_from(calls[0] - 1), pytest.raises(SaesteerError, match=r"layer 1, feature 3, factor 2, .*not finite"):
        swept(lm, sae, rows_of_grid(grid), "llama", Sampling(4))


def test_a_server_says_why_there_is_no_text(comparison: Run, tmp_path: Path) -> None:
    with serving(comparison, page_in(tmp_path), {6: shipped_sae(6)}) as server, faulty_from(0):
        answer = post(f"{server.address}/v1/completions", json={"prompt": PROMPT, "steering": MEDICINE, "max_tokens": 3})
        following = post(f"{server.address}/api/next", json={"prompt": PROMPT, "steering": MEDICINE, "layer": 6, "feature": 548})
    assert BAD in answer.text
    assert BAD in following.text
    assert "NaN" not in answer.text + following.text


def test_a_command_says_why_there_is_no_text(comparison: Run) -> None:
    with faulty_from(0), pytest.raises(SaesteerError, match=BAD):
        list(texts_by_token(comparison, Request(6, 7, (1.5,), "I think that")))


def overflowing(share: float) -> Any:
    """A model in float16 whose MLP overflows at about this share of the tokens, though its weights are finite."""
    lm = tiny_model("llama")
    model = copy.deepcopy(lm.model)
    largest: list[Tensor] = []
    part = model.model.layers[1].mlp
    handle = part.register_forward_hook(lambda _module, _args, output: largest.append(output.abs().amax(dim=-1).flatten()))
    with torch.no_grad():
        for text in TEXTS:
            model(torch.tensor([lm.tokenizer(text)["input_ids"]]))
        model(torch.tensor([[1, 1], [1, 2]]))  # what is tried when a model is loaded
        handle.remove()
        tried, sizes = largest.pop().max(), torch.cat(largest)
        limit = sizes.quantile(1 - share) if share < 1 else min(sizes.min(), tried) / 2
        part.down_proj.weight *= 65504 / limit
    return model.half(), lm.tokenizer, bool(share < 1 and tried < limit)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_float16_that_overflows_is_refused_by_name(share: float) -> None:
    model, tokenizer, loads = overflowing(share)
    said = r"not finite in float16 on cpu: use float32, or bfloat16 on a GPU"
    if not loads:
        with pytest.raises(SaesteerError, match=said):
            api.load_model(model, tokenizer=tokenizer)
        return
    lm, sae = api.load_model(model, tokenizer=tokenizer), tiny_sae(1)
    with pytest.raises(SaesteerError, match=rf"text .*{said}"):
        api.max_activating_examples(lm, sae, range(96), TEXTS)
    with pytest.raises(SaesteerError, match=rf"text .*{said}"):
        api.steer(lm, sae, [3], [0, 2], TEXTS)


def test_float16_that_is_too_narrow_for_an_sae_is_refused_by_name(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    tensors = load_file(source / "sae_weights.safetensors")
    tensors["W_dec"][3, 4] = 1e5
    save_file(tensors, source / "sae_weights.safetensors")
    assert api.load_sae(source).W_dec.max() == 1e5
    with pytest.raises(SaesteerError, match=r"source: tensor W_dec is not finite in float16 on cpu: use float32, or bfloat16 on a GPU"):
        api.load_sae(source, dtype="float16")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_list_of_a_stored_row_holds_what_is_not_finite(bad: float) -> None:
    columns = {
        "layer": [1],
        "text_id": ["a"],
        "n_tokens": [3],
        "n_ordinary": [2],
        "token_index": [[1, 2]],
        "feature": [[4, 5]],
        "value": [[0.5, bad]],
    }
    with pytest.raises(TableError, match=r"column value is NaN or infinite at .*'text_id': 'a'"):
        validate(ACTIVATIONS, pl.DataFrame(columns).cast(pl.Schema(ACTIVATIONS.schema)), "test")
