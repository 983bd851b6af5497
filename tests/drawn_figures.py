"""The figures with tables to draw, of the main job and of the comparison of methods, and what every figure has to hold."""

import re
from collections.abc import Mapping
from functools import cache

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.text import Text
from method_rows import LAYER, PROMPTS, method_settings, method_summaries, rows_of, synthetic_rows
from synthetic_tables import main_tables, selection_settings
from workflow_folder import ROOT

from saesteer.analysis.tables import SELECTION
from saesteer.core.tables import by_name
from saesteer.figures import registry
from saesteer.figures.definition import Options
from saesteer.figures.style import LOOKS
from saesteer.methods.compare.damage import equal_cost, equal_cost_scores, method_damage
from saesteer.methods.compare.means import ELSEWHERE, family_of
from saesteer.methods.compare.paper_values import our_protocol
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.settings import load_experiment
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import METHODS
from saesteer.summaries.summary import summaries_of

FIGURES = registry.FIGURES
FEW_DRAWS = {"random_draws": 50, "permutations": 50}
"""Enough for intervals to be drawn; other tests check their ends."""
OPTIONS = Options("capped", selection_settings(**FEW_DRAWS))
Tables = dict[str, pl.DataFrame]
SOME_METHODS = [row.name for family in LOOKS if family != ELSEWHERE for row in [row for row in METHODS if family_of(row) == family][:5]]
"""A few of each family: intervals of all pairs of all methods take long."""


def data_of(name: str, tables: Tables | None = None) -> pl.DataFrame:
    """What a figure draws, from no table but those it names; of the sample tables where none are given."""
    tables = sample(name) if tables is None else tables
    return FIGURES[name].data({table: tables[table] for table in FIGURES[name].tables}, OPTIONS)


def drawn(name: str, tables: Tables | None = None) -> tuple[pl.DataFrame, Figure]:
    """A figure's data and the figure; that of the sample tables is drawn once."""
    return _drawn_sample(name) if tables is None else _drawn(name, tables)


@cache
def _drawn_sample(name: str) -> tuple[pl.DataFrame, Figure]:
    return _drawn(name, sample(name))


def _drawn(name: str, tables: Tables) -> tuple[pl.DataFrame, Figure]:
    data = data_of(name, tables)
    figure = FIGURES[name].draw(data)
    figure.draw_without_rendering()
    return data, figure


def method_tables(n_concepts: int = 6, **changes: object) -> Tables:
    settings = method_settings(**{"methods": SOME_METHODS} | changes)
    protocols = {LAYER: our_protocol(settings, "model", LAYER, "judge", n_concepts)}
    tables = method_summaries(synthetic_rows(settings, n_concepts), PROMPTS, settings, protocols)
    return with_damage(tables, settings)


def with_damage(tables: Tables, settings: MethodSettings) -> Tables:
    """And what each method breaks: the more, the larger its factors."""
    halves, choices, methods = (tables[name] for name in ("method_halves", "method_choices", "methods"))
    every = halves.select("layer", "method", "concept_id", "factor").unique(maintain_order=True)
    rise = pl.when(pl.col("method") != "unsteered").then(pl.col("factor").cast(pl.Float64) * 0.1 + pl.int_range(pl.len()) % 5 * 0.01)
    rise = rise.otherwise(0.0)
    made = every.with_columns(loss=2 + rise, unsteered_loss=pl.lit(2.0), divergence=rise / 2, n_tokens=pl.lit(99, pl.UInt32))
    others = every.with_columns(other_rating=rise / 4)
    return tables | {
        "method_damage": method_damage(made, others, choices, methods, settings),
        "method_equal_cost": equal_cost(equal_cost_scores(made, halves, choices, settings), methods, settings),
    }


@cache
def sweep() -> Tables:
    """The summary tables of an experiment with a sweep."""
    return main_tables(**FEW_DRAWS)


@cache
def comparison() -> Tables:
    """The tables of a comparison of methods, from few draws."""
    return method_tables(bootstrap_draws=100)


@cache
def two_layers() -> Tables:
    """The same methods at another layer too."""
    return {name: pl.concat([table, table.with_columns(layer=pl.lit(9, pl.UInt16))]) for name, table in comparison().items()}


