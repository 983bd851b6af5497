"""What steering does to text that has nothing to do with the concept: the loss on it, and how far the next token's distribution moves.

An ordinary text is read in one forward under the intervention, its first `N_CONTEXT` tokens as the prompt: vectors and activation edits
act at every position, or from the prompt's last token on where they steer the last position of every forward; LoReFT edits the prompt;
added text stands before it. Counted are the tokens after the prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.core.tables import DAMAGE
from saesteer.engine.conditional import switched
from saesteer.engine.generations import placed
from saesteer.engine.head import raw_logits, rows_of_logits, soft_capped
from saesteer.engine.hook_points import hook_point_of
from saesteer.engine.interventions import Intervention, PromptText, unpacked
from saesteer.engine.models import MIN_ROWS, LanguageModel, plain_token_ids
from saesteer.engine.saes import Sae
from saesteer.engine.steering import steering_of

ALGORITHM_VERSION = 1

N_CONTEXT = 8
"""Tokens of a text that are its prompt, the beginning-of-sequence token included."""


@dataclass(frozen=True)
class _Read:
    """Texts as the model reads them: what is counted, in order."""

    hidden: Float[Tensor, "token d_model"]  # from which each counted token is predicted
    targets: Int[Tensor, " token"]


@torch.no_grad()
def text_damage(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, fits: pl.DataFrame, texts: Sequence[Sequence[int]], sae_features: str
) -> Iterator[pl.DataFrame]:
    """DAMAGE rows of the method, concept_id and factor of `rows`, one at a time. `fits` are their FITS rows, `texts` token ids, at least
    `MIN_ROWS` texts of more than `N_CONTEXT` tokens; `sae_features` is the setting of that name."""
    unsteered = _read(lm, sae, layer, None, 1.0, texts)
    loss = float(compared(lm, unsteered, unsteered)[0].mean())
    for row in rows.join(fits, on=["layer", "method", "concept_id"], how="left", maintain_order="left").iter_rows(named=True):
        intervention = placed(unpacked(row["kind"], row["tensors"], row["values"]), sae, sae_features)
        nll, divergence = compared(lm, _read(lm, sae, layer, intervention, float(row["factor"]), texts), unsteered)
        measured = {"loss": float(nll.mean()), "unsteered_loss": loss, "divergence": float(divergence.mean()), "n_tokens": len(nll)}
        yield pl.DataFrame([{name: row[name] for name in DAMAGE.keys} | measured], schema=DAMAGE.schema)


@torch.no_grad()
def loss_rises(
    lm: LanguageModel, sae: Sae, intervention: Intervention, factor: float, texts: Sequence[Sequence[int]]
) -> Float64[Tensor, " text"]:
    """What steering at the SAE's layer adds to the mean loss of each ordinary text, nats a token."""
    unsteered = _read(lm, sae, sae.meta.layer, None, factor, texts)
    steered = _read(lm, sae, sae.meta.layer, intervention, factor, texts)
    rise = compared(lm, steered, unsteered)[0] - compared(lm, unsteered, unsteered)[0]
    return torch.stack([part.mean() for part in rise.split([len(text) - N_CONTEXT for text in texts])])


def _read(
    lm: LanguageModel, sae: Sae, layer: int, intervention: Intervention | None, factor: float, texts: Sequence[Sequence[int]]
) -> _Read:
    """Texts under an intervention; None: as the model reads them."""
    n_context, whole = N_CONTEXT, [list(text) for text in texts]
    if isinstance(intervention, PromptText):
        added = plain_token_ids(lm, intervention.texts[int(factor) - 1])
        n_context, whole = len(added) + N_CONTEXT - 1, [added + text[1:] for text in whole]
    # Padded at the end, where causal attention does not look. Which tokens are counted is kept in the host's memory.
    width, position = max(map(len, whole)), torch.arange(max(map(len, whole)))
    ids = torch.tensor([text + text[:1] * (width - len(text)) for text in whole], device=lm.device)
    counted = (position >= n_context) & (position < torch.tensor(list(map(len, whole)))[:, None])  # [text seq]
    if intervention is None or isinstance(intervention, PromptText):
        hidden = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    else:
        hook_point, which = hook_point_of(lm, layer, sae.meta.hook_point), torch.zeros(len(ids), dtype=torch.long, device=lm.device)
        factors = torch.full((len(ids),), factor, device=lm.device)
        factors = switched(lm, hook_point, [intervention], which, factors, [text[:n_context] for text in whole])
        with steering_of(lm, [intervention], which, factors, sae, hook_point).installed(lm, 0, n_context):
            hidden = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    row, at = (index.to(lm.device) for index in counted.nonzero(as_tuple=True))
    return _Read(hidden[row, at - 1], ids[row, at])


def compared(lm: LanguageModel, steered: _Read, unsteered: _Read) -> tuple[Float64[Tensor, " token"], Float64[Tensor, " token"]]:
    """Each counted token's -log p under steering, and the Kullback-Leibler divergence of the steered distribution there from the unsteered
    one, sum p_unsteered log(p_unsteered / p_steered); both in nats."""
    n_rows = max(MIN_ROWS, rows_of_logits(lm) // 2)
    losses, divergences = [], []
    parts = (part.split(n_rows) for part in (steered.hidden, unsteered.hidden, steered.targets))
    for ours, theirs, targets in zip(*parts, strict=True):
        log_p, log_q = (soft_capped(lm, raw_logits(lm, hidden)).double().log_softmax(dim=1) for hidden in (ours, theirs))
        losses.append(-log_p.gather(1, targets[:, None]).squeeze(1))
        divergences.append((log_q.exp() * (log_q - log_p)).sum(dim=1))
    return torch.cat(losses), torch.cat(divergences)


def ordinary_texts(texts: Sequence[Sequence[int]], n_texts: int, n_tokens: int) -> list[list[int]]:
    """`n_texts` of the texts, spread evenly over those of more than `N_CONTEXT` tokens, each cut after `n_tokens`; all of them where there
    are fewer."""
    long = [list(text[:n_tokens]) for text in texts if len(text) > N_CONTEXT]
    if len(long) < MIN_ROWS:
        raise ValueError(
            f"{len(long)} texts have more than {N_CONTEXT} tokens: at least {MIN_ROWS} are needed to measure what steering breaks"
        )
    step = max(1.0, len(long) / n_texts)
    return [long[int(number * step)] for number in range(min(n_texts, len(long)))]
