"""splitmix64 in plain Python integers, written from the published algorithm."""

MASK = 2**64 - 1


def advance(state: int) -> int:
    """State after one step."""
    return (state + 0x9E3779B97F4A7C15) & MASK


def mix(z: int) -> int:
    """Output for a state."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream(seed: int, n: int) -> list[int]:
    """The generator's first n outputs."""
    outputs, state = [], seed
    for _ in range(n):
        state = advance(state)
        outputs.append(mix(state))
    return outputs


def uniform(*keys: int) -> float:
    """The number of a sequence of keys: each is xor-ed into the last output, which seeds the next."""
    state = 0
    for key in keys:
        state = stream(state ^ key, 1)[0]
    return (state >> 11) / 2**53
