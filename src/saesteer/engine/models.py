"""Load a causal language model; read its residual stream; run it from a prepared residual.

Residuals are found by depth, the number of blocks before them (`depth_of`).
Everything goes through the model's own code: blocks are bypassed by overriding the `forward` of their instances, so masks, rotary
embeddings, layer types and the final norm are Hugging Face's, and no family needs a line of its own (`engine.structure`).

No forward's matrices have fewer than `MIN_ROWS` rows, one a token: matrix kernels change for very few, and a row's result would then
depend on how many neighbours it had. On a CPU in float32 that is enough for rows that are equal to the bit in any company (`fewest_texts`);
elsewhere (`shape_matters`) forwards that matter are padded to one shape as well.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.core.tokens import TextTokens, with_bos
from saesteer.engine.conversation import check_prompts, conversation
from saesteer.engine.finite import check_finite, rows_named
from saesteer.engine.linear_attention import SharedStates
from saesteer.engine.structure import Structure, block_residual, empty_layers, structure_of, untried_structure
from saesteer.engine.weights import load_tokenizer, load_weights, number_type
from saesteer.settings.inputs import ChatSettings

ALGORITHM_VERSION = 1

MIN_ROWS = 32
"""Fewest rows of a forward's matrices; smaller batches are padded and the padding thrown away."""

PROMPT_ALONE = ChatSettings()
"""A conversation that begins with the prompt."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its parts found (decoder blocks, output head, tokenizer), and how its prompts are built."""

    model: Any
    tokenizer: Any
    structure: Structure
    bos: str = "tokenizer"  # one of conversation.BOS_RULES
    prompt_format: str = "plain"  # one of conversation.PROMPT_FORMATS
    chat: ChatSettings = PROMPT_ALONE  # what stands before a user's turn
    lens_tokens: str = "all"  # which tokens the logit lens ranks: all or latin (settings.inputs.ModelSettings)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks."""
        return self.structure.blocks

    @property
    def head(self) -> nn.Module:
        """The output head: logits of final hidden rows."""
        return self.structure.head

    @property
    def name(self) -> str:
        """The folder that the model came from, or its class where it was made in code."""
        return self.model.name_or_path or type(self.model).__name__

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.head.weight.shape[1])

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def n_vocab(self) -> int:
        """Rows of the head: the number of logits, which may exceed that of tokens."""
        return int(self.head.weight.shape[0])

    @cached_property
    def has_token(self) -> Bool[Tensor, " vocab"]:
        """Which rows of the head have a token in the tokenizer's vocabulary; many heads are filled up to a round number of rows."""
        ids = torch.tensor(sorted(self.tokenizer.get_vocab().values()), device=self.device)
        return torch.zeros(self.n_vocab, dtype=torch.bool, device=self.device).index_fill_(0, ids[ids < self.n_vocab], True)

    @cached_property
    def in_lens(self) -> Bool[Tensor, " vocab"]:
        """Which of these rows can be top logit-lens tokens."""
        latin = TextTokens(self.tokenizer.backend_tokenizer).latin_ids if self.lens_tokens == "latin" else range(self.n_vocab)
        ids = torch.tensor([token for token in latin if token < self.n_vocab], device=self.device)
        return self.has_token & torch.zeros_like(self.has_token).index_fill_(0, ids, True)

    @cached_property
    def n_tokens(self) -> int:
        """Number of these rows."""
        return int(self.has_token.sum())

    @property
    def n_positions(self) -> int:
        """The most tokens that the model takes; without a limit where positions are not embedded (Bloom). Where rotations depend on the
        longest text of a forward beyond some length (Phi-3.5), that length."""
        config = self.model.config.get_text_config(decoder=True)
        rotations = getattr(config, "rope_parameters", None) or {}
        kinds = [rotations, *(of for of in rotations.values() if isinstance(of, Mapping))]
        name = "original_max_position_embeddings"
        lengths = [of.get(name) or getattr(config, name, None) for of in kinds if of.get("rope_type") == "longrope"]
        limits = [getattr(config, "max_position_embeddings", None), *lengths]
        return int(min((limit for limit in limits if limit), default=sys.maxsize))

    @property
    def device(self) -> torch.device:
        """Where the head is, and all that the engine adds; the blocks as well, unless the model is spread over several GPUs."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.head.weight.dtype


def load_language_model(
    path: Path, dtype: str, device: str, bos: str = "tokenizer", prompt_format: str = "plain", chat: ChatSettings | None = None
) -> LanguageModel:
    """Load model and tokenizer from a folder in Hugging Face's format (safetensors only, nothing fetched), refusing damaged weights by
    name. `bos`, `prompt_format` and `chat` say how its prompts are built (`prompt_token_ids`)."""
    model = load_weights(path, dtype, device)
    return language_model(model, load_tokenizer(path), bos, prompt_format, chat)


def language_model(
    model: Any, tokenizer: Any, bos: str = "tokenizer", prompt_format: str = "plain", chat: ChatSettings | None = None
) -> LanguageModel:
    """Find the parts of an already loaded Hugging Face causal language model, and put it into evaluation mode."""
    model.eval().requires_grad_(False)
    lm = LanguageModel(model, tokenizer, structure_of(model), bos, prompt_format, chat or PROMPT_ALONE)
    check_prompts(lm.name, tokenizer, bos, prompt_format, lm.chat)

    def to_head(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.to(lm.device)
        return output

    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        model.get_decoder().register_forward_hook(to_head)
    return lm


def model_without_weights(config: Mapping[str, Any], dtype: str) -> LanguageModel:
    """The model of a config.json, of an image-and-text model its text's, with shapes but no numbers and no tokenizer: to plan with."""
    text = AutoConfig.for_model(**config).get_text_config(decoder=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            text, dtype=getattr(torch, number_type(dtype)), attn_implementation="eager", trust_remote_code=False
        )
    return LanguageModel(model.eval().requires_grad_(False), None, untried_structure(model))


