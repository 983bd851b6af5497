"""What P2's linear model of steering (SAE-TS, arXiv 2411.02193, section 3) leaves open: how its held-out R2 grows with the number of
vectors, whether a smooth model does better on the same ones, and where it breaks as vectors grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float64
from numpy import ndarray

from saesteer.core.uncertainty import interval_columns, mean_columns, random_stream, resampled_interval
from saesteer.methods.fit.approximator import ridge
from saesteer.settings import IntervalSettings
from studies.questions.tables import APPROXIMATOR_SIZES, EFFECT_MULTIPLES, PSEUDO_INVERSES

SMALLEST = 64
"""Fewest vectors that an approximator is fitted on; the next sizes are twice as many."""
WIDTHS = (0.5, 1.0, 2.0)
"""Widths of the kernel that are tried, in multiples of the median distance between fitted directions."""
PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""Strengths of the kernel's penalty that are tried."""
TARGETS = (1.0, 10.0, 100.0)
"""Codes that the pseudo-inverse aims at (P2: 1)."""
CUTOFF = 1e-15
"""Singular values below this share of the largest are taken for 0 (NumPy's default)."""

Directions = Float64[ndarray, "vector d_model"]
Effects = Float64[ndarray, "vector n_features"]
New = Float64[ndarray, "new d_model"]
Predicted = Float64[ndarray, "new n_features"]


def approximator_sizes(effects: pl.DataFrame, n_held_out: int, settings: IntervalSettings) -> pl.DataFrame:
    """APPROXIMATOR_SIZES rows of one layer's EFFECTS: held out are the vectors of lowest number, fitted the first ones after them."""
    (layer,) = effects["layer"].unique()
    ordered = effects.sort("vector")
    x, y = unit_directions(ordered), _matrix(ordered["effect"])
    rows = []
    for n in sizes(len(x) - n_held_out):
        fitted = slice(n_held_out, n_held_out + n)
        usual = y[fitted].mean(axis=0)
        for model, predict in (("linear", linear_prediction), ("kernel", kernel_prediction)):
            predicted = predict(x[fitted], y[fitted], x[:n_held_out])
            stream = random_stream(0, "approximator_sizes", layer, model, n)
            r2 = _r2_columns(y[:n_held_out], predicted, usual, settings, stream)
            rows.append({"layer": layer, "model": model, "n": n, "n_held_out": n_held_out, **r2})
    return pl.DataFrame(rows, schema=APPROXIMATOR_SIZES.schema)


def effect_layers(effects: pl.DataFrame, at_later: pl.DataFrame, n_held_out: int, settings: IntervalSettings) -> pl.DataFrame:
    """EFFECT_LAYERS rows of one layer: R2 of the approximator fitted on its vectors' effects (EFFECTS rows), and of those fitted on what
    later layers' SAEs read of the same vectors (effects.effects_at_later_layers)."""
    (layer,) = effects["layer"].unique()
    of_later = at_later.join(effects, on=["layer", "vector"], how="semi")
    at_layer = effects.with_columns(read_layer=pl.lit(layer, pl.UInt16)).select(at_later.columns)
    by_reader = pl.concat([at_layer, of_later]).partition_by("read_layer", as_dict=True, include_key=False)
    tables = (
        approximator_sizes(rows, n_held_out, settings).with_columns(read_layer=pl.lit(reader, pl.UInt16))
        for (reader,), rows in sorted(by_reader.items())
    )
    return pl.concat(tables)


def told_apart(effects: pl.DataFrame, features: Sequence[Sequence[int]], n_held_out: int) -> pl.DataFrame:
    """EFFECTS rows without the sums in which the decoder row of a held-out vector stands: fitted on these, a model would have seen half of
    what it is asked. `features` are those of each vector (effects.effect_features)."""
    held_out = {feature for vector_features in features[:n_held_out] for feature in vector_features}
    apart = [number for number, vector_features in enumerate(features) if number < n_held_out or not held_out & set(vector_features)]
    return effects.filter(pl.col("vector").is_in(apart))


def sizes(n: int) -> list[int]:
    """Powers of two from `SMALLEST` that are below n, and n."""
    doubled = [SMALLEST * 2**power for power in range(n.bit_length()) if SMALLEST * 2**power < n]
    return [*doubled, n]


def unit_directions(effects: pl.DataFrame) -> Directions:
    """The directions of EFFECTS rows to unit norm."""
    x = _matrix(effects["direction"])
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _matrix(lists: pl.Series) -> Float64[ndarray, "vector width"]:
    return lists.list.to_array(len(lists[0])).to_numpy().astype(np.float64)


def linear_prediction(x: Directions, y: Effects, new: New) -> Predicted:
    """SAE-TS's model, x M + b, fitted on x and y, at `new`."""
    M, b, _ = ridge(x, y)
    return new @ M + b


def kernel_prediction(x: Directions, y: Effects, new: New) -> Predicted:
    """Kernel ridge regression with Gaussians of distances, about the mean of y, at `new`. Width and penalty are those of least
    leave-one-out error: with K = Q diag(s) Q^T, G = (K + penalty)^-1 and a = G (y - mean), leaving vector i out makes its residual
    a_i / G_ii."""
    squared = _squared_distances(x, x)
    median = float(np.median(squared[np.triu_indices(len(x), 1)]))
    mean = y.mean(axis=0)
    best: tuple[float, float, Effects] | None = None
    for width in WIDTHS:
        scale = 2 * median * width**2
        s, Q = np.linalg.eigh(np.exp(-squared / scale))
        rotated = Q.T @ (y - mean)
        for penalty in PENALTIES:
            shrunk = 1 / (s.clip(min=0) + penalty)
            a = Q @ (shrunk[:, None] * rotated)
            error = float(((a / (Q**2 @ shrunk)[:, None]) ** 2).sum())
            if best is None or error < best[0]:
                best = error, scale, a
    assert best is not None
    _, scale, a = best
    return mean + np.exp(-_squared_distances(new, x) / scale) @ a


