"""What a feature's page begins with: how well the feature steers at the recommended factor, how far texts stay fluent, one good text."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from saesteer.analysis.best_factor import TIE, both_halves
from saesteer.site.pieces import shortened

LEAST_FLUENCY = 1.0
"""Texts count as fluent where their mean fluency rating, of 2, is at least this."""
_MEASURES = ("judge_score", "gen_success_20", "log_perplexity")


def answers(steering: pl.DataFrame, recommended: Mapping[int, Sequence[Any]], texts: pl.DataFrame | None) -> dict[int, dict[str, Any]]:
    """Feature of a layer -> `at`, its means over all prompts at the recommended factor; `unsteered`, those at factor 0;
    `fluent`, see `fluent_up_to`; `text`, prompt and sample of the text that is shown. What is not known is left out."""
    curves = both_halves(steering).partition_by("feature", as_dict=True, maintain_order=True)
    best = {} if texts is None else _best_texts(texts, recommended)
    made = {}
    for (feature,), curve in curves.items():
        rows = {row["factor"]: row for row in shortened(curve).to_dicts()}
        answer: dict[str, Any] = {"fluent": fluent_up_to(rows), "text": best.get(feature)}
        for name, factor in (("at", recommended[feature][0]), ("unsteered", "0")):
            answer[name] = {measure: rows[factor][measure] for measure in _MEASURES} if factor in rows else None
        made[feature] = {name: value for name, value in answer.items() if value is not None}
    return made


def fluent_up_to(rows: Mapping[str, Mapping[str, Any]]) -> list[Any] | None:
    """The largest factor up to which the texts of every factor are fluent, null where those of the smallest are not, and whether it is
    the largest of all. None where fluency was not rated."""
    steered = [(factor, row["fluency_rating"]) for factor, row in rows.items() if float(factor) > 0]
    if all(fluency is None for _, fluency in steered):
        return None
    last = None
    for factor, fluency in steered:
        if fluency is None or fluency < LEAST_FLUENCY - TIE:
            return [last, False]
        last = factor
    return [last, True]


def _best_texts(texts: pl.DataFrame, recommended: Mapping[int, Sequence[Any]]) -> dict[int, tuple[int, int]]:
    """Each feature's text at the recommended factor with the highest judge score, or the highest GenSuccess@20 where there is no judge
    score; of equal ones the first prompt's first. Texts without a score, and empty ones, come last."""
    factors = pl.DataFrame({"feature": list(recommended), "factor": [factor for factor, *_ in recommended.values()]})
    rows = texts.join(factors.cast({"feature": texts.schema["feature"], "factor": pl.String}), on=["feature", "factor"], how="semi")
    empty = pl.col("text").fill_null("").str.strip_chars() == ""
    highest = [-pl.col("judge_score"), -pl.col("gen_success_20").cast(pl.Int64)]
    rows = rows.sort("feature", empty, *highest, "prefix_id", "sample", nulls_last=True).unique(
        "feature", keep="first", maintain_order=True
    )
    return {feature: (prompt, sample) for feature, prompt, sample in rows.select("feature", "prefix_id", "sample").rows()}
