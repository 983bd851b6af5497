"""P1's figures (arXiv 2505.20063) beside an experiment's, in Markdown.

A row of paper_figures.csv is a range: the numbers that the paper gives of a model, or, where it says something in words or draws it
(`says`), the values for which that holds.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from saesteer.analysis.selection import LAYER_SETS
from saesteer.core.markdown import table, with_interval
from saesteer.core.uncertainty import Estimate, Interval, rank_correlation, ratio_interval
from saesteer.settings import SelectionSettings, Sweep

PAPER_FIGURES = Path(__file__).with_name("paper_figures.csv")
KEPT, REMOVED, HIGH = 0.9, 0.01, 0.5
"""Output scores: where P1 says what the filter gains, and where how many features it removes; and what counts as high of both scores."""
SUCCESSES = {"gen_success_20": ("GenSuccess@20", ""), "net_gen_success_20": ("Net of unsteered texts", "net_")}
"""Measure -> what it is called, and what its quantities' names begin with: P1 has the first."""
TOLERANCE = 0.01
"""Tolerance for a single feature's score, which has no interval."""
_NOTE = (
    "Intervals of {confidence:.0%}: over features; of shares exact; above random removal, from one interval's end to the other"
    " end of the band. Factors by the rule `{rule}`, `{choice}`; P1's are `p1`, `same_texts`. Same conclusion: the interval touches the"
    " paper's numbers (a feature's score: within {tolerance:g}), or lies wholly where its words hold, read here as: rare is under a tenth,"
    " about 0.6 is 0.55 to 0.65; open: it lies there in part. Net: minus the success of the same prompts' unsteered texts, which P1 does"
    " not subtract and a filter for common tokens raises too. P1's Table 1 is of Gemma-2-9B-it: the report of `gemma-2-9b-it-methods` has"
    " it beside ours."
)


class Measured(NamedTuple):
    """A number of ours, None where there is none; `interval` None where it has none."""

    quantity: str
    what: str
    value: float | None
    interval: Interval | None = None


def paper_markdown(name: str, experiment: Sweep, features: pl.DataFrame, outcomes: pl.DataFrame, selection: pl.DataFrame) -> str:
    """FEATURES, OUTCOMES and SELECTION -> the page."""
    rows = pl.read_csv(PAPER_FIGURES, schema_overrides={"low": pl.Float64, "high": pl.Float64}).to_dicts()
    published = {row["quantity"]: row for row in rows if experiment.model.name.rpartition("/")[2].lower() in row["models"].split()}
    chosen, settings = experiment.best_factor, experiment.selection
    of_rule = outcomes.filter(rule=chosen.rule), selection.filter(rule=chosen.rule)
    measured = [*_depth(features, settings), *_shares(features, settings)]
    measured += [row for measure in SUCCESSES for row in _filtered(*of_rule, measure, settings)]
    measured += [_score(features, quantity) for quantity in published if "/" in quantity]
    cells = (_cells(published.get(number.quantity), number) for number in measured)
    note = _NOTE.format(confidence=settings.confidence, rule=chosen.rule, choice=chosen.factor_choice, tolerance=TOLERANCE)
    lines = table(("what", "paper", "where", "here", "same conclusion"), cells)
    return f"# {name} beside P1, arXiv 2505.20063\n\n{lines}\n\n{note}\n"


def same(published: dict[str, Any], ours: Measured) -> str:
    """Whether a number of ours leads to the paper's conclusion; a dash where there is none, or no interval that it would need."""
    if ours.value is None or (ours.interval is None and "/" not in ours.quantity):
        return "–"
    low, high = ours.interval or (ours.value - TOLERANCE, ours.value + TOLERANCE)
    least, most = (math.inf * sign if published[end] is None else published[end] for end, sign in (("low", -1), ("high", 1)))
    if high < least or low > most:
        return "**no**"
    return "yes" if not published["says"] or least <= low <= high <= most else "open"


