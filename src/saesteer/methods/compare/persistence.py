"""Whether steering lasts: the concept rating of texts at the chosen factors, stretch by stretch."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from saesteer.core.tables.methods import PERSISTENCE
from saesteer.core.tables.steps import FIT_TEXT
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.protocol import FIT
from saesteer.settings.methods import MethodSettings

_MEASURES = ("concept_rating", "change", "capitals")


def held_out_texts(texts: pl.DataFrame, choices: pl.DataFrame, halves: Mapping[str, int]) -> pl.DataFrame:
    """Texts of the prompts reported on, each at the factor that the others chose (METHOD_CHOICES)."""
    chosen = choices.select(*FIT, "factor", half=pl.col("reported_on")).drop_nulls("factor")
    half = pl.col("prefix_id").replace_strict(dict(halves), return_dtype=pl.String)
    own = texts.with_columns(half=half).join(chosen, on=[*FIT, "factor", "half"], how="semi")
    same = texts.join(chosen.filter(half="all"), on=[*FIT, "factor"], how="semi")
    return pl.concat([own.drop("half"), same])


def persistence(rated: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """Stretches of held-out texts (FIT_TEXT keys, stretch, concept_rating, capitals) and METHODS_TABLE -> PERSISTENCE: means over a
    concept's texts, then over concepts. Later stretches, which fewer than half of a method's concepts have, are left out. Not every text is
    as long, so `change` is text by text."""
    keys = list(PERSISTENCE.keys)
    first = rated.filter(stretch=1).select(*FIT_TEXT, first="concept_rating")
    changes = pl.col("concept_rating").cast(pl.Int16) - pl.col("first").cast(pl.Int16)
    of_texts = rated.join(first, on=FIT_TEXT, how="left").with_columns(change=changes)
    concepts = of_texts.group_by(*FIT, "stretch").agg(pl.len().alias("n_texts"), pl.col(_MEASURES).mean()).sort(*FIT, "stretch")
    in_all, here = pl.col("concept_id").n_unique().over("layer", "method"), pl.col("concept_id").n_unique().over(keys)
    concepts = concepts.filter(2 * here >= in_all)
    lines = []
    for group in concepts.sort(*keys, "concept_id").partition_by(keys, maintain_order=True):
        layer, key, stretch = group.select(keys).row(0)
        line = {"layer": layer, "method": key, "stretch": stretch, "n": group.height, "n_texts": group["n_texts"].sum()}
        for name in _MEASURES:
            line |= mean_over_concepts(name, group[name], settings, "persistence", name, layer, key, stretch)
        lines.append(line | {"confidence": settings.confidence})
    made = {name: dtype for name, dtype in PERSISTENCE.schema.items() if name not in ("title", "family")}
    titles = methods.select("layer", "method", "title", "family")
    return pl.DataFrame(lines, schema=made).join(titles, on=["layer", "method"], how="left").select(list(PERSISTENCE.columns)).sort(keys)
