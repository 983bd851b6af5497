"""A model steered with features of an SAE in every forward, whatever code runs it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from saesteer.engine.amplify import amplify
from saesteer.engine.hook_points import sae_hook_point, steered
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, largest_activation
from saesteer.engine.structure import structure_of


def with_structure(model: object) -> LanguageModel:
    """A model that transformers has loaded with its parts found, as it is and without a tokenizer."""
    return model if isinstance(model, LanguageModel) else LanguageModel(model, None, structure_of(model))


def features_steered(lm: LanguageModel, sae: Sae, factors: Mapping[int, float], everywhere: bool) -> AbstractContextManager[None]:
    """Within the context, every forward adds the sum over features of factor * a_max * decoder direction (P1, arXiv 2505.20063, section 3)
    at its last position or at every one."""
    weights = torch.tensor(list(factors.values()), device=sae.W_dec.device)
    vector, once = (weights[:, None] * sae.W_dec[list(factors)]).sum(dim=0).to(lm.device), torch.ones((), device=lm.device)

    def change(value: Tensor, read: Tensor) -> Tensor:
        first = 0 if everywhere else value.shape[1] - 1
        a_max = largest_activation(sae, read[:, first:].flatten(0, 1)).view(len(value), -1)
        return torch.cat([value[:, :first], amplify(value[:, first:], vector, once, a_max)], dim=1)

    return steered(lm, sae_hook_point(lm, sae.meta.layer, sae.meta), change)
