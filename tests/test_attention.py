"""Attention as it is on a GPU against transformers' plain one: logits of whole texts and of one token after a cache."""

import copy

import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, model_and_sae
from transformers.cache_utils import DynamicCache

from saesteer.engine.attention import GROUPED, attention_on_gpu


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES, "shipped"])
@torch.no_grad()
def test_attention_on_a_gpu_gives_the_plain_ones_logits(family: str) -> None:
    lm, _ = model_and_sae(family, 1)
    model, ids = copy.deepcopy(lm.model), torch.randint(3, 200, (33, 12), generator=torch.Generator().manual_seed(0))
    name = attention_on_gpu(model)
    assert name == ("eager" if family == "bloom" else GROUPED)
    model.set_attn_implementation(name)
    expected = lm.model(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    cache = DynamicCache(config=model.config)
    model(ids[:, :8], past_key_values=cache, use_cache=True)
    steps = [model(ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits for place in range(8, 12)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:, 8:], rtol=1e-4, atol=1e-4)
