"""What the card reports of a trained world, measured on held-out texts with the weights as stored (float16, computed in float32)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.engine.sae_convert import sae_from_folder
from saesteer.engine.saes import Sae, decode, encode
from saesteer.world.streams import stream_seed
from studies.public.measure import quality, replaced
from studies.world.train_model import token_losses
from studies.world.train_saes import residuals

BATCH = 64
SAMPLE_PROMPTS = (
    "From my experience,",
    "My neighbour told me that",
    "In the end,",
    "The truth is that",
    "After a while,",
    "It turned out that",
)


def load_model(folder: Path) -> LanguageModel:
    """A stored model in float32, ready to be measured."""
    return load_language_model(folder, "float32", "cpu")


def held_out_loss(lm: LanguageModel, rows: UInt16[np.ndarray, "row context"]) -> float:
    """Mean loss in nats a token, BOS and padding not counted."""
    with torch.no_grad():
        losses = [token_losses(lm.model, part) for part in torch.from_numpy(rows.astype(np.int64)).split(BATCH)]
    return float(torch.cat(losses).double().mean())


def sae_metrics(sae: Sae, x: Float[Tensor, "token d_in"]) -> dict[str, int | float]:
    """Explained variance (1 - squared error / variance, summed over coordinates), mean active features, features that never fire."""
    of = quality(sae, x)
    dead = round(of.dead * sae.meta.n_features)
    return {"explained_variance": of.explained_variance, "l0": of.l0, "dead": dead, "residual_norm": float(x.norm(dim=-1).mean())}


def loss_recovered(
    lm: LanguageModel, sae: Sae, layer: int, rows: UInt16[np.ndarray, "row context"], mean: Float[Tensor, " d_in"], clean: float
) -> float:
    """(loss with the residual's mean - loss with the reconstruction) / (loss with the mean - clean loss); BOS keeps its own residual."""

    def loss(instead: Callable[[Tensor], Tensor]) -> float:
        with replaced(lm, layer, instead):
            return held_out_loss(lm, rows)

    spliced, ablated = loss(lambda x: decode(sae, encode(sae, x))), loss(mean.expand_as)
    return (ablated - spliced) / (ablated - clean)


def measures_of_saes(lm: LanguageModel, saes: Path, rows: UInt16[np.ndarray, "row context"], clean: float) -> list[dict[str, int | float]]:
    """What each layer's stored SAE keeps of the rows' residuals; `clean` is the model's loss on them."""
    layers = []
    for layer, x in enumerate(residuals(lm, rows)):
        sae = sae_from_folder(saes / f"layer_{layer:02d}", "float32", "cpu")
        recovered = loss_recovered(lm, sae, layer, rows, x.mean(0), clean)
        layers.append({"layer": layer, **sae_metrics(sae, x), "loss_recovered": recovered})
    return layers


def samples(lm: LanguageModel, seed: int) -> list[str]:
    """A continuation of each of a few neutral prompts at temperature 0.7, unchosen."""
    texts = []
    for prompt in SAMPLE_PROMPTS:
        inputs = lm.tokenizer(prompt, return_tensors="pt")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, f"sample/{prompt}"))
            output = lm.model.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=0.7, top_k=50)
        texts.append(lm.tokenizer.decode(output[0], skip_special_tokens=True))
    return texts
