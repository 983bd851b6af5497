"""Hook points, where an SAE sits in a decoder block: what its encoder reads, and where a direction of its decoder is added.

The names are those of core.hook_points; what a block is made of is found by running it (`engine.block_parts`).

| hook point              | the encoder reads                                     | a direction is added to                                |
|-------------------------|-------------------------------------------------------|--------------------------------------------------------|
| `resid_pre`             | the residual before the block                         | the same                                               |
| `resid_mid`             | the residual between attention and MLP                | the same; parallel blocks (Pythia's) have none       |
| `resid_post`            | the residual after the block                          | the same                                               |
| `attn_out`              | what attention adds to the residual                   | `resid_mid`; in parallel blocks `resid_post`           |
| `attn_module`           | what the attention module puts out                    | the same                                               |
| `hook_z`                | attention's heads side by side, before its output map | the same                                               |
| `mlp_out`               | what the MLP adds to the residual                     | `resid_post`                                           |
| `mlp_module`            | what the MLP module puts out                          | the same                                               |
| `transcoder`            | the MLP's input                                       | `resid_post`                                           |
| `transcoder_normalized` | the same before the gain and bias of the norm         | `resid_post`                                           |
| `embedding`             | the residual before block 0, without positions added  | the same                                               |

What attention or the MLP adds is added unchanged, so adding a direction to it is adding it to the residual behind it. Where a module's
output is what is added, as in most families, `attn_module` is `attn_out` and `mlp_module` is `mlp_out`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.core.hook_points import HOOK_POINTS, MODULE_OUTPUTS
from saesteer.engine.block_parts import Call, Parts, normalized_input, parts_of, probe_ids
from saesteer.engine.models import (
    LanguageModel,
    Prefill,
    depth_of,
    final_norm,
    hidden_states,
    pad_rows,
    residual_at,
    residual_changed,
    residuals_at,
    spliced,
    spliced_hidden,
    tensor_changed,
)
from saesteer.engine.saes import SaeMeta, without_mean

ALGORITHM_VERSION = 1


@dataclass(frozen=True)
class Place:
    """Where directions are added: the residual at a depth (models.depth_of) or, in the block behind that depth, the input of `module`
    (hook_z), its output (mlp_module) or the residual to which its output was added (resid_mid)."""

    depth: int
    module: nn.Module | None = None
    at: Literal["input", "output", "residual"] = "residual"

    @property
    def is_passed(self) -> bool:
        """Whether the residual goes past it."""
        return self.at != "residual"


@dataclass(frozen=True)
class Tap:
    """A tensor in the model: a module's input or output, `view` of it."""

    module: nn.Module
    is_input: bool
    view: Callable[[Tensor], Tensor] = torch.clone  # a copy, for some families go on to add to the very tensor


@dataclass(frozen=True)
class HookPoint:
    """A hook point of a layer."""

    name: str
    layer: int
    place: Place
    read: Tap | None  # what the encoder reads; None: what lies at the place
    centred: bool = False  # whether the encoder is given that without each row's mean

    def given(self, rows: Float[Tensor, "*row d_read"]) -> Float[Tensor, "*row d_read"]:
        """What the encoder is given for what lies there."""
        return without_mean(rows) if self.centred else rows


@dataclass(frozen=True)
class Reading:
    """What a forward has at a hook point."""

    read: Float[Tensor, "*row d_read"]  # what the encoder is given
    value: Float[Tensor, "*row d_value"]  # what a direction is added to
    past: Float[Tensor, "*row d_model"] | None  # inside of attention and MLP: the residual that goes past it, the block's input


