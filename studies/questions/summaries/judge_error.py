"""What the errors of a judge do to mean scores, and means corrected for them.

How often a judge gives each rating to texts made as 0, 1 and 2 is its confusion matrix, measured on texts that nothing was fitted on. Rogan
and Gladen (Am. J. Epidemiol. 107, 71, 1978) correct a rate by that of a test's errors; here the same is done for the harmonic mean of
two ratings of three values. With A = P(rated | made) of concept, B of fluency and H[m, n] the score of a text made as m and n, the table

    V = A^-1 H B^-T        [concept rated, fluency rated]

has the expectation H[m, n] over what a text made as (m, n) is rated, if the two ratings err independently of each other and of all else.
So the mean of V over texts estimates the mean score that a judge without errors would give. V can go below 0 and beyond 2, and where the
judge hardly tells ratings apart its entries are large and the mean's interval wide, as it should be. The interval draws units and the
measured matrices anew together.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Num

from saesteer.analysis.halves import split_halves
from saesteer.analysis.score import harmonic_mean
from saesteer.core.tables import FEATURES, JUDGEMENTS, STEERING, of_features
from saesteer.core.uncertainty import RATINGS, interval_columns, mean_columns, random_stream, resampled_interval
from saesteer.run import Run
from saesteer.settings import OracleJudge, SelectionSettings
from saesteer.summaries.summary import Summary
from studies.questions.choice_rules import RANDOM, RULES, chosen_by_judge, picked, with_quantities
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import JUDGE_ERROR, QUANTITIES

_PAIRS = pl.DataFrame([(m, n) for m in range(3) for n in range(3)], schema=["concept", "fluency"], orient="row")
SCORES = _PAIRS.select(harmonic_mean(_PAIRS.columns)).to_numpy().reshape(3, 3)
"""H: harmonic mean of concept m and fluency n."""
CELLS = [f"c{m}f{n}" for m in range(3) for n in range(3)]
"""Columns: shares of a unit's texts rated m for concept and n for fluency."""
ALL, KEPT, REMOVED = "all features", "features kept", "features removed"
_FEATURE = ["layer", "feature"]
_Row = dict[str, Any]


class RatingCounts(NamedTuple):
    """How often texts made as 0, 1, 2 (rows) were rated 0, 1, 2."""

    concept: Int[np.ndarray, "made rated"]
    fluency: Int[np.ndarray, "made rated"]


def read_counts(settings: Path) -> RatingCounts | None:
    """What a judge's text_judge.json has under `measured`; None for a judge without the file."""
    if not settings.exists():
        return None
    measured = json.loads(settings.read_text(encoding="utf-8"))["measured"]
    return RatingCounts(np.array(measured["concept_ratings"]), np.array(measured["fluency_ratings"]))


def corrected_scores(
    concept: Num[np.ndarray, "*draw made rated"], fluency: Num[np.ndarray, "*draw made rated"]
) -> Float[np.ndarray, "*draw rated rated"]:
    """V from counts of [made, rated]."""
    a, b = (counts / counts.sum(-1, keepdims=True) for counts in (concept, fluency))
    return np.linalg.solve(a, SCORES) @ np.linalg.inv(b).swapaxes(-1, -2)


def judge_error(
    features: pl.DataFrame, steering: pl.DataFrame, judgements: pl.DataFrame, counts: RatingCounts | None, settings: SelectionSettings
) -> pl.DataFrame:
    """FEATURES with QUANTITIES, STEERING, and JUDGEMENTS with `half` -> JUDGE_ERROR: mean held-out scores at the factor that the judge
    chooses on the other half, as rated and corrected; of the features that each rule picks, over concepts, and of those that P1's filter
    keeps and removes, over features. Empty without counts."""
    if counts is None:
        return pl.DataFrame(schema=JUDGE_ERROR.schema)
    cells = chosen_cells(steering, judgements).join(features.select(*_FEATURE, "concept", *RULES), on=_FEATURE)
    lines = []
    for layer in cells.partition_by("layer", maintain_order=True):
        for group, units, rows in _groups(layer, settings):
            label = {"layer": layer["layer"][0], "group": group, "units": units, "n": len(rows)}
            lines.append(label | _means(rows, counts, settings, (layer["layer"][0], group)))
    return pl.DataFrame(lines, schema=JUDGE_ERROR.schema).sort(JUDGE_ERROR.keys)


