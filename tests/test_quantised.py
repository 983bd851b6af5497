"""Weights of 8 and 4 bits: what is quantised, how far scores move, and what is refused. Most needs torchao: `make test-extras`."""

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import WORLD, LanguageModel, model_and_sae, narrow_sae, save_model, tiny_model, tiny_sae
from polars.testing import assert_frame_equal
from small_adapters import a_change, a_lora, rows_of
from test_low_precision import N, compared, scores
from test_own_model import own, problems  # noqa: F401 (a fixture)
from transformers import AutoConfig

from saesteer.engine.adapters import changed_weights
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import language_model, load_language_model
from saesteer.engine.quantised import is_quantised, numbers_of, tensors_in
from saesteer.methods.fit.sft import trainable_copy
from saesteer.settings import Experiment, experiment_of
from saesteer.sources.model_size import QUANTISED, bytes_of_weights, n_gpus, total_bytes

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="could not import 'torchao'")
DTYPES = tuple(QUANTISED)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Loads a tiny model of a family in a format, from its files."""
    return lambda family, dtype: load_language_model(save_model(tiny_model(family), tmp_path / family), dtype, "cpu")


def dequantised(lm: LanguageModel, dtype: torch.dtype = torch.bfloat16) -> LanguageModel:
    """The same model with plain weights."""
    plain = copy.deepcopy(tiny_model("llama").model).to(dtype)
    values = dict(lm.model.named_parameters())
    for name, weight in plain.named_parameters():
        weight.data = plain_values(values[name]).to(dtype)
    return language_model(plain, lm.tokenizer)


def plain_values(weight: torch.Tensor) -> torch.Tensor:
    if not is_quantised(weight):
        return weight.data
    return weight.dequantize() if hasattr(weight, "qdata") else weight.get_original_weight()


@needs_torchao
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_5_text"])
def test_what_scores_read_directly_is_not_quantised(saved: Any, family: str, dtype: str) -> None:
    lm = saved(family, dtype)
    kinds = {name: is_quantised(weight) for name, weight in lm.model.named_parameters()}
    assert {name for name, quantised in kinds.items() if quantised} == {
        name for name in kinds if ".layers." in name and name.endswith(("_proj.weight", "in_proj_qkv.weight", "in_proj_z.weight"))
    } | {name for name in kinds if name.endswith(("in_proj_a.weight", "in_proj_b.weight"))}
    assert torch.equal(lm.head.weight, tiny_model(family).head.weight.bfloat16())
    assert lm.dtype == torch.bfloat16
    assert all(part.isfinite().all() for weight in lm.model.parameters() for part in tensors_in(weight) if part.is_floating_point())


@needs_torchao
def test_weights_are_the_nearest_of_their_format(saved: Any) -> None:
    name = "model.layers.2.mlp.down_proj"
    weight = tiny_model("llama").model.get_submodule(name).weight.data.bfloat16().float()
    int8 = plain_values(saved("llama", "int8").model.get_submodule(name).weight).float()
    step = weight.abs().amax(dim=1, keepdim=True) / 127.5
    assert ((int8 - weight).abs() <= step * 0.51 + 2**-8 * weight.abs()).all()
    assert (int8 / step).round().unique().numel() > 100
    nf4 = plain_values(saved("llama", "nf4").model.get_submodule(name).weight).float().view(-1, 64)
    blocks = weight.view(-1, 64)
    widest = (1 - 0.6962) / 2  # between the two lowest of NormalFloat's 16 levels
    assert ((nf4 - blocks).abs() <= (widest + 0.02) * blocks.abs().amax(dim=1, keepdim=True)).all()
    assert all(row.unique().numel() <= 16 for row in nf4)


@needs_torchao
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "qwen3_5_text", "shipped"])
def test_scores_rank_as_float32_ones(saved: Any, family: str, dtype: str, record_property: Any) -> None:
    lm, sae = model_and_sae(family, 1)
    quantised = load_language_model(WORLD / "model", dtype, "cpu") if family == "shipped" else saved(family, dtype)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:N], 20)
    exact, rounded = scores(lm, sae, family, lens), scores(quantised, narrow_sae(sae), family, lens)
    errors = compared(exact["output_score"], rounded["output_score"])
    record_property(f"{family} {dtype} output_score", errors)
    assert errors["spearman"] > {"int8": 0.99, "nf4": 0.9}[dtype], errors
    assert errors["median"] < {"int8": 0.03, "nf4": 0.15}[dtype], errors


@needs_torchao
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_those_of_the_weights_brought_back(saved: Any, dtype: str) -> None:
    """In bfloat16 the same sums in another order, or with a scale before instead of behind them."""
    lm, sae = saved("llama", dtype), narrow_sae(tiny_sae(1))
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:N], 20)
    errors = compared(*(scores(one, sae, "llama", lens)["output_score"] for one in (dequantised(lm), lm)))
    assert errors["median"] < 0.02, errors
    assert errors["spearman"] > 0.995, errors


@needs_torchao
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_company(saved: Any, dtype: str) -> None:
    lm, sae = saved("llama", dtype), narrow_sae(tiny_sae(1))
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:N], 20)
    together = scores(lm, sae, "llama", lens)
    features = [7, 90, 3]
    apart = scores(lm, sae, "llama", lens[features], features=features)
    assert_frame_equal(apart.sort("feature"), together.filter(together["feature"].is_in(features)).sort("feature"), check_exact=True)


@needs_torchao
@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_trains_through_quantised_weights(saved: Any, dtype: str) -> None:
    lm = saved("llama", dtype)
    ids = rows_of(lm)
    gradients = []
    for one in (lm, dequantised(lm)):
        adapter = a_lora(one)
        adapter.A.requires_grad_()
        with adapter.installed(one, torch.ones(len(ids))):
            one.model(ids, labels=ids).loss.float().backward()
        gradients.append(adapter.A.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@needs_torchao
def test_changing_quantised_weights_is_refused(saved: Any) -> None:
    lm = saved("llama", "int8")
    with pytest.raises(ValueError, match="quantised weights cannot be trained or changed: set the model's dtype to bfloat16"):
        trainable_copy(lm)
    with pytest.raises(ValueError, match="quantised weights cannot be trained or changed"):
        changed_weights(lm, a_change(tiny_model("llama")), torch.ones(1))


@needs_torchao
def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    damaged = language_model(copy.deepcopy(tiny_model("llama").model), tiny_model("llama").tokenizer)
    damaged.model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    folder = save_model(damaged, tmp_path)
    for dtype in DTYPES:
        with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight is not finite"):
            load_language_model(folder, dtype, "cpu")


# Without torchao.


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_models_of_few_linear_maps_are_refused(tmp_path: Path, family: str) -> None:
    folder = save_model(tiny_model(family), tmp_path)
    with pytest.raises(ValueError, match=r"only \d+% of the weights of its blocks are those of linear maps.*dtype to bfloat16"):
        numbers_of(AutoConfig.from_pretrained(folder))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "qwen3_5_text"])
def test_bytes_of_quantised_weights(tmp_path: Path, family: str) -> None:
    """By the headers of the files and by the configuration; and the numbers are all there are."""
    lm = tiny_model(family)
    folder = save_model(lm, tmp_path)
    numbers = numbers_of(AutoConfig.from_pretrained(folder).to_dict())
    assert sum(numbers) == sum(weight.numel() for weight in lm.model.parameters())
    for dtype in DTYPES:
        assert bytes_of_weights(folder, dtype) == total_bytes(*numbers, dtype)
    of_70b = (68 * 10**9, 2 * 10**9)
    assert [n_gpus(total_bytes(*of_70b, dtype), 80 * 2**30) for dtype in ("float32", "bfloat16", "int8", "nf4")] == [4, 2, 1, 1]


def with_dtype(experiment: Experiment, dtype: str) -> Experiment:
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"dtype": dtype})})


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_refuses_where_torchao_is_not_installed(own: Experiment, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "torchao", None)
    (problem,) = problems(with_dtype(own, dtype))
    assert problem.startswith(f"model: dtype {dtype} needs torchao, which is not installed here: run `")


@needs_torchao
def test_check_passes_where_it_is(own: Experiment) -> None:  # noqa: F811
    assert problems(with_dtype(own, "nf4")) == []


def test_sft_is_refused_in_the_settings(own: Experiment) -> None:  # noqa: F811
    methods = {
        "methods": ["unsteered", "lora", "sft"],
        "concepts": {"kind": "published", "concepts": "a/b", "texts": "a/c"},
        "prompts": "config/prefixes.txt",
    }
    values = own.model_dump(mode="json") | {"kind": "comparison", "methods": methods}
    experiment_of(values)
    values["model"]["dtype"] = "nf4"
    with pytest.raises(ValueError, match="sft trains all weights, which nf4 does not allow: leave sft out"):
        experiment_of(values)
