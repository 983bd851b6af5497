"""llama.cpp through its C interface: what the bindings' wheel holds as built. Needs xllamacpp (`make test-extras` installs it).

A control vector is the context's: every sequence of a batch gets the same one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class ModelParams(ctypes.Structure):
    """llama.cpp's `llama_model_params`: nothing in it is changed."""

    _fields_ = [("fields", ctypes.c_int64 * 10)]


class ContextParams(ctypes.Structure):
    """llama.cpp's `llama_context_params` of the pinned version."""

    _fields_ = [
        ("n_ctx", ctypes.c_int32), ("n_batch", ctypes.c_int32), ("n_ubatch", ctypes.c_int32), ("n_seq_max", ctypes.c_int32),
        ("numbers", ctypes.c_int32 * 18), ("callback", ctypes.c_void_p * 2), ("type_k", ctypes.c_int32), ("type_v", ctypes.c_int32),
        ("fields", ctypes.c_int64 * 7),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """llama.cpp's `llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]  # fmt: skip


def library() -> ctypes.CDLL:
    """llama.cpp, started."""
    import xllamacpp

    llama = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    llama.llama_model_default_params.restype = ModelParams
    llama.llama_context_default_params.restype = ContextParams
    llama.llama_batch_init.restype = Batch
    for name in ("llama_model_load_from_file", "llama_init_from_model"):
        getattr(llama, name).restype = ctypes.c_void_p
    llama.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    llama.llama_backend_init()
    return llama


def converted(path: Path, kind: str, out: Path) -> Path:
    """A GGUF file with its matrices in another type, F16 or Q8_0."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize, quantize

    source = GGUFReader(path)
    writer = GGUFWriter(out, source.fields["general.architecture"].contents())
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            item = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], item)
    of_matrices = GGMLQuantizationType[kind]
    for tensor in source.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        if weights.ndim == 2:
            writer.add_tensor(tensor.name, quantize(weights, of_matrices), raw_dtype=of_matrices)
        else:
            writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


MAX_SEQUENCES = 256
"""That llama.cpp decodes at once."""


class Context:
    """A model of a GGUF file, with room for n_sequences of n_tokens; float32 keys and values, one thread."""

    def __init__(self, path: Path, n_sequences: int, n_tokens: int, d_model: int, n_layers: int, n_vocab: int) -> None:
        self.llama, self.d_model, self.n_layers, self.n_vocab = library(), d_model, n_layers, n_vocab
        self.model = ctypes.c_void_p(self.llama.llama_model_load_from_file(str(path).encode(), self.llama.llama_model_default_params()))
        options = self.llama.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = n_sequences * n_tokens
        options.n_seq_max = n_sequences
        options.type_k = options.type_v = 0  # float32
        self.context = ctypes.c_void_p(self.llama.llama_init_from_model(self.model, options))
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {n_sequences} sequences")
        self.llama.llama_set_n_threads(self.context, 1, 1)

    def add(self, directions: dict[int, np.ndarray]) -> None:
        """Add vectors [d_model] to what blocks give, by the block's number, as `--control-vector` does; the first block has none."""
        flat = np.zeros((self.n_layers - 1, self.d_model), dtype=np.float32)
        for layer, direction in directions.items():
            flat[layer - 1] = direction
        numbers = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        args = (self.context, numbers, ctypes.c_size_t(flat.size), self.d_model, 1, self.n_layers)
        if self.llama.llama_set_adapter_cvec(*args) != 0:
            raise RuntimeError("llama.cpp refuses the control vector")

    def logits(self, tokens: Sequence[Sequence[int]], start: int = 0, outputs_from: int = 0) -> np.ndarray:
        """Logits [sequence, token, n_vocab] behind the next tokens of each sequence, which begin at position `start`; all sequences
        have equally many, and those before the token outputs_from get no logits."""
        width = len(tokens[0])
        batch = self.llama.llama_batch_init(len(tokens) * width, 0, 1)
        batch.n_tokens = len(tokens) * width
        for place in range(batch.n_tokens):
            sequence, token = divmod(place, width)
            batch.token[place], batch.pos[place] = tokens[sequence][token], start + token
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, sequence, token >= outputs_from
        if self.llama.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp does not decode the batch")
        outputs = [place for place in range(batch.n_tokens) if batch.logits[place]]
        rows = [np.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, place), (self.n_vocab,)) for place in outputs]
        made = np.stack(rows).reshape(len(tokens), -1, self.n_vocab)  # a copy: the next call writes over them
        self.llama.llama_batch_free(batch)
        return made

    def close(self) -> None:
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)
