"""What steering does to text that has nothing to do with the concept: the loss on it, and how far the next token's distribution moves."""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saesteer.engine.damage import Read, logits_and_targets, losses_of, read, reader_under, with_padding
from saesteer.engine.finite import rows_named
from saesteer.engine.generations import FIT, placed
from saesteer.engine.interventions import unpacked
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae

ALGORITHM_VERSION = 1

MOST_HELD = 2**30
"""Bytes of unsteered log-probabilities that are held; more are computed again for each strength."""


@torch.no_grad()
def text_damage(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, fits: pl.DataFrame, texts: Sequence[Sequence[int]], sae_features: str
) -> Iterator[pl.DataFrame]:
    """DAMAGE rows of the method, concept_id and factor of `rows`, a fit at a time. `fits` are their FITS rows, `texts` token ids, at least
    `MIN_ROWS` texts of more than `N_CONTEXT` tokens; `sae_features` is the setting of that name. Where the method abstains, loss and
    divergence are null."""
    unsteered = read(lm, with_padding(lm, texts))
    held = list(log_probabilities(lm, unsteered)) if 4 * lm.n_vocab * len(unsteered.hidden) <= MOST_HELD else None

    def measured(text: Read) -> tuple[float, float, int]:
        nll, divergence = compared(lm, text, held or log_probabilities(lm, unsteered))
        return float(nll.mean()), float(divergence.mean()), len(nll)

    loss, _, _ = measured(unsteered)
    each = rows.select(FIT).unique(maintain_order=True).join(fits, on=FIT, how="left", maintain_order="left")
    for fit in each.iter_rows(named=True, buffer_size=1):  # adapters are large
        of_fit = rows.filter(method=fit["method"], concept_id=fit["concept_id"])
        values: list[tuple[float | None, float | None, int]] = [(None, None, 0)] * of_fit.height
        if fit["kind"] is not None:
            intervention = placed(unpacked(fit["kind"], fit["tensors"], fit["values"]), sae, sae_features)
            reads = map(reader_under(lm, sae, layer, intervention, texts), of_fit["factor"].cast(pl.Float64))
            with rows_named(f"layer {layer}, {fit['method']}, concept {fit['concept_id']}"):
                values = [*map(measured, reads)]
        columns = pl.DataFrame(values, schema={"loss": pl.Float64, "divergence": pl.Float64, "n_tokens": pl.UInt32}, orient="row")
        yield of_fit.select(*FIT, "factor").hstack(columns).with_columns(unsteered_loss=loss)


def log_probabilities(lm: LanguageModel, text: Read) -> Iterator[Float[Tensor, "part vocab"]]:
    """Next-token log-probabilities for each counted token, some at a time."""
    for logits, _ in logits_and_targets(lm, text):
        yield logits.log_softmax(dim=1)


def compared(
    lm: LanguageModel, steered: Read, unsteered: Iterable[Float[Tensor, "part vocab"]]
) -> tuple[Float64[Tensor, " token"], Float64[Tensor, " token"]]:
    """Each counted token's -log p under steering, and the Kullback-Leibler divergence of the steered distribution there from the unsteered
    one (log_probabilities), sum p_unsteered (log p_unsteered - log p_steered); both in nats."""
    losses, divergences = [], []
    for (logits, targets), log_q in zip(logits_and_targets(lm, steered), unsteered, strict=True):
        losses.append(losses_of(logits, targets))
        divergences.append((log_q.exp() * (log_q - logits.log_softmax(dim=1))).sum(dim=1).double())
    return torch.cat(losses), torch.cat(divergences)
