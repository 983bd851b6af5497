"""Residual sites: a block's input as well as its output, read, spliced and steered, against plain hooks on that very block.

resid_pre of a block is found here by a hook on the block's input, in the package by the output of the block before, but for the first.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import FAMILIES, N_LAYERS, tiny_model, tiny_sae
from oracles import plain_hooks, splitmix

from saesteer.core.counter_rng import text_keys
from saesteer.engine import head, models
from saesteer.engine.activations import sparse_codes
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import encode, encoder_input, largest_code

PROMPT = "From ba be dibo tuda"
PREFIXES = {f"{number:016x}": text for number, text in enumerate([PROMPT, "ba", "tuda be"])}
PRE = [0, 2]


def sweep_rows(n: int) -> pl.DataFrame:
    """n different rows over features, factors and prefixes."""
    grid = [(feature, factor, f"{prefix:016x}", 0) for feature in range(0, 96, 5) for factor in ("0", "0.8", "10") for prefix in range(3)]
    order = np.random.default_rng(0).permutation(len(grid))[:n]
    schema = {"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    return pl.DataFrame([grid[place] for place in order], schema=schema, orient="row")


def test_the_input_of_a_block_is_the_output_of_the_one_before() -> None:
    lm = tiny_model("llama")
    assert [models.depth_of(lm, layer, "resid_pre") for layer in range(N_LAYERS)] == [0, 1, 2, 3]
    assert [models.depth_of(lm, layer, "resid_post") for layer in range(N_LAYERS)] == [1, 2, 3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_equals_a_hook_on_the_block_and_the_hidden_states(family: str) -> None:
    lm = tiny_model(family)
    token_ids = models.prompt_token_ids(lm, PROMPT)
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        hidden_states = copy.deepcopy(lm.model)(ids, output_hidden_states=True).hidden_states  # leaves hooks of its own in the model
    together = models.residuals_at(lm, ids, range(N_LAYERS + 1))
    for layer in range(N_LAYERS):
        depth = models.depth_of(lm, layer, "resid_pre")
        residual = models.residual_at(lm, ids, depth)
        torch.testing.assert_close(residual[0], plain_hooks.residuals(lm.model, token_ids, layer, "resid_pre"), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(residual, hidden_states[layer], rtol=1e-5, atol=1e-5)
        assert torch.equal(residual, together[depth])


def test_the_first_blocks_input_has_positions_in_it_where_the_family_adds_them() -> None:
    ids = torch.tensor([[40, 40, 40]])
    for family, is_same_everywhere in (("gpt2", False), ("llama", True), ("gpt_neox", True), ("gemma2", True)):
        residual = models.residual_at(tiny_model(family), ids, 0)[0]
        assert torch.equal(residual[1], residual[2]) == is_same_everywhere


@pytest.mark.parametrize("layer", PRE)
@pytest.mark.parametrize("n_tokens", [1, 2, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_spliced_rows_give_the_whole_forwards_logits(family: str, n_tokens: int, layer: int) -> None:
    lm = tiny_model(family)
    token_ids = models.prompt_token_ids(lm, PROMPT)[:n_tokens]
    depth = models.depth_of(lm, layer, "resid_pre")
    rows = models.residual_at(lm, torch.tensor([token_ids]), depth)[:, -1] + 3 * tiny_sae(layer).W_dec[:4]
    logits = head.soft_capped(lm, head.raw_logits(lm, models.spliced_hidden(lm, models.prefill(lm, token_ids), depth, rows)))
    for row in range(4):
        assert (logits[row] - _logits_with_row(lm, token_ids, layer, rows[row])).abs().max() < 2e-5


@torch.no_grad()
def _logits_with_row(lm: models.LanguageModel, token_ids: list[int], layer: int, row: torch.Tensor) -> torch.Tensor:
    def put_in(residual: torch.Tensor) -> torch.Tensor:
        residual = residual.clone()
        residual[0, -1] = row
        return residual

    handle = plain_hooks.at_site(lm.model, layer, "resid_pre", put_in)
    logits = lm.model(torch.tensor([token_ids])).logits[0, -1]
    handle.remove()
    return logits


def test_blocks_that_are_not_needed_are_not_run() -> None:
    lm = tiny_model("llama")
    prompt = models.prefill(lm, [1, 40, 41])
    ran: list[int] = []
    handles = [
        block.self_attn.register_forward_hook(lambda *_args, number=number: ran.append(number)) for number, block in enumerate(lm.blocks)
    ]
    models.residual_at(lm, torch.tensor([[1, 40, 41]]), models.depth_of(lm, 0, "resid_pre"))
    assert ran == []
    models.spliced_hidden(lm, prompt, models.depth_of(lm, 2, "resid_pre"), torch.zeros(1, lm.d_model))
    assert ran == [2, 3]
    models.spliced_hidden(lm, prompt, models.depth_of(lm, 0, "resid_pre"), torch.zeros(1, lm.d_model))
    assert ran == [2, 3, 0, 1, 2, 3]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layer", PRE)
@pytest.mark.parametrize("family", FAMILIES)
def test_output_score_equals_the_papers_formula(family: str, layer: int, centred: bool) -> None:
    lm, sae = tiny_model(family), tiny_sae(layer, site="resid_pre", centred=centred)
    features = [5, 0, 17]
    lens, _ = lens_tokens(lm, sae.W_dec[features].roll(1, dims=0), 20)
    table = output_scores(lm, sae, layer, features, lens, PROMPT, 10.0)
    token_ids = models.prompt_token_ids(lm, PROMPT)
    a_max = plain_hooks.code_of(sae, plain_hooks.residuals(lm.model, token_ids, layer, "resid_pre")[-1]).max()
    for row, tokens in zip(table.to_dicts(), lens.tolist(), strict=True):
        expected = plain_hooks.output_score(lm.model, sae, layer, row["feature"], 10.0, token_ids, tokens)
        assert row["min_rank"] == expected["min_rank"]
        assert row["output_score"] == pytest.approx(expected["output_score"], abs=1e-6)
        assert row["a_max"] == pytest.approx(float(a_max), rel=1e-5)


@pytest.mark.parametrize("layer", PRE)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_rows_equal_generate_with_a_hook_on_the_input(family: str, layer: int) -> None:
    lm, sae = tiny_model(family), tiny_sae(layer, site="resid_pre")
    table = pl.concat(feature_texts(lm, sae, layer, sweep_rows(24), PREFIXES, Sampling(8, 0.0, stop=""), 3))
    for row in table.to_dicts():
        ids = models.prompt_token_ids(lm, PREFIXES[row["prefix_id"]])
        assert row["token_ids"] == plain_hooks.generated(lm.model, sae, layer, row["feature"], float(row["factor"]), ids, 8, [2])


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_rows_equal_whole_forwards_with_the_layers_random_numbers(family: str) -> None:
    lm, sae = tiny_model(family), tiny_sae(2, site="resid_pre", centred=True)
    table = pl.concat(feature_texts(lm, sae, 2, sweep_rows(12), PREFIXES, Sampling(5, stop="", top_k=30), 3))
    for row in table.to_dicts():
        keys = (3, 2, row["feature"], int(text_keys([row["factor"]])[0]), int(row["prefix_id"], 16), row["sample"])
        numbers = [splitmix.uniform(*keys, step) for step in range(row["n_tokens"])]
        ids = models.prompt_token_ids(lm, PREFIXES[row["prefix_id"]])
        assert row["token_ids"] == plain_hooks.sampled(lm.model, sae, 2, row["feature"], float(row["factor"]), ids, numbers, 0.7, 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_of_several_sites_come_from_one_forward(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_model(family)
    saes = {0: tiny_sae(0, site="resid_pre"), 1: tiny_sae(1), 2: tiny_sae(2, seed=4, site="resid_pre", centred=True)}
    texts = pl.DataFrame({"text_id": ["a", "b"], "token_ids": [[1, 40, 60, 41], [1, 70, 71, 72, 73, 90]]})
    forwards: list[Any] = []
    monkeypatch.setattr("saesteer.engine.sites.residuals_at", lambda *args: forwards.append(args) or models.residuals_at(*args))
    table = pl.concat(sparse_codes(lm, saes, texts))
    assert len(forwards) == 1
    for layer, sae in saes.items():
        for text_id, token_ids in texts.iter_rows():
            residuals = plain_hooks.residuals(lm.model, token_ids, layer, sae.meta.site)
            codes = torch.stack([plain_hooks.code_of(sae, residual) for residual in residuals])
            codes[0] = 0
            row = table.row(by_predicate=(pl.col("layer") == layer) & (pl.col("text_id") == text_id), named=True)
            dense = torch.zeros_like(codes)
            dense[row["token_index"], row["feature"]] = torch.tensor(row["value"])
            torch.testing.assert_close(dense, codes, rtol=1e-4, atol=2e-4)


def test_a_centred_sae_is_given_rows_without_their_mean() -> None:
    plain, centred = tiny_sae(1), tiny_sae(1, centred=True)
    residual = 3 * torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1)) + 5
    by_hand = residual - residual.sum(dim=-1, keepdim=True) / 32
    torch.testing.assert_close(encoder_input(centred, residual), by_hand, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(encode(centred, residual), encode(plain, by_hand), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(largest_code(centred, residual[0]), encode(plain, by_hand[0]).amax(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(encoder_input(plain, residual), residual)
    # A mean far larger than what is around it costs a bfloat16 residual nothing more than its own rounding.
    shifted = (residual + 100).bfloat16()
    exact = shifted.double() - shifted.double().mean(dim=-1, keepdim=True)
    torch.testing.assert_close(encoder_input(centred, shifted).double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_refusals_and_hooks_gone_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sae = tiny_model("gpt2"), tiny_sae(0, site="resid_pre")
    lens = torch.arange(20)[None]
    unknown = replace(sae, meta=replace(sae.meta, site="resid_late"))
    with pytest.raises(ValueError, match="site 'resid_late' does not exist"):
        next(feature_texts(lm, unknown, 0, sweep_rows(4), PREFIXES, Sampling(), 0))
    with pytest.raises(ValueError, match="site 'resid_late' does not exist"):
        output_scores(lm, unknown, 0, [1], lens, PROMPT, 10.0)
    with pytest.raises(ValueError, match="site 'resid_late' does not exist"):
        next(sparse_codes(lm, {0: unknown}, pl.DataFrame({"text_id": ["a"], "token_ids": [[1, 2]]})))

    def failing(*_args: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr("saesteer.engine.steering.largest_code", failing)
    with pytest.raises(MemoryError):
        next(feature_texts(lm, sae, 0, sweep_rows(4), PREFIXES, Sampling(), 0))
    monkeypatch.setattr(lm.blocks[3].mlp, "forward", failing)
    with pytest.raises(MemoryError):
        models.residuals_at(lm, torch.tensor([[1, 40]]), [0, 4])
    with pytest.raises(MemoryError):
        models.spliced_hidden(lm, models.Prefill((), (), 1, 0), 0, torch.zeros(1, lm.d_model))
    assert not any(block._forward_hooks or block._forward_pre_hooks or "forward" in block.__dict__ for block in lm.blocks)
