"""The header of a GGUF file (llama.cpp's format of models): what it says of the model, and where its tensors lie.

It is read here and not by the package `gguf`, which takes 15 s for the 262,144 tokens of Gemma and does not notice a truncated file. No
count or length makes anything be read beyond the file's end. A key that the conversion does not know is refused rather than left out, as it
may change what the model computes. The form: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from saesteer.core.errors import SettingsError
from saesteer.core.files import regular_file

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its form for `struct`."""
_STRING, _ARRAY = 8, 9
_MAGIC, _VERSIONS, _MOST_DIMENSIONS = b"GGUF", (2, 3), 4


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies."""

    shape: tuple[int, ...]  # as torch has it, rows first
    kind: int  # gguf.GGMLQuantizationType
    start: int  # in the file, in bytes
    n_bytes: int


@dataclass(frozen=True)
class Gguf:
    """A GGUF file's header."""

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's family."""
        return str(self.values.get("general.architecture"))

    @property
    def tokens(self) -> list[str]:
        """The vocabulary, by id."""
        tokens = self.values.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, list):
            raise SettingsError(f"{self.path} has no vocabulary (tokenizer.ggml.tokens): take a GGUF file of a whole model")
        return tokens

    def of_model(self, key: str) -> Any:
        """A value of the architecture's section; None where it has none."""
        return self.values.get(f"{self.architecture}.{key}")


