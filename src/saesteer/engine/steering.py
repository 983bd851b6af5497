"""Interventions as they act on a running model: one factor a row, installed for one forward and always removed. The kinds are in
engine.interventions and, those that change weights or several layers, in engine.adapters.

Rows that are steered together share a kind. Additions, activation edits and adapters of one shape differ from row to row; fine-tuned
weights belong to one intervention and factor.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.core.errors import SettingsError
from saesteer.engine.continuation import BatchSteering
from saesteer.engine.hook_points import HookPoint, sae_hook_point, steered
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae

ALGORITHM_VERSION = 2


@dataclass(frozen=True)
class SteeredRows:
    """Rows that are steered together, each by one of some interventions at its own factor, which is 0 where a condition is not met
    (engine.conditional.switched)."""

    lm: LanguageModel
    which: Int[Tensor, " row"]  # place of the row's intervention among them
    factor: Float[Tensor, " row"]
    sae: Sae
    hook_point: HookPoint

    def vectors(self, of_each: Sequence[Float[Tensor, " d_model"]]) -> Float[Tensor, "row d_model"]:
        """Each row's vector, of those of the interventions."""
        return torch.stack(list(of_each)).to(self.factor)[self.which]

    def numbers(self, of_each: Sequence[float]) -> Float[Tensor, " row"]:
        """Each row's number."""
        return torch.tensor(of_each, dtype=self.factor.dtype, device=self.factor.device)[self.which]


@dataclass(frozen=True)
class Intervention:
    """How the model is to be steered, at every strength. `factor` 1 is the strength that a method itself names (an activation on the
    concept's texts, an adapter as trained); steering with a factor f scales the edit by f."""

    kind: ClassVar[str]
    """Its name in tables."""
    at_layer: ClassVar[bool] = True
    """Whether it leaves the blocks below the layer as they are."""
    not_constant: ClassVar[str]
    """Why it cannot be one constant vector; completes "it ..."."""
    not_everywhere: ClassVar[str] = ""
    """Why it does not change each position independently; completes "it ..."."""

    @property
    def from_last_token(self) -> bool:
        """Whether it acts from the prompt's last token on."""
        return False

    @property
    def changes_prompt(self) -> bool:
        """Whether keys and values of the prompt, its last token's aside, differ from the unsteered model's."""
        return not self.from_last_token

    @property
    def kind_of_batch(self) -> object:
        """What interventions have in common that can steer rows of one batch."""
        return type(self)

    @property
    def unconditional(self) -> "Intervention":
        """What it does to the prompts that it steers: itself, unless it decides by the prompt whether to steer (engine.conditional)."""
        return self

    def steers(self, mean: Float[Tensor, " d_model"]) -> bool:
        """Whether it steers a prompt, by the mean of what its tokens, but for the first, have at the hook point."""
        return True

    def scaled(self, unit: float) -> "Intervention | None":
        """The intervention whose factor 1 is the factor `unit` of this one; None where it has no strength, or another at each position."""
        return None

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        """The steering of rows by interventions that can steer rows of one batch."""
        return UnsteeredRows()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def plain_values(self) -> dict[str, Any]:
        """What else says it, as JSON values."""
        tensors = self.tensors
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in tensors}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], plain_values: dict[str, Any]) -> "Intervention":
        """The intervention that has these."""
        return cls(**tensors, **plain_values)


@dataclass(frozen=True)
class UnsteeredRows:
    """Rows in the model as it is."""

    def take(self, rows: Int[Tensor, " kept"]) -> BatchSteering:
        return self

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class AtHookPoint(ABC):
    """A change of what lies at a hook point; its tensors have a row for each row that is steered."""

    hook_point: HookPoint

    def take(self, rows: Int[Tensor, " kept"]) -> BatchSteering:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if isinstance(value, Tensor)})

    @abstractmethod
    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        """As of `BatchSteering`."""


@dataclass(frozen=True)
class AtEveryPosition(AtHookPoint):
    """A change that is the same at every position."""

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return steered(lm, self.hook_point, self.changed)

    @abstractmethod
    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        """What takes the place of the value, where the encoder reads `read`."""


def together(interventions: Sequence[Intervention]) -> list[list[int]]:
    """Which interventions can steer rows of one batch: places in groups, in order of their first member."""
    groups: dict[object, list[int]] = {}
    for place, intervention in enumerate(interventions):
        groups.setdefault(intervention.kind_of_batch, []).append(place)
    return list(groups.values())


def steering_of(interventions: Sequence[Intervention], rows: SteeredRows) -> BatchSteering:
    """The steering of rows by interventions of one group of `together`."""
    return type(interventions[0]).steering(interventions, rows)


def check_every_position(intervention: Intervention) -> None:
    """Refuse an intervention that is more, or other, than a change at each position by itself."""
    reason = intervention.not_everywhere
    if not reason and intervention.from_last_token:
        reason = "steers from the prompt's last position on (P1's protocol), and another program's batches do not say where the prompt ends"
    if reason:
        able = "vectors, projections, activation edits, LoRA and fine-tuned weights"
        raise SettingsError(f"this intervention {reason}; {able} act at every position")


def steered_model(lm: LanguageModel, sae: Sae, layer: int, intervention: Intervention, factor: float) -> AbstractContextManager[None]:
    """Within the context, every forward of `lm.model` is steered, also in batches of other programs: of any size, padded on either side,
    with or without a cache. Each row is steered by the one row of the steering, which broadcasts. Padding is changed as well, and attention
    does not look there. Such a program chooses its batches, so rows may differ in the last digits from those of one's own forwards."""
    check_every_position(intervention)
    which, factors = torch.zeros(1, dtype=torch.long, device=lm.device), torch.full((1,), factor, device=lm.device)
    rows = SteeredRows(lm, which, factors, sae, sae_hook_point(lm, layer, sae.meta))
    return steering_of([intervention], rows).installed(lm, 0, 1)
