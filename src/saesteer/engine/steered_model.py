"""A model that stays steered while other programs run it: in batches of any size, padded on either side, with or without a cache.

Such a program knows nothing of prompts and rows, so a steering must act on each position alone: what depends on a prompt's length or on its
text is refused. What stands at padding is changed as well, and attention does not look there. Rows are as exact as that program's own: it
chooses its batches, so they may differ in the last digits from those of one's own forwards.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from saesteer.core.errors import SettingsError
from saesteer.engine.interventions import Addition, ConditionalAddition, Intervention, LowRankSubspace, Nothing, PromptText
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.engine.sites import site_of
from saesteer.engine.steering import steering_of


def check_every_position(one: Intervention) -> None:
    """Refuse an intervention that is more, or other, than a change at each position by itself."""
    reason = {
        Nothing: "changes nothing: it is the unsteered model",
        PromptText: "puts text before the prompt and steers nothing: put the text into the tasks' prompts",
        ConditionalAddition: "decides by each prompt whether to steer, and another program's batches do not say what is prompt",
        LowRankSubspace: "edits the first and last positions of the prompt, and another program's batches do not say where it ends",
    }.get(type(one))
    if isinstance(one, Addition) and one.positions == "last":
        reason = "steers from the prompt's last position on (P1's protocol), and another program's batches do not say where the prompt ends"
    if reason:
        raise SettingsError(f"this intervention {reason}; vectors, codes, LoRA and fine-tuned weights act at every position")


def steered_model(lm: LanguageModel, sae: Sae, layer: int, intervention: Intervention, factor: float) -> AbstractContextManager[None]:
    """Within the context, every forward of `lm.model` is steered: each row by the one row of the steering, which broadcasts."""
    check_every_position(intervention)
    which, factors = torch.zeros(1, dtype=torch.long, device=lm.device), torch.full((1,), factor, device=lm.device)
    return steering_of(lm, [intervention], which, factors, sae, site_of(lm, layer, sae.meta.site)).installed(lm, 0, 1)
