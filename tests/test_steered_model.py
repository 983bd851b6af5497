"""A model steered while transformers runs it, in batches, padded on either side, with a cache: against plain hooks, text by text."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from engine_models import shipped_model, shipped_sae
from jaxtyping import Float
from methods_world import texts_of
from oracles.plain_hooks import at_hook_point
from small_adapters import a_change, a_lora, a_loreft, left_as_it_was, peft_model
from torch import Tensor

from saesteer.core.errors import SettingsError
from saesteer.engine.continuation import BatchSteering
from saesteer.engine.interventions import (
    KINDS,
    ActivationEdit,
    Addition,
    ConditionalAddition,
    ConditionalClamp,
    DecayingAddition,
    Nothing,
    Projection,
    ProjectionFloor,
    PromptText,
    ScaledComponent,
)
from saesteer.engine.saes import Sae, encode
from saesteer.engine.steering import AtEveryPosition, Intervention, SteeredRows, check_every_position, steered_model
from saesteer.engine.vector_formats import check_constant

LAYER, FACTOR = 3, 1.5
VECTOR = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)


@cache
def texts() -> list[list[int]]:
    """Token ids of sentences of several lengths."""
    return [ids[: 5 + 2 * place] for place, ids in enumerate(text.ids for text in texts_of("sea", 6, seed=5))]


def hooked(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """The shipped model, with its block's output [row seq d_model] replaced by a plain hook."""
    return at_hook_point(shipped_model().model, LAYER, "resid_post", change)


def codes_set(sae: Sae) -> Callable[[Tensor], Tensor]:
    """Activations of features 7 and 9 set to 1.5 times 4 and 2, position by position."""

    def change(residual: Tensor) -> Tensor:
        rows = residual.clone().flatten(0, 1)
        for row in rows:
            activations = encode(sae, row[None])[0]
            row += (6.0 - activations[7]) * sae.W_dec[7] + (3.0 - activations[9]) * sae.W_dec[9]
        return rows.reshape(residual.shape)

    return change


def clamped(residual: Tensor) -> Tensor:
    """Activations of features 7 and 9 set to 1.5 times -4 and -2 where each is active."""
    sae = shipped_sae(LAYER)
    rows = residual.clone().flatten(0, 1)
    for row in rows:
        activations = encode(sae, row[None])[0]
        for feature, value in ((7, -6.0), (9, -3.0)):
            if activations[feature] > 0:
                row += (value - activations[feature]) * sae.W_dec[feature]
    return rows.reshape(residual.shape)


def amplified(residual: Tensor) -> Tensor:
    """Each position by its own a_max."""
    a_max = torch.stack([encode(shipped_sae(LAYER), row).max(dim=1).values for row in residual])
    return residual + FACTOR * a_max[:, :, None] * VECTOR


def changed_copy() -> Any:
    model = copy.deepcopy(shipped_model().model)
    change = a_change(shipped_model()).change
    for name, weight in model.named_parameters():
        weight.data = weight + FACTOR * change[name]
    return model


@dataclass(frozen=True)
class Rescaled(Intervention):
    """A new kind, added as CONTRIBUTING.md says: `h * (1 + factor * share)` at every position."""

    kind, not_constant = "rescaled", "scales each position"
    share: float

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        return RescaledRows(rows.hook_point, 1 + rows.factor * rows.numbers([one.share for one in interventions]))


@dataclass(frozen=True)
class RescaledRows(AtEveryPosition):
    scale: Float[Tensor, " row"]

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        return value * self.scale[:, None, None]