def chosen_cells(steering: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """layer, feature and CELLS: shares of a feature's rated texts, each half's at the factor that the other chooses, both halves alike."""
    chosen = chosen_by_judge(steering).select(*_FEATURE, "half", "strength")
    rated = judgements.drop_nulls(["concept_rating", "fluency_rating"])
    rated = rated.with_columns(pl.col("half").cast(pl.Int64), strength=pl.col("factor").cast(pl.Float64))
    texts = rated.join(chosen, on=[*_FEATURE, "half", "strength"])
    place = pl.col("concept_rating").cast(pl.Int64) * 3 + pl.col("fluency_rating").cast(pl.Int64)
    shares = texts.group_by(*_FEATURE, "half").agg((place == number).mean().alias(name) for number, name in enumerate(CELLS))
    return shares.group_by(_FEATURE).agg(pl.col(CELLS).mean()).sort(_FEATURE)


def _groups(layer: pl.DataFrame, settings: SelectionSettings) -> Iterator[tuple[str, str, Float[np.ndarray, "unit 9"]]]:
    """(group, what its units are, their cells); concepts for which a rule picks none are left out."""
    by_cell = [picked(layer, value=name) for name in CELLS]
    for rule in (*RULES, RANDOM):
        cells = np.stack([frame[rule].to_numpy() for frame in by_cell], axis=1)
        yield rule, "concepts", cells[~np.isnan(cells).any(axis=1)]
    is_kept = pl.col("output_score") >= settings.headline_threshold
    for name, rows in ((ALL, layer), (KEPT, layer.filter(is_kept)), (REMOVED, layer.filter(~is_kept))):
        yield name, "features", rows.select(CELLS).to_numpy()


def _means(cells: Float[np.ndarray, "unit 9"], counts: RatingCounts, settings: SelectionSettings, label: tuple[int, str]) -> _Row:
    """score and corrected, with their intervals."""
    if len(cells) < 2:
        return {}
    stream = random_stream(settings.seed, "judge error", *label)
    draws = settings.bootstrap_draws
    means = cells[stream.integers(0, len(cells), (draws, len(cells)))].mean(axis=1)  # [draw cell]
    drawn = [_redrawn(matrix, draws, stream) for matrix in counts]
    usable = np.all([np.abs(np.linalg.det(matrix)) > 0 for matrix in drawn], axis=0)  # a draw in which no two ratings can be told apart
    tables = corrected_scores(*(matrix[usable] for matrix in drawn)).reshape(-1, 9)
    corrected = float(cells.mean(0) @ corrected_scores(*counts).ravel())
    interval = resampled_interval((means[usable] * tables).sum(1), len(cells), settings.confidence)
    score = mean_columns("score", cells @ SCORES.ravel(), settings, scale=RATINGS)
    return score | interval_columns("corrected", corrected, interval)


def _redrawn(counts: Int[np.ndarray, "made rated"], draws: int, stream: np.random.Generator) -> Int[np.ndarray, "draw made rated"]:
    """Bootstrap of the texts that were counted, those of each making among themselves."""
    rows = [stream.multinomial(row.sum(), row / row.sum(), size=draws) for row in counts]
    return np.stack(rows, axis=1)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    features, steering, judge = run.summary(FEATURES), run.summary(STEERING), run.sweep.judge
    texts = of_features(run.rows(JUDGEMENTS, run.layers))
    texts = texts.with_columns(half=pl.col("prefix_id").replace_strict(split_halves(run.prompts()), return_dtype=pl.Int64))
    measured = judge.oracle / "text_judge.json" if isinstance(judge, OracleJudge) else None
    counts = read_counts(measured) if measured is not None and measured.exists() else None
    quantities = with_quantities(features, run.summary_by_group(QUANTITIES))
    return {JUDGE_ERROR.name: judge_error(quantities, steering, texts, counts, run.sweep.selection)}


SUMMARY = Summary((JUDGE_ERROR,), steers_every_feature, compute)
