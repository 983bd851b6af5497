"""SAEs of other kinds and sparsities on a world's model, to see what these change: all on the same residuals with the same schedule.

One folder a kind, layer_NN/ in it in sae-lens's form. BatchTopK at other k is trained as the shipped SAEs are (train_saes), so that only k
differs, and stored as a JumpReLU one; the other kinds are trained by sae-lens.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.sae import SAE, SAEMetadata, TrainingSAE
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from saesteer.core.files import write_json
from saesteer.world.streams import stream_seed
from studies.world import train_saes
from studies.world.train_saes import SaeRecipe

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
SHIPPED = "shipped"
"""The kind, in the metrics, of the SAEs that were there before."""


@dataclass(frozen=True)
class KindsRecipe:
    """What is trained, and of what size."""

    sae: SaeRecipe = field(default_factory=SaeRecipe)
    sparsities: tuple[int, ...] = (4, 36)
    """k of the BatchTopK SAEs."""
    gated_l1: float = 4.0
    jumprelu_l0: float = 1.0
    """Weight of the loss's count of active features, of the JumpReLU SAEs."""


def names(recipe: KindsRecipe) -> list[str]:
    """The kinds, which are their folders' names."""
    return [*(f"k{k}" for k in recipe.sparsities), *_by_sae_lens(1, recipe)]


def build_kinds(
    train: Float[Tensor, "layer token d_in"],
    layers: Sequence[int],
    recipe: KindsRecipe,
    seed: int,
    model_name: str,
    context: int,
    out: Path,
) -> None:
    """Every kind at every layer that is not there yet, so that a killed training goes on at the SAE where it was."""
    for layer in layers:
        for kind in names(recipe):
            folder = out / kind / f"layer_{layer:02d}"
            if folder.exists():
                continue
            partial = folder.with_name(f"{folder.name}.partial")
            if kind in _by_sae_lens(1, recipe):
                sae = _trained_by_sae_lens(train[layer], kind, layer, recipe, seed)
                hook = f"blocks.{layer}.hook_resid_post"
                sae.cfg.metadata = SAEMetadata(hook_name=hook, model_name=model_name, prepend_bos=True, context_size=context)
                sae.save_inference_model(partial)
            else:
                weights = train_saes.train_sae(train[layer], replace(recipe.sae, k=int(kind[1:])), seed, layer)
                train_saes.save_sae(weights, partial, layer, model_name, context)
            partial.rename(folder)
            logger.info("%s", folder)


def measure_kinds(held_out: Float[Tensor, "layer token d_in"], layers: Sequence[int], folders: Mapping[str, Path], out: Path) -> None:
    """Write each kind's layers' metrics: folder of a kind's SAEs by its name."""
    measured = {
        kind: {layer: metrics_of(folder / f"layer_{layer:02d}", held_out[layer]) for layer in layers} for kind, folder in folders.items()
    }
    write_json(out / METRICS, measured)


def metrics_of(folder: Path, x: Float[Tensor, "token d_in"]) -> dict[str, float]:
    """Mean active features a token, explained variance and the share of features that never fire, by sae-lens's own reading."""
    sae = SAE.load_from_disk(folder)
    with torch.no_grad():
        codes = sae.encode(x)
        error = (x - sae.decode(codes)).double().square().sum()
    return {
        "l0": float((codes > 0).sum(-1).double().mean()),
        "explained_variance": float(1 - error / (x - x.mean(0)).double().square().sum()),
        "silent": float((codes > 0).any(0).logical_not().double().mean()),
    }


def _by_sae_lens(d_in: int, recipe: KindsRecipe) -> Mapping[str, tuple[type[TrainingSAE[Any]], Any]]:
    """Kind -> sae-lens's class and configuration. JumpReLU's thresholds begin high and its bandwidth is wide: with sae-lens's own defaults
    nearly every feature dies on models this small."""
    same = {"d_in": d_in, "d_sae": recipe.sae.d_sae, "normalize_activations": "expected_average_only_in", "apply_b_dec_to_input": True}
    jumps = {"l0_warm_up_steps": recipe.sae.steps // 2, "jumprelu_bandwidth": 0.1, "jumprelu_init_threshold": 0.05}
    return {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig(k=recipe.sae.k, **same)),
        "gated": (GatedTrainingSAE, GatedTrainingSAEConfig(l1_coefficient=recipe.gated_l1, **same)),
        "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig(l0_coefficient=recipe.jumprelu_l0, **jumps, **same)),
    }


def _trained_by_sae_lens(x: Float[Tensor, "token d_in"], kind: str, layer: int, recipe: KindsRecipe, seed: int) -> TrainingSAE[Any]:
    make, config = _by_sae_lens(x.shape[1], recipe)[kind]
    sizes = recipe.sae
    schedule = SAETrainerConfig(  # as train_saes': flat, then falling, here to a tenth
        total_training_samples=sizes.steps * sizes.batch,
        train_batch_size_samples=sizes.batch,
        lr=sizes.learning_rate,
        lr_end=sizes.learning_rate / 10,
        lr_decay_steps=sizes.steps // 2,
        n_batches_for_norm_estimate=20,
        dead_feature_window=train_saes.DEAD_AFTER,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, f"kinds/{kind}/{layer}"))
        sae = make(config)
        SAETrainer(schedule, sae, _batches(x, sizes.batch, seed)).fit()
    sae.fold_W_dec_norm()  # rows of norm 1, as the shipped SAEs have: a_max, the unit of steering factors, then means the same
    return sae


def _batches(x: Float[Tensor, "token d_in"], size: int, seed: int) -> Iterator[Float[Tensor, "row d_in"]]:
    """Whole batches, one shuffle of the data after another."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "kinds/order"))
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) == size:
                yield x[rows]
