"""What a sweep will take of a GPU, planned from config.json, against what it holds on a pretended one of Gemma-2-2B's widths."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_gpu import WORK, pretended_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from random_model import GEMMA_2_2B, by_id, random_gemma2, sae_on_gpu, swept

from saesteer.engine.attention import attention_on_gpu
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import sweep_bytes
from saesteer.engine.models import model_without_weights

PREFIXES = by_id([" ".join(f"w{50 + number * 5 + place}" for place in range(5)) for number in range(32)])
FULL_STOP, ANOTHER, ENDS = 4, 10, 0.055
"""Two tokens, and the chance of the first: texts of at most 20 tokens then have 12 on average, as the shipped model's."""
SHAPE = replace(GEMMA_2_2B, n_vocab=32_000, n_layers=3, n_features=512)


def contents(draw: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is copied from the pretended GPU: tokens; answers to whether anything is otherwise than usual, no; and ones."""

    def made(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.long and tensor.ndim == 1:
            return torch.from_numpy(np.where(draw.random(tensor.shape[0]) < ENDS, FULL_STOP, ANOTHER))
        return torch.full(tensor.shape, tensor.dtype != torch.bool or tensor.ndim > 0, dtype=tensor.dtype)

    return made


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "gib"), [("bfloat16", 24), ("float32", 4)])
def test_a_sweeps_peak_is_within_a_tenth_of_the_plan(dtype: str, gib: int) -> None:
    with pretended_gpu(gib * 2**30, contents(np.random.default_rng(0))), torch.no_grad():
        lm = random_gemma2(SHAPE, list(PREFIXES.values()), "meta", dtype)
        lm.model.to("cuda")
        lm.model.set_attn_implementation(attention_on_gpu(lm.model))
        sae = sae_on_gpu(SHAPE, 1, dtype)
        held, WORK.peak = WORK.held, 0
        torch.cuda.mem_get_info = lambda *_: (gib * 2**30 - held, gib * 2**30)  # what the pretended GPU has free by now
        swept(lm, sae, 32, PREFIXES, Sampling(6), ("1", "2", "4", "8"))
    planned = sweep_bytes(model_without_weights(lm.model.config.to_dict(), dtype), held, gib * 2**30, "plain", 6)
    assert WORK.peak == pytest.approx(planned, rel=0.1)
