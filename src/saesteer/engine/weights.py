"""The weights of a Hugging Face causal language model, from a folder; of a model for images and text, the text's alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.core.files import safetensors_fault
from saesteer.engine.attention import attention_on_gpu

ALGORITHM_VERSION = 1

OF_TEXT = {r"^(model\.)?language_model\.(model\.)?(?!lm_head)": "model.", r"^(model\.)?language_model\.lm_head": "lm_head"}
"""Names of the text model's weights within a model for images and text, as saved before and since transformers 5, and by itself."""


def load_weights(path: Path, dtype: str, device: str) -> Any:
    """A folder's model with all its weights (safetensors only, nothing fetched), refused by name where some are damaged or missing."""
    _check_safetensors(path)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    text = config.get_text_config(decoder=True)
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        config=text,
        key_mapping=None if text is config else OF_TEXT,
        dtype=getattr(torch, dtype),
        attn_implementation="eager",
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    absent = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{path}: weights of {absent[0]} (and {len(absent) - 1} more) are missing or of another shape; fetch the model again"
        )
    for name, weight in model.named_parameters():
        if bool(weight.isnan().any()):
            raise ValueError(f"{path}: tensor {name} contains NaN; fetch or train the model again")
    if device != "cpu":
        model.set_attn_implementation(attention_on_gpu(model))
    return model.to(device)


def _check_safetensors(path: Path) -> None:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{path}: no *.safetensors file here; a model folder in Hugging Face's format with safetensors weights is needed"
        )
    for file in files:
        if fault := safetensors_fault(file):
            raise ValueError(f"{file}: not a readable safetensors file ({fault}); fetch or copy it again")
