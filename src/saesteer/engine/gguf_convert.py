"""GGUF files to folders in Hugging Face's form: weights in float32, config.json, tokenizer.

What a tensor is called there, and how its numbers are packed, is llama.cpp's, as its own package `gguf` knows both. Two layouts differ as
well: of the architecture llama the rows of queries and keys are in pairs for rotary embeddings, and Gemma's norms are stored plus 1.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from saesteer.core.errors import SettingsError
from saesteer.core.files import alone_in, file_digest, regular_file, write_folder, write_json, write_text
from saesteer.engine.finite import check_weights
from saesteer.sources.gguf import Gguf, GgufTensor, config_of, read_gguf

ALGORITHM_VERSION = 2

_BYTES, _CARD, _RECORD = 4, "README.md", "gguf.json"
_DIGITS_ALONE = ("smollm", "starcoder", "refact")
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
_SPLITS = ("gpt-2", "qwen2", "deepseek-r1-qwen", *_DIGITS_ALONE, *_WHOLE_WORDS_FIRST)
"""Ways to split text before byte pairs are merged (tokenizer.ggml.pre) that are known here: all others give other tokens."""


def converted_gguf(path: Path, downloads: Path) -> tuple[Path, str]:
    """The folder of the model in a GGUF file, converted unless that was done before; and the file's SHA-256."""
    folder, digest = folder_of(path, downloads)
    with alone_in(folder.parent):  # of a model and a second model from one file, whose jobs run at once, the later must replace nothing
        if not folder.is_dir():
            write_folder(folder, lambda new: convert(path, new, digest))
    return folder, digest


def folder_of(path: Path, downloads: Path) -> tuple[Path, str]:
    """Where the model of a GGUF file is kept, and the file's SHA-256."""
    digest = file_digest(regular_file(path))
    return downloads / "gguf" / f"{path.stem}-{digest[:16]}-{ALGORITHM_VERSION}", digest


def convert(path: Path, folder: Path, digest: str) -> None:
    """Write the model of a GGUF file into a folder that is there."""
    gguf = read_gguf(path)
    config = config_of(gguf)
    _check_room(gguf, folder)
    transformers_logging.disable_progress_bar()
    _tokenizer(gguf).save_pretrained(folder)
    model = _model(gguf, config)
    check_weights(str(path), model.named_parameters())
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    licence = gguf.values.get("general.license")
    write_text(folder / _CARD, f"---\nlicense: {licence}\n---\n" if licence else "The GGUF file names no licence.\n")
    write_json(folder / _RECORD, {"file": path.name, "sha256": digest, "name": gguf.values.get("general.name"), "license": licence})


def _check_room(gguf: Gguf, folder: Path) -> None:
    needed = sum(int(np.prod(tensor.shape)) for tensor in gguf.tensors.values()) * _BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SettingsError(
            f"{gguf.path}: its weights take {needed / 2**30:.1f} GiB in float32, and the disk of {folder.parent} has {free / 2**30:.1f}:"
            " free some space and run the same command again"
        )


def _model(gguf: Gguf, config: dict[str, Any]) -> Any:
    """The model with the file's weights, in float32. No tensor of the file is left out, and none of the model's is missing."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # the library raises a kind of its own for each key
        raise SettingsError(f"{gguf.path} is damaged: its header is no model's ({' '.join(str(error).split())})") from error
    names, parameters = _names(gguf, model), dict(model.named_parameters())
    if unknown := sorted(gguf.tensors.keys() - names.keys()):
        raise SettingsError(
            f"{gguf.path}: the tensor {unknown[0]} is none of those of the architecture {gguf.architecture} that are known here: take the"
            " model in Hugging Face's form (safetensors)"
        )
    if missing := sorted(name for name in names.keys() - gguf.tensors.keys() if names[name] in parameters):
        raise SettingsError(f"{gguf.path} lacks the tensor {missing[0]}: fetch or copy it again")
    weights = dict(_weights(gguf, names))
    for name, weight in weights.items():
        if weight.shape != parameters[name].shape:
            raise SettingsError(f"{gguf.path}: {name} has the shape {[*weight.shape]}, but has to be {[*parameters[name].shape]}")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return model


def _names(gguf: Gguf, model: Any) -> dict[str, str]:
    """A tensor's name in the file -> in the model."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(number for number, name in MODEL_ARCH_NAMES.items() if name == gguf.architecture)
    known, names = get_tensor_name_map(architecture, model.config.num_hidden_layers), {}
    for name in model.state_dict():
        stem, _, kind = name.rpartition(".")
        names[f"{known.get_name(stem)}.{kind}"] = name
    return names


