"""Ordinary text, which has nothing to do with the concept, read under an intervention, and its losses.

An ordinary text is read in one forward under the intervention, its first `N_CONTEXT` tokens as the prompt: vectors and activation edits
act at every position, or from the prompt's last token on where they steer the last position of every forward; LoReFT edits the prompt;
added text stands before it. Counted are the tokens after the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.core.errors import SaesteerError
from saesteer.engine.conditional import switched
from saesteer.engine.head import raw_logits, rows_of_logits, soft_capped
from saesteer.engine.hook_points import sae_hook_point
from saesteer.engine.interventions import PromptText
from saesteer.engine.models import MIN_ROWS, LanguageModel, hidden_states, padded_ids, plain_token_ids, residual_at, spliced
from saesteer.engine.saes import Sae
from saesteer.engine.steering import Intervention, SteeredRows, steering_of

ALGORITHM_VERSION = 1

N_CONTEXT = 8
"""Tokens of a text that are its prompt, the beginning-of-sequence token included."""


@dataclass(frozen=True)
class Texts:
    """Texts padded at the end, where causal attention does not look, and where the tokens are that are counted."""

    ids: Int[Tensor, "text seq"]
    prompts: list[list[int]]
    row: Int[Tensor, " token"]
    at: Int[Tensor, " token"]


@dataclass(frozen=True)
class Read:
    """Texts as the model reads them: what is counted, in order."""

    hidden: Float[Tensor, "token d_model"]  # from which each counted token is predicted
    targets: Int[Tensor, " token"]


@torch.no_grad()
def loss_rises(
    lm: LanguageModel, sae: Sae, intervention: Intervention, factors: Sequence[float], texts: Sequence[Sequence[int]]
) -> Float64[Tensor, "factor text"]:
    """What steering at the SAE's layer adds to the mean loss of each ordinary text, nats a token, at each factor."""
    unsteered = read(lm, with_padding(lm, texts))
    loss, lengths = losses(lm, unsteered), [len(text) - N_CONTEXT for text in texts]
    steered = reader_under(lm, sae, sae.meta.layer, intervention, texts)
    rises = [losses(lm, steered(factor)) - loss for factor in factors]
    return torch.stack([torch.stack([part.mean() for part in rise.split(lengths)]) for rise in rises])


def with_padding(lm: LanguageModel, texts: Sequence[Sequence[int]], added: Sequence[int] | None = None) -> Texts:
    """Texts, with tokens added before them, which are then part of the prompt; in place of the beginning-of-sequence token, where there is
    one."""
    n_bos = int(texts[0][0] == lm.tokenizer.bos_token_id)  # of all texts or of none
    first = added or texts[0][:n_bos]
    whole = [[*first, *text[n_bos:]] for text in texts]
    n_context, width = len(first) + N_CONTEXT - n_bos, max(map(len, whole))
    # Which tokens are counted is kept in the host's memory.
    position, lengths = torch.arange(width), torch.tensor(list(map(len, whole)))[:, None]
    row, at = ((position >= n_context) & (position < lengths)).nonzero(as_tuple=True)
    return Texts(padded_ids(whole).to(lm.device), [text[:n_context] for text in whole], row.to(lm.device), at.to(lm.device))


def read(lm: LanguageModel, texts: Texts) -> Read:
    """Texts as the model reads them, in one forward."""
    hidden = hidden_states(lm, input_ids=texts.ids, use_cache=False)
    return Read(hidden[texts.row, texts.at - 1], texts.ids[texts.row, texts.at])


def reader_under(
    lm: LanguageModel, sae: Sae, layer: int, intervention: Intervention, texts: Sequence[Sequence[int]]
) -> Callable[[float], Read]:
    """Reads texts under an intervention at a factor. Where it acts at the layer only, the blocks below are run once."""
    if isinstance(intervention, PromptText):
        return lambda factor: read(lm, with_padding(lm, texts, plain_token_ids(lm, intervention.texts[int(factor) - 1])))
    plain, hook_point = with_padding(lm, texts), sae_hook_point(lm, layer, sae.meta)
    which, ones = torch.zeros(len(texts), dtype=torch.long, device=lm.device), torch.ones(len(texts), device=lm.device)
    met = switched(lm, hook_point, [intervention], which, ones, plain.prompts)
    below = residual_at(lm, plain.ids, layer) if intervention.at_layer else None

    def steered(factor: float) -> Read:
        steering = steering_of([intervention], SteeredRows(lm, which, factor * met, sae, hook_point))
        with nullcontext() if below is None else spliced(lm, layer, below), steering.installed(lm, 0, N_CONTEXT):
            return read(lm, plain)

    return steered


def logits_and_targets(lm: LanguageModel, text: Read) -> Iterator[tuple[Float[Tensor, "part vocab"], Int[Tensor, " part"]]]:
    """The model's own logits for each counted token, and the token; some at a time, few enough that there may be those of two models."""
    n_rows = max(MIN_ROWS, rows_of_logits(lm) // 2)
    for hidden, targets in zip(text.hidden.split(n_rows), text.targets.split(n_rows), strict=True):
        yield soft_capped(lm, raw_logits(lm, hidden)), targets


def losses_of(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float64[Tensor, " token"]:
    """-log p of each target, in nats."""
    return -logits.double().log_softmax(dim=1).gather(1, targets[:, None])[:, 0]


def losses(lm: LanguageModel, text: Read) -> Float64[Tensor, " token"]:
    """`losses_of` each counted token."""
    return torch.cat([losses_of(logits, targets) for logits, targets in logits_and_targets(lm, text)])


class TooFewTextsError(SaesteerError, ValueError):
    """Too few ordinary texts are long enough to measure what steering breaks."""


def ordinary_texts(texts: Sequence[Sequence[int]], n_texts: int, n_tokens: int) -> list[list[int]]:
    """`n_texts` of the texts, spread evenly over those of more than `N_CONTEXT` tokens, each cut after `n_tokens`; all of them where there
    are fewer."""
    long = [list(text[:n_tokens]) for text in texts if len(text) > N_CONTEXT]
    if len(long) < MIN_ROWS:
        raise TooFewTextsError(
            f"{len(long)} texts have more than {N_CONTEXT} tokens: at least {MIN_ROWS} are needed to measure what steering breaks"
        )
    step = max(1.0, len(long) / n_texts)
    return [long[int(number * step)] for number in range(min(n_texts, len(long)))]
