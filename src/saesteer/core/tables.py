"""Every table on disk: columns, dtypes, units and keys, one schema a table, checked whenever one is written or read.

The schemas are rows of tables.csv. A step table (STEPS) has one row a key, so "is it computed?" is an anti-join on the key columns; what
belongs to a key in any number (max-activating examples of a feature, tokens of a generation) is a list in that row. A summary table is
computed afresh. A column is nullable only where it says when it is null.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.files import write_atomically

SCHEMAS = Path(__file__).with_name("tables.csv")
EXAMPLE = pl.Struct(
    {
        "rank": pl.UInt16,  # 0 = largest maximum
        "text_id": pl.String,  # Neuronpedia's id of the example where it is the source
        "token_index": pl.UInt16,  # position of the maximum in the text
        "token": pl.String,  # as the tokenizer writes it ("▁" kept); of byte-level ones the text that it stands for
        "token_id": pl.UInt32,  # null where the source has none
        "max_value": pl.Float32,
        "context": pl.List(pl.String),  # the text's tokens
    }
)


class TableError(SaesteerError, ValueError):
    """A table that breaks its schema; the message names the table, the column and the first bad row."""


@dataclass(frozen=True)
class Column:
    dtype: Any  # a polars data type
    meaning: str
    null_when: str | None = None
    is_wall_time: bool = False
    """Differs each time the row is computed, and is no part of what is measured on the row."""


@dataclass(frozen=True)
class Table:
    name: str
    keys: tuple[str, ...]
    columns: dict[str, Column]
    file: str = "tables/{name}.parquet"
    """Where a table lies, in the experiment's folder, that is computed afresh from others."""

    @property
    def path(self) -> str:
        return self.file.format(name=self.name)

    @property
    def schema(self) -> dict[str, Any]:
        return {name: column.dtype for name, column in self.columns.items()}

    @property
    def key_schema(self) -> dict[str, Any]:
        return {name: self.columns[name].dtype for name in self.keys}


def by_name(*tables: Table) -> dict[str, Table]:
    """Tables by their names."""
    return {table.name: table for table in tables}


