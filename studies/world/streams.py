"""Random streams of training, by name as in `saesteer.world.streams`."""

import torch

from saesteer.world.streams import stream_seed


def tensor_stream(seed: int, name: str) -> torch.Generator:
    """Torch's generator for initial weights and shuffles."""
    return torch.Generator().manual_seed(stream_seed(seed, name))
