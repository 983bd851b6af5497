"""llama.cpp itself adds the vector of a GGUF file: the shipped model, converted to GGUF, gives saesteer's own logits."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import shipped_model
from gguf_files import write_sizes
from test_vector_consumers import IDS, ours, written

from benchmarks.llama_cpp import Context

pytestmark = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="could not import 'xllamacpp'")

BLOCK = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""llama.cpp's name of a tensor in a block of Gemma 2 -> transformers'."""


def write_gguf(model: Any, path: Path) -> None:
    """The model in float32, without a vocabulary: what is read are ids."""
    import gguf

    config, weights = model.config, {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{theirs}.weight": f"model.layers.{layer}.{name}.weight" for theirs, name in BLOCK.items()}
    writer = gguf.GGUFWriter(path, "gemma2")
    write_sizes(writer, config)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for theirs, name in names.items():
        writer.add_tensor(theirs, weights[name] + np.float32("norm" in theirs))  # Gemma multiplies by 1 + weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits_of(model: Path, directions: dict[int, np.ndarray]) -> torch.Tensor:
    """llama.cpp's logits of every text of IDS, with directions added to what each block gives."""
    config = shipped_model().model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    context = Context(model, len(IDS), IDS.shape[1], *sizes)
    if directions:
        context.add(directions)
    logits = context.logits(IDS.tolist())
    context.close()
    return torch.from_numpy(logits)


@torch.no_grad()
def test_its_logits_and_greedy_tokens_are_ours(tmp_path: Path) -> None:
    """Both within 0.02, since llama.cpp reads GELU from a table in half precision; the vector moves them by more than 1."""
    from gguf import GGUFReader

    write_gguf(shipped_model().model, tmp_path / "model.gguf")
    directions = {int(one.name.removeprefix("direction.")): one.data for one in GGUFReader(written("gguf", tmp_path / "a.gguf")).tensors}
    plain = shipped_model().model(IDS).logits
    for theirs, expected in ((logits_of(tmp_path / "model.gguf", {}), plain), (logits_of(tmp_path / "model.gguf", directions), ours())):
        torch.testing.assert_close(theirs, expected, rtol=0, atol=0.02)
        assert torch.equal(theirs.argmax(dim=2), expected.argmax(dim=2))
    assert (ours() - plain).abs().max() > 1
