"""How many bytes a model's weights take, and how many GPUs they need."""

import math
from pathlib import Path

from safetensors import safe_open

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, in each format."""

ON_ONE = 0.7
"""Most of one GPU's memory that a model's weights may take there; the rest is for an SAE, caches and activations."""

OF_EACH = 0.85
"""Most of each GPU's memory where weights are spread."""


def bytes_of_weights(folder: Path, dtype: str) -> int:
    """What all weights in a folder take in a number format, by the headers of their files."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total * BYTES[dtype]


def n_gpus(weights: int, gpu: int) -> int:
    """GPUs of so many bytes each that a model needs: one, or as many as hold its weights spread."""
    return 1 if weights <= ON_ONE * gpu else math.ceil(weights / (OF_EACH * gpu))
