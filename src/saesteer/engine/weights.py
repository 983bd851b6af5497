"""The weights of a Hugging Face causal language model, from a folder; of a model for images and text, the text's alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from saesteer.core.errors import SettingsError
from saesteer.core.files import safetensors_fault
from saesteer.core.tokens import load_tokens
from saesteer.engine.attention import attention_on
from saesteer.engine.finite import check_weights
from saesteer.engine.quantised import quantisation
from saesteer.sources import model_size

ALGORITHM_VERSION = 1

OF_TEXT = {r"^(model\.)?(language|text)_model\.(model\.)?(?!lm_head)": "model.", r"^(model\.)?language_model\.lm_head": "lm_head"}
"""Names of the text model's weights within a model for images and text, as saved before and since transformers 5, and by itself."""


def number_type(dtype: str) -> str:
    """The type that tensors have under a `dtype` of the settings: of a model with quantised weights, all others. TF32 is a way to multiply
    float32 matrices, on GPUs that have it, and is switched on here."""
    if dtype != "tf32":
        return "bfloat16" if dtype in model_size.QUANTISED else dtype
    torch.set_float32_matmul_precision("high")
    return "float32"


def available_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_weights(path: Path, dtype: str, device: str) -> Any:
    """A folder's model with all its weights (safetensors only, nothing fetched), refused by name where some are damaged or missing; `dtype`
    as in the settings."""
    if (dtype, device) == ("bfloat16", "cpu"):
        raise SettingsError(
            f"{path}: dtype bfloat16 needs a GPU: a processor computes texts in it no faster than in float32, and some get it wrong."
            " Set dtype to float32 or, where memory is short, to int8 (with torchao)"
        )
    check_readable(path)
    with without_remote_code(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    if text is not config and getattr(config, "tie_word_embeddings", False) and not _has_head(path):
        text.tie_word_embeddings = True  # which only the settings of the whole model say
    model = whole_model(
        AutoModelForCausalLM,
        path,
        config=text,
        key_mapping=None if text is config else OF_TEXT,
        dtype=getattr(torch, number_type(dtype)),
        quantization_config=quantisation(text, dtype) if dtype in model_size.QUANTISED else None,
        **_placement(path, dtype, device),
    )
    model.set_attn_implementation(attention_on(device, model))
    return model


def _has_head(path: Path) -> bool:
    """Whether a folder's weights have a head, or the model's embeddings are its head."""
    names: list[str] = []
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names += opened.keys()
    return any(name.endswith("lm_head.weight") for name in names)


def check_readable(path: Path) -> None:
    """Refuse a folder without safetensors files, or with a damaged one."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{path}: no *.safetensors file here; a model folder in Hugging Face's format with safetensors weights is needed"
        )
    for file in files:
        if fault := safetensors_fault(file):
            raise SettingsError(f"{file}: not a readable safetensors file ({fault}); fetch or copy it again")


def whole_model(kind: Any, path: Path, optional: tuple[str, ...] = (), **options: Any) -> Any:
    """A folder's model by a class of transformers, refused where weights are missing, of another shape or not finite; those may be missing
    whose names begin with one of `optional`."""
    transformers_logging.disable_progress_bar()  # which is drawn for models that load in no time, too
    with without_remote_code(path):
        model, info = kind.from_pretrained(
            path,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    missing = {*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])}
    if absent := sorted(key for key in missing if not key.startswith(optional)):
        raise SettingsError(
            f"{path}: weights of {absent[0]} (and {len(absent) - 1} more) are missing or of another shape; fetch the model again"
        )
    check_weights(str(path), model.named_parameters())
    return model


@contextmanager
def without_remote_code(path: Path) -> Iterator[None]:
    """Where a model's folder cannot be loaded without running Python code in it, say so: transformers advises to trust it."""
    try:
        yield
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            raise SettingsError(f"{path}: transformers has no class for its text model alone, so it cannot run here") from error
        if "trust_remote_code" not in str(error):
            raise
        raise SettingsError(
            f"{path}: this model needs Python code that comes with it, which is never run: take a model of a family that transformers has"
        ) from error


_PROBES = (
    "In 2018, 1234 people paid 3.50",
    " the sea",
    "the  sea\n\n house\t",
    "e\u0301 n\u0303 caf\u00e9",
    "Don't; it's 7am",
    "大海 море",
)
"""Texts that tokenizers of different kinds split otherwise."""


def load_tokenizer(path: Path) -> Any:
    """A folder's tokenizer; nothing is fetched. It is that of its tokenizer.json, which corpora are read with (core.tokens), also where
    transformers makes another one of the model's family: of every Qwen 2, one that splits texts as Qwen's own."""
    with without_remote_code(path):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if type(tokenizer) is PreTrainedTokenizerFast or not (path / "tokenizer.json").is_file():
        return tokenizer
    expected = load_tokens(path).ids_alone(_PROBES)
    if _ids_of_probes(tokenizer) == expected:
        return tokenizer
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if _ids_of_probes(tokenizer) != expected:
        raise SettingsError(f"{path}: transformers takes its tokenizer for another than its tokenizer.json holds: save it anew there")
    return tokenizer


def _ids_of_probes(tokenizer: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"]
    return ids


def _placement(path: Path, dtype: str, device: str) -> dict[str, Any]:
    """Where from_pretrained is to put weights, straight from their files: on the first GPU, or spread over all of the job's where they
    would take more than `model_size.ON_ONE` of that."""
    if device == "cpu":
        return {}
    free = {number: torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())}
    needed = model_size.bytes_of_weights(path, dtype)
    if len(free) == 1 or needed <= model_size.ON_ONE * free[0]:
        return {"device_map": {"": f"{device}:0"}}
    most = {number: int(model_size.OF_EACH * n_bytes) for number, n_bytes in free.items()}
    room = sum(most.values())
    if needed > room:
        sizes = f"{needed / 2**30:.1f} GiB of weights do not fit into the {room / 2**30:.1f} GiB that may be filled"
        raise MemoryError(f"{path}: {sizes} on the {len(free)} GPUs of this job; give it more, or larger ones")
    return {"device_map": "balanced", "max_memory": most}
