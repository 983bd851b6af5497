"""Random numbers as a function of named keys: no state, so a row's numbers do not depend on batch, order or what was drawn before.

Each key is absorbed into a 64-bit state with the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014); the 53 highest bits of the last state are the uniform number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64, Shaped, UInt64

ALGORITHM_VERSION = 1

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(state: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """One output of splitmix64 for each state: the state advanced by the golden gamma, then mixed (arithmetic modulo 2^64)."""
    with np.errstate(over="ignore"):
        z = state + _GAMMA
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def streams(seed: int, *keys: int | Shaped[np.ndarray, ...]) -> UInt64[np.ndarray, ...]:
    """The state of a stream of numbers for each combination of keys, which broadcast like NumPy arrays. Keys are non-negative integers
    below 2^64."""
    state = splitmix64(_as_uint64(seed))
    for key in keys:
        state = splitmix64(_as_uint64(state ^ _as_uint64(key)))
    return state


def draws(stream: UInt64[np.ndarray, ...], step: int | Shaped[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    """A stream's number in [0, 1) at a step; streams and steps broadcast."""
    state = splitmix64(_as_uint64(stream ^ _as_uint64(step)))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def uniforms(seed: int, *keys: int | Shaped[np.ndarray, ...], step: int | Shaped[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    """One number in [0, 1) for each combination of keys and step."""
    return draws(streams(seed, *keys), step)


def _as_uint64(key: int | Shaped[np.ndarray, ...]) -> UInt64[np.ndarray, ...]:
    return np.asarray(key, dtype=np.uint64)


def text_keys(texts: Iterable[str]) -> UInt64[np.ndarray, " text"]:
    """A stable 64-bit key for each text (first eight bytes of its SHA-256, little-endian), for keys that are strings, such as a factor."""
    return np.array([int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts], dtype=np.uint64)


def hex_keys(ids: Iterable[str]) -> UInt64[np.ndarray, " id"]:
    """Ids of 16 hexadecimal digits (such as a prefix_id) as 64-bit keys."""
    ids = list(ids)
    if wrong := [text for text in ids if len(text) != 16]:
        raise ValueError(f"id {wrong[0]!r} is not 16 hexadecimal digits")
    return np.array([int(text, 16) for text in ids], dtype=np.uint64)
