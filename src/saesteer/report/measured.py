"""What steering does by an experiment's own protocol and judge: texts made afresh, for a form of steering that is in none of its tables.

Forms are compared on the same prompts and random numbers. Intervals are bootstrap intervals over prompts: texts of one prompt are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from saesteer.analysis.gen_success import gen_success
from saesteer.core.counter_rng import streams, text_keys
from saesteer.core.tables import GENERATIONS, LOGIT_LENS
from saesteer.core.uncertainty import bootstrap_mean_interval, random_stream
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import Intervention, Nothing
from saesteer.engine.models import LanguageModel, prompt_token_ids
from saesteer.engine.perplexity import text_losses
from saesteer.engine.saes import Sae
from saesteer.run import Run
from saesteer.settings import Experiment, NoJudge
from saesteer.steps.generations import sampling_of
from saesteer.steps.judge import ratings

UNSTEERED = "unsteered"
SCORES = ("judge_score", "concept_rating", "fluency_rating", "gen_success_20")


@dataclass(frozen=True)
class Form:
    """A way of steering that is measured."""

    name: str
    intervention: Intervention
    factor: float


@dataclass(frozen=True)
class Lens:
    """The lens tokens of the one feature that steers, for GenSuccess."""

    feature: int
    token_ids: tuple[int, ...]


def measured(
    run: Run, lm: LanguageModel, sae: Sae, forms: Sequence[Form], concept: str | None, lens: Lens | None, n_texts: int
) -> list[dict[str, Any]]:
    """A row a form, the unsteered model's first: number of texts, mean and interval of each score, and perplexity as a multiple of the
    unsteered texts'. A score is null where there is nothing to judge by: no judge, no concept, not one feature."""
    experiment, prompts = run.steering, run.prompts()
    every = [Form(UNSTEERED, Nothing(), 0.0), *forms]
    texts = _texts(experiment, lm, sae, every, prompts, n_texts)
    second = run.model("perplexity_model")
    losses = pl.concat(text_losses(second, texts, prompts, experiment.model.prompt_format))
    rated = [losses.select(*GENERATIONS.keys, "mean_nll")]
    if concept is not None and not isinstance(experiment.judge, NoJudge):
        rows = pl.concat(ratings(run, texts.with_columns(concept=pl.lit(concept)), losses))
        rated.append(rows.select(*GENERATIONS.keys, *SCORES[:3]))
    if lens is not None:
        rated.append(_hits(run, texts, sae.meta.layer, lens))
    for frame in rated:
        texts = texts.join(frame, on=GENERATIONS.keys, how="left", maintain_order="left")
    return [_row(experiment, texts, form) for form in every]


def _texts(
    experiment: Experiment, lm: LanguageModel, sae: Sae, forms: Sequence[Form], prompts: Mapping[str, str], n_texts: int
) -> pl.DataFrame:
    """GENERATIONS rows, `method` the form: at least `n_texts` of each form, as many of each prompt. A prompt and sample has the same random
    numbers under every form."""
    samples = range(-(-n_texts // len(prompts)))
    cells = list(product(enumerate(forms), enumerate(prompts), samples))
    rows = pl.DataFrame(
        {
            "row": range(len(cells)),
            "intervention": [place for (place, _), _, _ in cells],
            "prompt": [place for _, (place, _), _ in cells],
            "prefix_id": [prefix_id for _, (_, prefix_id), _ in cells],
            "sample": [sample for *_, sample in cells],
            "factor": [repr(form.factor) for (_, form), _, _ in cells],
            "method": [form.name for (_, form), _, _ in cells],
        },
        schema_overrides={"row": pl.UInt32},
    )
    keys = text_keys(f"{prefix_id}/{sample}" for _, (_, prefix_id), sample in cells)
    wanted = rows.with_columns(stream=pl.Series(streams(experiment.sampling.seed, keys), dtype=pl.UInt64))
    ids = [prompt_token_ids(lm, prompt) for prompt in prompts.values()]
    interventions = [form.intervention for form in forms]
    made = pl.concat(steered_texts(lm, sae, sae.meta.layer, wanted, interventions, ids, sampling_of(experiment)))
    rest = {"layer": pl.lit(sae.meta.layer), "target": pl.lit("")}
    joined = wanted.join(made, on="row", maintain_order="left").with_columns(**rest)
    return joined.select(*GENERATIONS.columns).cast(pl.Schema(GENERATIONS.schema))


def _hits(run: Run, texts: pl.DataFrame, layer: int, lens: Lens) -> pl.DataFrame:
    row = {"layer": layer, "feature": lens.feature, "token_ids": list(lens.token_ids), "tokens": [], "logits": []}
    of_feature = texts.with_columns(feature=pl.lit(lens.feature, pl.UInt32))
    tokens, convention = run.tokens(), run.steering.gen_success.tokens
    counted = gen_success(of_feature, pl.DataFrame([row], schema=LOGIT_LENS.schema), tokens, convention)
    return counted.select(*GENERATIONS.keys, "gen_success_20")


def _row(experiment: Experiment, table: pl.DataFrame, form: Form) -> dict[str, Any]:
    own, unsteered = table.filter(method=form.name), table.filter(method=UNSTEERED)
    row: dict[str, Any] = {"form": form.name, "factor": form.factor, "n_texts": own.height, "n_prompts": own["prefix_id"].n_unique()}
    for score in SCORES:
        values = own[score] if score in own.columns else pl.Series([], dtype=pl.Float64)
        row[score] = _mean(experiment, own["prefix_id"], values) if values.count() else None
    paired = own.join(unsteered.select("prefix_id", "sample", before="mean_nll"), on=["prefix_id", "sample"], maintain_order="left")
    rise = _mean(experiment, paired["prefix_id"], paired["mean_nll"] - paired["before"])
    row["perplexity_ratio"] = None if rise is None else rise | {key: _exp(rise[key]) for key in ("mean", "low", "high")}
    return row


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


def _mean(experiment: Experiment, prompts: pl.Series, values: pl.Series) -> dict[str, Any] | None:
    """Mean over texts that have a value, with its bootstrap interval over prompts (their means), and n of them; None: none has one."""
    rows = pl.DataFrame({"prompt": prompts, "value": values.cast(pl.Float64)}).drop_nulls()
    if rows.is_empty():
        return None
    settings = experiment.intervals
    means = rows.group_by("prompt", maintain_order=True).agg(pl.col("value").mean())["value"].to_numpy()
    interval = bootstrap_mean_interval(means, settings.bootstrap_draws, settings.confidence, random_stream(settings.seed, "measured"))
    low, high = interval or (None, None)
    return {"mean": float(rows["value"].to_numpy().mean()), "low": low, "high": high, "n": rows.height}
