"""Train one sparse autoencoder a layer as BatchTopK and store it as a JumpReLU one that sae-lens reads.

BatchTopK keeps the k * batch largest activations of a batch, so k is the mean number of active features. After training, the mean over some
batches of the smallest activation kept becomes the one threshold of the JumpReLU form, which no longer depends on the batch.
"""

import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from saesteer.engine.models import LanguageModel
from studies.public import activations
from studies.public.activations import Rows
from studies.world.corpus import is_content
from studies.world.tokenizer import CONTEXT
from studies.world.train_model import learning_rate_shape, tensor_stream

logger = logging.getLogger(__name__)

DEAD_AFTER = 40  # steps without firing, from when on the auxiliary loss revives a feature
THRESHOLD_BATCHES = 50


@dataclass(frozen=True)
class SaeRecipe:
    """Sizes and schedule of one layer's SAE."""

    d_sae: int = 1024
    k: int = 12
    steps: int = 600
    batch: int = 1024
    learning_rate: float = 2e-3
    flat_until: float = 0.5
    dead_weight: float = 1 / 8
    dead_k: int = 64


class BatchTopK(nn.Module):
    """The autoencoder in training form: x is scaled to a mean norm of sqrt(d_in); decoder rows have norm 1."""

    def __init__(self, d_in: int, recipe: SaeRecipe, centre: Float[Tensor, " d_in"], generator: torch.Generator) -> None:
        """Random unit directions; the encoder starts as the decoder's transpose, b_dec at the mean of the data."""
        super().__init__()
        directions = nn.functional.normalize(torch.randn(recipe.d_sae, d_in, generator=generator), dim=-1)
        self.W_dec = nn.Parameter(directions)  # [d_sae, d_in]
        self.W_enc = nn.Parameter(directions.T.clone())  # [d_in, d_sae]
        self.b_enc = nn.Parameter(torch.zeros(recipe.d_sae))
        self.b_dec = nn.Parameter(centre.clone())
        self.register_buffer("steps_inactive", torch.zeros(recipe.d_sae))

    def pre(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_sae"]:
        """Activations before the cut."""
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)


def residuals(lm: LanguageModel, rows: UInt16[np.ndarray, "row context"]) -> Float[Tensor, "layer token d_model"]:
    """resid_post of every decoder layer at every text token (BOS, EOS and padding left out)."""
    return activations.residuals(lm, Rows(rows.astype(np.int64), is_content(rows)), range(lm.n_layers), torch.float32)


def train_sae(x: Float[Tensor, "token d_in"], recipe: SaeRecipe, seed: int, layer: int) -> dict[str, Tensor]:
    """Train on one layer's residuals; returns the JumpReLU form's weights in the units of x."""
    generator = tensor_stream(seed, f"sae/layer_{layer:02d}")
    scale = x.shape[1] ** 0.5 / x.norm(dim=-1).mean()
    scaled = x * scale
    sae = BatchTopK(x.shape[1], recipe, scaled.mean(0), generator)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.999))
    schedule = LambdaLR(optimizer, learning_rate_shape(recipe.steps, recipe.flat_until))
    n, n_rows = len(scaled), recipe.steps * recipe.batch
    # Rows of all batches, one shuffle of the data after another.
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-n_rows // n))])[:n_rows]
    for step in tqdm(range(recipe.steps), desc=f"SAE of layer {layer}", unit="step", mininterval=5):
        _step(sae, scaled[order[step * recipe.batch : (step + 1) * recipe.batch]], optimizer, recipe)
        schedule.step()
    cuts = [_cut(sae.pre(x_batch), recipe.k) for x_batch in scaled[order[: THRESHOLD_BATCHES * recipe.batch]].split(recipe.batch)]
    return jump_relu_weights(sae, float(scale), float(torch.stack(cuts).mean()))


def jump_relu_weights(sae: BatchTopK, scale: float, threshold: float) -> dict[str, Tensor]:
    """Fold the input scale and b_dec (into b_enc), and give every feature the one threshold."""
    with torch.no_grad():
        return {
            "W_enc": sae.W_enc.detach().clone(),
            "W_dec": nn.functional.normalize(sae.W_dec, dim=-1),
            "b_enc": (sae.b_enc - sae.b_dec @ sae.W_enc) / scale,
            "b_dec": sae.b_dec / scale,
            "threshold": torch.full_like(sae.b_enc, threshold / scale),
        }


def save_sae(weights: dict[str, Tensor], folder: Path, layer: int, model_name: str) -> None:
    """Write sae-lens's on-disk form: float16 weights and a config that asks for float32 arithmetic."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()}
    broken = [name for name, tensor in stored.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{folder}: {', '.join(broken)} not finite in float16: the training diverged")
    save_file(stored, folder / "sae_weights.safetensors")
    d_in, d_sae = stored["W_enc"].shape
    config = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": version("sae-lens"),  # without it sae-lens reads the folder as of an older form and drops the metadata
            "model_name": model_name,
            "model_class_name": "AutoModelForCausalLM",
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "prepend_bos": True,
            "context_size": CONTEXT,
        },
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _cut(pre: Float[Tensor, "row d_sae"], k: int) -> Float[Tensor, ""]:
    """The value that k activations a row exceed, on the batch's average."""
    return pre.detach().flatten().kthvalue(pre.numel() - k * len(pre)).values


def _step(sae: BatchTopK, x: Float[Tensor, "row d_in"], optimizer: torch.optim.Optimizer, recipe: SaeRecipe) -> None:
    pre = sae.pre(x)
    codes = pre * (pre > _cut(pre, recipe.k))  # [row, d_sae]
    error = x - (codes @ sae.W_dec + sae.b_dec)
    loss = error.square().sum(-1).mean() + recipe.dead_weight * _dead_loss(sae, pre, error.detach(), recipe)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    with torch.no_grad():
        # Only the part of the decoder's gradient that turns a direction.
        sae.W_dec.grad -= (sae.W_dec.grad * sae.W_dec).sum(-1, keepdim=True) * sae.W_dec
    optimizer.step()
    with torch.no_grad():
        sae.W_dec.copy_(nn.functional.normalize(sae.W_dec, dim=-1))
        sae.steps_inactive.add_(1).masked_fill_((codes > 0).any(0), 0)


def _dead_loss(sae: BatchTopK, pre: Float[Tensor, "row d_sae"], error: Float[Tensor, "row d_in"], recipe: SaeRecipe) -> Float[Tensor, ""]:
    """How far the silent features alone miss the error that the others leave (the auxiliary loss of top-k SAEs)."""
    dead = torch.nonzero(sae.steps_inactive > DEAD_AFTER).flatten()
    if len(dead) == 0:
        return error.new_zeros(())
    top = pre[:, dead].topk(min(recipe.dead_k, len(dead)), dim=-1)
    codes = torch.zeros_like(pre[:, dead]).scatter(-1, top.indices, top.values)
    return (error - codes @ sae.W_dec[dead]).square().sum(-1).mean()
