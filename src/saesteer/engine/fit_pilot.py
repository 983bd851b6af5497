"""How strongly a fit steers at factor 1 where a comparison has a pilot: as strongly as raises the loss of ordinary texts by so much.

Methods name strengths of their own, an activation or an adapter as trained, which lie anywhere from nothing to loops. As for features
(engine.pilot), one grid of multiples of a fit's pilot factor is then right for all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saesteer.engine.damage import losses, read, reader_under, with_padding
from saesteer.engine.loss_rise import at_rise
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.engine.steering import Intervention

ALGORITHM_VERSION = 1

OCTAVES = (-6.0, 6.0)
"""The pilot factor is looked for between 1/64 and 64 times the method's own strength."""
HALVINGS = 5
"""How often that range is halved, in the logarithm, before the rise is interpolated: down to three eighths of an octave."""


def at_pilot_factor(lm: LanguageModel, sae: Sae, intervention: Intervention, texts: Sequence[Sequence[int]], target: float) -> Intervention:
    """The intervention with its pilot factor as factor 1; as it is where its strength cannot be scaled."""
    if intervention.scaled(1.0) is None:
        return intervention
    # Ordinary texts need not meet a condition, and then nothing would be added.
    made = intervention.scaled(pilot_factor(lm, sae, intervention.unconditional, texts, target))
    assert made is not None
    return made


@torch.no_grad()
def pilot_factor(lm: LanguageModel, sae: Sae, intervention: Intervention, texts: Sequence[Sequence[int]], target: float) -> float:
    """The factor at which steering raises the mean loss of ordinary texts (token ids; engine.damage) by `target` nats a token, taken to
    grow with the factor; the end of the range that it lies beyond."""
    unsteered, steered = read(lm, with_padding(lm, texts)), reader_under(lm, sae, sae.meta.layer, intervention, texts)
    base = losses(lm, unsteered).mean()

    def rise(factor: Tensor) -> Tensor:
        return (losses(lm, steered(float(factor))).mean() - base)[None]

    low, high = (torch.tensor([octave], dtype=torch.double, device=lm.device) for octave in OCTAVES)
    return float(at_rise(rise, target, (low, high), HALVINGS)[0])
