"""Small random models as GGUF files, written by llama.cpp's own package `gguf` in llama.cpp's conventions."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizer_kinds import SPACES, byte_level, sentence_piece_bpe
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA = COMMON | {"ffn_norm": "post_attention_layernorm"}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA = COMMON | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
BLOCKS: dict[str, Mapping[str, str]] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | HEAD_NORMS,
    "gemma2": GEMMA,
    "gemma3": GEMMA | HEAD_NORMS,
    "phi3": {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
}
"""llama.cpp's name of an architecture -> its name of a tensor in a block -> transformers'."""

EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 16},
    "gemma2": {"query_pre_attn_scalar": 16, "head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 5.0},
    "gemma3": {"query_pre_attn_scalar": 16, "head_dim": 16, "sliding_window": 4, "num_hidden_layers": 6},
    "phi3": {"tie_word_embeddings": False, "sliding_window": 5, "pad_token_id": 1},
}
MODEL_TYPES = {"gemma3": "gemma3_text"}


def small_model(architecture: str, n_vocab: int, seed: int = 0) -> Any:
    """A random model of an architecture, norms and biases too."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = sizes | {"vocab_size": n_vocab, "max_position_embeddings": 64, "rope_theta": 5000.0, "rms_norm_eps": 2e-5}
    config |= {"initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2} | EXTRA[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(MODEL_TYPES.get(architecture, architecture), **config), attn_implementation="eager"
        )
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.data += 0.2 * torch.randn_like(weight.data)
    return model.eval().requires_grad_(False)


def quantised(weight: np.ndarray, kind: Kind) -> np.ndarray:
    """What is stored of a matrix; of a vector, which llama.cpp never quantises, its float32."""
    return gguf.quantize(weight, kind) if weight.ndim == 2 and kind != Kind.F32 else weight


def as_stored(model: Any, architecture: str, kind: Kind) -> Any:
    """The model computing with its weights as a file of some kind has them."""
    for name, weight in model.named_parameters():
        values = weight.data.numpy()
        if weight.ndim == 2:
            weight.data = torch.from_numpy(gguf.dequantize(quantised(values, kind), kind).astype(np.float32).copy())
        elif architecture.startswith("gemma") and "norm" in name:
            weight.data = weight.data + 1 - 1
    return model


def write_gguf(model: Any, architecture: str, path: Path, vocabulary: Mapping[str, Any], kind: Kind = Kind.F32, **values: Any) -> Path:
    """The model as llama.cpp's converter writes it; `vocabulary`: values of tokenizer.ggml, `values` further ones of the architecture."""
    config, names = model.config, {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    if not config.tie_word_embeddings:
        names["output.weight"] = "lm_head.weight"
    for layer, (theirs, ours), part in itertools.product(range(config.num_hidden_layers), BLOCKS[architecture].items(), ("weight", "bias")):
        if (name := f"model.layers.{layer}.{ours}.{part}") in weights:
            names[f"blk.{layer}.{theirs}.{part}"] = name
    writer = gguf.GGUFWriter(path, architecture)
    _write_values(writer, config, architecture)
    for name, value in values.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{architecture}.{name.replace('__', '.')}", value)
    for key, value in vocabulary.items():
        add = {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    for theirs, name in names.items():
        weight = weights[name] + np.float32(architecture.startswith("gemma") and "norm" in theirs)  # Gemma multiplies by 1 + weight
        part = theirs.split(".")[-2]
        if architecture == "llama" and part in ("attn_q", "attn_k"):  # rows in pairs, as its rotary embedding takes them
            n_heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            weight = weight.reshape(n_heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
        raw = None if weight.ndim == 1 or kind in (Kind.F32, Kind.F16) else kind
        writer.add_tensor(theirs, np.ascontiguousarray(quantised(weight, kind)), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_values(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    writer.add_name("small")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.rope_parameters:
        writer.add_rope_freq_base(config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"])
    if "head_dim" in EXTRA[architecture]:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if architecture in ("gemma2", "gemma3", "phi3") and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture in ("llama", "phi3"):
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)


def byte_pairs(split: str = "gpt-2") -> dict[str, Any]:
    """What a GGUF file says of a byte-level tokenizer."""
    tokenizer = byte_level(False)
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    values = _vocabulary(tokenizer, "gpt2")
    values |= {"tokens": [*values["tokens"], "12"], "token_type": [*values["token_type"], 1]}  # where digits may be together
    return values | {"pre": split, "merges": [*merges, "1 2"], "add_bos_token": False}


def sentence_pieces(dummy_prefix: bool) -> dict[str, Any]:
    """What a GGUF file says of a tokenizer of SentencePiece's kind: scores in place of merges."""
    values = _vocabulary(sentence_piece_bpe(SPACES[1]), "llama")
    scores = [-float(number) for number in range(len(values["tokens"]))]
    return values | {"pre": "default", "scores": scores, "add_bos_token": True, "add_space_prefix": dummy_prefix}


def _vocabulary(tokenizer: Tokenizer, model: str) -> dict[str, Any]:
    tokens = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    kinds = [2 if token == "<unk>" else 3 if token in ("<s>", "</s>") else 6 if token.startswith("<0x") else 1 for token in tokens]
    special = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return {"model": model, "tokens": tokens, "token_type": kinds, **special}
