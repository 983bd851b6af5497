"""The documentation's tables of what the papers leave open, from results that are kept in git. Nobody types a number."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.choice_rules import BEST, BY_JUDGE, COMMON, RANDOM, RULES, SCALED
from saesteer.analysis.judge_error import ALL, REMOVED
from saesteer.analysis.judge_error import KEPT as KEPT_BY_FILTER
from saesteer.core.files import write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import QUESTION_SUMMARIES, read_summary
from saesteer.core.uncertainty import bootstrap_mean_interval, random_stream
from saesteer.settings import SelectionSettings

KEPT = Path("docs/open-questions")
"""A folder an experiment, a file a table."""
FIRST = "tiny"
"""How the experiments begin that stand first: those on the model that the pages' text is about."""
SEED = "-seed-"
"""In the name of an experiment that is another's on a further training seed."""
TITLES = {BEST: "brute force on the other half", RANDOM: "random pick", **RULES}
_Row = Mapping[str, Any]


def keep_results(tables: Path, folder: Path) -> None:
    """Keep an experiment's finished tables in git, rounded."""
    for name, which in QUESTION_SUMMARIES.items():
        write_text(folder / f"{name}.csv", read_summary(which, tables / f"{name}.parquet").write_csv(float_precision=4))


def blocks(root: Path) -> dict[str, str]:
    """Name -> generated table of each block, the experiments one after the other; further training seeds in tables of their own."""
    names = (path.name for path in (root / KEPT).iterdir() if path.is_dir())
    experiments = sorted(names, key=lambda name: (not name.startswith(FIRST), name))
    kept = {name: _read(root / KEPT / name) for name in experiments}
    whole = {name: tables for name, tables in kept.items() if SEED not in name}
    made = {block: "\n\n".join(_titled(name, tables, make) for name, tables in whole.items()) for block, make in BLOCKS.items()}
    return {block: text + "\n" for block, text in (made | {block: make(kept) for block, make in OVER_SEEDS.items()}).items()}


def _read(folder: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_csv(folder / f"{name}.csv", schema=which.schema) for name, which in QUESTION_SUMMARIES.items()}


def _titled(experiment: str, tables: dict[str, pl.DataFrame], make: Callable[[dict[str, pl.DataFrame]], str]) -> str:
    return f"`{experiment}`:\n\n{make(tables)}"


def _by(rows: pl.DataFrame, *keys: str) -> dict[Any, _Row]:
    return {tuple(row[key] for key in keys): row for row in rows.iter_rows(named=True)}


def _layers(rows: pl.DataFrame) -> list[int]:
    return rows["layer"].unique().sort().to_list()


def _choices(tables: dict[str, pl.DataFrame]) -> str:
    """Rules by the mean over layers of the judge's own choice of factors."""
    rows = tables["choice_rules"]
    own = rows.filter(factor_rule=BY_JUDGE)
    order = own.group_by("rule").agg(pl.col("score").mean()).sort("score", "rule", descending=[True, False], nulls_last=True)["rule"]
    by_key, layers = _by(rows, "factor_rule", "layer", "rule"), _layers(rows)
    header = ["picks", *(f"layer {layer}" for layer in layers), *(f"above random, layer {layer}" for layer in layers)]
    others = {"p1": "P1's factor", "capped": "capped", COMMON: "one factor", SCALED: "one multiple"}
    header += [f"{title}, layer {layer}" for title in others.values() for layer in layers]

    def cells(rule: str) -> list[str]:
        judged = [by_key.get((BY_JUDGE, layer, rule)) for layer in layers]
        shown = [TITLES[rule], *(with_interval(row, "score") for row in judged), *(with_interval(row, "above_random") for row in judged)]
        rest = [by_key.get((name, layer, rule)) for name in others for layer in layers]
        return shown + [number(row["score"] if row else None) for row in rest]

    n = ", ".join(f"{row['n_concepts']} at layer {row['layer']}" for row in own.filter(rule=RANDOM).iter_rows(named=True))
    return f"{table(header, map(cells, order))}\n\nConcepts: {n}."


def _rankings(tables: dict[str, pl.DataFrame]) -> str:
    rows = tables["feature_rankings"]
    by_key, layers = _by(rows, "layer", "rule"), _layers(rows)
    order = rows.group_by("rule").agg(pl.col("area").mean()).sort("area", "rule", descending=[True, False], nulls_last=True)["rule"]
    header = ["ranks by", *(f"{what}, layer {layer}" for what in ("area", "first 10", "first 50") for layer in layers)]

    def cells(rule: str) -> list[str]:
        own = [by_key[layer, rule] for layer in layers]
        shares = [number(row[f"precision_{k}"]) for k in (10, 50) for row in own]
        return [TITLES[rule], *(with_interval(row, "area") for row in own), *shares]

    n = ", ".join(
        f"{by_key[layer, 'output_score']['n_steers']} of {by_key[layer, 'output_score']['n']} at layer {layer}" for layer in layers
    )
    return f"{table(header, map(cells, order))}\n\nSteer well: {n}."


