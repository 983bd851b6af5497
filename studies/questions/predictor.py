"""A predictor of how well a feature steers, from all cheap quantities: ridge regression, trained on the other layers.

Every quantity enters as the normal score of its rank in its layer, so that what was learnt on one layer can be asked of another whose scale
differs; one that a feature does not have enters as 0, the middle.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.stats import norm, rankdata

from saesteer.core.uncertainty import RATINGS, of_differences, random_stream
from saesteer.settings import SelectionSettings
from studies.questions.choice_rules import RULES, by_judge, mean_of, picked
from studies.questions.quantity_correlations import correlation
from studies.questions.tables import PREDICTIONS, PREDICTOR_WEIGHTS

QUANTITIES = tuple(RULES)
PENALTIES = 10.0 ** np.arange(-1, 4.5, 0.5)
FOLDS = 5
_FEATURE = ["layer", "feature"]


def predictions(features: pl.DataFrame, steering: pl.DataFrame, settings: SelectionSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """FEATURES with QUANTITIES, and STEERING -> PREDICTIONS and PREDICTOR_WEIGHTS; none of an experiment with one layer."""
    layers = _judged_layers(features, steering)
    lines, weights = [], []
    for layer, rows in layers.items():
        other_layers = {number: other for number, other in layers.items() if number != layer}
        if not other_layers or min(other.height for other in other_layers.values()) < FOLDS:
            continue
        x, y = (np.concatenate([part(other) for other in other_layers.values()]) for part in (normal_scores, _centred))
        penalty = chosen_penalty(x, y, random_stream(settings.seed, "folds", layer))
        learnt = ridge(x, y, penalty)
        predicted = rows.with_columns(prediction=pl.Series(normal_scores(rows) @ learnt))
        label = {"layer": layer, "trained_on": ", ".join(f"layer {number}" for number in other_layers)}
        lines.append(label | {"penalty": penalty} | _line(predicted, settings, layer))
        weights += [{"layer": layer, "quantity": name, "weight": float(w)} for name, w in zip(QUANTITIES, learnt, strict=True)]
    table = pl.DataFrame(lines, schema=PREDICTIONS.schema).sort(PREDICTIONS.keys)
    return table, pl.DataFrame(weights, schema=PREDICTOR_WEIGHTS.schema).sort(PREDICTOR_WEIGHTS.keys)


def predictions_from(
    weights: pl.DataFrame, trained_on: str, features: pl.DataFrame, steering: pl.DataFrame, settings: SelectionSettings
) -> pl.DataFrame:
    """PREDICTIONS of a predictor that was trained on another experiment, `trained_on`: its PREDICTOR_WEIGHTS, mean over its layers. Nothing
    is learnt here."""
    of_quantity = dict(weights.group_by("quantity").agg(pl.col("weight").mean()).iter_rows())
    learnt = np.array([of_quantity[name] for name in QUANTITIES])
    lines = []
    for layer, rows in _judged_layers(features, steering).items():
        predicted = rows.with_columns(prediction=pl.Series(normal_scores(rows) @ learnt))
        lines.append({"layer": layer, "trained_on": trained_on} | _line(predicted, settings, layer))
    return pl.DataFrame(lines, schema=PREDICTIONS.schema).sort(PREDICTIONS.keys)


def _judged_layers(features: pl.DataFrame, steering: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """Each layer's features that were judged, with their quantities."""
    judged = features.select(*_FEATURE, "concept", *RULES).join(by_judge(steering), on=_FEATURE).sort(_FEATURE)
    return {int(rows["layer"][0]): rows for rows in judged.partition_by("layer", maintain_order=True)}


def normal_scores(rows: pl.DataFrame) -> Float[np.ndarray, "feature quantity"]:
    """Each quantity's ranks in a layer as quantiles of the normal distribution; 0 where it is not known."""
    columns = []
    for name in QUANTITIES:
        values = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        is_finite, scores = np.isfinite(values), np.zeros(len(values))
        if is_finite.any():
            scores[is_finite] = norm.ppf((rankdata(values[is_finite]) - 0.5) / is_finite.sum())
        columns.append(scores)
    return np.stack(columns, axis=1)


def _centred(rows: pl.DataFrame) -> Float[np.ndarray, " feature"]:
    """Judge scores less the layer's mean: a layer's level is not what is to be predicted."""
    score = rows["score"].to_numpy()
    return score - score.mean()


def ridge(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"], penalty: float) -> Float[np.ndarray, " k"]:
    """argmin |x w - y|^2 + penalty |w|^2, both sides centred."""
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def chosen_penalty(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"], stream: np.random.Generator) -> float:
    """The penalty of smallest squared error over `FOLDS` random folds; of equals the largest."""
    fold = stream.permutation(len(y)) % FOLDS
    errors = [
        sum(float(((x[fold == k] @ ridge(x[fold != k], y[fold != k], penalty) - y[fold == k]) ** 2).sum()) for k in range(FOLDS))
        for penalty in PENALTIES[::-1]
    ]
    return float(PENALTIES[::-1][int(np.argmin(errors))])


def _line(predicted: pl.DataFrame, settings: SelectionSettings, layer: int) -> dict[str, Any]:
    line: dict[str, Any] = correlation(predicted, "prediction", "score", settings)
    picks = picked(predicted, ["prediction", "max_activation"]).drop_nulls()
    ours, largest = (picks[name].to_numpy() for name in ("prediction", "max_activation"))
    line |= {"n_concepts": picks.height} | mean_of(ours, "score", settings)
    return line | mean_of(ours - largest, "above_activation", settings, of_differences(RATINGS))
