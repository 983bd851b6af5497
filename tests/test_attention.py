"""Attention as it is on a GPU, and on a CPU, against transformers' plain one: logits of whole texts and of one token after a cache."""

import copy

import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, model_and_sae
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from saesteer.engine.attention import BY_LENGTH, GROUPED, attention_on_gpu


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES, "doge", "shipped"])
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


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3", "qwen3", "opt", "granite", "mistral", "phi3_short_window", "shipped"])
@torch.no_grad()
def test_attention_by_length_gives_the_plain_ones_logits_to_the_bit(family: str) -> None:
    """Also of texts longer than a window, which the last tokens see the end of only."""
    lm, _ = model_and_sae(family, 1)
    plain, ids = copy.deepcopy(lm.model), torch.randint(3, 200, (33, 60), generator=torch.Generator().manual_seed(0))
    plain.set_attn_implementation("eager")
    assert lm.model.config._attn_implementation == BY_LENGTH
    assert torch.equal(plain(ids).logits, lm.model(ids).logits)
    assert torch.equal(after_a_cache(plain, ids, DynamicCache(), 56), after_a_cache(lm.model, ids, DynamicCache(), 56))


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3_short_window"])
@torch.no_grad()
def test_texts_padded_before_their_first_token_have_the_plain_ones_logits(family: str) -> None:
    """As in other programs' batches, with transformers' own cache, which holds no more than a window."""
    lm, _ = model_and_sae(family, 1)
    plain, ids = copy.deepcopy(lm.model), torch.randint(3, 200, (33, 60), generator=torch.Generator().manual_seed(0))
    plain.set_attn_implementation("eager")
    mask = (torch.arange(60) >= torch.arange(33)[:, None] % 7).long()
    by_model = []
    for model in (plain, lm.model):
        cache, logits = DynamicCache(config=model.config), []
        for places in (slice(0, 56), *(slice(place, place + 1) for place in range(56, 60))):
            seen = {"attention_mask": mask[:, : places.stop], "past_key_values": cache, "use_cache": True}
            logits.append(model(ids[:, places], **seen).logits)
        by_model.append(torch.cat(logits, dim=1)[:, 6:])  # what padding reads is nobody's
    torch.testing.assert_close(*by_model, rtol=1e-4, atol=1e-4)


def after_a_cache(model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache | None = None, n_cached: int = 8) -> torch.Tensor:
    """Logits of the last four tokens, each read by itself after a cache of what is before it."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    model(ids[:, :n_cached], past_key_values=cache, use_cache=True)
    steps = [model(ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits for place in range(n_cached, n_cached + 4)]
    return torch.cat(steps, dim=1)
