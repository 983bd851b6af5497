"""The tables of what the papers leave open, from results in git."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import polars as pl

from saesteer.analysis.recommendation import STEERS, Verdict
from saesteer.core.tables import FILTER_VARIANTS, by_name
from saesteer.core.uncertainty import RATINGS, SHARES, Interval, interval_columns, mean_interval, of_differences
from saesteer.settings import SelectionSettings
from studies.pages.tables import Cell, Row, Rows, Shown, beside, best_first, grouped, matching, text_of
from studies.questions.choice_rules import BY_JUDGE, COMMON, RANDOM, SCALED
from studies.questions.registry import QUESTION_TABLES

EXPERIMENT = "tiny-brute"
"""The one that steers every feature."""
FOLDER = Path("docs/open-questions")
"""A file a table of TABLES."""
TABLES = QUESTION_TABLES | by_name(FILTER_VARIANTS)
"""What git keeps of the experiment: the study's tables, and what the filter gains in each variant of the analysis."""
JUDGED = {"factor_rule": BY_JUDGE}
MEANS = {"score": RATINGS, "fresh": RATINGS, "best": RATINGS, "regret": of_differences(RATINGS)}
"""Columns of recommendations whose means are shown, each with its scale."""


def results(root: Path, name: str) -> list[Row]:
    """Rows of a table that lies in git."""
    return [*pl.read_csv(root / FOLDER / f"{name}.csv", schema=TABLES[name].schema).iter_rows(named=True)]


def _of(name: str) -> Callable[[Path], list[Row]]:
    return lambda root: results(root, name)


def _at_layers(what: str, cell: Cell, **where: Any) -> Callable[[Rows], str]:
    """A sentence below a table that says a cell of each layer."""
    at_layer = beside(" at layer ", cell, "layer")
    return lambda rows: f"{what}: {', '.join(text_of(at_layer, [row]) for row in matching(rows, where))}."


def _variants(root: Path) -> list[Row]:
    """What the filter gains net of unsteered texts, over all layers."""
    return matching(results(root, FILTER_VARIANTS.name), {"success": "net_gen_success_20", "layers": "all"})


def _threshold(rows: Rows) -> str:
    low, high = rows[0]["threshold_low"], rows[0]["threshold_high"]
    return f"{rows[0]['threshold']:.2g}" + (f" [{low:.2g}, {high:.2g}]" if low != high else "")


def _verdicts(root: Path) -> Iterator[Row]:
    """Of each verdict: how many features score STEERS or more on prompts that took no part, and their share, a mean over concepts."""
    every = pl.DataFrame(results(root, "recommendations"), infer_schema_length=None)
    every = every.with_columns(reached=pl.col("fresh").fill_null(0) >= STEERS)
    for verdict in get_args(Verdict):
        of = every.filter(verdict=verdict)
        by_concept = of.group_by("concept", maintain_order=True).agg(share=pl.col("reached").cast(pl.Float64).mean())
        row = {"verdict": verdict, "reached": f"{of['reached'].sum()} of {of.height}", "n": by_concept.height}
        yield row | {"took": f"{of['reached'].sum()} of {every['reached'].sum()}"} | _mean(by_concept["share"], "share", SHARES)


def _recommendations(root: Path) -> Iterator[Row]:
    """Of a layer's recommendations: how many printed intervals hold the mean on prompts that took no part, and means over concepts."""
    for (layer,), rows in grouped(results(root, "recommendations"), "layer").items():
        concepts = pl.DataFrame(rows, infer_schema_length=None).drop_nulls("fresh")
        above, below = (
            concepts.filter(beyond).height for beyond in (pl.col("fresh") > pl.col("score_high"), pl.col("fresh") < pl.col("score_low"))
        )
        held = f"{concepts.height - above - below} of {concepts.height} ({above} lie above, {below} below)"
        row = {"layer": layer, "held": held}
        for name, scale in MEANS.items():
            values = concepts["best"] - concepts["fresh"] if name == "regret" else concepts[name]
            row |= _mean(values, name, scale)
        yield row


def _mean(values: pl.Series, name: str, scale: Interval) -> dict[str, Any]:
    """A mean over concepts with its interval."""
    confidence = SelectionSettings.model_fields["confidence"].default
    given = values.drop_nulls().to_numpy()
    return interval_columns(name, given.mean() if len(given) else None, mean_interval(given, confidence, scale))


