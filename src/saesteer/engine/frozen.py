"""Steering frozen to a constant vector, the form in which other programs take it: the same tensor, added to what a decoder block puts out.

P1's steering (arXiv 2505.20063) takes a_max anew at each position. Frozen, a_max is one number, its median over neutral prompts. That is
another intervention, so its texts are to be measured like any other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.core.errors import SettingsError
from saesteer.engine.finite import check_finite
from saesteer.engine.hook_points import hook_point_of, reading, sae_hook_point
from saesteer.engine.interventions import Addition, Intervention, kind_of
from saesteer.engine.models import LanguageModel, pad_rows
from saesteer.engine.saes import Sae, largest_activation

_NOT_CONSTANT = {
    "nothing": "changes nothing",
    "prompt_text": "puts text before the prompt",
    "conditional_addition": "decides by each prompt whether to add its vector",
    "decaying_addition": "adds less at each further token",
    "activation_edit": "sets (clamps) feature activations, by a different amount at each position",
    "conditional_clamp": "sets (clamps) feature activations where the feature is active, by a different amount at each position",
    "projection": "takes away what each position has along its vector, a different amount at each",
    "scaled_component": "scales what each position has along its vector, a different amount at each",
    "projection_floor": "raises what each position has along its vector to a floor, by a different amount at each",
    "low_rank_weights": "is an adapter (LoRA), which changes weights",
    "low_rank_subspace": "is an adapter (LoReFT), whose edit depends on the residual",
    "weight_change": "is a fine-tuned model",
}


@dataclass(frozen=True)
class BlockVector:
    """A constant vector that is added to what a decoder block puts out."""

    direction: Float[Tensor, " d_model"]  # what factor 1 adds, in float32 on the host
    factor: float
    block: int  # 0-based; -1: added to what the first block is given
    n_blocks: int
    positions: Literal["all", "last"]  # every one, or the prompt's last and those behind it
    model_type: str  # as in the model's config.json
    module: str  # name of the block in transformers' model; "" for block -1
    base_module: str  # the same below the model's `base_model`

    @property
    def vector(self) -> Float[Tensor, " d_model"]:
        """What is added: the strength is in it."""
        return self.factor * self.direction


def check_constant(intervention: Intervention) -> Addition:
    """The intervention, if it adds a vector without looking at the text; otherwise it is refused."""
    if isinstance(intervention, Addition):
        return intervention
    raise SettingsError(f"this fit {_NOT_CONSTANT[kind_of(intervention)]}: it is no constant added vector, so no vector file can hold it")


@torch.no_grad()
def median_a_max(lm: LanguageModel, sae: Sae, layer: int, prompts: Sequence[Sequence[int]]) -> float:
    """The median over prompts (token ids) of a_max at the last token, where P1's steering starts."""
    hook_point = sae_hook_point(lm, layer, sae.meta)
    rows = (reading(lm, torch.tensor([list(prompt)], device=lm.device), hook_point).read[:, -1] for prompt in prompts)
    largest = torch.cat([largest_activation(sae, pad_rows(row))[:1] for row in rows])
    check_finite("feature activations are", largest, sae.W_enc)
    a_max = median(largest.tolist())
    if not a_max > 0:
        raise SettingsError(f"layer {layer}: no feature is active at the last token of the neutral prompts (median), so a_max is 0 there")
    return a_max


def block_vector(lm: LanguageModel, layer: int, hook_point: str, addition: Addition, factor: float) -> BlockVector:
    """What a frozen addition at an SAE's hook point adds to a block's output; refused where that is no place between two blocks."""
    place = hook_point_of(lm, layer, hook_point).place
    if place.module is not None:
        raise SettingsError(
            f"hook point {hook_point} lies inside decoder block {layer}, but other programs add vectors between blocks: take an SAE at"
            " resid_pre, resid_post or mlp_out, or a transcoder"
        )
    assert addition.scale is not None
    block = place.depth - 1
    direction = (addition.scale * addition.vector.float()).cpu()
    names = ["", ""]
    if block >= 0:
        models = (lm.model, lm.model.base_model)
        names = [next(name for name, module in model.named_modules() if module is lm.blocks[block]) for model in models]
    return BlockVector(direction, factor, block, lm.n_layers, addition.positions, lm.model.config.model_type, *names)
