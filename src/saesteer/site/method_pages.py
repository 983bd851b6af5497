"""What a page of one steering method shows: its scores at each layer, curves over factors, its concepts, and the texts of each."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.run import Run
from saesteer.site.feature_pages import TEXT_COLUMNS, TEXT_KEYS, steered_texts
from saesteer.site.method_report import both_ways, method_notes, protocol_text
from saesteer.site.pieces import as_json, as_rows, shortened, write_list, write_piece
from saesteer.steps.fits import FITS
from saesteer.summaries.summary import summary_tables

_OF_METHOD = ("method_scores", "method_curves", "method_damage", "method_equal_cost")
SHOWN_LIMIT = 0.1
"""The limit on damage, in nats, whose scores stand in the overview."""


def write_method_pages(folder: Path, run: Run, methods: pl.DataFrame) -> dict[str, Any]:
    """Write every method's page; gives what the overview of methods shows."""
    settings = run.comparison.methods
    every = summary_tables()
    tables = {name: table for name in _OF_METHOD if (table := run.summary_if_any(every[name])) is not None}
    if "method_curves" in tables:
        tables["method_curves"] = tables["method_curves"].sort(pl.col("factor").cast(pl.Float64), maintain_order=True)
    differences = run.summary_if_any(every["method_differences"])
    turned = None if differences is None else both_ways(differences).sort("layer", "mean", "other", nulls_last=True)
    keys = methods["method"].unique().sort().to_list()
    for number, key in enumerate(keys):
        rows = {name: as_rows(table.filter(method=key)) for name, table in tables.items()}
        rows["method_differences"] = None if turned is None else as_rows(turned.filter(method=key))
        write_piece(folder, f"m/{number}", as_json(rows))
    return {
        "keys": keys,
        "table": as_rows(methods),
        "equal_cost": as_rows(tables["method_equal_cost"].filter(limit=SHOWN_LIMIT)) if "method_equal_cost" in tables else None,
        "published": as_rows(run.summary_if_any(every["method_published"])),
        "held_out": settings.factor_choice != "same_texts",
        "confidence": settings.confidence,
        "vectors": run.rows_if_any(FITS, None, ["kind"]).filter(kind="addition")["method"].unique().sort().to_list(),
        "protocol": protocol_text(methods, settings),
        "notes": {layer: method_notes(methods.filter(layer=layer), settings) for layer in methods["layer"].unique().sort().to_list()},
        "texts": _write_texts(folder, run, keys),
        "text_columns": [*TEXT_KEYS, *TEXT_COLUMNS],
    }


def _write_texts(folder: Path, run: Run, keys: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Method -> layer at which it was fitted -> its concepts, in the order in which their texts lie in pieces, and where pieces begin."""
    places: dict[str, dict[str, list[Any]]] = {}
    for layer in run.layers:
        texts = steered_texts(run, layer)
        rows = [] if texts is None else shortened(texts.drop("layer")).rows()  # by method, then by concept
        for key, of_method in groupby(rows, itemgetter(0)):
            by_concept = {concept: list(of_concept) for concept, of_concept in groupby(of_method, itemgetter(1))}
            starts = write_list(folder, f"t/{keys.index(key)}-{layer}", map(_of_concept, by_concept.values()))
            places.setdefault(key, {})[str(layer)] = [list(by_concept), starts]
    return places


def _of_concept(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Texts by TEXT_KEYS and TEXT_COLUMNS, or why there are none."""
    return {
        "rows": [row[2:-1] for row in rows if row[2 + len(TEXT_KEYS)] is not None],
        "reason": next((row[-1] for row in rows if row[-1]), None),
    }
