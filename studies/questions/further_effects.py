"""The effects of vectors (SAE-TS, saesteer.methods.fit.effects) at multiples of their scale, and as later layers' SAEs read them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.core.tables import EFFECTS
from saesteer.engine.interventions import Addition, Nothing
from saesteer.engine.saes import Sae
from saesteer.methods.fit.effects import VECTORS_AT_A_TIME, EffectRun, baseline_of, effect_rows, mean_activations, written_texts


@torch.no_grad()
def effects_at_multiples(run: EffectRun, effects: pl.DataFrame, multiples: Sequence[float]) -> Iterator[pl.DataFrame]:
    """EFFECTS rows of one layer once more at each of `multiples` of their scale, with a column `multiple`. At 1 they are the
    same but for rounding."""
    baseline = baseline_of(run)
    for multiple, vectors in product(multiples, effects.sort("vector").iter_slices(VECTORS_AT_A_TIME)):
        added = multiple * torch.tensor(vectors["direction"].to_list(), device=run.lm.device)
        yield effect_rows(run, vectors["vector"], added, _additions(added), baseline).with_columns(multiple=pl.lit(float(multiple)))


@torch.no_grad()
def effects_at_later_layers(run: EffectRun, readers: Mapping[int, Sae], effects: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """EFFECTS rows of one layer once more as the SAEs of later layers (`readers`, by layer) read the same texts, with a column
    `read_layer`. The column effect is as wide as the reading SAE. Without readers no text is written."""
    if not readers:
        return
    runs = {number: replace(run, sae=reader, layer=number) for number, reader in readers.items()}
    unsteered = written_texts(run, [Nothing()])
    usual = {number: mean_activations(reading_run, unsteered) for number, reading_run in runs.items()}
    for vectors in effects.sort("vector").iter_slices(VECTORS_AT_A_TIME):
        added = torch.tensor(vectors["direction"].to_list(), device=run.lm.device)
        written = written_texts(run, _additions(added))
        for number, reading_run in runs.items():
            effect = (mean_activations(reading_run, written) - usual[number]).float().cpu().numpy()
            values = pl.Series("effect", effect).cast(EFFECTS.schema["effect"])
            yield vectors.with_columns(values, read_layer=pl.lit(number, pl.UInt16))


def _additions(added: Float[Tensor, "vector d_model"]) -> list[Addition]:
    norms = added.double().norm(dim=1)
    units = added.double() / norms[:, None]
    return [Addition(unit.float(), norm) for unit, norm in zip(units, norms.tolist(), strict=True)]