def hook_point_of(lm: LanguageModel, layer: int, name: str) -> HookPoint:
    """A layer's hook point by its name; one that the model does not have is refused."""
    if name not in (*HOOK_POINTS, *MODULE_OUTPUTS):
        raise ValueError(f"hook point {name!r} does not exist: there are {', '.join((*HOOK_POINTS, *MODULE_OUTPUTS))}")
    if name in ("resid_pre", "resid_post"):
        return HookPoint(name, layer, Place(depth_of(lm, layer, name)), None)
    behind = Place(depth_of(lm, layer, "resid_post"))
    if name == "embedding":
        if layer != 0:
            raise ValueError(f"the embedding is before layer 0, but layer {layer} was asked for: name layer 0")
        # TransformerLens's hook_embed is without positions; the block 0 of a model that adds some is given both.
        first, *_ = residual_at(lm, probe_ids(lm), 0)
        if not torch.equal(first[1], first[3]):
            raise ValueError(
                f"{lm.name}: it adds positions to its embedding, so that no residual is what an SAE at the embedding reads; take an SAE at"
                " resid_pre of layer 0"
            )
        return HookPoint(name, layer, Place(0), None)
    parts = parts_of(lm, layer)
    if name == "hook_z":
        return HookPoint(name, layer, Place(layer, parts.projection(lm).module, "input"), None)
    added = parts.added(lm)
    if name in MODULE_OUTPUTS:
        module, adding = _module(lm, parts, name)
        if not torch.equal(module.output, adding.output):
            return HookPoint(name, layer, Place(layer, module.module, "output"), None)
        name = MODULE_OUTPUTS[name]
    if name == "mlp_out":
        return HookPoint(name, layer, behind, Tap(added.mlp.module, is_input=False))
    if name == "transcoder":
        return HookPoint(name, layer, behind, Tap(parts.mlp(lm).module, is_input=True))
    if name == "transcoder_normalized":
        norm, view = normalized_input(lm, parts)
        return HookPoint(name, layer, behind, Tap(norm, is_input=True, view=view))
    middle = Place(layer, added.attention.module)
    if name == "attn_out":
        return HookPoint(name, layer, middle if added.has_middle else behind, Tap(added.attention.module, is_input=False))
    if not added.has_middle:
        raise ValueError(
            f"{lm.name}: layer {layer} has no resid_mid: its MLP does not read what attention adds, both read the block's input (parallel"
            " blocks); take an SAE at resid_pre, resid_post, attn_out or mlp_out"
        )
    return HookPoint(name, layer, middle, None)


def _module(lm: LanguageModel, parts: Parts, name: str) -> tuple[Call, Call]:
    """The module that one of MODULE_OUTPUTS names, and the call whose output is added to the residual: the same, one inside, or a norm."""
    added = parts.added(lm)
    return (parts.attention(lm), added.attention) if name == "attn_module" else (parts.mlp(lm), added.mlp)


def sae_hook_point(lm: LanguageModel, layer: int, meta: SaeMeta) -> HookPoint:
    """Where an SAE sits in a model's layer. TransformerLens centres the writing weights of models with LayerNorm only, whatever the SAE's
    configuration asks for; an SAE that layer-normalises what it is given (scale std) takes the mean off itself."""
    is_centred = meta.centred and meta.scale != "std" and _has_layer_norm(lm)
    return replace(hook_point_of(lm, layer, meta.hook_point), centred=is_centred)


def _has_layer_norm(lm: LanguageModel) -> bool:
    """Whether the model's final norm takes a row's mean off, as LayerNorm does and RMSNorm does not."""
    row = torch.arange(lm.d_model, device=lm.device).remainder(7)[None].to(lm.dtype)
    plain, shifted = final_norm(lm, row), final_norm(lm, row + 8)
    return bool((plain - shifted).norm() < 0.1 * plain.norm())


def width_at(lm: LanguageModel, layer: int, name: str) -> int:
    """How many numbers an SAE at a hook point reads, and writes."""
    if name != "hook_z":
        return lm.d_model
    heads = parts_of(lm, layer).projection(lm).argument
    assert heads is not None
    return heads.shape[-1]


@contextmanager
def _changed(lm: LanguageModel, place: Place, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, every forward's tensor [row seq width] at a place goes through `change` and the model goes on with what that
    returns."""
    before: list[Tensor] = []

    def remember(residual: Tensor) -> Tensor:
        before[:] = [residual]
        return residual

    def middle_changed(added: Tensor) -> Tensor:
        middle = before.pop() + added
        return added + (change(middle) - middle)

    with ExitStack() as hooks:
        if place.module is None:
            hooks.enter_context(residual_changed(lm, place.depth, change))
        elif place.is_passed:
            hooks.enter_context(tensor_changed(lm, place.module, place.at == "input", change))
        else:
            hooks.enter_context(residual_changed(lm, place.depth, remember))
            hooks.enter_context(tensor_changed(lm, place.module, False, middle_changed))
        yield


def _tapped(lm: LanguageModel, tap: Tap, take: Callable[[Tensor], None]) -> AbstractContextManager[None]:
    """Within the context, every forward hands what is read to `take`."""

    def passed_on(tensor: Tensor) -> Tensor:
        take(tap.view(tensor))
        return tensor

    return tensor_changed(lm, tap.module, tap.is_input, passed_on)


@contextmanager
def steered(lm: LanguageModel, hook_point: HookPoint, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, every forward goes on with `change(value, read)` [row seq width] in place of the value at the hook point's place;
    `read` is what the encoder reads."""
    with ExitStack() as hooks:
        if hook_point.read is None:
            hooks.enter_context(_changed(lm, hook_point.place, lambda value: change(value, hook_point.given(value))))
        else:
            read: list[Tensor] = []
            hooks.enter_context(_tapped(lm, hook_point.read, read.append))
            hooks.enter_context(_changed(lm, hook_point.place, lambda value: change(value, hook_point.given(read.pop()))))
        yield


@torch.no_grad()
def readings(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], hook_points: Sequence[HookPoint]) -> list[Reading]:
    """What each hook point has at every position, in one forward that stops at the last of them."""
    tapped: list[dict[str, Tensor]] = [{} for _ in hook_points]

    def take(number: int, part: str) -> Callable[[Tensor], None]:
        return lambda tensor: tapped[number].update({part: tensor[: len(token_ids)]})

    ends = {hook_point.layer + 1 for hook_point in hook_points if hook_point.read or hook_point.place.module} | {
        hook_point.place.depth for hook_point in hook_points
    }
    with ExitStack() as hooks:
        for number, hook_point in enumerate(hook_points):
            if hook_point.read is not None:
                hooks.enter_context(_tapped(lm, hook_point.read, take(number, "read")))
            if hook_point.place.module is not None:
                hooks.enter_context(_tapped(lm, Tap(hook_point.place.module, hook_point.place.at == "input"), take(number, "place")))
        residuals = residuals_at(lm, token_ids, sorted(ends))
    at_hook_points = []
    for hook_point, tensors in zip(hook_points, tapped, strict=True):
        residual = residuals[hook_point.place.depth]
        value = residual if hook_point.place.module is None else tensors["place"]
        if hook_point.place.module is not None and not hook_point.place.is_passed:
            value = residual + value
        read = hook_point.given(tensors.get("read", value))
        at_hook_points.append(Reading(read, value, residual if hook_point.place.is_passed else None))
    return at_hook_points


