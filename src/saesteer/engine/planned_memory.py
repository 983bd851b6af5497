"""How much of a GPU's memory a sweep takes, from a model's configuration alone: nothing is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.engine.continuation import MOST_ROWS, TILE, buffer_length, step_bytes
from saesteer.engine.dtypes import number_type
from saesteer.engine.memory import rows_within
from saesteer.engine.models import LanguageModel
from saesteer.engine.structure import untried_structure

_N_PROMPT = {"plain": 8, "chat": 32}
"""About the tokens of a prompt."""


def model_without_weights(config: Mapping[str, Any], dtype: str) -> LanguageModel:
    """The model of a config.json, of an image-and-text model its text's, with shapes and no numbers, and without a tokenizer."""
    text = AutoConfig.for_model(**config).get_text_config(decoder=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            text, dtype=getattr(torch, number_type(dtype)), attn_implementation="eager", trust_remote_code=False
        )
    return LanguageModel(model.eval().requires_grad_(False), None, untried_structure(model))


def sweep_bytes(lm: LanguageModel, held: int, gpu: int, prompt_format: str, n_new: int) -> int:
    """About the most bytes that a sweep of texts of `n_new` tokens takes of a GPU of `gpu` bytes: `held` by weights and SAE, the caches of
    as many texts as go together (without states of linear layers), and a step of one tile."""
    capacity = buffer_length(lm, _N_PROMPT[prompt_format], n_new) - 1 + n_new
    n_layers = lm.structure.linear.count(False)
    cache, step = 2 * n_layers * _kv_width(lm) * capacity * lm.dtype.itemsize, step_bytes(lm, capacity)
    rows = rows_within(gpu - held, cache, MOST_ROWS[1], besides=TILE[1] * step)
    return held + rows * cache + min(rows, TILE[1]) * step


def _kv_width(lm: LanguageModel) -> int:
    """Numbers that a layer keeps of a position, of keys or of values."""
    config = lm.model.config
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or lm.d_model // n_heads
    return int((getattr(config, "num_key_value_heads", None) or n_heads) * head_dim)
