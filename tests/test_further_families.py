"""Families that the engine has no line for, Gemma 3 and Qwen 3: the README says that they work."""

import polars as pl
import pytest
from engine_models import FURTHER_FAMILIES, tiny_model, tiny_sae
from oracles import plain_hooks
from test_sites import PREFIXES, PROMPT, sweep_rows

from saesteer.engine import models
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.output_score import output_scores


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("family", FURTHER_FAMILIES)
def test_greedy_rows_equal_generate_with_a_hook(family: str, site: str) -> None:
    lm, sae = tiny_model(family), tiny_sae(2, site=site)
    table = pl.concat(feature_texts(lm, sae, 2, sweep_rows(12), PREFIXES, Sampling(8, 0.0, stop=""), 3))
    for row in table.to_dicts():
        ids = models.prompt_token_ids(lm, PREFIXES[row["prefix_id"]])
        assert row["token_ids"] == plain_hooks.generated(lm.model, sae, 2, row["feature"], float(row["factor"]), ids, 8, [2])


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("family", FURTHER_FAMILIES)
def test_output_score_equals_the_papers_formula(family: str, site: str) -> None:
    lm, sae = tiny_model(family), tiny_sae(2, site=site)
    lens, _ = lens_tokens(lm, sae.W_dec[[5, 0]].roll(1, dims=0), 20)
    table = output_scores(lm, sae, 2, [5, 0], lens, PROMPT, 10.0)
    token_ids = models.prompt_token_ids(lm, PROMPT)
    for row, tokens in zip(table.to_dicts(), lens.tolist(), strict=True):
        expected = plain_hooks.output_score(lm.model, sae, 2, row["feature"], 10.0, token_ids, tokens)
        assert row["output_score"] == pytest.approx(expected["output_score"], abs=1e-6)
