"""How many bytes a model's weights take, and how many GPUs they need."""

import importlib.util
import math
import re
from pathlib import Path

from safetensors import safe_open

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number in each format."""

QUANTISED = {"int8": 1.0, "nf4": 0.52}
"""Bytes of a number in the quantised matrices, scales included; all other weights are bfloat16."""

ON_ONE = 0.7
"""Most of one GPU's memory that a model's weights may take there; the rest is for an SAE, caches and activations."""

OF_EACH = 0.85
"""Most of each GPU's memory where weights are spread."""

_EMBEDDED = re.compile(r"embed|head|wte|wpe")


def bytes_of_weights(folder: Path, dtype: str) -> int:
    """What all weights in a folder take in a number format, by the headers of their files. Matrices are quantised, but for embeddings and
    the head."""
    n_quantised = n_full = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                shape = opened.get_slice(name).get_shape()
                if len(shape) == 2 and not _EMBEDDED.search(name):
                    n_quantised += math.prod(shape)
                else:
                    n_full += math.prod(shape)
    return total_bytes(n_quantised, n_full, dtype)


def total_bytes(n_quantised: int, n_full: int, dtype: str) -> int:
    """Bytes that weights take: those of matrices that are quantised, where the format says so, and others."""
    return round(n_quantised * (QUANTISED | BYTES)[dtype] + n_full * BYTES.get(dtype, BYTES["bfloat16"]))


def check_library(dtype: str) -> None:
    """Refuse a quantised format where what makes it is not installed."""
    if dtype in QUANTISED and importlib.util.find_spec("torchao") is None:
        raise ValueError(
            f"dtype {dtype} needs torchao, which is not installed here: run `pip install 'saesteer[quantised]'`"
            " or set the model's dtype to bfloat16 (on a GPU) or float32"
        )


def n_gpus(weights: int, gpu: int) -> int:
    """How many GPUs of this size in bytes a model needs: one, or as many as hold its weights spread."""
    return 1 if weights <= ON_ONE * gpu else math.ceil(weights / (OF_EACH * gpu))
