"""Train a language model on the books' rows in bfloat16, so that a killed run goes on from its last checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt16
from torch import Tensor
from transformers import Gemma2ForCausalLM, PreTrainedModel

from studies.world.train_model import ModelRecipe, descend, new_model, tensor_stream, token_losses


def plain_model() -> ModelRecipe:
    """Sizes of the books' models. The initialisation is an ordinary one: embeddings of unit size, every layer writes as much."""
    return ModelRecipe(
        n_layers=6,
        d_model=256,
        d_mlp=768,
        n_heads=8,
        n_kv_heads=4,
        head_dim=32,
        context=128,
        steps=2000,
        batch=64,
        learning_rate=3e-3,
        warm_up=100,
        flat_until=0.7,
        embedding_scale=1.0,
        first_write=1.0,
        growth=1.0,
        final_norm=1.0,
    )


@dataclass(frozen=True)
class Speed:
    """How steps are computed; it changes rounding, not what is learnt."""

    rows_at_once: int = 16
    compiled: bool = True


def train_resumably(
    rows: UInt16[np.ndarray, "row context"], vocabulary: int, recipe: ModelRecipe, seed: int, name: str, checkpoint: Path, speed: Speed
) -> tuple[Gemma2ForCausalLM, list[float]]:
    """A new model after all steps over the rows, in an order of the stream `name` and anew after each pass, and each step's loss."""
    model = new_model(recipe, vocabulary, seed, name)
    compiled = torch.compile(token_losses) if speed.compiled else token_losses

    def losses_of(model: PreTrainedModel, part: Int[Tensor, "row context"]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return compiled(model, part).float()

    def batch_of(step: int) -> UInt16[np.ndarray, "row context"]:
        return rows[_rows_of_step(len(rows), recipe, seed, name, step)]

    return model, descend(model, batch_of, recipe, name, losses_of, speed.rows_at_once, checkpoint)


def _rows_of_step(n_rows: int, recipe: ModelRecipe, seed: int, name: str, step: int) -> list[int]:
    """Which rows a step sees: each pass over all rows is in an order of its own."""
    steps_a_pass = n_rows // recipe.batch
    order = torch.randperm(n_rows, generator=tensor_stream(seed, f"{name}/order/{step // steps_a_pass}"))
    start = step % steps_a_pass * recipe.batch
    return order[start : start + recipe.batch].tolist()
