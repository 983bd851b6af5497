"""The place of each method among those of its layer, with an interval: which order could have come about with other concepts."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.uncertainty import Interval, random_stream, resampled_interval
from saesteer.settings.methods import ProtocolSettings

_BLOCK = 2**22  # elements at a time: bounds memory for many concepts
SCHEMA = {"layer": pl.UInt16, "method": pl.String, "rank": pl.Float64, "rank_low": pl.Float64, "rank_high": pl.Float64}


def method_ranks(scores: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_SCORES -> layer, method, rank and its ends: 1 has the highest mean over concepts, equals share the mean of their places. The
    interval is a bootstrap's (`resampled_interval`): concepts are resampled for all methods together. A method without a score is left out;
    the ends are null for fewer than 2 concepts."""
    rows = []
    for layer in scores.sort("layer").partition_by("layer", maintain_order=True):
        number, keys = int(layer["layer"][0]), sorted(layer.drop_nulls("score")["method"].unique())
        if not keys:
            continue
        table = layer.pivot(on="method", index="concept_id", values="score").sort("concept_id")
        values = table.select(keys).cast(pl.Float64).fill_null(np.nan).to_numpy()  # [concept method]
        places = _ranked(np.nanmean(values, axis=0)[None])[0]
        ends = _ends(values, settings, number) if len(values) > 1 else [(None, None)] * len(keys)
        rows += [(number, key, float(place), *end) for key, place, end in zip(keys, places, ends, strict=True)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _ends(values: Float[np.ndarray, "concept method"], settings: ProtocolSettings, layer: int) -> list[Interval]:
    stream = random_stream(settings.seed, "methods", "ranks", layer)
    is_known = np.isfinite(values)
    filled, blocks = np.where(is_known, values, 0), []
    for weights in drawn_concepts(len(values), settings.bootstrap_draws, values.shape[1] ** 2, stream):
        drawn = weights @ is_known
        means = np.divide(weights @ filled, drawn, out=np.full(drawn.shape, -np.inf), where=drawn > 0)
        blocks.append(_ranked(means))
    return [resampled_interval(of_method, len(values), settings.confidence) for of_method in np.concatenate(blocks).T]


def drawn_concepts(n: int, draws: int, elements: int, stream: np.random.Generator) -> Iterator[Float[np.ndarray, "draw concept"]]:
    """How often each of n concepts is drawn when n are, some draws at a time: each needs `elements` numbers of memory."""
    most = max(1, _BLOCK // elements)
    for done in range(0, draws, most):
        yield stream.multinomial(n, np.full(n, 1 / n), size=min(most, draws - done)).astype(np.float64)


def _ranked(means: Float[np.ndarray, "draw method"]) -> Float[np.ndarray, "draw method"]:
    """1 + how many are higher + half of the others that are equal."""
    higher = (means[:, None, :] > means[:, :, None]).sum(axis=2)
    equal = (means[:, None, :] == means[:, :, None]).sum(axis=2) - 1
    ranks: Float[np.ndarray, "draw method"] = 1 + higher + equal / 2
    return ranks