def read_gguf(path: Path) -> Gguf:
    """The header of a GGUF file; refused when it is none, is truncated or damaged."""
    with regular_file(path).open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise SettingsError(f"{path} is no GGUF file: its first bytes are not {_MAGIC.decode()}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _header(path, _Cursor(data, len(_MAGIC)))
            except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
                raise SettingsError(f"{path} is truncated or damaged ({error}): fetch or copy it again") from error


class _Cursor:
    """Reads a file's values one after the other."""

    def __init__(self, data: mmap.mmap, place: int) -> None:
        self.data, self.place = data, place

    def numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def string(self) -> str:
        (n_bytes,) = self.numbers("Q")
        if n_bytes > len(self.data) - self.place:
            raise struct.error(f"a text of {n_bytes} bytes goes beyond its end")
        self.place += n_bytes
        return self.data[self.place - n_bytes : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise struct.error(f"a value of the unknown type {kind}")
        of, n = self.numbers("IQ")
        if n > len(self.data):
            raise struct.error(f"a list of {n} values is longer than the file")
        if of in _NUMBERS:
            return list(self.numbers(f"{n}{_NUMBERS[of]}"))
        return [self.value(of) for _ in range(n)]


def _header(path: Path, cursor: _Cursor) -> Gguf:
    (version,) = cursor.numbers("I")
    if version not in _VERSIONS:
        raise SettingsError(f"{path} is of GGUF version {version}, and {' and '.join(map(str, _VERSIONS))} can be read: convert it anew")
    n_tensors, n_values = cursor.numbers("QQ")
    values = {cursor.string(): cursor.value(*cursor.numbers("I")) for _ in range(min(n_values, len(cursor.data)))}
    listed = [_listed_tensor(cursor) for _ in range(min(n_tensors, len(cursor.data)))]
    alignment = int(values.get("general.alignment", 32))
    if alignment < 1:
        raise struct.error(f"an alignment of {alignment}")
    first = -(-cursor.place // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in listed:
        tensors[name] = GgufTensor(shape, kind, first + offset, _n_bytes(name, shape, kind))
        if tensors[name].start + tensors[name].n_bytes > len(cursor.data):
            raise struct.error(f"the tensor {name} goes beyond its end")
    return Gguf(path, values, tensors)


def _listed_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    (n_dimensions,) = cursor.numbers("I")
    if n_dimensions > _MOST_DIMENSIONS:
        raise struct.error(f"the tensor {name} has {n_dimensions} dimensions")
    shape = cursor.numbers(f"{n_dimensions}Q")
    kind, offset = cursor.numbers("IQ")
    return name, tuple(reversed(shape)), kind, offset


def _n_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in {*GGMLQuantizationType}:
        raise struct.error(f"the tensor {name} is of the unknown type {kind}")
    block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if not shape or shape[-1] % block:
        raise struct.error(f"the tensor {name} of {shape} is not of whole blocks of {block}")
    return prod(shape) // block * n_bytes


_KEYS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.key_length": "head_dim",
}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_SOFTCAPS = {name: name for name in ("attn_logit_softcapping", "final_logit_softcapping")}
_OPTIONAL = ("attention.key_length", "attention.head_count_kv", "rope.freq_base", "rope.freq_base_swa", *_WINDOW, *_SOFTCAPS)
ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    "llama": _KEYS,
    "qwen2": _KEYS,
    "qwen3": _KEYS,
    "gemma2": _KEYS | _WINDOW | _SOFTCAPS,
    "gemma3": _KEYS | _WINDOW | {"rope.freq_base_swa": "rope_local_base_freq"},
    "phi3": _KEYS | _WINDOW,
}
"""llama.cpp's name of each architecture that can be converted -> key of the header -> key of transformers' configuration."""
_MODEL_TYPES = {"gemma3": "gemma3_text"}
"""What transformers calls an architecture otherwise than llama.cpp does."""


def _fixed(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Further keys of the header -> the values that they may have, by which transformers computes anyway."""
    width, pattern = config["head_dim"], [(number + 1) % 6 != 0 for number in range(config["num_hidden_layers"])]
    return {
        **({"attention.sliding_window_pattern": (6, pattern)} if config["model_type"] == "gemma3_text" else {}),
        "attention.value_length": (width,),
        "rope.dimension_count": (width,),
        "vocab_size": (config["vocab_size"],),
        "attention.causal": (True,),
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (0.0, 1.0),
        "rope.scaling.attn_factor": (1.0,),
        "rope.scaling.original_context_length": (config["max_position_embeddings"],),
        "rope.scaling.finetuned": (False, True),
    }


def config_of(gguf: Gguf) -> dict[str, Any]:
    """What transformers' config.json says of the model; refused where the file says what no such configuration does."""
    keys = ARCHITECTURES.get(gguf.architecture)
    if keys is None:
        raise SettingsError(
            f"{gguf.path}: models of the architecture {gguf.architecture} cannot be converted from GGUF, only {', '.join(ARCHITECTURES)}:"
            " take the model in Hugging Face's form (safetensors)"
        )
    missing = [key for key in keys if gguf.of_model(key) is None and key not in _OPTIONAL]
    if missing or "token_embd.weight" not in gguf.tensors:
        raise SettingsError(f"{gguf.path} lacks {gguf.architecture}.{missing[0]}" if missing else f"{gguf.path} has no token_embd.weight")
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(gguf.architecture, gguf.architecture)}
    config |= {name: gguf.of_model(key) for key, name in keys.items() if gguf.of_model(key) is not None}
    config["vocab_size"] = gguf.tensors["token_embd.weight"].shape[0]
    config["tie_word_embeddings"] = "output.weight" not in gguf.tensors
    for key in ("bos", "eos", "padding"):
        config[f"{key[:3]}_token_id"] = gguf.values.get(f"tokenizer.ggml.{key}_token_id")
    if not all(isinstance(config[name], int) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")):
        raise SettingsError(f"{gguf.path}: layers of different sizes cannot be converted")
    if config["num_hidden_layers"] > len(gguf.tensors):
        raise SettingsError(f"{gguf.path} is damaged: {config['num_hidden_layers']} layers, and {len(gguf.tensors)} tensors")
    n_heads = max(config["num_attention_heads"], 1)
    config = {"head_dim": config["hidden_size"] // n_heads, "num_key_value_heads": n_heads, "rope_theta": 10000.0} | config
    if gguf.architecture.startswith("gemma"):
        config["query_pre_attn_scalar"] = _gemma_scale(config)
    _check_keys(gguf, keys, config)
    return config


def _gemma_scale(config: Mapping[str, Any]) -> int:
    """Queries are divided by its root: the width of a head, and of Gemma 2 and 3 27B, whose files do not say so, width over heads."""
    large = (config["model_type"], config["num_hidden_layers"]) in (("gemma2", 46), ("gemma3_text", 62))
    return int(config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"])


def _check_keys(gguf: Gguf, keys: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Refuse a key of the architecture's section that the conversion does not know, or whose value transformers would not go by."""
    allowed, section = _fixed(config), f"{gguf.architecture}."
    for key, value in gguf.values.items():
        name = key.removeprefix(section)
        if name != key and name not in keys and value not in allowed.get(name, ()):
            raise SettingsError(
                f"{gguf.path}: {key} is {value!r:.60}, which changes what the model computes in a way that is not known here: take the"
                " model in Hugging Face's form (safetensors)"
            )