def _cells(published: dict[str, Any] | None, ours: Measured) -> tuple[str, ...]:
    low, high = ours.interval or (None, None)
    here = with_interval(ours.value, low, high, 3 if "/" in ours.quantity else 2)
    if published is None:
        return ours.what, "no number in the paper", "", here, "–"
    low, high = published["low"], published["high"]
    said = published["says"] or (f"{low:g}" if low == high else f"{low:g} to {high:g}")
    return ours.what, said, published["place"], here, same(published, ours)


def _depth(features: pl.DataFrame, settings: SelectionSettings) -> Iterator[Measured]:
    for score in ("input", "output"):
        known = features.drop_nulls(f"{score}_score")
        layers, values = known["layer"].cast(pl.Float64).to_numpy(), known[f"{score}_score"].to_numpy()
        depth = rank_correlation(layers, values, np.zeros(len(layers), dtype=np.int64), settings.confidence)
        interval = None if depth.low is None or depth.high is None else Interval(depth.low, depth.high)
        yield Measured(f"{score}_depth", f"{score} score with depth (Spearman, feature by feature)", depth.rho, interval)


def _shares(features: pl.DataFrame, settings: SelectionSettings) -> Iterator[Measured]:
    from scipy.stats import binomtest  # slow to import

    both = features.select((pl.col("input_score") > HIGH) & (pl.col("output_score") > HIGH)).to_series().drop_nulls()
    removed = features["output_score"] < REMOVED
    texts = (f"share of features with both scores above {HIGH:g}", f"share of features with an output score below {REMOVED:g}")
    for quantity, what, mask in zip(("both_high", "removed"), texts, (both, removed), strict=True):
        test = binomtest(int(mask.sum()), len(mask)) if len(mask) else None
        interval = test and Interval(*map(float, test.proportion_ci(settings.confidence)))
        yield Measured(quantity, what, test and float(test.statistic), interval)


def _filtered(outcomes: pl.DataFrame, selection: pl.DataFrame, measure: str, settings: SelectionSettings) -> Iterator[Measured]:
    name, prefix = SUCCESSES[measure]
    for layers, first, where in zip(LAYER_SETS, (0, settings.late_layers_from), ("", ", late layers"), strict=True):
        curve = {row["threshold"]: row for row in selection.filter(measure=measure, layers=layers).iter_rows(named=True)}
        of, kept = f"{name}{where}", f"kept at {KEPT:g}"
        for quantity, what, threshold in (("unfiltered", "unfiltered", 0.0), ("kept", kept, KEPT)):
            row = curve.get(threshold, dict.fromkeys(selection.columns))
            interval = None if row["low"] is None else Interval(row["low"], row["high"])
            yield Measured(f"{prefix}{layers}_{quantity}", f"{of}, {what}", row["mean"], interval)
        ratio = _ratio(outcomes.filter(pl.col("layer") >= first), measure, settings)
        yield Measured(f"{prefix}{layers}_ratio", f"{of}, {kept} over unfiltered", ratio.value, ratio.interval)
        ends = interval and Interval(interval.low - row["random_high"], interval.high - row["random_low"])
        above = ends and row["mean"] - row["random_mean"]
        yield Measured(f"{prefix}{layers}_above_random", f"{of}, {kept} minus as many at random", above, ends)


def _ratio(features: pl.DataFrame, measure: str, settings: SelectionSettings) -> Estimate:
    """Mean over kept features over that of all."""
    known = features.drop_nulls(measure)
    layers, kept = known["layer"].cast(pl.Int64).to_numpy(), known["output_score"].to_numpy() >= KEPT
    return ratio_interval(known[measure].to_numpy(), kept, layers, settings.confidence).ratio


def _score(features: pl.DataFrame, quantity: str) -> Measured:
    """A single feature's score: `input_score 0/725`."""
    score, which = quantity.split(" ")
    layer, feature = map(int, which.split("/"))
    values = features.filter(layer=layer, feature=feature)[score]
    return Measured(quantity, f"{score.replace('_', ' ')} of feature {which}", values[0] if len(values) else None)