BLOCKS = {
    "open-choices": Shown(_of("choice_rules"), "rule", {
        "picks": "rule title", "layer {layer}": ("score ±", JUDGED), "above random, layer {layer}": ("above_random ±", JUDGED),
        "P1's factor, layer {layer}": ("score .2", {"factor_rule": "p1"}), "capped, layer {layer}": ("score .2", {"factor_rule": "capped"}),
        "one factor, layer {layer}": ("score .2", {"factor_rule": COMMON}),
        "one multiple, layer {layer}": ("score .2", {"factor_rule": SCALED}),
    }, order=best_first("rule", "score", **JUDGED), note=_at_layers("Concepts", "n_concepts", **JUDGED, rule=RANDOM)),
    "open-rankings": Shown(_of("feature_rankings"), "rule", {
        "ranks by": "rule title", "area, layer {layer}": "area ±",
        "first 10, layer {layer}": "precision_10 .2", "first 50, layer {layer}": "precision_50 .2",
    }, order=best_first("rule", "area"), note=_at_layers("Steer well", beside(" of ", "n_steers", "n"), rule="output_score")),
    "open-correlations": Shown(_of("quantity_correlations"), "quantity", {
        "quantity": "quantity title", "judge, layer {layer}": ("rho ±", {"outcome": "judge_score"}),
        "net success, layer {layer}": ("rho ±", {"outcome": "net_gen_success_20"}),
    }, order=best_first("quantity", "rho", outcome="judge_score")),
    "open-headline": Shown(_of("headline_samples"), "measure layers", {
        "measure": "measure", "layers": "layers", "n": "n", "kept": "n_kept", "mean": "mean .2", "mean of kept": "kept_mean .2",
        "ratio": "ratio ±", "ratio in samples of 30 a layer": "sampled_ratio ±", "kept less removed": "difference ±",
        "of one layer and concept": "within_difference ±",
    }),
    "open-variants": Shown(_variants, "factor_choice perplexity rule", {
        "factor chosen on": lambda rows: {"held_out": "other prompts", "same_texts": "the same"}[rows[0]["factor_choice"]],
        "perplexity": "perplexity", "rule": "rule", "gain": "ratio ±", "within layers": "within_layers ±", "p": "p_within_layers .4f",
        "with lens tokens as frequent": "matched ±",
    }),
    "open-thresholds": Shown(_of("threshold_transfer"), "measure chosen_on tried_on", {
        "measure": "measure", "chosen on": "chosen_on", "tried on": "tried_on", "threshold": _threshold,
        "gain where it was chosen": "gain_chosen .2", "gain where it was tried": "gain ±",
    }),
    "open-grid": Shown(_of("grid_ends"), "layer factor_rule grid", {
        "layer": "layer", "factor chosen by": "factor_rule", "grid": "grid", "at its smallest": "at_smallest .2",
        "at its largest": "at_largest .2", "moved": "moved .2", "judge score": "score .2", "change": "change ±",
    }),
    "open-settings": Shown(_of("setting_agreement"), "layer prompt factor", {
        "layer": "layer", "prompt": lambda rows: rows[0]["prompt"] + (" (own)" if rows[0]["is_own"] else ""), "factor": "factor",
        "agrees: rank correlation": "rho ±", "kept": "n_kept", "Jaccard": "jaccard .2", "of as many": "jaccard_first .2",
    }, order=lambda rows: sorted(rows, key=lambda row: (row["layer"], row["prompt"], float(row["factor"])))),
    "open-sizes": Shown(_of("data_sizes"), "layer n", {
        "layer": "layer", "max-activating examples": "n", "features": "n_features", "rank correlation with most": "rho ±",
        "concepts": "n_concepts", "same pick": "same_pick .2",
    }),
    "open-verdicts": Shown(_verdicts, "verdict", {
        "verdict": "verdict", "score 1 or more on fresh prompts": "reached", "share, over concepts": "share ±", "concepts": "n",
        "of all that score 1 or more": "took",
    }),
    "open-recommendations": Shown(_recommendations, "layer", {
        "layer": "layer", "intervals that hold the fresh mean": "held", "printed score": "score ±", "score on fresh prompts": "fresh ±",
        "brute force's choice there": "best ±", "regret": "regret ±",
    }),
}  # fmt: skip
"""Block -> its table."""
