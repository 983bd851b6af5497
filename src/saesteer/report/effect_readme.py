"""The documentation's tables of how far the linear model of steering's effects goes (SAE-TS), from results kept in git."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from saesteer.core.files import write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import EFFECT_LAYERS, EFFECT_QUESTIONS, METHOD_SUMMARIES, read_summary

METHODS = "methods"
"""The fourth file kept: held-out scores of the methods that rest on the approximator."""
LAYERS = "effect_layers.csv"
"""What later layers read, in the folder of the shipped model's results."""
COMMON_SIZE = 512
"""Fitted vectors that every model's experiment has."""
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


def keep_layers(later: Path, folder: Path) -> None:
    """Keep in git what later layers read, rounded."""
    write_text(folder / LAYERS, read_summary(EFFECT_LAYERS, later).write_csv(float_precision=4))


def blocks(folders: Mapping[str, Path]) -> dict[str, str]:
    """Name -> generated text of each block, from each experiment's folder, the shipped model's first."""
    shipped = next(iter(folders.values()))
    return {
        "open-effects": _effects_markdown(shipped),
        "effects-models": _models_markdown(folders),
        "effects-layers": _layers_markdown(pl.read_csv(shipped / LAYERS, schema=EFFECT_LAYERS.schema)),
    }


def _kept(folder: Path) -> tuple[list[pl.DataFrame], pl.DataFrame]:
    """The tables of an experiment that `keep_results` wrote: those of EFFECT_QUESTIONS in their order, and the methods' scores."""
    questions = [pl.read_csv(folder / f"{name}.csv", schema=which.schema) for name, which in EFFECT_QUESTIONS.items()]
    return questions, pl.read_csv(folder / f"{METHODS}.csv")


def _effects_markdown(folder: Path) -> str:
    """R2 by number of vectors, effects by multiple, vectors by pseudo-inverse, and the scores of what rests on the approximator."""
    (sizes, multiples, inverses), scores = _kept(folder)
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


def _models_markdown(folders: Mapping[str, Path]) -> str:
    """The same measures side by side, a row an experiment and layer: R2 at `COMMON_SIZE`, effects at twice the fitted scale, and scores."""
    lines = []
    for experiment, folder in folders.items():
        (sizes, multiples, _), scores = _kept(folder)
        for layer in sizes["layer"].unique().sort():
            fitted = [sizes.filter(layer=layer, model=model, n=COMMON_SIZE).row(0, named=True) for model in ("linear", "kernel")]
            twice = multiples.filter(layer=layer, multiple=2.0).row(0, named=True)
            by_method = {row["method"]: row for row in scores.filter(layer=layer).iter_rows(named=True)}
            shown = [with_interval(row, "r2") for row in fitted] + [with_interval(twice, name) for name in ("size", "cosine", "r2")]
            steered = [with_interval(by_method.get(name), "score") for name in ("sae_ts", "sae_ts_bias", "sae_label", "unsteered")]
            lines.append([f"`{experiment}`", layer, *shown, *steered])
    header = ["experiment", "layer", "R², linear", "R², kernel", "at 2: norm over that at 1", "at 2: cosine", "at 2: R²"]
    return table([*header, "SAE-TS", "bias alone", "SAE, by label", "unsteered"], lines) + "\n"


def _layers_markdown(layers: pl.DataFrame) -> str:
    """R2 of the largest approximators, a row a steered layer and model, a column a reading layer."""
    most = layers.filter(n=layers["n"].max())
    readers = most["read_layer"].unique().sort().to_list()
    by_reader = {(row["layer"], row["model"], row["read_layer"]): row for row in most.iter_rows(named=True)}
    lines = (
        [layer, model, *(with_interval(by_reader.get((layer, model, reader)), "r2") for reader in readers)]
        for layer in most["layer"].unique().sort()
        for model in ("linear", "kernel")
    )
    header = ["vectors added at layer", "model", *(f"R², read at layer {reader}" for reader in readers)]
    return table(header, lines) + f"\n\nn = {most['n_held_out'][0]} held-out vectors, {most['n'][0]} fitted. 95 % intervals.\n"