def _correlations(tables: dict[str, pl.DataFrame]) -> str:
    rows = tables["quantity_correlations"]
    by_key, layers = _by(rows, "layer", "quantity", "outcome"), _layers(rows)
    judged = rows.filter(outcome="judge_score").group_by("quantity").agg(pl.col("rho").mean())
    order = judged.sort("rho", "quantity", descending=[True, False], nulls_last=True)["quantity"]
    shown = {"judge_score": "judge", "gen_success_20": "GenSuccess", "mean_cosine": "cosine with means"}
    header = ["quantity", *(f"{title}, layer {layer}" for title in shown.values() for layer in layers)]
    lines = (
        [TITLES[name], *(with_interval(by_key.get((layer, name, outcome)), "rho") for outcome in shown for layer in layers)]
        for name in order
    )
    return table(header, lines)


def _headline(tables: dict[str, pl.DataFrame]) -> str:
    header = ["measure", "layers", "n", "kept", "mean", "mean of kept", "ratio", "ratio in samples of 30 a layer", "kept less removed"]
    lines = (
        [row["measure"], row["layers"], row["n"], row["n_kept"], number(row["mean"]), number(row["kept_mean"])]
        + [with_interval(row, name) for name in ("ratio", "sampled_ratio", "difference")]
        for row in tables["headline_samples"].iter_rows(named=True)
    )
    return table(header, lines)


def _thresholds(tables: dict[str, pl.DataFrame]) -> str:
    header = ["measure", "chosen on", "tried on", "threshold", "gain where it was chosen", "gain where it was tried"]
    lines = (
        [row["measure"], row["chosen_on"], row["tried_on"], _short(row), number(row["gain_chosen"]), with_interval(row, "gain")]
        for row in tables["threshold_transfer"].iter_rows(named=True)
    )
    return table(header, lines)


def _short(row: _Row) -> str:
    low, high = row["threshold_low"], row["threshold_high"]
    return f"{row['threshold']:.2g}" + (f" [{low:.2g}, {high:.2g}]" if low != high else "")


def _grid(tables: dict[str, pl.DataFrame]) -> str:
    header = ["layer", "factor chosen by", "grid", "at its smallest", "at its largest", "moved", "judge score", "change"]
    lines = (
        [
            row["layer"],
            row["factor_rule"],
            row["grid"],
            *(number(row[name]) for name in ("at_smallest", "at_largest", "moved", "score")),
            with_interval(row, "change"),
        ]
        for row in tables["grid_ends"].iter_rows(named=True)
    )
    return table(header, lines)


def _settings(tables: dict[str, pl.DataFrame]) -> str:
    rows = tables["setting_agreement"].with_columns(strength=pl.col("factor").cast(pl.Float64)).sort("layer", "prompt", "strength")
    header = [
        "layer",
        "prompt",
        "factor",
        "agrees: rank correlation",
        "kept",
        "Jaccard",
        "of as many",
        "GenSuccess",
        "judge",
        "score of its pick",
    ]
    lines = (
        [row["layer"], row["prompt"] + (" (own)" if row["is_own"] else ""), row["factor"], with_interval(row, "rho"), row["n_kept"]]
        + [number(row["jaccard"]), number(row["jaccard_first"])]
        + [with_interval(row, name) for name in ("rho_success", "rho_judge", "score")]
        for row in rows.iter_rows(named=True)
    )
    return table(header, lines)


def _sizes(tables: dict[str, pl.DataFrame]) -> str:
    header = ["layer", "quantity", "records or texts", "rank correlation with most", "same pick", "score of its pick"]
    lines = (
        [row["layer"], TITLES[row["rule"]], row["n"], with_interval(row, "rho"), number(row["same_pick"]), with_interval(row, "score")]
        for row in tables["data_sizes"].iter_rows(named=True)
    )
    return table(header, lines)


def _predictor(tables: dict[str, pl.DataFrame]) -> str:
    header = ["layer", "learnt on", "penalty", "rank correlation", "concepts", "score of its pick", "above the largest record's pick"]
    lines = (
        [row["layer"], row["trained_on"], number(row["penalty"], 0), with_interval(row, "rho"), row["n_concepts"]]
        + [with_interval(row, name) for name in ("score", "above_activation")]
        for row in tables["predictions"].iter_rows(named=True)
    )
    return table(header, lines)


