"""Random streams by name, so that training, held-out, labelled and calibration texts never share draws."""

import hashlib
import random

ALGORITHM_VERSION = 1


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed from (seed, name), the same on every machine and in every process (unlike Python's hash)."""
    digest = hashlib.sha256(f"saesteer-world/{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def text_stream(seed: int, name: str) -> random.Random:
    """Python's generator for the grammar's choices."""
    return random.Random(stream_seed(seed, name))
