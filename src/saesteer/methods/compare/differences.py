"""Paired differences between methods, each with its own interval, and which of all pairs are told apart together."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.best_factor import TIE
from saesteer.core.uncertainty import SHARES, Interval, mean_columns, of_differences, student_t
from saesteer.methods.compare.protocol import score_scale
from saesteer.methods.compare.tables import METHOD_DIFFERENCES
from saesteer.settings.methods import ProtocolSettings

POWER = 0.8

_Row = dict[str, Any]


def method_differences(scores: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_SCORES -> METHOD_DIFFERENCES: each pair of methods of a layer, paired by concept."""
    rows, scale = [], of_differences(score_scale(settings))
    for layer in scores.sort("layer").partition_by("layer", maintain_order=True):
        keys = sorted(layer["method"].unique())
        table = layer.pivot(on="method", index="concept_id", values="score").sort("concept_id")
        values = {key: table[key].cast(pl.Float64).fill_null(np.nan).to_numpy() for key in keys}
        pairs = [(a, b) for number, a in enumerate(keys) for b in keys[number + 1 :]]
        for a, b in pairs:
            differences = (values[a] - values[b])[~np.isnan(values[a] - values[b])]
            row = {"layer": int(layer["layer"][0]), "method": a, "other": b} | _difference(differences, settings, scale)
            rows.append(row | {"p_all_pairs": p_all_pairs(differences, len(pairs))})
    return pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema).sort(METHOD_DIFFERENCES.keys)


def _difference(differences: Float[np.ndarray, " concept"], settings: ProtocolSettings, scale: Interval) -> _Row:
    mean = mean_columns("mean", differences, settings, ends="", scale=scale)
    win_rate = mean_columns("win_rate", wins(differences), settings, scale=SHARES)
    return {"n": len(differences), **mean, "detectable": detectable(differences, settings.confidence), **win_rate}


def p_all_pairs(differences: Float[np.ndarray, " concept"], n_pairs: int) -> float | None:
    """Two-sided p of the exact sign test, that a method is as often above the other as below it, times the number of pairs (Bonferroni), at
    most 1; None without a concept. Ties count for neither.

    It needs concepts that are drawn independently, and nothing of their scores. No such test is known for means: of 16 concepts, intervals
    of all pairs' means by sign flips, or of Student's t with Bonferroni's level, miss one in .17 to .39 of samples of real scores where .05
    is said (docs/tables/intervals.md).
    """
    from scipy.special import bdtr  # its import takes longer than most jobs that need no interval

    won = wins(differences)
    above, below = int((won == 1).sum()), int((won == 0).sum())
    return min(1.0, 2 * n_pairs * float(bdtr(min(above, below), above + below, 0.5))) if len(differences) else None


def told_apart(confidence: float) -> pl.Expr:
    """Whether a pair of METHOD_DIFFERENCES is told apart among all pairs of its layer."""
    return pl.col("p_all_pairs") < 1 - confidence


def wins(differences: Float[np.ndarray, "*concept"]) -> Float[np.ndarray, "*concept"]:
    """1 where a method scores above another, 0 where below, a half where they tie, NaN where one has no score. The mean over concepts is
    P4's win rate (arXiv 2501.17148, section 5.2: overall scores compared on each concept, ties 0.5 wins and 0.5 losses)."""
    return (1 + np.sign(np.where(np.abs(differences) <= TIE, 0.0, differences))) / 2


def detectable(differences: Float[np.ndarray, " concept"], confidence: float) -> float | None:
    """The true mean difference that a two-sided t test at 1 - confidence finds with probability about `POWER`, with as many concepts whose
    differences vary as these do: (t(1 - alpha / 2) + t(power)) times their standard error. None for fewer than 2."""
    n = len(differences)
    if n < 2:
        return None
    return (student_t(confidence, n - 1) + student_t(2 * POWER - 1, n - 1)) * float(differences.std(ddof=1)) / n**0.5
