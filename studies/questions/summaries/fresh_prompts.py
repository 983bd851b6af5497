"""Does a recommendation hold on prompts that it did not see? Its feature, and brute force's, on the rest of the prompts' file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from saesteer.core.files import text_id
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import FRESH_PROMPTS, RECOMMENDATIONS

Choice = tuple[int, int, str]
"""Layer, feature, factor."""
Score = Mapping[str, float | None]
"""Mean judge score on unused prompts with its interval: mean, low, high."""


def fresh_prompts(recommended: pl.DataFrame, scores: Callable[[str, Sequence[Choice]], Sequence[Score]], n_prompts: int) -> pl.DataFrame:
    """FRESH_PROMPTS of RECOMMENDATIONS rows, both choices of each concept scored on as many unused prompts."""
    rows = []
    for of in recommended.drop_nulls("feature").iter_rows(named=True):
        choices = ((of["layer"], of["feature"], of["factor"]), (of["best_layer"], of["best_feature"], of["best_factor"]))
        fresh, best = scores(of["concept"], choices)
        regret = None if best["mean"] is None or fresh["mean"] is None else best["mean"] - fresh["mean"]
        row = {name: of[name] for name in ("concept", "verdict", "score", "score_low", "score_high")}
        row |= {"n": n_prompts, "fresh": fresh["mean"], "fresh_low": fresh["low"], "fresh_high": fresh["high"]}
        rows.append(row | {"best": best["mean"], "regret": regret})
    return pl.DataFrame(rows, schema=FRESH_PROMPTS.schema)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.engine.generations import feature_addition
    from saesteer.report.exports.measured import Form, measured

    lm, prompts = run.model(), unused_prompts(run)

    def scores(concept: str, choices: Sequence[Choice]) -> list[Score]:
        """Of each choice; those of one layer are measured together."""
        by_choice: dict[Choice, Score] = {}
        for layer in {layer for layer, _, _ in choices}:
            sae, of_layer = run.sae(layer), [choice for choice in dict.fromkeys(choices) if choice[0] == layer]
            forms = [Form(str(choice), feature_addition(sae, choice[1]), float(choice[2])) for choice in of_layer]
            _, *steered = measured(run, lm, sae, forms, concept, None, len(prompts), prompts)
            none = dict.fromkeys(("mean", "low", "high"))
            by_choice |= {choice: row["judge_score"] or none for choice, row in zip(of_layer, steered, strict=True)}
        return [by_choice[choice] for choice in choices]

    return {FRESH_PROMPTS.name: fresh_prompts(run.summary(RECOMMENDATIONS), scores, len(prompts))}


def unused_prompts(run: Run) -> dict[str, str]:
    """prefix_id -> prompt of the lines of the experiment's file of prompts that are none of its prompts."""
    used, lines = run.prompts(), run.prompts_path.read_text(encoding="utf-8").splitlines()
    return {text_id(line): line for line in lines if text_id(line) not in used}


SUMMARY = Summary((FRESH_PROMPTS,), steers_every_feature, compute, runs_model=True)
