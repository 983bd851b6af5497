"""llama.cpp itself adds the vector of a GGUF file: the shipped model, converted to GGUF, gives saesteer's own logits."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import shipped_model
from gguf_files import write_sizes
from test_vector_consumers import IDS, ours, written

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


class ModelParams(ctypes.Structure):
    """llama.cpp's `llama_model_params`: nothing in it is changed."""

    _fields_ = [("fields", ctypes.c_int64 * 10)]


class ContextParams(ctypes.Structure):
    """llama.cpp's `llama_context_params` of the pinned version."""

    _fields_ = [
        ("n_ctx", ctypes.c_int32), ("n_batch", ctypes.c_int32), ("n_ubatch", ctypes.c_int32), ("numbers", ctypes.c_int32 * 19),
        ("callback", ctypes.c_void_p * 2), ("type_k", ctypes.c_int32), ("type_v", ctypes.c_int32), ("fields", ctypes.c_int64 * 7),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """llama.cpp's `llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]  # fmt: skip


def library() -> ctypes.CDLL:
    """llama.cpp, which a wheel of Python bindings holds as built."""
    import xllamacpp

    llama = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    llama.llama_model_default_params.restype = ModelParams
    llama.llama_context_default_params.restype = ContextParams
    llama.llama_batch_init.restype = Batch
    llama.llama_model_load_from_file.restype = llama.llama_init_from_model.restype = ctypes.c_void_p
    llama.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    return llama


def logits_of(model: Path, directions: dict[int, np.ndarray]) -> torch.Tensor:
    """llama.cpp's logits of every text of IDS, with directions added to what each block gives, as its `--control-vector` does."""
    llama = library()
    llama.llama_backend_init()
    loaded = ctypes.c_void_p(llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params()))
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 64
    options.type_k = options.type_v = 0  # float32
    config = shipped_model().model.config
    n_layers, d_model, n_vocab = config.num_hidden_layers, config.hidden_size, config.vocab_size
    rows = []
    for text in IDS.tolist():
        context = ctypes.c_void_p(llama.llama_init_from_model(loaded, options))
        if directions:
            flat = np.zeros((n_layers - 1, d_model), dtype=np.float32)  # the first block has none
            for layer, direction in directions.items():
                flat[layer - 1] = direction
            numbers = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            assert llama.llama_set_adapter_cvec(context, numbers, ctypes.c_size_t(flat.size), d_model, 1, n_layers) == 0
        batch = llama.llama_batch_init(len(text), 0, 1)
        batch.n_tokens = len(text)
        for place, token in enumerate(text):
            batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = token, place, 1, 0, 1
        assert llama.llama_decode(context, batch) == 0
        made = (llama.llama_get_logits_ith(context, place) for place in range(len(text)))
        rows.append(np.stack([np.ctypeslib.as_array(logits, (n_vocab,)).copy() for logits in made]))
        llama.llama_batch_free(batch)
        llama.llama_free(context)
    llama.llama_model_free(loaded)
    return torch.from_numpy(np.stack(rows))


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
