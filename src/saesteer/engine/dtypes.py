"""Number types that a configuration can name, and the device that there is."""

import torch

from saesteer.sources.model_size import QUANTISED


def number_type(dtype: str) -> str:
    """The type that tensors have: of a model with quantised weights, all others. TF32 is a way to multiply float32 matrices, on GPUs that
    have it, and is switched on here."""
    if dtype != "tf32":
        return "bfloat16" if dtype in QUANTISED else dtype
    torch.set_float32_matmul_precision("high")
    return "float32"


def available_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
