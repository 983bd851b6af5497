"""The documentation's tables of how far the linear model of steering's effects goes (SAE-TS), from results kept in git."""

from pathlib import Path

import polars as pl

from saesteer.core.files import write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import EFFECT_QUESTIONS, METHOD_SUMMARIES, read_summary

METHODS = "methods"
"""The third file kept: held-out scores of the methods that rest on the approximator."""
_SCORES = ("layer", "method", "title", "n", "score", "score_low", "score_high", "r2", "n_effect_vectors")
_OF_EFFECT = {
    "loss_rise": "loss rise, nats a token",
    "size": "norm over that at 1",
    "cosine": "cosine with that at 1",
    "pattern": "cosine, predicted and measured",
    "r2": "R² of the prediction",
}


def keep_results(tables: Path, folder: Path) -> None:
    """Keep a finished experiment's tables in git, rounded."""
    for name, which in EFFECT_QUESTIONS.items():
        write_text(folder / f"{name}.csv", read_summary(which, tables / f"{name}.parquet").write_csv(float_precision=4))
    scores = read_summary(METHOD_SUMMARIES["methods"], tables / "methods.parquet").select(_SCORES)
    write_text(folder / f"{METHODS}.csv", scores.write_csv(float_precision=4))


def effects_markdown(folder: Path) -> str:
    """R2 by number of vectors, effects by multiple, vectors by pseudo-inverse, and the scores of what rests on the approximator."""
    sizes, multiples, inverses = (pl.read_csv(folder / f"{name}.csv", schema=which.schema) for name, which in EFFECT_QUESTIONS.items())
    scores = pl.read_csv(folder / f"{METHODS}.csv")
    layers = sizes["layer"].unique().sort().to_list()
    models = sizes["model"].unique(maintain_order=True).to_list()
    header = ["vectors", *(f"{model}, layer {layer}" for layer in layers for model in models)]
    by_size = {(row["layer"], row["model"], row["n"]): row for row in sizes.iter_rows(named=True)}
    lines = (
        [f"{n:,}", *(with_interval(by_size[layer, model, n], "r2") for layer in layers for model in models)]
        for n in sizes["n"].unique().sort()
    )
    by_multiple = (
        [row["layer"], f"{row['multiple']:g}", *(with_interval(row, name) for name in _OF_EFFECT)]
        for row in multiples.sort("layer", "multiple").iter_rows(named=True)
    )
    by_target = (
        [
            row["layer"],
            f"{row['target']:g}",
            number(row["condition"], 0),
            with_interval(row, "column_cosine"),
            with_interval(row, "shared_cosine"),
        ]
        for row in inverses.sort("layer", "target").iter_rows(named=True)
    )
    of_methods = (
        [title, *(with_interval(own.row(0, named=True), "score") for layer in layers if (own := rows.filter(layer=layer)).height)]
        for (title,), rows in scores.group_by("title", maintain_order=True)
    )
    return "\n\n".join(
        [
            table(header, lines),
            table(["layer", "multiple", *_OF_EFFECT.values()], by_multiple),
            table(["layer", "code aimed at", "condition of M", "cosine with M_j", "cosine with what all share"], by_target),
            table(["method", *(f"score, layer {layer}" for layer in layers)], of_methods),
        ]
    ) + (
        f"\n\nn = {sizes['n_held_out'][0]} held-out vectors; scores: n = {scores['n'][0]} concepts, "
        f"{scores['n_effect_vectors'].drop_nulls()[0]:,} vectors fitted. 95 % intervals.\n"
    )
