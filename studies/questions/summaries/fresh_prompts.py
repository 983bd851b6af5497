"""Does a recommendation hold on prompts that it did not see? Its feature, and brute force's, on the rest of the prompts' file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from saesteer.core.files import text_id
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import FRESH_PROMPTS, RECOMMENDATIONS

N_SAMPLES = 3
"""Texts of a prompt."""


Score = Callable[[str, int, int, str], Mapping[str, float | None]]
"""(concept, layer, feature, factor) -> mean judge score on unused prompts with its interval: mean, low, high."""


def fresh_prompts(recommended: pl.DataFrame, score: Score, n_prompts: int) -> pl.DataFrame:
    """FRESH_PROMPTS of RECOMMENDATIONS rows, both choices of each concept scored on as many unused prompts."""
    rows = []
    for of in recommended.drop_nulls("feature").iter_rows(named=True):
        fresh = score(of["concept"], of["layer"], of["feature"], of["factor"])
        best = score(of["concept"], of["best_layer"], of["best_feature"], of["best_factor"])["mean"]
        regret = None if best is None or fresh["mean"] is None else best - fresh["mean"]
        row = {name: of[name] for name in ("concept", "verdict", "score", "score_low", "score_high")}
        row |= {"n": n_prompts, "fresh": fresh["mean"], "fresh_low": fresh["low"], "fresh_high": fresh["high"]}
        rows.append(row | {"best": best, "regret": regret})
    return pl.DataFrame(rows, schema=FRESH_PROMPTS.schema)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.engine.generations import feature_addition
    from saesteer.report.exports.measured import Form, measured

    lm, prompts = run.model(), unused_prompts(run)

    def score(concept: str, layer: int, feature: int, factor: str) -> Mapping[str, float | None]:
        sae = run.sae_with(layer, feature)
        form = Form("steered", feature_addition(sae, feature), float(factor))
        _, steered = measured(run, lm, sae, [form], concept, None, N_SAMPLES * len(prompts), prompts)
        return steered["judge_score"] or dict.fromkeys(("mean", "low", "high"))

    return {FRESH_PROMPTS.name: fresh_prompts(run.summary(RECOMMENDATIONS), score, len(prompts))}


def unused_prompts(run: Run) -> dict[str, str]:
    """prefix_id -> prompt of the lines of the experiment's file of prompts that are none of its prompts."""
    used, lines = run.prompts(), run.prompts_path.read_text(encoding="utf-8").splitlines()
    return {text_id(line): line for line in lines if text_id(line) not in used}


SUMMARY = Summary((FRESH_PROMPTS,), steers_every_feature, compute, runs_model=True)
