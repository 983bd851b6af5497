"""Train a small Gemma-2-architecture causal LM on the grammar's text.

The residual norm is made to grow with depth, as in trained Gemma-2 models: each layer writes about 1.45 times as much as the one
before. With an ordinary initialisation it hardly grows, the direct path from an early layer to the logits is never washed out, and
P1's output score is flat over layers; the card reports that negative result.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt16
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from saesteer.world.streams import stream_seed
from studies.world.tokenizer import BOS_ID, CONTEXT, EOS_ID, PAD_ID

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRecipe:
    """Sizes and schedule of one training run."""

    n_layers: int = 8
    d_model: int = 128
    d_mlp: int = 384
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    context: int = CONTEXT
    steps: int = 450
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warm_up: int = 60
    flat_until: float = 0.5  # share of the steps after which the rate falls linearly to nothing
    embedding_scale: float = 0.3
    first_write: float = 0.25  # what layer 0's blocks write, per coordinate
    growth: float = 1.45  # each layer's write over the one before
    final_norm: float = 3.0


def tensor_stream(seed: int, name: str) -> torch.Generator:
    """Torch's generator for initial weights and shuffles, by name as in `saesteer.world.streams`."""
    return torch.Generator().manual_seed(stream_seed(seed, name))


def new_model(recipe: ModelRecipe, vocab_size: int, seed: int, name: str) -> Gemma2ForCausalLM:
    """Gemma-2's architecture (soft caps 50 and 30, tied embeddings, alternating attention) with weights drawn from the stream `name`, its
    post-norms growing with depth."""
    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_kv_heads,
        head_dim=recipe.head_dim,
        query_pre_attn_scalar=recipe.head_dim,
        max_position_embeddings=recipe.context,
        sliding_window=recipe.context,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=BOS_ID,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, f"{name}/constructor"))
        model = Gemma2ForCausalLM(config)
    generator = tensor_stream(seed, f"{name}/weights")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        model.model.embed_tokens.weight.mul_(recipe.embedding_scale)
        for index, layer in enumerate(model.model.layers):
            # Gemma's norms multiply by (1 + weight).
            write = recipe.first_write * recipe.growth**index - 1.0
            layer.post_attention_layernorm.weight.fill_(write)
            layer.post_feedforward_layernorm.weight.fill_(write)
        model.model.norm.weight.fill_(recipe.final_norm - 1.0)
    return model


def train(model: PreTrainedModel, rows: UInt16[np.ndarray, "row context"], recipe: ModelRecipe, seed: int, name: str) -> list[float]:
    """AdamW over the rows in the order that the stream `name` gives; returns each step's loss in nats a token."""
    order = torch.randperm(len(rows), generator=tensor_stream(seed, f"{name}/order")).numpy()
    optimizer, losses = adamw(model, recipe), list[float]()
    schedule = LambdaLR(optimizer, learning_rate_shape(recipe.steps, recipe.flat_until, recipe.warm_up))
    model.train()
    for step in tqdm(range(recipe.steps), desc=name, unit="step", mininterval=20):
        optimizer.zero_grad(set_to_none=True)
        batch = rows[order[np.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(rows)]]
        loss = token_losses(model, torch.from_numpy(batch.astype(np.int64))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    logger.info("%s: training loss %.3f nats a token after %d steps", name, float(np.mean(losses[-20:])), recipe.steps)
    return losses


def adamw(model: PreTrainedModel, recipe: ModelRecipe) -> torch.optim.AdamW:
    """The optimiser: weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def learning_rate_shape(steps: int, flat_until: float, warm_up: int = 1) -> Callable[[int], float]:
    """Factor on the learning rate by step: linear warm-up, flat, then linear to nothing."""
    falling = max(steps - flat_until * steps, 1.0)
    return lambda step: min(1.0, (step + 1) / warm_up, (steps - step) / falling)


def token_losses(model: PreTrainedModel, tokens: Int[Tensor, "row context"]) -> Float[Tensor, " token"]:
    """Loss in nats of each token after BOS, padding left out."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    targets = tokens[:, 1:]
    counted = targets != PAD_ID
    return torch.nn.functional.cross_entropy(logits[counted], targets[counted], reduction="none")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights rounded to float16, config and tokenizer, in Hugging Face form; no sampling defaults."""
    if not all(torch.isfinite(parameter.half()).all() for parameter in model.parameters()):
        raise ValueError(f"{folder}: a weight is not finite in float16: the training diverged")
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
