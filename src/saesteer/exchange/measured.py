"""What steering does by an experiment's own protocol and judge: texts made afresh, for a form of steering that is in none of its tables.

Forms are compared on the same prompts and random numbers. Intervals are over prompts: texts of one prompt are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from saesteer.analysis.gen_success import gen_success
from saesteer.analysis.repeats import without_repeats
from saesteer.core.counter_rng import streams, text_keys
from saesteer.core.uncertainty import SCALES, mean_interval, student_interval
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import Nothing
from saesteer.engine.models import LanguageModel, prompt_token_ids
from saesteer.engine.perplexity import text_losses
from saesteer.engine.saes import Sae
from saesteer.engine.steering import Intervention
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.generations import GENERATIONS, sampling_of
from saesteer.steps.judge import ratings

UNSTEERED = "unsteered"
SCORES = ("judge_score", "concept_rating", "fluency_rating", "gen_success_20")


@dataclass(frozen=True)
class MeasuredSteering:
    """A way of steering that is measured."""

    name: str
    intervention: Intervention
    factor: float


def measured(
    run: Run,
    lm: LanguageModel,
    sae: Sae,
    forms: Sequence[MeasuredSteering],
    concept: str | None,
    lens: pl.DataFrame | None,
    n_texts: int,
) -> list[dict[str, Any]]:
    """A row a form, the unsteered model's first: number of texts, mean and interval of each score, and perplexity as a multiple of the
    unsteered texts'. A score is null where there is nothing to judge by: no judge, no concept, not one feature. `lens` is the one feature's
    LOGIT_LENS row, for GenSuccess."""
    unsteered = MeasuredSteering(UNSTEERED, Nothing(), 0.0)
    texts = rated_texts(run, lm, sae, [unsteered, *forms], concept, n_texts, run.prompts())
    if lens is not None:
        of_feature = texts.select(*GENERATIONS.columns).with_columns(feature=pl.lit(lens["feature"][0], pl.UInt32))
        success = gen_success(of_feature, lens, run.tokens(), run.steering.gen_success.tokens)
        texts = _with(texts, success, ["gen_success_20"])
    return [_row(run.steering, texts, form) for form in (unsteered, *forms)]


def rated_texts(
    run: Run, lm: LanguageModel, sae: Sae, forms: Sequence[MeasuredSteering], concept: str | None, n_texts: int, prompts: Mapping[str, str]
) -> pl.DataFrame:
    """GENERATIONS rows, `method` the form's name, with mean_nll and, where there is a judge and a concept, the judge's scores
    as they count among these prompts (analysis.repeats). The first form is the unsteered model."""
    experiment = run.steering
    texts = _texts(experiment, lm, sae, forms, prompts, n_texts)
    losses = pl.concat(text_losses(run.model("perplexity_model"), texts, prompts, experiment.model.prompt_format))
    rated = _with(texts, losses, ["mean_nll"])
    if concept is None or not experiment.is_rated:
        return rated
    plain = texts.filter(method=forms[0].name)
    judged = _with(rated, pl.concat(ratings(run, texts.with_columns(concept=pl.lit(concept)), losses, prompts, plain)), SCORES[:3])
    return without_repeats(judged, ["method", "factor"], dict.fromkeys(prompts, 0))


def _with(texts: pl.DataFrame, scored: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    return texts.join(scored.select(*GENERATIONS.keys, *columns), on=GENERATIONS.keys, how="left", maintain_order="left")


def _texts(
    experiment: Experiment, lm: LanguageModel, sae: Sae, forms: Sequence[MeasuredSteering], prompts: Mapping[str, str], n_texts: int
) -> pl.DataFrame:
    """GENERATIONS rows, `method` the form: at least `n_texts` of each form, as many of each prompt. A prompt and sample has the same random
    numbers under every form."""
    samples = range(-(-n_texts // len(prompts)))
    columns = ("intervention", "method", "factor", "prompt", "prefix_id", "sample")
    cells = [
        (index, form.name, repr(form.factor), number, prefix_id, sample)
        for (index, form), (number, prefix_id), sample in product(enumerate(forms), enumerate(prompts), samples)
    ]
    keys = text_keys(f"{prefix_id}/{sample}" for *_, prefix_id, sample in cells)
    stream = pl.Series("stream", streams(experiment.sampling.seed, keys), dtype=pl.UInt64)
    rows = pl.DataFrame(cells, schema=columns, orient="row").with_row_index("row").with_columns(stream)
    ids = [prompt_token_ids(lm, prompt) for prompt in prompts.values()]
    interventions = [form.intervention for form in forms]
    texts = pl.concat(steered_texts(lm, sae, sae.meta.layer, rows, interventions, ids, sampling_of(experiment)))
    joined = rows.join(texts, on="row", maintain_order="left").with_columns(layer=pl.lit(sae.meta.layer), target=pl.lit(""), reason=None)
    return joined.select(*GENERATIONS.columns).cast(pl.Schema(GENERATIONS.schema))


def _row(experiment: Experiment, table: pl.DataFrame, form: MeasuredSteering) -> dict[str, Any]:
    steered, unsteered = table.filter(method=form.name), table.filter(method=UNSTEERED)
    prompts = steered["prefix_id"]
    row: dict[str, Any] = {"form": form.name, "factor": form.factor, "n_texts": steered.height, "n_prompts": prompts.n_unique()}
    row |= {score: _mean(experiment, prompts, steered[score]) if score in steered.columns else None for score in SCORES}
    paired = steered.join(unsteered.select("prefix_id", "sample", before="mean_nll"), on=["prefix_id", "sample"], maintain_order="left")
    rise = _mean(experiment, paired["prefix_id"], paired["mean_nll"] - paired["before"])
    if rise is not None:
        rise |= {end: None if rise[end] is None else float(np.exp(rise[end])) for end in ("mean", "low", "high")}
    return row | {"perplexity_ratio": rise}


def _mean(experiment: Experiment, prompts: pl.Series, values: pl.Series) -> dict[str, Any] | None:
    """Mean of the prompts' means over texts that have a value, with its interval, and n of these texts; None: none has one."""
    rows = pl.DataFrame({"prompt": prompts, "value": values.cast(pl.Float64)}).drop_nulls()
    if rows.is_empty():
        return None
    means = rows.group_by("prompt", maintain_order=True).agg(pl.col("value").mean())["value"].to_numpy()
    confidence, scale = experiment.intervals.confidence, SCALES.get(values.name)  # losses have none
    low, high = (mean_interval(means, confidence, scale) if scale else student_interval(means, confidence)) or (None, None)
    return {"mean": float(means.mean()), "low": low, "high": high, "n": rows.height}
