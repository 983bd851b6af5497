"""bfloat16 and TF32 against float32: how far scores move, that ranks stay, and that what is counted is counted in float32."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, model_and_sae, narrow, narrow_sae, prompt_of, rows_of_grid, tiny_model, tiny_sae
from oracles import plain_hooks
from polars.testing import assert_frame_equal
from scipy import stats
from test_generate import recorded_steps

from saesteer.engine import continuation, head, models, perplexity
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, language_model
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll
from saesteer.engine.precision import is_narrow, product
from saesteer.engine.saes import Sae, encode, largest_activation

N = 96


def scores(lm: LanguageModel, sae: Sae, family: str, lens: torch.Tensor, features: Sequence[int] = range(N)) -> pl.DataFrame:
    return output_scores(lm, sae, 1, features, lens, prompt_of(family), 10.0)


def compared(exact: pl.Series, rounded: pl.Series) -> dict[str, float]:
    """Errors relative to the score, or to a hundredth of the largest where that is more, and the rank correlation."""
    relative = (exact - rounded).abs() / exact.clip(lower_bound=exact.max() / 100)
    return {
        "median": float(relative.median()),
        "largest": float(relative.max()),
        "spearman": float(stats.spearmanr(exact, rounded).statistic),
    }


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES, "shipped"])
def test_bfloat16_scores_rank_as_float32_ones(family: str, record_property: Any) -> None:
    lm, sae = model_and_sae(family, 1)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:N], 20)
    small = sae if family == "shipped" else narrow_sae(sae)  # one that is read from its file stays in float32
    exact, rounded = scores(lm, sae, family, lens), scores(narrow(lm), small, family, lens)
    errors = compared(exact["output_score"], rounded["output_score"])
    record_property(f"{family} output_score", errors)
    assert errors["spearman"] > 0.99, errors
    assert errors["median"] < 0.03, errors
    assert errors["largest"] < 0.25, errors
    change, rounded_change = exact["delta_token_confidence"], rounded["delta_token_confidence"]
    nats = {"largest": float((change - rounded_change).abs().max()), "spearman": float(stats.spearmanr(change, rounded_change).statistic)}
    record_property(f"{family} delta_token_confidence", nats)
    assert nats["spearman"] > 0.99, nats
    assert nats["largest"] < 0.25, nats


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a GPU's")
@pytest.mark.parametrize("family", FAMILIES)
def test_tf32_scores_rank_as_float32_ones(family: str, record_property: Any) -> None:
    lm, sae = model_and_sae(family, 1)
    gpu = language_model(copy.deepcopy(lm.model).cuda(), lm.tokenizer)
    on_gpu = dataclasses.replace(sae, **{name: getattr(sae, name).cuda() for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")})
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:N], 20)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    rounded = scores(gpu, on_gpu, family, lens)
    torch.set_float32_matmul_precision(before)
    errors = compared(scores(lm, sae, family, lens)["output_score"], rounded["output_score"])
    record_property(family, errors)
    assert errors["spearman"] > 0.99, errors


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
def test_the_final_norm_computes_in_float32(family: str) -> None:
    """On the same bfloat16 rows, the norm of a bfloat16 model gives the float32 norm's result but for its last rounding."""
    half = narrow(tiny_model(family))
    rows = (20 * torch.randn(40, half.d_model, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.no_grad():
        exact = plain_hooks.family_parts(copy.deepcopy(half.model).float())[1](rows.float())
    assert ((models.final_norm(half, rows).float() - exact).abs() <= 2**-7 * exact.abs() + 1e-6).all()


def test_logits_and_codes_are_float32_sums_of_narrow_products() -> None:
    lm, sae = model_and_sae("gemma2", 1)
    half, small = narrow(lm), narrow_sae(sae)
    hidden = (5 * torch.randn(40, lm.d_model, generator=torch.Generator().manual_seed(0))).bfloat16()
    exact = hidden.double() @ half.head.weight.double().T
    logits = head.raw_logits(half, hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(torch.cat([part for _, part in head.logit_chunks(half, hidden, 37)], dim=1), logits, rtol=1e-5, atol=1e-4)
    pre = hidden.double() @ small.W_enc.double() + small.b_enc.double()
    codes = encode(small, hidden)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), torch.where(pre > small.threshold, pre, 0.0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(largest_activation(small, hidden), codes.amax(dim=1))
    assert [is_narrow(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)] == [True, True, False, False]
    assert product(hidden, small.W_enc).dtype == torch.float32


def _sweep(lm: LanguageModel, sae: Sae) -> pl.DataFrame:
    prefixes = {f"{0:016x}": "From ba", f"{1:016x}": "be di do"}
    rows = rows_of_grid((feature, factor, prefix_id, 0) for feature in range(N) for factor in ("0.8", "10") for prefix_id in prefixes)
    table = pl.concat(feature_texts(lm, sae, 1, rows, prefixes, Sampling(max_new_tokens=8, stop="o"), 0))
    return table.sort("feature", "factor", "prefix_id")


def test_tiles_give_the_tokens_of_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where any shape gives the same: several tiles, dropped one by one as rows stop, and a prompt of one token."""
    lm, sae = tiny_model("llama"), tiny_sae(1)
    with recorded_steps() as (_, n_rows):
        whole = _sweep(lm, sae)
    assert max(n_rows) == 256
    monkeypatch.setattr(continuation, "shape_matters", lambda _lm: True)
    monkeypatch.setattr(continuation, "TILE", (32, 32))
    repacked = []
    real = continuation._repacked
    monkeypatch.setattr(continuation, "_repacked", lambda caches, *rest: repacked.append(len(caches)) or real(caches, *rest))
    with recorded_steps() as (_, n_rows):
        assert_frame_equal(_sweep(lm, sae), whole, check_exact=True)
    assert n_rows == {32}
    assert len(set(repacked)) > 2


def test_padded_texts_have_the_likelihoods_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: prefixes of 1 to 12 tokens end at the same place of a cache, with a mask over what lies before them."""
    lm = tiny_model("gpt2")
    prefixes = ["From " + "ba di " * (i % 7) + "be" for i in range(60)]
    rows = pl.DataFrame({"row": range(60), "prefix": prefixes, "text": [" do ba" * (1 + i % 4) for i in range(60)]})
    plain = continuation_nll(lm, rows)
    for module in (continuation, perplexity):
        monkeypatch.setattr(module, "shape_matters", lambda _lm: True)
    lengths = []
    real = perplexity._hidden
    monkeypatch.setattr(perplexity, "_hidden", lambda lm, ids, cache, shared: lengths.append(set(shared)) or real(lm, ids, cache, shared))
    assert_frame_equal(continuation_nll(lm, rows), plain, abs_tol=1e-5)
    assert max(map(len, lengths)) > 2


def test_bfloat16_likelihoods_are_close() -> None:
    lm = tiny_model("llama")
    half = narrow(lm)
    texts = [" " + " ".join(["ba", "be", "di", "do"][(i >> shift) % 4] for shift in range(0, 2 * (1 + i % 5), 2)) for i in range(60)]
    rows = pl.DataFrame({"row": range(60), "prefix": ["From ba"] * 60, "text": texts})
    exact, rounded = continuation_nll(lm, rows), continuation_nll(half, rows)
    assert (exact["mean_nll"] - rounded["mean_nll"]).abs().max() < 0.1