def _squared_distances(a: Float64[ndarray, "a d_model"], b: Float64[ndarray, "b d_model"]) -> Float64[ndarray, "a b"]:
    return ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T).clip(min=0)


def effect_multiples(effects: pl.DataFrame, at_multiples: pl.DataFrame, n_held_out: int, settings: IntervalSettings) -> pl.DataFrame:
    """EFFECT_MULTIPLES rows of one layer: the held-out vectors' effects at multiples (effects.effects_at_multiples) against their own at
    1 and against the approximator that is fitted on the others at 1."""
    (layer,) = effects["layer"].unique()
    ordered = effects.sort("vector")
    M, b, _ = ridge(unit_directions(ordered[n_held_out:]), _matrix(ordered["effect"])[n_held_out:])
    of_held_out = unit_directions(ordered[:n_held_out]) @ M
    base = _matrix(ordered["effect"])[:n_held_out]
    rows = [
        {
            "layer": layer,
            "multiple": multiple,
            "n": at_multiple.height,
            **_of_multiple(multiple, at_multiple, base, of_held_out, b, settings),
        }
        for (multiple,), at_multiple in at_multiples.sort("multiple", "vector").group_by("multiple", maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=EFFECT_MULTIPLES.schema)


def _of_multiple(
    multiple: float,
    at_multiple: pl.DataFrame,
    base: Effects,
    of_held_out: Effects,
    b: Float64[ndarray, " n_features"],
    settings: IntervalSettings,
) -> dict[str, float | None]:
    effect = _matrix(at_multiple["effect"])
    usual = effect.mean(axis=0)
    values = {
        "loss_rise": at_multiple["loss_rise"].to_numpy(),
        "size": np.linalg.norm(effect, axis=1) / np.linalg.norm(base, axis=1),
        "cosine": _cosines(effect, base),
        "pattern": _cosines(effect - usual, of_held_out - of_held_out.mean(axis=0)),
    }
    predicted = multiple * of_held_out + b
    means = _means(values, settings)
    return means | _r2_columns(effect, predicted, usual, settings, random_stream(0, "effect_multiples", "r2", multiple))


def pseudo_inverses(effects: pl.DataFrame, features: Sequence[int], n_held_out: int, settings: IntervalSettings) -> pl.DataFrame:
    """PSEUDO_INVERSES rows of one layer: P2's vectors by pseudo-inverse, (t e_j - b) pinv(M), of some features at larger and larger targets
    t, against what M has for the feature, its column M_j, and against what all of them share, -b pinv(M). No rows for fewer than 2."""
    (layer,) = effects["layer"].unique()
    ordered = effects.sort("vector")[n_held_out:]
    M, b, _ = ridge(unit_directions(ordered), _matrix(ordered["effect"]))
    changed = [feature for feature in features if M[:, feature].any()]  # the others no vector changes
    if len(changed) < 2:
        return pl.DataFrame(schema=PSEUDO_INVERSES.schema)
    inverse, singular = np.linalg.pinv(M, CUTOFF), np.linalg.svd(M, compute_uv=False)
    condition = float(singular[0] / singular[singular > CUTOFF * singular[0]][-1])
    of_features, shared, columns = inverse[changed], b @ inverse, M[:, changed].T
    rows = []
    for target in TARGETS:
        vectors = target * of_features - shared
        values = {"column_cosine": _cosines(vectors, columns), "shared_cosine": _cosines(vectors, np.broadcast_to(-shared, vectors.shape))}
        means = _means(values, settings)
        rows.append({"layer": layer, "target": target, "n": len(of_features), "condition": condition, **means})
    return pl.DataFrame(rows, schema=PSEUDO_INVERSES.schema)


def _means(values: Mapping[str, Float64[ndarray, " n"]], settings: IntervalSettings) -> dict[str, float | None]:
    """Each one's mean and the ends of its interval."""
    columns: dict[str, float | None] = {}
    for name, of_vectors in values.items():
        columns |= mean_columns(name, of_vectors, settings)
    return columns


def _cosines(a: Effects, b: Effects) -> Float64[ndarray, " vector"]:
    return np.asarray((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


def _r2_columns(
    true: Effects, predicted: Effects, usual: Float64[ndarray, " n_features"], settings: IntervalSettings, stream: np.random.Generator
) -> dict[str, float | None]:
    """R2 about `usual`, vectors pooled, with its bootstrap interval over them."""
    errors, spreads = ((true - other) ** 2 for other in (predicted, usual))
    error, spread = errors.sum(axis=1), spreads.sum(axis=1)

    def r2s() -> Iterator[float]:
        for _ in range(settings.bootstrap_draws):
            drawn = stream.integers(0, len(error), len(error))
            yield 1 - error[drawn].sum() / spread[drawn].sum()

    interval = resampled_interval(np.fromiter(r2s(), dtype=np.float64), len(error), settings.confidence)
    return interval_columns("r2", float(1 - error.sum() / spread.sum()), interval)