def reading(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], hook_point: HookPoint) -> Reading:
    """What a hook point has at every position."""
    return readings(lm, token_ids, [hook_point])[0]


def _inside(lm: LanguageModel, place: Place, value: Float[Tensor, "row seq width"]) -> AbstractContextManager[None]:
    """Within the context, the block that a place lies in has this value there, when the residual before it is the value itself (resid_mid:
    nothing is added to it on the way) or what goes past it."""
    if place.module is None:
        return nullcontext()
    return tensor_changed(lm, place.module, place.at == "input", (lambda _tensor: value) if place.is_passed else torch.zeros_like)


def hidden_after(
    lm: LanguageModel, place: Place, value: Float[Tensor, "row seq width"], past: Float[Tensor, "row seq d_model"] | None
) -> Float[Tensor, "row seq d_model"]:
    """What the final norm puts out when the value at a place is this one (and `past` goes past it); only the blocks behind it run."""
    residual = value if past is None else past
    with _inside(lm, place, value), spliced(lm, place.depth, residual):
        return hidden_states(lm, inputs_embeds=residual.clone(), use_cache=False)  # CTRL scales its embeddings in place


def hidden_after_prompt(
    lm: LanguageModel, prompt: Prefill, place: Place, rows: Float[Tensor, "row width"], past: Float[Tensor, "1 d_model"] | None
) -> Float[Tensor, "row d_model"]:
    """`hidden_after` at a prompt's last position, one row each, `past` the same for all."""
    padded = pad_rows(rows.to(lm.dtype))
    with _inside(lm, place, padded[:, None]):
        return spliced_hidden(lm, prompt, place.depth, padded if past is None else past.expand(len(padded), -1))[: len(rows)]


@torch.no_grad()
def to_residual(lm: LanguageModel, layer: int, name: str) -> Callable[[Float[Tensor, "row width"]], Float[Tensor, "row d_model"]]:
    """What brings directions of an SAE's decoder to the residual: at hook_z attention's output map, without its bias, there and at a
    module's output the norm behind it where the family has one, as if nothing else came through them; elsewhere they are there."""
    if name != "hook_z" and name not in MODULE_OUTPUTS:
        return lambda directions: directions
    parts = parts_of(lm, layer)

    def of_module(module: nn.Module, rows: Tensor) -> Tensor:
        """What a module, which may be on another GPU, makes of rows."""
        result: Tensor = module(rows.to(next(module.parameters(), rows).device)).to(lm.device)
        return result

    if name == "hook_z":
        call, last = parts.projection(lm), parts.added(lm).attention
        bias = of_module(call.module, torch.zeros_like(call.argument[:, 0]))[:1]
    else:
        call, last = _module(lm, parts, name)
    has_norm = last.argument is not None and torch.equal(last.argument, call.output)

    @torch.no_grad()
    def through(directions: Tensor) -> Tensor:
        rows: Tensor = pad_rows(directions.to(lm.device, lm.dtype))
        rows = of_module(call.module, rows) - bias if name == "hook_z" else rows
        return (of_module(last.module, rows) if has_norm else rows)[: len(directions)]

    return through