TOPK = replace(shipped_sae(LAYER), meta=replace(shipped_sae(LAYER).meta, k=12))
CODES = ActivationEdit(torch.tensor([7, 9]), torch.tensor([4.0, 2.0]))
CLAMP = ConditionalClamp(torch.tensor([7, 9]), torch.tensor([-4.0, -2.0]))
CASES: dict[str, tuple[Intervention, Sae, Callable[[], Any]]] = {
    "vector": (Addition(VECTOR, 40.0), shipped_sae(LAYER), lambda: hooked(lambda residual: residual + FACTOR * 40 * VECTOR)),
    "vector by a_max": (Addition(VECTOR, None), shipped_sae(LAYER), lambda: hooked(amplified)),
    "codes": (CODES, shipped_sae(LAYER), lambda: hooked(codes_set(shipped_sae(LAYER)))),
    "codes of a TopK SAE": (CODES, TOPK, lambda: hooked(codes_set(TOPK))),
    "clamp where active": (CLAMP, shipped_sae(LAYER), lambda: hooked(clamped)),
    "projection": (Projection(VECTOR), TOPK, lambda: hooked(lambda h: h - FACTOR * (h @ VECTOR)[:, :, None] * VECTOR)),
    "component": (ScaledComponent(VECTOR), TOPK, lambda: hooked(lambda h: h + FACTOR * (h @ VECTOR)[:, :, None] * VECTOR)),
    "floor": (ProjectionFloor(VECTOR, 9.0), TOPK, lambda: hooked(lambda h: h + (FACTOR * 9 - h @ VECTOR).relu()[:, :, None] * VECTOR)),
    "a new kind": (Rescaled(0.2), TOPK, lambda: hooked(lambda h: h * (1 + FACTOR * 0.2))),
    "LoRA": (a_lora(shipped_model()), TOPK, lambda: nullcontext(peft_model(shipped_model(), a_lora(shipped_model()), "shipped", FACTOR))),
    "weights": (a_change(shipped_model()), TOPK, lambda: nullcontext(changed_copy())),
}
"""What steers, and the same in plain code."""


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_texts_of_several_lengths_read_in_one_batch(case: str) -> None:
    """Padded at the end, without a mask: what stands there is steered as well, and no text looks there."""
    intervention, sae, plainly = CASES[case]
    lm = shipped_model()
    with plainly() as model:
        expected = [model(torch.tensor([text])).logits[0] for text in texts()]
    width = max(map(len, texts()))
    padded = torch.tensor([text + [0] * (width - len(text)) for text in texts()])
    unsteered = lm.model(padded).logits
    with left_as_it_was(lm), steered_model(lm, sae, LAYER, intervention, FACTOR):
        batches = torch.cat([lm.model(padded[:4]).logits, lm.model(padded[4:]).logits])
    for text, made, before, wanted in zip(texts(), batches, unsteered, expected, strict=True):
        torch.testing.assert_close(made[: len(text)], wanted, rtol=1e-4, atol=1e-4)
        assert (made - before)[: len(text)].abs().max() > 0.1
    assert torch.equal(lm.model(padded).logits, unsteered)


SLOW = ("vector by a_max", "codes", "weights")


@torch.no_grad()
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.exhaustive] * (case in SLOW)) for case in CASES])
def test_generation_with_a_cache_and_padding_before_the_prompts(case: str) -> None:
    intervention, sae, plainly = CASES[case]
    lm, greedy = shipped_model(), {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    with plainly() as model:
        expected = [model.generate(torch.tensor([text]), **greedy)[0, len(text) :].tolist() for text in texts()]
    width = max(map(len, texts()))
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts()])
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts()])
    with steered_model(lm, sae, LAYER, intervention, FACTOR):
        made = lm.model.generate(ids, attention_mask=mask, **greedy)
    assert made[:, width:].tolist() == expected


REFUSED: dict[str, tuple[Intervention, str, str | None]] = {
    "nothing": (Nothing(), "this fit changes nothing: it is no constant added vector", "changes nothing: it is the unsteered model"),
    "prompt_text": (PromptText(("a text",)), "puts text before the prompt", "puts text before the prompt and steers nothing"),
    "conditional_addition": (
        ConditionalAddition(VECTOR, 1.0, VECTOR, 0.1, True),
        "decides by each prompt whether to add",
        "decides by each prompt whether to steer",
    ),
    "activation_edit": (CODES, "sets .clamps. feature activations", None),
    "conditional_clamp": (CLAMP, "where the feature is active, by a different amount", None),
    "decaying_addition": (
        DecayingAddition(VECTOR, 1.0, 0.9),
        "adds less at each further token",
        "weakens from the prompt's last position on",
    ),
    "scaled_component": (ScaledComponent(VECTOR), "scales what each position has along its vector", None),
    "projection_floor": (ProjectionFloor(VECTOR, 1.0), "raises what each position has along its vector to a floor", None),
    "projection": (Projection(VECTOR), "takes away what each position has along its vector", None),
    "low_rank_weights": (a_lora(shipped_model()), "is an adapter .LoRA.", None),
    "low_rank_subspace": (a_loreft(shipped_model()), "is an adapter .LoReFT.", "edits the first and last positions of the prompt"),
    "weight_change": (a_change(shipped_model()), "is a fine-tuned model", None),
}
"""Of every kind but an addition, which is a constant vector: why it is none, and, where it depends on the prompt, why it cannot steer a
model that is called with anything."""


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_constant_vector_or_depends_on_the_prompt_is_refused_by_kind(kind: str) -> None:
    intervention, not_constant, not_everywhere = REFUSED[kind]
    with pytest.raises(SettingsError, match=not_constant):
        check_constant(intervention)
    if not_everywhere is None:
        check_every_position(intervention)
        return
    with pytest.raises(SettingsError, match=not_everywhere):
        check_every_position(intervention)
    with pytest.raises(SettingsError, match=not_everywhere):
        steered_model(shipped_model(), shipped_sae(LAYER), LAYER, intervention, 1.0)


def test_an_addition_is_a_constant_vector_but_from_the_prompts_last_position_on_depends_on_it() -> None:
    assert set(KINDS) - set(REFUSED) == {"addition"}
    check_constant(Addition(VECTOR, None, "last"))
    with pytest.raises(SettingsError, match="steers from the prompt's last position on .P1's protocol."):
        check_every_position(Addition(VECTOR, None, "last"))
