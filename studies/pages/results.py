"""Results of finished experiments in docs/, so that a page can be written where they were not computed."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.tables import BEST_FACTORS, CHOSEN_STRENGTHS, FILTER_VARIANTS, SELECTION
from saesteer.core.files import write_json, write_text
from saesteer.core.tables import Table, read_summary
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_DIFFERENCES, METHOD_EQUAL_COST, METHOD_SCORES, METHODS_TABLE
from saesteer.settings import SettingsError

SHIPPED = "tiny"
MODELS = {"smollm2": "SmolLM2-135M", "gemma-3-270m": "Gemma 3 270M"}
"""Sweep -> public model."""
REGISTERED = "capped"
"""Factor rule of the registered variant."""
GRID_ENDS = "grid_ends"
"""The table of `grid_ends`."""
PLACES = ("smallest", "within", "largest")
COLUMNS = {
    METHODS_TABLE.name: (
        "layer", "method", "title", "n", "score", "score_low", "score_high", "rank", "rank_low", "rank_high", "n_abstaining",
        "n_effect_vectors", "concept_rating", "fluency_rating", "learning_rate", "learning_rate_low", "learning_rate_high", "n_epochs",
        "share_at_rate_end", "share_at_smallest", "share_at_largest",
    ),
    METHOD_DAMAGE.name: ("layer", "method", "loss_rise", "other_rating"),
    METHOD_EQUAL_COST.name: (
        "layer", "method", "title", "limit", "score", "score_low", "score_high", "share_unsteered", "unlimited_score",
        "unlimited_score_low", "unlimited_score_high", "rank_correlation", "rank_correlation_low", "rank_correlation_high",
    ),
    METHOD_SCORES.name: ("layer", "method", "concept", "abstains", "score"),
}  # fmt: skip
"""Table -> its columns in git; all, where it is not named."""


def comparison(experiment: str) -> str:
    """The comparison of methods on a sweep's model."""
    return f"{experiment}-methods"


TABLES = dict.fromkeys((SHIPPED, *MODELS), (SELECTION, FILTER_VARIANTS)) | {
    comparison(name): (METHODS_TABLE, METHOD_DIFFERENCES, METHOD_DAMAGE, METHOD_EQUAL_COST, METHOD_SCORES) for name in MODELS
}
"""Experiment -> its tables that git has as CSV, rounded."""


def metrics_file(root: Path, experiment: str) -> Path:
    """Where git has an experiment's metrics."""
    return root / f"docs/results/{experiment}.json"


def metrics(root: Path, experiment: str) -> dict[str, Any]:
    """An experiment's metrics, as they lie in git."""
    numbers: dict[str, Any] = json.loads(metrics_file(root, experiment).read_text(encoding="utf-8"))
    return numbers


def table_file(root: Path, experiment: str, name: str) -> Path:
    """Where git has a table of an experiment; commit 6a46392f computes those of the grammar's comparison."""
    if experiment == comparison(SHIPPED):
        return root / f"docs/methods/{name}.csv"
    return root / "docs" / ("results" if experiment in (SHIPPED, *MODELS) else "methods") / experiment / f"{name}.csv"


def stored(root: Path, experiment: str, name: str) -> pl.DataFrame | None:
    """A table of an experiment, as it lies in git; None where git has none."""
    file = table_file(root, experiment, name)
    return pl.read_csv(file, infer_schema_length=None) if file.is_file() else None


def update_results(root: Path) -> None:
    """Take over what is finished here, and what is computed from it."""
    for name in (SHIPPED, *MODELS):
        if (measured := root / f"data/{name}/metrics.json").is_file():
            write_json(metrics_file(root, name), json.loads(measured.read_text(encoding="utf-8")))
    if not metrics_file(root, SHIPPED).is_file():
        raise SettingsError(f"docs/results/{SHIPPED}.json is missing: run `make grammar`, then `make readme`")
    for name, tables in TABLES.items():
        for table, rows in finished(root, name, *tables).items():
            _write(table_file(root, name, table), rows.select(COLUMNS.get(table, pl.all())))
    for name in MODELS:
        if rows_of := finished(root, name, CHOSEN_STRENGTHS, BEST_FACTORS):
            _write(table_file(root, name, GRID_ENDS), grid_ends(*rows_of.values()))


def finished(root: Path, experiment: str, *tables: Table) -> dict[str, pl.DataFrame]:
    """Tables that were computed here, by name; none unless all of them were."""
    files = {table.name: root / "data" / experiment / table.path for table in tables}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {table.name: read_summary(table, files[table.name]) for table in tables}


def _write(file: Path, rows: pl.DataFrame) -> None:
    write_text(file, rows.write_csv(float_precision=4))


def grid_ends(strengths: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """CHOSEN_STRENGTHS and BEST_FACTORS -> where in the grid of factors choices lie: rule, place, n, share, and means of net success and
    fluency on the held-out half; failed choices are none."""
    multiple = pl.col("multiple").cast(pl.Float64)
    place = pl.when(multiple == multiple.min()).then(pl.lit(PLACES[0])).when(multiple == multiple.max()).then(pl.lit(PLACES[2]))
    choice = ["layer", "feature", "rule", "reported_on", "factor"]
    chosen = strengths.drop_nulls("factor").with_columns(place=place.otherwise(pl.lit(PLACES[1]))).join(best, on=choice)
    means = [pl.col(name).mean() for name in ("net_gen_success_20", "fluency_rating")]
    rows = chosen.group_by("rule", "place").agg(pl.len().alias("n"), *means).with_columns(share=pl.col("n") / pl.sum("n").over("rule"))
    return rows.sort(pl.col("rule"), pl.col("place").replace_strict({name: number for number, name in enumerate(PLACES)}))
