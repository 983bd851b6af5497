"""What each cheap quantity of a feature goes with: how well it steers by the judge, and how many more top logit-lens tokens it writes than
unsteered texts have (P1's filter is made for that). Correlations are of ranks inside a layer."""

from typing import Any

import numpy as np
import polars as pl

from saesteer.core.uncertainty import Interval, interval_columns, rank_correlation
from saesteer.settings import IntervalSettings, SelectionSettings
from studies.questions.choice_rules import RULES, by_judge
from studies.questions.tables import QUANTITY_CORRELATIONS

OUTCOMES = ("judge_score", "net_gen_success_20")
"""Held out: the judge's at the factor that it chose on the other half, and a column of OUTCOMES."""
_FEATURE = ["layer", "feature"]


def quantity_correlations(
    features: pl.DataFrame, steering: pl.DataFrame, outcomes: pl.DataFrame, rule: str, settings: SelectionSettings
) -> pl.DataFrame:
    """FEATURES, STEERING and OUTCOMES -> QUANTITY_CORRELATIONS; the net success is at the factor by a rule of analysis.best_factor."""
    net, judged = outcomes.filter(rule=rule).select(*_FEATURE, "net_gen_success_20"), by_judge(steering).rename({"score": "judge_score"})
    joined = features.select(*_FEATURE, *RULES).join(net, on=_FEATURE).join(judged, on=_FEATURE, how="left").sort(_FEATURE)
    lines = [
        {"layer": int(layer["layer"][0]), "quantity": quantity, "outcome": outcome} | correlation(layer, quantity, outcome, settings)
        for layer in joined.partition_by("layer", maintain_order=True)
        for quantity in RULES
        for outcome in OUTCOMES
    ]
    return pl.DataFrame(lines, schema=QUANTITY_CORRELATIONS.schema).sort(QUANTITY_CORRELATIONS.keys)


def correlation(rows: pl.DataFrame, a: str, b: str, settings: IntervalSettings, name: str = "rho") -> dict[str, Any]:
    """n and the rank correlation of two columns, where both are known, with its interval: columns NAME, NAME_low and NAME_high."""
    with_both = rows.drop_nulls([a, b])
    x, y = (with_both[column].cast(pl.Float64).to_numpy() for column in (a, b))
    one_layer = np.zeros(len(x), dtype=np.int64)
    rho = rank_correlation(x, y, one_layer, settings.confidence)
    interval = None if rho.low is None or rho.high is None else Interval(rho.low, rho.high)
    return {"n": rho.n, **interval_columns(name, rho.rho, interval)}
