"""Families of models that cannot run here, by what their config.json says; `engine.structure` refuses them, too, but only once they are
there. docs/reference/models.md lists those that were tried."""

from collections.abc import Mapping
from typing import Any

_RECURRENT = "its layers keep a state of a prompt but no keys and values"
_FORM = "what it keeps of a prompt is in a form that cannot be shared between rows yet"
_SHARED = "its layers use keys and values of earlier layers, which a splice leaves out"
_ENCODER = "it is no decoder that hands its last residual to a head"
_ALONE = "transformers has no class for its text model alone"
_PREFIX = "it reads a prompt in both directions"
_HEAD = "its logits are made from its last residual in a way that is not known here"

REFUSED = {
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm"), _RECURRENT),
    **dict.fromkeys(("axk2", "deepseek_v32", "deepseek_v4", "dots3_note_text", "glm_moe_dsa", "hy_v4", "qwen4_exp_text"), _FORM),
    **dict.fromkeys(
        ("falcon_h1", "inkling2_text", "inkling_text", "minimax", "nemotron_h", "openai-gpt", "zamba", "zamba2", "zaya"), _FORM
    ),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), _SHARED),
    **dict.fromkeys(("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"), _ALONE),
    **dict.fromkeys(("paligemma",), _PREFIX),
    **dict.fromkeys(("hyperclovax", "llama4", "llama4_text", "minicpm3"), _HEAD),
    **dict.fromkeys(("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"), _ENCODER),
    **dict.fromkeys(("bart", "marian", "mbart", "mt5", "pegasus", "t5", "umt5", "whisper"), _ENCODER),
}
"""Model type (of config.json, or of the text model within) -> why it cannot run."""

WIDTH = ("hidden_size", "n_embd", "n_embed", "d_model")
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
POSITIONS = ("max_position_embeddings", "n_positions")
"""Families' names of the residual stream's width, of the number of layers, of attention heads, and of the longest text in tokens."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's settings; models for images and text keep them in a section of their own."""
    text: Mapping[str, Any] = config.get("text_config", config)
    return text


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot run; None: nothing is known against it."""
    text = text_config(config)
    for model_type in (config.get("model_type"), text.get("model_type")):
        if model_type in REFUSED:
            return f"models of the family {model_type} cannot run: {REFUSED[model_type]}"
    if config.get("is_encoder_decoder"):
        return f"models of the family {config.get('model_type')} cannot run: {_ENCODER}"
    if text.get("num_kv_shared_layers"):
        return f"models with num_kv_shared_layers cannot run: {_SHARED}"
    if text.get("word_embed_proj_dim", text.get("hidden_size")) != text.get("hidden_size"):
        return "models whose word_embed_proj_dim is not their hidden_size cannot run: the head does not read the residual stream itself"
    return None


def size(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of some names of one size that the language model's settings have: families differ in them."""
    text = text_config(config)
    value = next((text[name] for name in names if text.get(name) is not None), None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
