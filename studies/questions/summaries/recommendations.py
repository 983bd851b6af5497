"""What `saesteer recommend` would say of each concept at each layer, and whether it holds on prompts that took no part in it.

The experiment's prompts choose, the first half of those left over in their file scores, and the second half is fresh: it says whether the
verdict was right. Beside it stands what choosing among all features with the label gives there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import polars as pl

from saesteer.analysis.candidates import candidates
from saesteer.analysis.recommendation import (
    FEATURE,
    N_PER_LAYER,
    UNSTEERED,
    Recommendation,
    best_options,
    recommend,
    scored,
    unsteered_texts,
)
from saesteer.core.tables import FEATURES
from saesteer.core.uncertainty import interval_columns
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import RECOMMENDATIONS

N_FRESH_TEXTS = 200
"""Texts whose mean is taken for what the feature does, with as many of each prompt."""


def recommendation_row(
    concept: str, n_candidates: int, recommended: Recommendation, fresh: float | None, best: float | None
) -> dict[str, Any]:
    """A row of RECOMMENDATIONS without its layer. fresh, best: mean scores on fresh prompts of what is recommended, and of what choosing
    among all features with the label gives."""
    row: dict[str, Any] = {"concept": concept, "n_candidates": n_candidates, "verdict": recommended.verdict, "fresh": fresh, "best": best}
    choice = recommended.feature
    if choice is None:
        return row
    row |= {"feature": int(choice.name), "factor": choice.factor, "n": choice.score.n}
    return row | interval_columns("score", choice.score.mean, choice.score.interval)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    features = run.summary(FEATURES)
    rows = [row | {"layer": layer} for layer in layers for row in _at_layer(run, features.filter(layer=layer), layer)]
    return {RECOMMENDATIONS.name: pl.DataFrame(rows, schema=RECOMMENDATIONS.schema).sort("layer", "concept")}


def _at_layer(run: Run, features: pl.DataFrame, layer: int) -> Iterator[dict[str, Any]]:
    from saesteer.report.scoring import ordinary_losses, scored_texts

    settings, limit = run.sweep.selection, run.sweep.recommendation.damage_limit
    factors = pl.DataFrame({"factor": [factor for factor in run.sweep.sweep.factors if factor != UNSTEERED]})
    unused = run.unused_prompts()
    scoring, fresh = (dict(islice(unused.items(), *half)) for half in ((len(unused) // 2,), (len(unused) // 2, None)))
    described = features.with_columns(fires_on=pl.lit(None, pl.String), near=False)
    for concept in sorted(features["concept"].drop_nulls().unique()):
        labelled = candidates(described, concept, features.height).filter(match="label")
        options = labelled.select(kind=pl.lit(FEATURE), name=pl.col("feature").cast(pl.String)).join(factors, how="cross")
        texts = scored_texts(run, concept, layer, options, run.prompts(), len(run.prompts()))
        steered, unsteered = texts.filter(pl.col("factor") != UNSTEERED), unsteered_texts(texts)
        picked = labelled.head(N_PER_LAYER)["feature"].cast(pl.String).to_list()
        chosen = best_options(steered.filter(pl.col("name").is_in(picked)), unsteered, settings)
        losses = list(ordinary_losses(run, chosen.select("layer", "name", "factor").rows()).values())
        scores = scored_texts(run, concept, layer, chosen, scoring)
        recommended = recommend(concept, chosen, scores, settings, limit, losses[0] if losses else None)
        both = pl.concat([chosen, best_options(steered, unsteered, settings)])
        truth = scored_texts(run, concept, layer, both.unique(maintain_order=True), fresh, N_FRESH_TEXTS)
        means = [scored(option, truth, settings).score.mean for option in both.to_dicts()]
        yield recommendation_row(concept, len(picked), recommended, *(means or (None, None)))


SUMMARY = Summary((RECOMMENDATIONS,), steers_every_feature, compute, runs_model=True)
