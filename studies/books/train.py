"""Train a language model on the books' rows in bfloat16, so that a killed run goes on from its last checkpoint."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt16
from tqdm import tqdm
from transformers import Gemma2ForCausalLM

from studies.world.train_model import ModelRecipe, adamw, learning_rate_shape, new_model, tensor_stream, token_losses

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 240


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
    """AdamW over all rows, in an order of the stream `name` and anew after each pass; the model and each step's loss in nats a token.

    With `checkpoint` there, training goes on from it, also when the recipe has got more steps since.
    """
    model = new_model(recipe, vocabulary, seed, name)
    optimizer, losses = adamw(model, recipe), list[float]()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        logger.info("goes on from step %d of %s", len(losses), checkpoint)
    shape = learning_rate_shape(recipe)
    losses_of = torch.compile(token_losses) if speed.compiled else token_losses
    model.train()
    saved_at, first = time.monotonic(), len(losses)
    for step in tqdm(range(first, recipe.steps), desc=name, unit="step", mininterval=20, initial=first, total=recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * shape(step)
        optimizer.zero_grad(set_to_none=True)
        batch = torch.from_numpy(rows[_rows_of_step(len(rows), recipe, seed, name, step)].astype(np.int64))
        parts = batch.split(speed.rows_at_once)  # the batch's mean loss, whose rows go through the model a few at once
        total = 0.0
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16):
                loss = losses_of(model, part).float().mean() / len(parts)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(total)
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS or step + 1 == recipe.steps:
            partial = checkpoint.with_name(checkpoint.name + ".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}, partial)
            partial.rename(checkpoint)
            saved_at = time.monotonic()
    model.eval()
    return model, losses


def _rows_of_step(n_rows: int, recipe: ModelRecipe, seed: int, name: str, step: int) -> Sequence[int]:
    """Which rows a step sees: each pass over all rows is in an order of its own."""
    steps_a_pass = n_rows // recipe.batch
    order = torch.randperm(n_rows, generator=tensor_stream(seed, f"{name}/order/{step // steps_a_pass}"))
    start = step % steps_a_pass * recipe.batch
    return order[start : start + recipe.batch].tolist()