def _weights(gguf: Gguf, names: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Name in the model and numbers of each tensor."""
    data = np.memmap(gguf.path, mode="r", dtype=np.uint8).view(np.ndarray)
    heads = {"attn_q": gguf.of_model("attention.head_count"), "attn_k": gguf.of_model("attention.head_count_kv")}
    for name, tensor in gguf.tensors.items():
        weight = _numbers(data, tensor)
        part = name.split(".")[-2]
        if gguf.architecture == "llama" and part in heads:
            weight = _unpaired(weight, heads[part] or heads["attn_q"])
        if gguf.architecture.startswith("gemma") and part.endswith("norm"):
            weight = weight - 1
        yield names[name], torch.from_numpy(np.ascontiguousarray(weight))


def _numbers(data: np.ndarray, tensor: GgufTensor) -> np.ndarray:
    """A tensor's numbers in float32."""
    from gguf import GGMLQuantizationType, dequantize

    kind, packed = GGMLQuantizationType(tensor.kind), data[tensor.start : tensor.start + tensor.n_bytes]
    rows = packed.reshape(*tensor.shape[:-1], -1) if np.prod(tensor.shape) else packed
    numbers: np.ndarray = dequantize(rows, kind).reshape(tensor.shape)
    return numbers.copy() if numbers.base is not None else numbers


def _unpaired(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of each head in two halves, as transformers rotates them, from rows in pairs."""
    halves: np.ndarray = weight.reshape(n_heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    return halves


def _tokenizer(gguf: Gguf) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens and chat template."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in gguf.values.items() if key.startswith("tokenizer.ggml.")}
    backend = _backend(gguf, values)
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    special = {f"{name}_token": _token(gguf, values.get(key)) for name, key in names.items()}
    # Files that do not say it, as llama.cpp takes them. An end of the text is never added: a prompt goes on.
    adds_bos = bool(values.get("add_bos_token", values.get("model") == "llama" or values.get("pre") in _WHOLE_WORDS_FIRST))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special, add_bos_token=adds_bos, add_eos_token=False)
    tokenizer.chat_template = gguf.values.get("tokenizer.chat_template")
    return tokenizer


def _backend(gguf: Gguf, values: dict[str, Any]) -> Tokenizer:
    """The tokenizer as transformers makes it of the file's vocabulary and merges; refused where it would be another."""
    from transformers.integrations.gguf import convert_gguf_tokenizer

    kind, split, prefixed = str(values.get("model")), values.get("pre"), values.get("add_space_prefix", True)
    known = split in _SPLITS if kind == "gpt2" else kind == "llama" and (prefixed or gguf.architecture.startswith("gemma"))
    if not known:
        raise SettingsError(
            f"{gguf.path}: its tokenizer (tokenizer.ggml.model {kind}, pre {split}, add_space_prefix {prefixed}) is none of those that are"
            " known here, and would give other tokens than the model was trained with: take the model in Hugging Face's form"
        )
    names = {"model": "tokenizer_type", "pre": "pre_tokenizer_type", "add_space_prefix": "add_prefix_space"}
    try:
        made, _ = convert_gguf_tokenizer(gguf.architecture, {names.get(name, name): value for name, value in values.items()})
    except Exception as error:  # the library raises nothing narrower
        raise SettingsError(f"{gguf.path} is damaged: no tokenizer can be made of its vocabulary ({error})") from error
    state = json.loads(made.to_str())  # with tokens of GPT-2, Llama or Gemma that this vocabulary may lack
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < len(gguf.tokens)]
    backend = Tokenizer.from_str(json.dumps(state))
    if kind == "gpt2" and split in _DIGITS_ALONE:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if kind == "gpt2" and split in _WHOLE_WORDS_FIRST:
        backend.model.ignore_merges = True
    if kind == "llama" and prefixed and not gguf.architecture.startswith("gemma"):  # a space before a text, also before another one
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    _check_vocabulary(gguf, [backend.id_to_token(token_id) for token_id in range(backend.get_vocab_size())], kind)
    return backend


def _token(gguf: Gguf, token_id: Any) -> str | None:
    """A special token by its id; None where there is none."""
    if token_id is None:
        return None
    if not isinstance(token_id, int) or token_id >= len(gguf.tokens):
        raise SettingsError(f"{gguf.path} is damaged: a special token is number {token_id} of {len(gguf.tokens)}")
    return gguf.tokens[token_id]


def _check_vocabulary(gguf: Gguf, tokens: Sequence[str | None], kind: str) -> None:
    """Refuse a tokenizer whose tokens are not those of the file, id by id. Gemma's runs of spaces are spelled with ▁ in the one."""
    for token_id, token in enumerate(gguf.tokens):
        made = tokens[token_id] if token_id < len(tokens) else None
        if made != token and not (kind == "llama" and not token.strip(" ") and made == token.replace(" ", "▁")):
            raise SettingsError(
                f"{gguf.path}: its token {token_id} is {token!r}, but would become {made!r}: take another file of this model"
            )
    if len(tokens) != len(gguf.tokens):
        raise SettingsError(f"{gguf.path}: its vocabulary has {len(gguf.tokens)} tokens, but would become one of {len(tokens)}")
