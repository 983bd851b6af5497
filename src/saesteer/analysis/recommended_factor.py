"""How hard to steer with a feature: one recommended factor, the same in every command and in the report.

It is chosen on all prompts: by the highest mean judge score where the feature's texts were judged, otherwise by the capped rule
(`best_factor.choose_capped`). Only the choice is made here. The scores that are reported of choosing a factor are held out
(`best_factor.outcomes`), those of a recommendation are of prompts that took no part (`report.scoring`).
"""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.best_factor import PERPLEXITY_CAP, TIE, both_halves, choose_capped, curve_of
from saesteer.settings import BestFactorSettings

_FEATURE = ["layer", "feature"]
_SCHEMA = {"layer": pl.UInt16, "feature": pl.UInt32, "factor": pl.String, "chosen_by": pl.String}


def recommended_factors(steering: pl.DataFrame, settings: BestFactorSettings) -> pl.DataFrame:
    """STEERING -> layer, feature, factor, chosen_by: the recommended factor of each feature, and what chose it, in words.

    factor is null where steering failed: no text at any factor has a judge score above 0, or, without a judge, a success.
    """
    means = both_halves(steering)
    by_judge = factors_by_judge(means)
    rows = []
    for feature in means.join(by_judge, on=_FEATURE, how="anti").partition_by(_FEATURE, maintain_order=True):
        curve = curve_of({row["factor"]: row for row in feature.to_dicts()}, settings.perplexity)
        by_success = "GenSuccess@20 under the perplexity cap, on all prompts"
        rows.append((*feature.select(_FEATURE).row(0), choose_capped(curve, PERPLEXITY_CAP), by_success))
    return pl.concat([by_judge, pl.DataFrame(rows, schema=_SCHEMA, orient="row")]).sort(_FEATURE)


def factors_by_judge(means: pl.DataFrame) -> pl.DataFrame:
    """The recommended factor of the features that have a judge score; means: layer, feature, factor, judge_score."""
    chosen = pl.when(pl.col("judge_score") > 0).then("factor")
    return highest_judged(means, _FEATURE).select(*_FEATURE, factor=chosen, chosen_by=pl.lit("judge score, on all prompts"))


def highest_judged(means: pl.DataFrame, of: Sequence[str]) -> pl.DataFrame:
    """Each group's row with the highest mean judge score at a positive factor, as `highest`."""
    return highest(means.filter(pl.col("factor").cast(pl.Float64) > 0), of)


def highest(means: pl.DataFrame, of: Sequence[str]) -> pl.DataFrame:
    """Each group's row with the highest mean judge score; ties (but for rounding): the factor nearest to 0, an ablation,
    which has none, before all factors, then the first row. Groups without a judge score have none."""
    number, score = pl.col("factor").str.extract(r"(\S+)$"), pl.col("judge_score")
    strength = number.cast(pl.Float64, strict=False).abs().fill_null(0.0)
    best = means.drop_nulls("judge_score").filter(score >= score.max().over(of) - TIE).sort(*of, strength, maintain_order=True)
    return best.group_by(of, maintain_order=True).first()
