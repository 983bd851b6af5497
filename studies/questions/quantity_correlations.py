"""What each cheap quantity of a feature goes with: how well it steers by the judge, how many more top logit-lens tokens it writes than
unsteered texts have, how strong it must be.

P1's filter is made for the second. And how much a quantity says about the direction being the concept's. Correlations are of ranks inside a
layer.
"""

from typing import Any

import numpy as np
import polars as pl

from saesteer.core.uncertainty import Interval, interval_columns, rank_correlation
from saesteer.settings import IntervalSettings, SelectionSettings
from studies.questions.choice_rules import RULES, chosen_by_judge
from studies.questions.tables import QUANTITY_CORRELATIONS

HELD_OUT = ("net_gen_success_20", "concept_rating", "fluency_rating")
"""Columns of OUTCOMES."""
ON_CONCEPT = ("lens_on_concept", "mean_cosine")
"""Columns of QUANTITIES that say how much of a feature's direction is its concept's."""
_FEATURE = ["layer", "feature"]


def feature_outcomes(steering: pl.DataFrame, outcomes: pl.DataFrame, rule: str) -> pl.DataFrame:
    """STEERING and OUTCOMES -> layer, feature, judge_score and best_factor (chosen by the judge on the other half; the logarithm's mean
    over the halves), null where a feature was not judged, and HELD_OUT by a rule of analysis.best_factor."""
    halves = chosen_by_judge(steering)
    judged = halves.group_by(_FEATURE).agg(pl.col("judge_score").mean(), best_factor=pl.col("strength").log().mean())
    return outcomes.filter(rule=rule).select(*_FEATURE, *HELD_OUT).join(judged, on=_FEATURE, how="left").sort(_FEATURE)


def quantity_correlations(
    features: pl.DataFrame, steering: pl.DataFrame, outcomes: pl.DataFrame, rule: str, settings: SelectionSettings
) -> pl.DataFrame:
    """FEATURES with QUANTITIES, STEERING and OUTCOMES -> QUANTITY_CORRELATIONS."""
    reached = feature_outcomes(steering, outcomes, rule)
    joined = features.select(*_FEATURE, *RULES).join(reached, on=_FEATURE).sort(_FEATURE)
    lines = []
    for layer in joined.partition_by("layer", maintain_order=True):
        number = int(layer["layer"][0])
        for quantity in RULES:
            for outcome in ("judge_score", "best_factor", *HELD_OUT, *ON_CONCEPT):
                if quantity == outcome:
                    continue
                label: dict[str, str | int] = {"layer": number, "quantity": quantity, "outcome": outcome}
                lines.append(label | correlation(layer, quantity, outcome, settings))
    return pl.DataFrame(lines, schema=QUANTITY_CORRELATIONS.schema).sort(QUANTITY_CORRELATIONS.keys)


def correlation(rows: pl.DataFrame, a: str, b: str, settings: IntervalSettings, name: str = "rho") -> dict[str, Any]:
    """n and the rank correlation of two columns, where both are known, with its interval: columns NAME, NAME_low and NAME_high."""
    with_both = rows.drop_nulls([a, b])
    x, y = (with_both[column].cast(pl.Float64).to_numpy() for column in (a, b))
    one_layer = np.zeros(len(x), dtype=np.int64)
    rho = rank_correlation(x, y, one_layer, settings.confidence)
    interval = None if rho.low is None or rho.high is None else Interval(rho.low, rho.high)
    return {"n": rho.n, **interval_columns(name, rho.rho, interval)}
