"""The factors of a sweep with a pilot: the same multiples for all features, of each feature's own pilot factor.

Texts are written at factors, in multiples of a_max as everywhere, and what compares a feature's factors goes by these. What compares
factors across features goes by the multiples.
"""

from collections.abc import Sequence
from decimal import Decimal

import polars as pl

from saesteer.analysis.tables import BEST_FACTORS, CHOSEN_STRENGTHS
from saesteer.settings.base import three_digits

_FEATURE = ["layer", "feature"]


def grid(pilot: pl.DataFrame, multiples: Sequence[str]) -> pl.DataFrame:
    """PILOT rows -> layer, feature, multiple, factor (decimals), norm_share: every feature at every multiple, in their order. The norm of
    what is added grows with the factor."""
    cells = pilot.select(*_FEATURE, "norm_share", pilot_factor="factor").join(pl.DataFrame({"multiple": multiples}), how="cross")
    numbers = cells.select("pilot_factor", "multiple").iter_rows()
    factors = [three_digits(Decimal(pilot_factor) * Decimal(multiple)) for pilot_factor, multiple in numbers]
    share = pl.col("factor").cast(pl.Float64) / pl.col("pilot_factor").cast(pl.Float64) * pl.col("norm_share")
    with_factor = cells.with_columns(pl.Series("factor", factors, dtype=pl.String))
    return with_factor.select(*_FEATURE, "multiple", "factor", norm_share=share.abs())


def by_multiple(rows: pl.DataFrame, of_grid: pl.DataFrame) -> pl.DataFrame:
    """Rows of features at factors, with the multiple as their factor."""
    multiples = of_grid.select(*_FEATURE, "factor", "multiple")
    joined = rows.join(multiples, on=[*_FEATURE, "factor"], how="left", maintain_order="left")
    return joined.with_columns(factor=pl.col("multiple")).drop("multiple")


def chosen_strengths(best_factors: pl.DataFrame, of_grid: pl.DataFrame) -> pl.DataFrame:
    """BEST_FACTORS -> CHOSEN_STRENGTHS."""
    chosen = best_factors.select(*BEST_FACTORS.keys, "factor")
    return chosen.join(of_grid, on=[*_FEATURE, "factor"], how="left").select(list(CHOSEN_STRENGTHS.columns))