def shape_matters(lm: LanguageModel) -> bool:
    """Whether a row's numbers may depend on how many rows run together even above `MIN_ROWS`: on a GPU and in narrow number formats,
    where libraries choose kernels by shape."""
    return lm.device.type != "cpu" or lm.dtype != torch.float32


def fewest_texts(lm: LanguageModel, n_tokens: int) -> int:
    """Fewest texts of `n_tokens` tokens in a forward: enough for `MIN_ROWS` tokens, each of which is a row of every matrix (attention works
    on each text by itself); where shapes matter, `MIN_ROWS` texts."""
    return MIN_ROWS if shape_matters(lm) else -(-MIN_ROWS // n_tokens)


def depth_of(lm: LanguageModel, layer: int, hook_point: str) -> int:
    """A residual hook point as the number of decoder blocks before it: `layer` for resid_pre, `layer` + 1 for resid_post. So resid_pre of a
    layer and resid_post of the layer before are one, and depth 0 is what the first block is given (embeddings, positions added where the
    family does so)."""
    if not 0 <= layer < lm.n_layers:
        raise ValueError(f"layer {layer} does not exist: the model has layers 0 to {lm.n_layers - 1}")
    return layer + (hook_point == "resid_post")


@contextmanager
def tensor_changed(lm: LanguageModel, module: nn.Module, is_input: bool, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, a module's first input, or its output (of a tuple, the first part), goes through `change` in every forward.

    The change is made where the head is, as are SAEs and directions, and its result goes where the module is: the same GPU, unless the
    model is spread over several.
    """

    def moved(tensor: Tensor) -> Tensor:
        return change(tensor.to(lm.device)).to(tensor.device)

    def input_changed(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        return (moved(args[0]), *args[1:])

    def output_changed(_module: nn.Module, _args: Any, output: Any) -> Any:
        tensor = moved(block_residual(output))
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    handle = module.register_forward_pre_hook(input_changed) if is_input else module.register_forward_hook(output_changed)
    try:
        yield
    finally:
        handle.remove()


def residual_changed(lm: LanguageModel, depth: int, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Within the context, every forward's residual [row seq d_model] at `depth` goes through `change` and the model goes on with what that
    returns: the one function that reads and writes residuals."""
    return tensor_changed(lm, lm.blocks[max(depth - 1, 0)], depth == 0, change)


def check_length(lm: LanguageModel, n_tokens: int) -> None:
    """Refuse more tokens than the model has positions for."""
    if n_tokens > lm.n_positions:
        most = lm.n_positions
        raise ValueError(f"{n_tokens} tokens were asked for, but the model takes at most {most}; use shorter texts or fewer new tokens")


def check_not_empty(prompts: Sequence[Sequence[int]]) -> None:
    """Refuse a prompt without a token, which nothing can continue."""
    if not all(prompts):
        raise ValueError("a prompt needs at least one token; give the prompt some text, or set bos to always where there is such a token")


def padded_ids(texts: Sequence[Sequence[int]], width: int | None = None) -> Int[Tensor, "text seq"]:
    """Token ids of texts in the host's memory, each filled up at its end with its first token: causal attention does not look there, and no
    model takes that for its padding token, about which some warn."""
    width = width or max(map(len, texts))
    return torch.tensor([[*text, *[text[0]] * (width - len(text))] for text in texts])


def pad_rows(rows: Tensor, n_rows: int = MIN_ROWS) -> Tensor:
    """Repeat the first row until there are at least `n_rows`, so that every forward sees enough of them."""
    missing = n_rows - rows.shape[0]
    return rows if missing <= 0 else torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


def pad_columns(rows: Tensor, fill: float) -> Tensor:
    """Rows [row column] to be added up, on a GPU filled up to a multiple of 4 columns. CUDA's sums read 16 bytes at a time: in rows of any
    other length, which numbers are added first depends on where the row begins, so on how many rows are before it."""
    missing = -rows.shape[1] % 4
    return nn.functional.pad(rows, (0, missing), value=fill) if missing and rows.device.type == "cuda" else rows


@contextmanager
def _bypassed(lm: LanguageModel, blocks: nn.ModuleList) -> Iterator[None]:
    """Within the context, these blocks hand on what they are given, in the form of the model's blocks, and cost nothing."""
    n_extras = lm.structure.n_extras
    forwards = [block.__dict__.get("forward") for block in blocks]  # of the instances; most have none

    def pass_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return hidden_states if n_extras is None else (hidden_states, *[None] * n_extras)

    for block in blocks:
        block.forward = pass_on
    try:
        yield
    finally:
        for block, forward in zip(blocks, forwards, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


@contextmanager
def spliced(lm: LanguageModel, depth: int, residual: Float[Tensor, "row seq d_model"]) -> Iterator[None]:
    """Within the context, the first `depth` blocks do nothing and the residual there is this one instead."""
    with _bypassed(lm, lm.blocks[:depth]), residual_changed(lm, depth, lambda _residual: residual):
        yield


def hidden_states(lm: LanguageModel, **inputs: Any) -> Float[Tensor, "row seq d_model"]:
    """Output of the final norm for a forward's inputs; what is not finite is refused, quoting the row's text. Every forward goes through
    here but those of tokens that are sampled, whose rows end one by one."""
    hidden: Tensor = lm.model.base_model(**inputs).last_hidden_state

    def text(row: int) -> str:
        return f"text {lm.tokenizer.decode(inputs['input_ids'][row][:16])!r}" if "input_ids" in inputs else f"row {row}"

    with rows_named(text):
        check_finite("hidden states are", hidden, lm.head.weight)
    return hidden


@dataclass(frozen=True)
class Prefill:
    """A prompt run once: keys and values of positions 0..T-2 per layer (of linear attention its two states, `RowStates`). Every later use
    feeds the last token itself."""

    keys: tuple[Tensor, ...]  # n_layers x [1 kv_head T-1 head_dim]; empty for a prompt of one token
    values: tuple[Tensor, ...]
    position: int  # of the last token, T-1
    hidden: Float[Tensor, "seq d_model"] | None = None  # what the final norm puts out at those positions; None: there are none


def prefill(lm: LanguageModel, token_ids: list[int]) -> Prefill:
    """Run positions 0..T-2 of a prompt once and keep their keys and values, so that each later step is one token wide."""
    return prefills(lm, [token_ids])[0]


@torch.no_grad()
def prefills(lm: LanguageModel, prompts: Sequence[list[int]]) -> list[Prefill]:
    """`prefill` of many prompts; those of one length share forwards, of `MIN_ROWS` at most."""
    check_not_empty(prompts)
    prefilled = {place: Prefill((), (), 0) for place, ids in enumerate(prompts) if len(ids) == 1}
    for length in sorted({len(ids) for ids in prompts} - {1}):
        places = [place for place, ids in enumerate(prompts) if len(ids) == length]
        for start in range(0, len(places), MIN_ROWS):
            together, cache = places[start : start + MIN_ROWS], Cache(layers=empty_layers(lm.structure))
            ids = torch.tensor([prompts[place] for place in together], device=lm.device)
            padded = pad_rows(ids[:, :-1], fewest_texts(lm, length - 1))
            hidden = hidden_states(lm, input_ids=padded, past_key_values=cache, use_cache=True)
            for row, place in enumerate(together):
                keys = tuple(layer.keys[row : row + 1].clone() for layer in cache.layers)
                values = tuple(layer.values[row : row + 1].clone() for layer in cache.layers)
                prefilled[place] = Prefill(keys, values, length - 1, hidden[row].clone())
    return [prefilled[place] for place in range(len(prompts))]


class _SharedPrefix(DynamicLayer):
    """A cache layer holding one prompt for all rows. What a forward adds is handed to its attention and not kept, so that the memory of one
    block's keys and values is used again by the next."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values  # [1 kv_head T-1 head_dim], never written

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        shape = (len(key_states), -1, -1, -1)
        return torch.cat([self.keys.expand(shape), key_states], dim=2), torch.cat([self.values.expand(shape), value_states], dim=2)


@torch.no_grad()
def spliced_hidden(lm: LanguageModel, prompt: Prefill, depth: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Place rows as the residual at `depth` (`depth_of`) and the prompt's last position; return what the final norm puts out there, one
    row each."""
    padded = pad_rows(rows.to(lm.dtype))
    states = zip(prompt.keys, prompt.values, lm.structure.linear if prompt.keys else (), strict=True)
    shared = [SharedStates(keys, values, len(padded)) if linear else _SharedPrefix(keys, values) for keys, values, linear in states]
    cache = Cache(layers=shared or empty_layers(lm.structure))
    position_ids = torch.full((padded.shape[0], 1), prompt.position, device=lm.device)
    with spliced(lm, depth, padded[:, None]):
        # A clone: CTRL scales its embeddings in place.
        hidden = hidden_states(lm, inputs_embeds=padded[:, None].clone(), position_ids=position_ids, past_key_values=cache, use_cache=True)
    return hidden[: rows.shape[0], -1]


def final_norm(lm: LanguageModel, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """The model's final norm, run by splicing behind the last block, so that no family needs code of its own."""
    return spliced_hidden(lm, Prefill((), (), 0), lm.n_layers, rows)


@torch.no_grad()
def residuals_at(
    lm: LanguageModel, token_ids: Int[Tensor, "row seq"], depths: Sequence[int]
) -> dict[int, Float[Tensor, "row seq d_model"]]:
    """The residual at each of the given depths (`depth_of`), in one forward that stops at the last of them."""
    captured: dict[int, Tensor] = {}

    def captured_at(depth: int) -> Callable[[Tensor], Tensor]:
        return lambda residual: captured.setdefault(depth, residual)

    with ExitStack() as contexts:
        contexts.enter_context(_bypassed(lm, lm.blocks[max(depths) :]))
        for depth in set(depths):
            contexts.enter_context(residual_changed(lm, depth, captured_at(depth)))
        hidden_states(lm, input_ids=pad_rows(token_ids, fewest_texts(lm, token_ids.shape[1])), use_cache=False)
    return {depth: residual[: token_ids.shape[0]] for depth, residual in captured.items()}


def residual_at(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], depth: int) -> Float[Tensor, "row seq d_model"]:
    """The residual at `depth` (`depth_of`) at every position; blocks after it are not run."""
    return residuals_at(lm, token_ids, [depth])[depth]


def plain_token_ids(lm: LanguageModel, text: str) -> list[int]:
    """Token ids of a text as it stands, with the beginning-of-sequence token that the tokenizer and the model's `bos` rule give it."""
    return with_bos(lm.tokenizer(text)["input_ids"], lm.bos, lm.tokenizer.bos_token_id)


def prompt_token_ids(lm: LanguageModel, text: str) -> list[int]:
    """Token ids of a prompt in the model's prompt format, up to where the model goes on.

    plain: the text itself. chat: the text as the last user's turn in the tokenizer's chat template, generation prompt included, so that the
    last token, where steering starts, is the last before the response. Templates write their own beginning-of-sequence token, so the
    tokenizer adds none.
    """
    if lm.prompt_format == "plain":
        return plain_token_ids(lm, text)
    written = conversation(lm.tokenizer, lm.chat, text)
    return with_bos(lm.tokenizer(written, add_special_tokens=False)["input_ids"], lm.bos, lm.tokenizer.bos_token_id)
