"""Counter-based random numbers against plain-integer splitmix64 and against the uniform distribution."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import splitmix

from saesteer.core.counter_rng import hex_keys, splitmix64, text_keys, uniforms

U64 = st.integers(0, 2**64 - 1)


def test_oracle_gives_the_published_stream() -> None:
    """First outputs for seed 1234567, as in the reference C program (Vigna) and the test vectors that circulate for it."""
    assert splitmix.stream(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(U64)
def test_one_output_equals_plain_integers(seed: int) -> None:
    assert int(splitmix64(np.array(seed, dtype=np.uint64))) == splitmix.stream(seed, 1)[0]


@given(U64, st.lists(U64, min_size=1, max_size=4), st.integers(0, 500))
def test_uniform_equals_plain_integers(seed: int, keys: list[int], step: int) -> None:
    assert float(uniforms(seed, *keys, step=step)) == splitmix.uniform(seed, *keys, step)


def test_arrays_broadcast_to_the_single_numbers() -> None:
    features = np.array([3, 70_000, 5], dtype=np.uint32)
    table = uniforms(7, 2, features[:, None], step=np.arange(4)[None])
    assert table.shape == (3, 4)
    for row, feature in enumerate(features):
        for step in range(4):
            assert table[row, step] == splitmix.uniform(7, 2, int(feature), step)


def test_text_and_hex_keys() -> None:
    assert text_keys(["2.5"])[0] == int.from_bytes(hashlib.sha256(b"2.5").digest()[:8], "little")
    assert hex_keys(["00000000000000ff", "ffffffffffffffff"]).tolist() == [255, 2**64 - 1]
    with pytest.raises(ValueError, match="'abc' is not 16 hexadecimal digits"):
        hex_keys(["abc"])
