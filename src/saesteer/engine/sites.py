"""Where an SAE sits in a decoder block: what its encoder reads, and where a direction of its decoder is added.

The names are core.sites.SITES; what a block is made of is found by running it (`engine.block_parts`).

| site                  | the encoder reads                                       | a direction is added to                                |
|-----------------------|---------------------------------------------------------|--------------------------------------------------------|
| resid_pre, resid_post | the residual before or behind the block                 | the same                                               |
| embedding             | the residual before block 0                             | the same                                               |
| resid_mid             | the residual between attention and MLP                  | the same                                               |
| attn_out              | what attention adds to the residual                     | resid_mid; of a parallel block (GPT-NeoX's) resid_post |
| hook_z                | attention's heads side by side: its output map's input  | the same                                               |
| mlp_out               | what the MLP adds to the residual                       | resid_post                                             |
| transcoder            | the MLP's input                                         | resid_post                                             |
| transcoder_normalized | the same before the gain and bias of the norm           | resid_post                                             |

What attention or the MLP adds is added unchanged, so adding a direction to it is adding it to the residual behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.core.sites import SITES
from saesteer.engine.block_parts import normalized_input, parts_of, probe_ids
from saesteer.engine.models import (
    LanguageModel,
    Prefill,
    block_residual,
    depth_of,
    final_hidden,
    pad_rows,
    residual_at,
    residual_changed,
    residuals_at,
    spliced_hidden,
    with_block_residual,
)

ALGORITHM_VERSION = 1


@dataclass(frozen=True)
class Place:
    """Where directions are added: the residual at a depth (models.depth_of) or, in the block behind that depth, the input of `module`
    (hook_z) or the residual to which its output was added (resid_mid)."""

    depth: int
    module: nn.Module | None = None
    is_input: bool = False


@dataclass(frozen=True)
class Tap:
    """A tensor in the model: a module's input or output, `view` of it."""

    module: nn.Module
    is_input: bool
    view: Callable[[Tensor], Tensor] = torch.clone  # a copy, for some families go on to add to the very tensor


@dataclass(frozen=True)
class Site:
    """A site of a layer."""

    name: str
    layer: int
    place: Place
    read: Tap | None  # what the encoder reads; None: what lies at the place


@dataclass(frozen=True)
class Reading:
    """What a forward has at a site."""

    read: Float[Tensor, "*row d_read"]  # what the encoder is given
    value: Float[Tensor, "*row d_value"]  # what a direction is added to
    past: Float[Tensor, "*row d_model"] | None  # of hook_z: the residual that goes past it, the block's input


def site_of(lm: LanguageModel, layer: int, name: str) -> Site:
    """A layer's site by its name; one that the model does not have is refused."""
    if name not in SITES:
        raise ValueError(f"site {name!r} does not exist: there are {', '.join(SITES)}")
    if name in ("resid_pre", "resid_post"):
        return Site(name, layer, Place(depth_of(lm, layer, name)), None)
    behind = Place(depth_of(lm, layer, "resid_post"))
    if name == "embedding":
        _check_embedding(lm, layer)
        return Site(name, layer, Place(0), None)
    parts = parts_of(lm, layer)
    if name == "hook_z":
        return Site(name, layer, Place(layer, parts.projection(lm).module, is_input=True), None)
    added = parts.added(lm)
    if name == "mlp_out":
        return Site(name, layer, behind, Tap(added.mlp, is_input=False))
    if name == "transcoder":
        return Site(name, layer, behind, Tap(parts.mlp(lm).module, is_input=True))
    if name == "transcoder_normalized":
        norm, view = normalized_input(lm, parts)
        return Site(name, layer, behind, Tap(norm, is_input=True, view=view))
    middle = Place(layer, added.attention)
    if name == "attn_out":
        return Site(name, layer, middle if added.has_middle else behind, Tap(added.attention, is_input=False))
    if not added.has_middle:
        raise ValueError(
            f"{lm.name}: layer {layer} has no resid_mid: its MLP does not read what attention adds, both read the block's input (parallel"
            " blocks); take an SAE at resid_pre, resid_post, attn_out or mlp_out"
        )
    return Site(name, layer, middle, None)


def width_at(lm: LanguageModel, layer: int, name: str) -> int:
    """How many numbers an SAE at a site reads, and writes."""
    if name != "hook_z":
        return lm.d_model
    heads = parts_of(lm, layer).projection(lm).given
    assert heads is not None
    return heads.shape[-1]


def _check_embedding(lm: LanguageModel, layer: int) -> None:
    """Refuse the embedding of models that add positions to it: TransformerLens's hook_embed is without, their block 0 is given both."""
    if layer != 0:
        raise ValueError(f"the embedding is before layer 0, but layer {layer} was asked for: name layer 0")
    first, *_ = residual_at(lm, probe_ids(lm), 0)
    if not torch.equal(first[1], first[3]):
        raise ValueError(
            f"{lm.name}: it adds positions to its embedding, so that no residual is what an SAE at the embedding reads; take an SAE at"
            " resid_pre of layer 0"
        )