def _choices_over_seeds(kept: Mapping[str, Mapping[str, pl.DataFrame]]) -> str:
    """What a few rules' picks score, experiment by experiment."""
    rules = (BEST, "mean_cosine", "max_activation", "output_score", RANDOM)
    lines = []
    for name, tables in kept.items():
        rows = _by(tables["choice_rules"].filter(factor_rule=BY_JUDGE), "layer", "rule")
        for layer in _layers(tables["choice_rules"]):
            n = rows[layer, RANDOM]["n_concepts"]
            lines.append([f"`{name}`", layer, n, *(with_interval(rows.get((layer, rule)), "score") for rule in rules)])
    return table(["experiment", "layer", "concepts", *(TITLES[rule] for rule in rules)], lines)


def _recommendations_over_seeds(kept: Mapping[str, Mapping[str, pl.DataFrame]]) -> str:
    """Means over concepts of what `saesteer recommend` would say, experiment by experiment."""
    lines = []
    for name, tables in kept.items():
        rows = tables["recommendations"].drop_nulls("regret")
        verdicts = rows["verdict"].value_counts(sort=True).rows()
        means = [_mean(rows[column], name, column) for column in ("score", "best", "regret")]
        lines.append([f"`{name}`", rows.height, ", ".join(f"{verdict} {count}" for verdict, count in verdicts), *means])
    return table(["experiment", "concepts", "verdicts", "held-out score", "best attainable", "regret"], lines)


def _mean(values: pl.Series, *label: str) -> str:
    """Their mean with its bootstrap interval."""
    settings = SelectionSettings.model_fields
    draws, confidence = settings["bootstrap_draws"].default, settings["confidence"].default
    numbers = values.to_numpy()
    low, high = bootstrap_mean_interval(numbers, draws, confidence, random_stream(0, *label)) or (None, None)
    return f"{number(float(numbers.mean()))} [{number(low)}, {number(high)}]"


def _recommendations(tables: dict[str, pl.DataFrame]) -> str:
    header = ["concept", "candidates", "verdict", "feature", "factor", "held-out score", "best attainable", "regret"]
    rows = tables["recommendations"]
    lines = []
    for row in rows.iter_rows(named=True):
        picked = "–" if row["feature"] is None else f"{row['layer']}/{row['feature']}"
        numbers = [with_interval(row, "score"), number(row["best"]), number(row["regret"])]
        lines.append([row["concept"], row["n_candidates"], row["verdict"], picked, row["factor"] or "–", *numbers])
    means = [number(rows.select(pl.col(name).mean()).item()) for name in ("score", "best", "regret")]
    return table(header, [*lines, ["mean", "", "", "", "", *means]])


BLOCKS: dict[str, Callable[[dict[str, pl.DataFrame]], str]] = {
    "open-choices": _choices,
    "open-rankings": _rankings,
    "open-correlations": _correlations,
    "open-headline": _headline,
    "open-thresholds": _thresholds,
    "open-grid": _grid,
    "open-settings": _settings,
    "open-sizes": _sizes,
    "open-predictor": _predictor,
    "open-recommendations": _recommendations,
}


def _predictor_over_seeds(kept: Mapping[str, Mapping[str, pl.DataFrame]]) -> str:
    """The predictor in each experiment, trained on its other layer or on another experiment, beside what the cosine alone picks."""
    lines = []
    for name, tables in kept.items():
        rules = _by(tables["choice_rules"].filter(factor_rule=BY_JUDGE), "layer", "rule")
        for row in tables["predictions"].iter_rows(named=True):
            cosine = with_interval(rules.get((row["layer"], "mean_cosine")), "score")
            numbers = [with_interval(row, "rho"), with_interval(row, "score"), cosine, with_interval(row, "above_activation")]
            lines.append([f"`{name}`", row["layer"], row["trained_on"], *numbers])
    header = ["experiment", "layer", "learnt on", "rank correlation", "score of its pick", TITLES["mean_cosine"]]
    return table([*header, "above the largest record's pick"], lines)


def _judge_error(kept: Mapping[str, Mapping[str, pl.DataFrame]]) -> str:
    """Scores as rated and corrected for the judge's errors, of experiments whose judge was measured so."""
    groups = {name: TITLES[name] for name in ("mean_cosine", "max_activation", "output_score", RANDOM)}
    groups |= {name: name for name in (ALL, KEPT_BY_FILTER, REMOVED)}
    lines = []
    for name, tables in kept.items():
        rows = _by(tables["judge_error"], "layer", "group")
        for layer in _layers(tables["judge_error"]):
            for group, title in groups.items():
                row = rows[layer, group]
                count = f"{row['n']} {row['units']}"
                lines.append([f"`{name}`", layer, title, count, with_interval(row, "score"), with_interval(row, "corrected")])
    return table(["experiment", "layer", "of", "n", "as rated", "corrected"], lines)


OVER_SEEDS: dict[str, Callable[[Mapping[str, Mapping[str, pl.DataFrame]]], str]] = {
    "open-choices-seeds": _choices_over_seeds,
    "open-recommendations-seeds": _recommendations_over_seeds,
    "open-predictor-seeds": _predictor_over_seeds,
    "open-judge-error": _judge_error,
}
