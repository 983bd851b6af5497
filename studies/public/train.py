"""SAEs of a public model, trained by sae-lens on stored residuals: one a layer, all kinds with one schedule. What ships has its matrices in
eight bits: each feature's encoder column and decoder row as integers from -127 to 127 times a scale of its own.

`saesteer.engine.sae_read` reads that form; sae-lens refuses it, as it has no tensor `W_enc`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import BFloat16, Float, Int8
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saesteer.core.files import write_folder
from saesteer.world.streams import stream_seed
from studies.public.activations import CONTEXT

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = ("batchtopk", "topk", "jumprelu")


@dataclass(frozen=True)
class Recipe:
    """Size and schedule of one SAE."""

    architecture: str = "batchtopk"
    d_sae: int = 4096
    k: int = 48  # active features a token, of batchtopk and topk
    l0_coefficient: float = 1.0  # weight of the loss's count of active features, of jumprelu
    tokens: int = 3_000_000
    batch: int = 1024
    learning_rate: float = 8e-4
    warm_up: int = 100
    decay_from: float = 0.7  # share of the steps after which the rate falls linearly to a hundredth
    dead_after: int = 150  # steps without firing, from when on the auxiliary loss revives a feature


def train_sae(x: BFloat16[Tensor, "token d_in"], recipe: Recipe, layer: int, model_name: str, seed: int, folder: Path) -> None:
    """Train on one layer's residuals and save in sae-lens' form, decoder rows of norm 1; a BatchTopK SAE becomes a JumpReLU one with one
    threshold for all features."""
    if folder.exists():
        return
    steps = recipe.tokens // recipe.batch
    schedule = SAETrainerConfig(
        total_training_samples=steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_end=recipe.learning_rate / 100,
        lr_warm_up_steps=recipe.warm_up,
        lr_decay_steps=round((1 - recipe.decay_from) * steps),
        n_batches_for_norm_estimate=50,
        dead_feature_window=recipe.dead_after,
        autocast=True,  # bfloat16 products, twice as fast on a processor that has them
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, f"sae/{layer}"))
        sae = _new_sae(x.shape[1], recipe, steps)
        centre = x[torch.randperm(len(x))[: 2**16]].float()
        sae.b_dec.data = centre.mean(0) * x.shape[1] ** 0.5 / centre.norm(dim=-1).mean()
        SAETrainer(schedule, sae, _batches(x, recipe.batch)).fit()
    sae.fold_W_dec_norm()
    hook = f"blocks.{layer}.hook_resid_post"
    sae.cfg.metadata = SAEMetadata(hook_name=hook, model_name=model_name, prepend_bos=True, context_size=CONTEXT)
    write_folder(folder, sae.save_inference_model)


class BatchTopK(nn.Module):
    """Keeps the largest activations of a whole batch, k a row on average, and those as large as the last one.

    sae-lens sorts all of them, a third of a step's time on a processor. Here a sixteenth says about where the limit lies.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        """Zeros elsewhere."""
        acts = x.relu()
        flat, n = acts.detach().flatten(), self.k * len(x)
        some = flat[::16]
        about = some.topk(min(len(some), n // 8)).values[-1]  # twice as many are above it, about
        above = flat[flat >= about]
        least = (above if len(above) >= n else flat).topk(n).values[-1]
        return acts.masked_fill(acts.detach() < least, 0)


class _BatchTopKSAE(BatchTopKTrainingSAE):
    def get_activation_fn(self) -> Any:
        """sae-lens' way to name it."""
        return BatchTopK(int(self.cfg.k))


def _new_sae(d_in: int, recipe: Recipe, steps: int) -> TrainingSAE[Any]:
    sizes: dict[str, Any] = {"d_in": d_in, "d_sae": recipe.d_sae, "normalize_activations": "expected_average_only_in"}
    sizes |= {"apply_b_dec_to_input": True}
    if recipe.architecture == "batchtopk":
        return _BatchTopKSAE(BatchTopKTrainingSAEConfig(k=recipe.k, **sizes))
    if recipe.architecture == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=recipe.k, **sizes))
    jumps = {"l0_coefficient": recipe.l0_coefficient, "l0_warm_up_steps": steps // 2}
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(jumprelu_bandwidth=0.1, jumprelu_init_threshold=0.05, **jumps, **sizes))


def _batches(x: BFloat16[Tensor, "token d_in"], size: int) -> Iterator[Float[Tensor, "row d_in"]]:
    """Whole batches in float32, one shuffle of the data after another."""
    while True:
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) == size:
                yield x[rows].float()


def rounded(rows: Float[Tensor, "feature d_model"]) -> tuple[Int8[Tensor, "feature d_model"], Float[Tensor, " feature"]]:
    """Integers and the scale of each row that gives its largest weight 127."""
    scale = rows.abs().amax(dim=1) / 127
    return (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8), scale


def save_rounded(source: Path, out: Path) -> None:
    """The SAE of the folder `source` (sae-lens' form, JumpReLU or TopK), its matrices rounded."""
    weights = load_file(source / WEIGHTS)
    matrices = {"W_enc": weights.pop("W_enc").T, "W_dec": weights.pop("W_dec")}
    stored = {name: tensor.float() for name, tensor in weights.items()}
    for name, rows in matrices.items():
        stored[f"{name}.int8"], stored[f"{name}.scale"] = (tensor.contiguous() for tensor in rounded(rows.float()))
    out.mkdir(parents=True, exist_ok=True)
    save_file(stored, out / WEIGHTS)
    config = json.loads((source / "cfg.json").read_text(encoding="utf-8"))
    (out / "cfg.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
