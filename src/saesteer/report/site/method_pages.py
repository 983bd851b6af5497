"""What a page of one steering method shows: its scores at each layer, curves over factors, its concepts, and the texts of each."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.report.method_report import method_notes, protocol_text
from saesteer.report.site.feature_pages import TEXT_COLUMNS, TEXT_KEYS, steered_texts
from saesteer.report.site.pieces import as_json, as_rows, shortened, write_list, write_piece
from saesteer.run import Run
from saesteer.summaries.summary import summary_tables

_OF_METHOD = ("method_scores", "method_curves", "method_damage")


def write_method_pages(folder: Path, run: Run, methods: pl.DataFrame) -> dict[str, Any]:
    """Write every method's page; gives what the overview of methods shows."""
    settings = run.comparison.methods
    every = summary_tables()
    tables = {name: table for name in _OF_METHOD if (table := run.summary_if_any(every[name])) is not None}
    if "method_curves" in tables:
        tables["method_curves"] = tables["method_curves"].sort(pl.col("factor").cast(pl.Float64), maintain_order=True)
    differences = run.summary_if_any(every["method_differences"])
    keys = methods["method"].unique().sort().to_list()
    for number, key in enumerate(keys):
        own = {name: as_rows(table.filter(pl.col("method") == key)) for name, table in tables.items()}
        write_piece(folder, f"m/{number}", as_json(own | {"method_differences": as_rows(_differences(differences, key))}))
    return {
        "keys": keys,
        "table": as_rows(methods),
        "published": as_rows(run.summary_if_any(every["method_published"])),
        "protocol": protocol_text(methods, settings),
        "notes": {layer: method_notes(methods.filter(layer=layer), settings) for layer in methods["layer"].unique().sort().to_list()},
        "texts": _write_texts(folder, run, keys),
        "text_columns": [*TEXT_KEYS, *TEXT_COLUMNS],
    }


def _differences(differences: pl.DataFrame | None, key: str) -> pl.DataFrame | None:
    """The paired differences of a method from every other, whichever way round the pair stands in the table."""
    if differences is None:
        return None
    ends = {"low": "high", "high": "low", "simultaneous_low": "simultaneous_high", "simultaneous_high": "simultaneous_low"}
    turned = {name: -pl.col(other) for name, other in ({"mean": "mean"} | ends).items()}
    reversed_ = differences.filter(pl.col("other") == key).with_columns(method="other", other="method", **turned)
    return pl.concat([differences.filter(pl.col("method") == key), reversed_]).sort("layer", "mean", "other", nulls_last=True)


def _write_texts(folder: Path, run: Run, keys: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Method -> layer at which it was fitted -> its concepts, in the order in which their texts lie in pieces, and where pieces begin."""
    made: dict[str, dict[str, list[Any]]] = {}
    for layer in run.layers:
        texts = steered_texts(run, layer)
        if texts is None:
            continue
        rows = shortened(texts.drop("layer")).rows()  # by method, then by concept
        for key, of_method in groupby(rows, itemgetter(0)):
            by_concept = {concept: list(own) for concept, own in groupby(of_method, itemgetter(1))}
            starts = write_list(folder, f"t/{keys.index(key)}-{layer}", map(_of_concept, by_concept.values()))
            made.setdefault(key, {})[str(layer)] = [list(by_concept), starts]
    return made


def _of_concept(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Texts by TEXT_KEYS and TEXT_COLUMNS, or why there are none."""
    return {
        "rows": [row[2:-1] for row in rows if row[2 + len(TEXT_KEYS)] is not None],
        "reason": next((row[-1] for row in rows if row[-1]), None),
    }