def sample(name: str) -> Tables:
    """The sample tables that hold those that a figure reads."""
    return comparison() if name in METHOD_FIGURES else sweep()


def reading(*groups: Mapping[str, object]) -> list[str]:
    """The figures that read such tables only."""
    return [name for name, figure in FIGURES.items() if set(figure.tables) <= {table for group in groups for table in group}]


def _of_a_sweep() -> dict[str, object]:
    """The tables of the shipped experiment."""
    shipped = load_experiment("tiny", ROOT / "config/experiments")
    return {table.name: table for summary in summaries_of(shipped).values() for table in summary.tables}


METHOD_FIGURES = reading(METHOD_SUMMARIES | by_name(METHOD_DAMAGE, METHOD_EQUAL_COST))
THIN = dict.fromkeys(reading(_of_a_sweep()), ("micro", "one feature", "no scores"))
THIN |= dict.fromkeys(METHOD_FIGURES, ("one method", "one concept", "no ratings"))


@cache
def thin(case: str) -> Tables:
    """Tables of very small or very incomplete experiments and comparisons."""
    if case == "one feature":
        return main_tables(1, 1, ("0", "2"))
    if case == "one method":
        return method_tables(methods=("unsteered",))
    if case in ("one concept", "no ratings"):
        settings = method_settings(methods=("unsteered", "diffmean"))
        rating = (None, None, None) if case == "no ratings" else (1, None, 2)
        texts = [(key, "a", "1", prompt, rating) for key in settings.methods for prompt in PROMPTS]
        tables = method_summaries(rows_of(texts), PROMPTS, settings, {LAYER: our_protocol(settings, "model", LAYER, "judge", 1)})
        return with_damage(tables, settings)
    micro = main_tables(n_layers=2, n_features=4, factors=("0", "2", "4"))
    return micro if case == "micro" else _without_scores(micro)


def _without_scores(tables: Tables) -> Tables:
    judged = pl.col("measure") != "gen_success_20"
    nulls = [name for name, column in SELECTION.columns.items() if column.null_when]
    return tables | {
        "features": _blank(tables["features"], "input_score", "concept", "max_activation"),
        "selection": tables["selection"].with_columns(
            *(pl.when(~judged).then(name).alias(name) for name in nulls),
            *(pl.when(~judged).then(name).otherwise(0).cast(pl.UInt32).alias(name) for name in ("n_features", "n_kept")),
        ),
        "outcomes": _blank(tables["outcomes"], "judge_score", "concept_rating", "fluency_rating", "concept"),
        "factor_bins": _blank(tables["factor_bins"], "perplexity", "perplexity_low", "perplexity_high"),
        "pmi": _blank(tables["pmi"], "mean", "low", "high").with_columns(n_kept=pl.lit(0, pl.UInt32)),
        "examples": _blank(tables["examples"], "input_score", "concept", "top_context", "factor", "steered"),
    }


def _blank(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    return table.with_columns(pl.lit(None, table.schema[name]).alias(name) for name in columns)


def assert_same(values: np.ndarray, column: pl.Series) -> None:
    np.testing.assert_array_equal(values, column.cast(pl.Float64).fill_null(np.nan).to_numpy())


def assert_labelled_and_inside(figure: Figure) -> None:
    """Every panel has a title, every axis along the foot says what it shows, and no text is cut off at the figure's edge."""
    shown = [axes for axes in figure.axes if axes.axison]
    assert all(axes.get_title(loc="left") or axes.get_label() == "<colorbar>" for axes in shown)
    assert all(axes.get_xlabel() or axes.get_label() == "<colorbar>" for axes in shown)
    # Numbers at ticks outside the limits are not drawn, though they are there.
    ticks = {label for axes in shown for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels(which="both")}
    numbers = {label for label in ticks if re.fullmatch(r"[−0-9.]+", label.get_text())}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in numbers:
            box = text.get_window_extent()
            assert box.x0 > -1, text
            assert box.y0 > -1, text
            assert box.x1 < figure.bbox.width + 1, text
            assert box.y1 < figure.bbox.height + 1, text
