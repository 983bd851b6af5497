"""Attention as it is on a GPU against transformers' plain one: logits of whole texts and of one token after a cache."""

import copy

import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, model_and_sae
from transformers import PreTrainedModel
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
    torch.testing.assert_close(model(ids).logits, lm.model(ids).logits, rtol=1e-4, atol=1e-4)
    # Token by token on both sides: transformers' linear attention (Qwen 3.5) rounds differently there than over a whole text.
    torch.testing.assert_close(after_a_cache(model, ids), after_a_cache(lm.model, ids), rtol=1e-4, atol=1e-4)


def after_a_cache(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last four tokens, each read by itself after a cache of what is before it."""
    cache = DynamicCache(config=model.config)
    model(ids[:, :8], past_key_values=cache, use_cache=True)
    steps = [model(ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits for place in range(8, 12)]
    return torch.cat(steps, dim=1)