def read_tables(path: Path, known: Mapping[str, Table]) -> dict[str, Table]:
    """The schemas in a CSV, a row a column: its role (key or wall time), its type as polars calls it, or `= TABLE.COLUMN` where it is a
    column of a table above, or of one of those known."""
    columns = {name: table.columns for name, table in known.items()}
    keys: dict[str, tuple[str, ...]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table, name = row["table"], row["column"]
            if row["type"].startswith("= "):
                other, _, shared = row["type"].removeprefix("= ").partition(".")
                column = columns[other][shared]
            else:
                column = Column(_dtype(row["type"]), row["meaning"], row["null when"] or None, row["role"] == "wall time")
            columns.setdefault(table, {})[name] = column
            keys[table] = (*keys.get(table, ()), *([name] if row["role"] == "key" else []))
    return {table: Table(table, of_table, columns[table]) for table, of_table in keys.items()}


def _dtype(name: str) -> Any:
    outer, _, inner = name.partition(" of ")
    if inner:
        return pl.List(_dtype(inner))
    return EXAMPLE if outer == "example" else getattr(pl, outer)


_TABLES = read_tables(SCHEMAS, {})

ACTIVATIONS = _TABLES["activations"]
MAX_ACTIVATING_EXAMPLES = _TABLES["max_activating_examples"]
CONCEPTS = _TABLES["concepts"]
LOGIT_LENS = _TABLES["logit_lens"]
INPUT_SCORE = _TABLES["input_score"]
OUTPUT_SCORE = _TABLES["output_score"]
PILOT = _TABLES["pilot"]
GENERATIONS = _TABLES["generations"]
"""The key of a text names the intervention behind it: a single feature (SINGLE_FEATURE) or the fit of a method, at a factor."""
GEN_SUCCESS = _TABLES["gen_success"]
PERPLEXITY = _TABLES["perplexity"]
JUDGEMENTS = _TABLES["judge"]
RATING_COLUMNS = ("concept_rating", "instruction_rating", "fluency_rating")
"""What a judge rates of a text, in JUDGEMENTS and in what is made of it."""
EFFECTS = _TABLES["effects"]
EXPLANATIONS = _TABLES["explanations"]
FITS = _TABLES["fits"]
DAMAGE = _TABLES["damage"]
METHOD_STEPS = by_name(EFFECTS, FITS, DAMAGE)
STEPS = by_name(
    ACTIVATIONS, MAX_ACTIVATING_EXAMPLES, CONCEPTS, LOGIT_LENS, INPUT_SCORE, OUTPUT_SCORE, PILOT, GENERATIONS, GEN_SUCCESS,
    PERPLEXITY, JUDGEMENTS, EXPLANATIONS,
)  # fmt: skip

FEATURES = _TABLES["features"]
STEERING = _TABLES["steering"]
BEST_FACTORS = _TABLES["best_factors"]
CHOSEN_STRENGTHS = _TABLES["chosen_strengths"]
OUTCOMES = _TABLES["outcomes"]
SELECTION = _TABLES["selection"]
FILTER_VARIANTS = _TABLES["filter_variants"]
FACTOR_BINS = _TABLES["factor_bins"]
FEATURE_PMI = _TABLES["feature_pmi"]
PMI = _TABLES["pmi"]
EXAMPLES = _TABLES["examples"]

COMPARED_CONCEPTS = _TABLES["compared_concepts"]
CONCEPT_TEXTS = _TABLES["concept_texts"]
STEERING_PROMPTS = replace(_TABLES["steering_prompts"], file="{name}/prompts.parquet")  # beside the answers, which were paid for
METHOD_HALVES = _TABLES["method_halves"]
METHOD_CHOICES = _TABLES["method_choices"]
METHOD_SCORES = _TABLES["method_scores"]
METHODS_TABLE = _TABLES["methods"]
METHOD_DIFFERENCES = _TABLES["method_differences"]
METHOD_CURVES = _TABLES["method_curves"]
METHOD_PUBLISHED = _TABLES["method_published"]
METHOD_DAMAGE = _TABLES["method_damage"]
METHOD_EQUAL_COST_SCORES = _TABLES["method_equal_cost_scores"]
METHOD_EQUAL_COST = _TABLES["method_equal_cost"]
METHOD_SUMMARIES = by_name(METHOD_HALVES, METHOD_CHOICES, METHOD_SCORES, METHODS_TABLE, METHOD_DIFFERENCES, METHOD_CURVES, METHOD_PUBLISHED)

TEXT_COLUMNS = {name: column for name, column in GENERATIONS.columns.items() if name not in GENERATIONS.keys}
FEATURE_TEXT = ("layer", "feature", "factor", "prefix_id", "sample")
"""Keys of a text of a single feature, where no other texts are."""
FIT_TEXT = ("layer", "method", "concept_id", "factor", "prefix_id", "sample")
"""Keys of a text of a fit, where no other texts are."""
SINGLE_FEATURE = "feature"
"""The `method` of texts that one feature steers, as in P1."""
NO_FIT = "the method abstains"


def of_features(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of single features with the keys FEATURE_TEXT, sorted by them."""
    renamed = rows.drop("method").rename({"target": "feature"}).cast({"feature": pl.UInt32})
    return renamed.select(*FEATURE_TEXT, *(name for name in renamed.columns if name not in FEATURE_TEXT)).sort(FEATURE_TEXT)


def of_fits(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of fits with the keys FIT_TEXT."""
    return rows.rename({"target": "concept_id"})


def as_generations(rows: pl.DataFrame) -> pl.DataFrame:
    """The opposite of both: rows with the keys of GENERATIONS first."""
    if "feature" in rows.columns:
        rows = rows.rename({"feature": "target"}).cast({"target": pl.String}).with_columns(method=pl.lit(SINGLE_FEATURE))
    else:
        rows = rows.rename({"concept_id": "target"})
    return rows.select(*GENERATIONS.keys, *(name for name in rows.columns if name not in GENERATIONS.keys))


def validate(table: Table, frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The frame with the schema's columns in order, or a TableError: columns, dtypes, nulls, NaN and duplicate keys are checked."""
    missing, unknown = set(table.columns) - set(frame.columns), set(frame.columns) - set(table.columns)
    if missing or unknown:
        raise TableError(
            f"{where}: table {table.name}: columns missing: {sorted(missing) or 'none'}; not in its schema: {sorted(unknown) or 'none'}"
        )
    frame = frame.select(list(table.columns))
    for name, column in table.columns.items():
        if frame.schema[name] != column.dtype:
            raise TableError(f"{where}: table {table.name}: column {name} has type {frame.schema[name]}, not {column.dtype}")
        _refuse_values(table, frame, name, where)
    repeated = frame.select(table.keys).is_duplicated()
    if repeated.any():
        raise TableError(f"{where}: table {table.name}: key given twice: {frame.select(table.keys).filter(repeated).row(0, named=True)}")
    return frame


def _refuse_values(table: Table, frame: pl.DataFrame, name: str, where: str) -> None:
    values = frame[name]
    bad = {}
    if table.columns[name].null_when is None:
        bad["null"] = values.is_null()
    if values.dtype == pl.List(EXAMPLE):
        values = values.list.eval(pl.element().struct.field("max_value"))
    if isinstance(values.dtype, pl.List) and values.dtype.inner.is_float():
        values = values.list.sum()  # which is finite where all are
    if values.dtype.is_float():
        bad["NaN or infinite"] = ~values.fill_null(0.0).is_finite()
    for what, mask in bad.items():
        if mask.any():
            raise TableError(
                f"{where}: table {table.name}: column {name} is {what} at {frame.select(table.keys).filter(mask).row(0, named=True)}"
            )


def write_summary(table: Table, frame: pl.DataFrame, path: Path) -> None:
    """Write a summary table: validated, sorted by its keys, atomically."""
    checked = validate(table, frame, str(path)).sort(table.keys)
    write_atomically(path, lambda partial: checked.write_parquet(partial, compression="zstd"))


def read_summary(table: Table, path: Path) -> pl.DataFrame:
    """Read a summary table and check it against its schema."""
    return validate(table, pl.read_parquet(path), str(path))
