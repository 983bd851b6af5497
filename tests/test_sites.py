"""Residual hook points: output scores at a block's input against a plain hook on that very block, and SAEs of centred residuals.

resid_pre of a block is found here by a hook on the block's input, in the package by the output of the block before, but for the first.
Reading and the splice are in test_models, feature activations in test_activations, texts in test_generate.
"""

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import FAMILIES, rows_of_grid, tiny_model, tiny_sae
from oracles import plain_hooks

from saesteer.engine import models
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import encode, encoder_input, largest_activation

PROMPT = "From ba be dibo tuda"
PREFIXES = {f"{number:016x}": text for number, text in enumerate([PROMPT, "ba", "tuda be"])}


def sweep_rows(n: int) -> pl.DataFrame:
    """n different rows over features, factors and prefixes."""
    grid = [(feature, factor, f"{prefix:016x}", 0) for feature in range(0, 96, 5) for factor in ("0", "0.8", "10") for prefix in range(3)]
    order = np.random.default_rng(0).permutation(len(grid))[:n]
    return rows_of_grid(grid[place] for place in order)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layer", [0, 2])
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


def test_a_centred_sae_is_given_rows_without_their_mean() -> None:
    plain, centred = tiny_sae(1), tiny_sae(1, centred=True)
    residual = 3 * torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1)) + 5
    by_hand = residual - residual.sum(dim=-1, keepdim=True) / 32
    torch.testing.assert_close(encoder_input(centred.meta, residual, torch.float32), by_hand, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(encode(centred, residual), encode(plain, by_hand), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(largest_activation(centred, residual[0]), encode(plain, by_hand[0]).amax(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(encoder_input(plain.meta, residual, torch.float32), residual)
    # A mean far larger than what is around it costs a bfloat16 residual nothing more than its own rounding.
    shifted = (residual + 100).bfloat16()
    exact = shifted.double() - shifted.double().mean(dim=-1, keepdim=True)
    torch.testing.assert_close(encoder_input(centred.meta, shifted, torch.float32).double(), exact, rtol=1e-4, atol=1e-4)
