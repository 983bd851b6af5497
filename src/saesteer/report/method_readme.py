"""The documentation's table of steering methods: every method at every layer, over the world's seeds. Nobody types a number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import DAMAGE_SUMMARIES, METHOD_SUMMARIES, read_summary
from saesteer.core.tables.schema import Table
from saesteer.methods.compare.paper_values import P4, PAPER_VALUES
from saesteer.methods.compare.pooled import LOSSES, RATINGS, pooled_methods
from saesteer.report.method_report import detectable_text
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import METHODS, method

KEPT = ("methods.csv", "differences.csv")
"""Files of docs/methods/ that hold the pooled results."""
POOLED = (
    (METHOD_SUMMARIES["method_scores"], ("layer", "method", "concept_id", "concept", "score")),
    (METHOD_SUMMARIES["methods"], ("layer", "method", "title", "score", "n_abstaining", "n_effect_vectors", *RATINGS)),
    (DAMAGE_SUMMARIES["method_damage"], ("layer", "method", *LOSSES)),
)
"""Tables and columns of each seed that they are made from, kept in a folder a seed beside them."""

_Rows = Sequence[Mapping[str, Any]]


def keep_results(tables: Path, folder: Path) -> None:
    """Keep a finished comparison's tables that are pooled in git, rounded: seeds are computed one at a time, and on other days."""
    for which, columns in POOLED:
        rows = read_summary(which, tables / f"{which.name}.parquet").select(columns)
        write_text(folder / f"{which.name}.csv", rows.write_csv(float_precision=6))


def pool_results(seeds: Sequence[Path], settings: MethodSettings, folder: Path) -> None:
    """Pool what is kept of the world's seeds, in order, and keep that too."""

    def kept(which: Table, columns: Sequence[str]) -> list[pl.DataFrame]:
        schema = {name: which.schema[name] for name in columns}
        return [pl.read_csv(seed / f"{which.name}.csv", schema=schema) for seed in seeds]

    scores, methods, damage = (kept(which, columns) for which, columns in POOLED)
    for name, rows in zip(KEPT, pooled_methods(scores, methods, damage, settings), strict=True):
        write_text(folder / name, rows.write_csv(float_precision=4))


def methods_markdown(folder: Path) -> str:
    """The kept results as a table: a row a method, best first by its mean over layers."""
    rows, pairs = (pl.read_csv(folder / name) for name in KEPT)
    layers, seeds = rows["layer"].unique().sort().to_list(), [name for name in rows.columns if name.startswith("seed_")]
    names = rows.group_by("method").agg(pl.col("score").mean()).sort("score", "method", descending=[True, False], nulls_last=True)
    by_key = {(row["method"], row["layer"]): row for row in rows.iter_rows(named=True)}
    by_seed = layers if len(seeds) > 1 else []
    header = ["method", *(f"layer {layer}" for layer in layers), *(f"seeds, layer {layer}" for layer in by_seed)]
    header += ["concept / fluency", "loss rise", "other topics", "above / below", "abstains"]

    def cells(name: str) -> list[str]:
        own = [by_key[name, layer] for layer in layers]
        shown = [own[0]["title"], *(with_interval(row, "score") for row in own)]
        shown += [" ".join(number(by_key[name, layer][seed]) for seed in seeds) for layer in by_seed]
        shown += [f"{number(own[-1]['concept_rating'])} / {number(own[-1]['fluency_rating'])}"]
        shown += [" / ".join(number(row[column]) for row in own) for column in ("loss_rise", "other_rating")]
        return [
            *shown,
            ", ".join(f"{row['n_above']} / {row['n_below']}" for row in own),
            " / ".join(str(row["n_abstaining"]) for row in own),
        ]

    return f"{table(header, map(cells, names['method']))}\n\n{_note(rows, pairs, layers, len(seeds))}"


def _note(rows: pl.DataFrame, pairs: pl.DataFrame, layers: Sequence[int], n_seeds: int) -> str:
    n, at = rows["n"][0], {layer: (rows.filter(layer=layer)["n_above"].sum(), pairs.filter(layer=layer).height) for layer in layers}
    told = ", ".join(f"{n_apart} of {n_pairs} at layer {layer}" for layer, (n_apart, n_pairs) in at.items())
    vectors = rows["n_effect_vectors"].drop_nulls()
    of_seeds = f", each the mean of {n_seeds} training seeds; seeds: each one's own mean" if n_seeds > 1 else ", one training seed"
    return (
        f"Mean [95 %] over n = {n} concepts{of_seeds}. Ratings at layer "
        f"{layers[-1]}. Loss rise: what steering at the chosen factors adds to the loss on ordinary text, nats a token; other topics: mean "
        "rating of all topics but the concept. Above / below: of how many other methods the difference leaves out 0 in an interval that "
        f"covers all pairs of the layer ({told}). Abstains: concepts of {n * n_seeds}. A difference of {detectable_text(pairs)}, by pair, "
        "is seen with probability .8.\n"
    ) + (f"SAE-TS and FGAA: their approximator is fitted on {vectors.to_list()[0]:,} vectors (P2: 50,000).\n" if len(vectors) else "")


def published_order_markdown(folder: Path) -> str:
    """The methods that AxBench's table has, in its order, beside the kept results: both scores are harmonic means of 0 to 2."""
    published: dict[str, list[float]] = {}
    for value in PAPER_VALUES:
        if value.source == P4:
            published.setdefault(method(value.method).key, []).append(value.value)
    theirs = {key: sum(values) / len(values) for key, values in published.items()}
    rows = pl.read_csv(folder / KEPT[0]).filter(pl.col("method").is_in(list(theirs))).drop_nulls("score")
    layers = rows["layer"].unique().sort().to_list()
    by_key = {(row["method"], row["layer"]): row for row in rows.iter_rows(named=True)}
    keys = [key for key in sorted(theirs, key=lambda key: -theirs[key]) if (key, layers[0]) in by_key]
    ours = sorted(keys, key=lambda key: -sum(by_key[key, layer]["score"] for layer in layers))
    header = ["method", "P4, mean of its sites", *(f"here, layer {layer}" for layer in layers), "place in P4", "place here"]

    def cells(place: int, key: str) -> list[str]:
        own = [by_key[key, layer] for layer in layers]
        scores = (with_interval(row, "score") for row in own)
        return [own[0]["title"], number(theirs[key], 3), *scores, str(place), str(ours.index(key) + 1)]

    return table(header, (cells(place, key) for place, key in enumerate(keys, start=1))) + "\n"


def registry_markdown() -> str:
    """Every method of the registry: its paper, what it is given, what chooses, and the module that fits it."""
    rows = (
        [row.title, f"`{row.name}`", row.paper, ", ".join(row.needs), row.chosen_by, row.text_use, f"`{row.module}`"] for row in METHODS
    )
    return table(["method", "key", "from", "needs", "chosen by", "labelled texts", "module"], rows)