@contextmanager
def changed(lm: LanguageModel, place: Place, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, every forward's tensor [row seq width] at a place goes through `change` and the model goes on with what that
    returns."""
    if place.module is None:
        with residual_changed(lm, place.depth, change):
            yield
        return
    before: list[Tensor] = []

    def kept(residual: Tensor) -> Tensor:
        before[:] = [residual]
        return residual

    def output_changed(_module: nn.Module, _args: Any, output: Any) -> Any:
        added = block_residual(output)
        middle = before.pop() + added
        return with_block_residual(output, added + (change(middle) - middle))

    with ExitStack() as hooks:
        if place.is_input:
            handle = place.module.register_forward_pre_hook(lambda _module, args: (change(args[0]), *args[1:]))
        else:
            hooks.enter_context(residual_changed(lm, place.depth, kept))
            handle = place.module.register_forward_hook(output_changed)
        hooks.callback(handle.remove)
        yield


@contextmanager
def _tapped(tap: Tap, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the context, every forward hands what is read to `take`."""
    if tap.is_input:
        handle = tap.module.register_forward_pre_hook(lambda _module, args: take(tap.view(args[0])))
    else:
        handle = tap.module.register_forward_hook(lambda _module, _args, output: take(tap.view(block_residual(output))))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def steered(lm: LanguageModel, site: Site, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, every forward goes on with `change(value, read)` [row seq width] in place of the value at the site's place;
    `read` is what the encoder reads."""
    if site.read is None:
        with changed(lm, site.place, lambda value: change(value, value)):
            yield
        return
    read: list[Tensor] = []
    with _tapped(site.read, read.append), changed(lm, site.place, lambda value: change(value, read.pop())):
        yield


@torch.no_grad()
def readings(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], sites: Sequence[Site]) -> list[Reading]:
    """What each site has at every position, in one forward that stops at the last of them."""
    tapped: dict[int, Tensor] = {}

    def take(number: int) -> Callable[[Tensor], None]:
        return lambda tensor: tapped.update({number: tensor[: len(token_ids)]})

    taps = [tap for site in sites for tap in (site.read, _tap_of(site.place)) if tap is not None]
    ends = {site.layer + 1 for site in sites if site.read or site.place.module} | {site.place.depth for site in sites}
    with ExitStack() as hooks:
        for number, tap in enumerate(taps):
            hooks.enter_context(_tapped(tap, take(number)))
        residuals = residuals_at(lm, token_ids, sorted(ends))
    inside = iter([tapped[number] for number in range(len(taps))])
    return [_reading(site, residuals[site.place.depth], inside) for site in sites]


def _tap_of(place: Place) -> Tap | None:
    return None if place.module is None else Tap(place.module, place.is_input)


def _reading(site: Site, residual: Tensor, tapped: Iterator[Tensor]) -> Reading:
    read = next(tapped) if site.read else None
    if site.place.module is None:
        value, past = residual, None
    elif site.place.is_input:
        value, past = next(tapped), residual
    else:
        value, past = residual + next(tapped), None
    return Reading(value if read is None else read, value, past)


def reading(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], site: Site) -> Reading:
    """What a site has at every position."""
    return readings(lm, token_ids, [site])[0]


@contextmanager
def _inside(place: Place, value: Float[Tensor, "row seq width"]) -> Iterator[None]:
    """Within the context, the block that a place lies in has this value there, when the residual before it is the value itself (resid_mid:
    nothing is added to it on the way) or what goes past it (hook_z)."""
    if place.module is None:
        yield
        return
    if place.is_input:
        handle = place.module.register_forward_pre_hook(lambda _module, args: (value, *args[1:]))
    else:
        handle = place.module.register_forward_hook(
            lambda _module, _args, output: with_block_residual(output, torch.zeros_like(block_residual(output)))
        )
    try:
        yield
    finally:
        handle.remove()


def hidden_after(
    lm: LanguageModel, place: Place, value: Float[Tensor, "row seq width"], past: Float[Tensor, "row seq d_model"] | None
) -> Float[Tensor, "row seq d_model"]:
    """What the final norm puts out when the value at a place is this one (and `past` goes past it); only the blocks behind it run."""
    with _inside(place, value):
        return final_hidden(lm, place.depth, value if past is None else past)


def hidden_after_prompt(
    lm: LanguageModel, prompt: Prefill, place: Place, rows: Float[Tensor, "row width"], past: Float[Tensor, "1 d_model"] | None
) -> Float[Tensor, "row d_model"]:
    """The same at a prompt's last position, one row each, `past` the same for all."""
    padded = pad_rows(rows.to(lm.dtype))
    with _inside(place, padded[:, None]):
        return spliced_hidden(lm, prompt, place.depth, padded if past is None else past.expand(len(padded), -1))[: len(rows)]


@torch.no_grad()
def to_residual(lm: LanguageModel, layer: int, name: str) -> Callable[[Float[Tensor, "row width"]], Float[Tensor, "row d_model"]]:
    """What brings directions of an SAE's decoder to the residual: at hook_z attention's output map, without its bias, and the norm behind
    it where the family has one, as if nothing else came through them; elsewhere they are there."""
    if name != "hook_z":
        return lambda directions: directions
    parts = parts_of(lm, layer)
    call, last = parts.projection(lm), parts.added(lm).attention
    projection = call.module
    bias = projection(torch.zeros_like(call.given[:, 0]))[:1]

    @torch.no_grad()
    def through(directions: Tensor) -> Tensor:
        written: Tensor = projection(pad_rows(directions.to(lm.device, lm.dtype)))[: len(directions)] - bias
        return written if last is projection else last(written)

    return through
