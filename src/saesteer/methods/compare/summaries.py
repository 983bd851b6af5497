"""Every summary table of a comparison of methods, from its rows: what the workflow calls."""

from collections.abc import Sequence

import polars as pl

from saesteer.methods.compare.differences import method_differences
from saesteer.methods.compare.means import method_curves, methods_table
from saesteer.methods.compare.paper_values import Protocol, published_beside_ours
from saesteer.methods.compare.protocol import Rows, scored
from saesteer.methods.compare.tables import METHOD_CURVES, METHOD_DIFFERENCES, METHOD_PUBLISHED, METHODS_TABLE
from saesteer.settings import BestFactorSettings
from saesteer.settings.methods import MethodSettings


def method_summaries(
    rows: Rows, prefix_ids: Sequence[str], settings: MethodSettings, best_factor: BestFactorSettings, protocols: dict[int, Protocol]
) -> dict[str, pl.DataFrame]:
    """METHOD_SUMMARIES by name. `prefix_ids` are the prompts', in their file's order; `protocols` is paper_values.our_protocol by layer."""
    tables = scored(rows, prefix_ids, settings, best_factor)
    halves, choices, scores = tables.values()
    methods = methods_table(scores, choices, rows, settings)
    return tables | {
        METHODS_TABLE.name: methods,
        METHOD_DIFFERENCES.name: method_differences(scores, settings),
        METHOD_CURVES.name: method_curves(halves, choices, methods, settings),
        METHOD_PUBLISHED.name: published_beside_ours(methods, scores, protocols, settings),
    }
