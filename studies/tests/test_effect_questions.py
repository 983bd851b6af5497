"""What the approximator of effects leaves open: kernel regression against scikit-learn, and worlds that are linear, or break."""

import numpy as np
import polars as pl
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from saesteer.core.tables import EFFECTS, validate
from saesteer.methods.fit.effects import effect_features
from saesteer.settings import SelectionSettings
from studies.questions.effect_questions import (
    PENALTIES,
    WIDTHS,
    approximator_sizes,
    effect_layers,
    effect_multiples,
    kernel_prediction,
    pseudo_inverses,
    sizes,
    told_apart,
)
from studies.questions.tables import EFFECT_LAYERS, EFFECTS_AT_MULTIPLES

D, F, HELD_OUT = 5, 7, 12
SETTINGS = SelectionSettings(thresholds=(0.5,), late_layers_from=0, bootstrap_draws=200)


def directions(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, D))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def effects(x: np.ndarray, y: np.ndarray, rises: np.ndarray | None = None) -> pl.DataFrame:
    """EFFECTS rows, the last vector first."""
    columns = {"layer": [2] * len(x), "vector": range(len(x)), "direction": 3 * x, "effect": y}
    columns["loss_rise"] = np.ones(len(x)) if rises is None else rises
    return pl.DataFrame(columns).cast(pl.Schema(EFFECTS.schema)).reverse()


def at_multiples(x: np.ndarray, of: dict[float, np.ndarray]) -> pl.DataFrame:
    frames = [effects(m * x, y, np.full(len(x), m)).with_columns(multiple=pl.lit(m)) for m, y in of.items()]
    return validate(EFFECTS_AT_MULTIPLES, pl.concat(frames), "test")


def test_the_kernel_regression_is_scikit_learns_of_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(1)
    x, new = directions(18), directions(4, seed=9)
    y = np.sin(3 * x @ rng.normal(size=(D, F))) + 0.2 * rng.normal(size=(18, F))
    mean = y.mean(axis=0)
    distances = [((a - b) ** 2).sum() for i, a in enumerate(x) for b in x[:i]]
    errors = {}
    for width in WIDTHS:
        gamma = 1 / (2 * np.median(distances) * width**2)
        for penalty in PENALTIES:
            model = KernelRidge(kernel="rbf", gamma=gamma, alpha=penalty)
            left_out = [model.fit(np.delete(x, i, 0), np.delete(y, i, 0) - mean).predict(x[[i]])[0] - (y[i] - mean) for i in range(18)]
            errors[gamma, penalty] = float((np.array(left_out) ** 2).sum())
    gamma, penalty = min(errors, key=lambda key: errors[key])
    theirs = mean + rbf_kernel(new, x, gamma) @ np.linalg.solve(rbf_kernel(x, x, gamma) + penalty * np.eye(18), y - mean)
    np.testing.assert_allclose(kernel_prediction(x, y, new), theirs, atol=1e-8)
    assert len(set(errors.values())) == len(errors)


def test_sizes_double_up_to_all() -> None:
    assert sizes(300) == [64, 128, 256, 300]
    assert sizes(256) == [64, 128, 256]
    assert sizes(20) == [20]


def test_no_sum_with_a_held_out_row_is_fitted() -> None:
    features = effect_features(24, 24 + 60, seed=0, layer=2)
    x = directions(len(features))
    kept = told_apart(effects(x, x), features, 4).sort("vector")["vector"].to_list()
    out = {one[0] for one in features[:4]}
    assert kept[:24] == list(range(24))
    assert 24 < len(kept) < len(features)
    assert set(range(24, 84)) - set(kept) == {n for n in range(24, 84) if out & set(features[n])}


def test_r2_by_size_and_model() -> None:
    rng = np.random.default_rng(2)
    x, M = directions(HELD_OUT + 200), rng.normal(size=(D, F))
    table = approximator_sizes(effects(x, x @ M + 1), HELD_OUT, SETTINGS)
    assert table.select("model", "n").rows() == [(model, n) for n in (64, 128, 200) for model in ("linear", "kernel")]
    linear = table.filter(model="linear")
    assert linear["r2"].to_list() == pytest.approx([1] * 3, abs=1e-6)
    y = (x @ M) ** 2
    bent = approximator_sizes(effects(x, y), HELD_OUT, SETTINGS).filter(n=200)
    by_model = dict(bent.select("model", "r2").rows())
    assert by_model["linear"] < 0.1
    assert by_model["kernel"] > 0.9
    assert (bent["r2_low"] < bent["r2"]).all()
    assert (bent["r2"] < bent["r2_high"]).all()


def test_each_reading_layer_has_an_approximator_of_its_own() -> None:
    """What the steered layer reads is linear, what a later one reads is not; rows of other layers and of vectors left out are not read."""
    rng = np.random.default_rng(6)
    x, M = directions(HELD_OUT + 200), rng.normal(size=(D, F))
    own, bent = effects(x, x @ M), effects(x, (x @ M) ** 2).with_columns(read_layer=pl.lit(4, pl.UInt16))
    later = pl.concat([bent, bent.with_columns(layer=pl.lit(7, pl.UInt16))])
    kept = own.filter(pl.col("vector") < HELD_OUT + 128)
    made = validate(EFFECT_LAYERS, effect_layers(kept, later, HELD_OUT, SETTINGS), "test")
    assert made.select("read_layer", "n").unique(maintain_order=True).rows() == [(2, 64), (2, 128), (4, 64), (4, 128)]
    linear = made.filter(model="linear", n=128)
    assert linear["r2"].to_list() == pytest.approx([1, 0], abs=0.15)
    alone = effect_layers(kept, later.filter(layer=9), HELD_OUT, SETTINGS)
    assert alone.equals(made.filter(read_layer=2))


def test_a_linear_world_is_linear_at_every_multiple_and_one_that_saturates_is_not() -> None:
    rng = np.random.default_rng(3)
    x, M = directions(HELD_OUT + 40), rng.normal(size=(D, F))
    base = effects(x, x @ M)
    held_out = x[:HELD_OUT]
    straight = {m: m * held_out @ M for m in (0.5, 1.0, 4.0)}
    rows = effect_multiples(base, at_multiples(held_out, straight), HELD_OUT, SETTINGS)
    assert rows["size"].to_list() == pytest.approx([0.5, 1, 4], rel=1e-5)
    for column in ("cosine", "pattern", "r2"):
        assert rows[column].to_list() == pytest.approx([1] * 3, abs=1e-5)
    assert rows["loss_rise"].to_list() == [0.5, 1, 4]
    assert rows["n"].to_list() == [HELD_OUT] * 3
    stuck = {1.0: held_out @ M, 4.0: held_out @ M}  # four times as much does no more
    rows = effect_multiples(base, at_multiples(held_out, stuck), HELD_OUT, SETTINGS).filter(multiple=4.0)
    assert rows["size"].item() == pytest.approx(1)
    assert rows["pattern"].item() == pytest.approx(1)
    spread = ((held_out @ M - (held_out @ M).mean(axis=0)) ** 2).sum()
    assert rows["r2"].item() == pytest.approx(1 - 9 * ((held_out @ M) ** 2).sum() / spread, abs=1e-4)


def test_an_effect_that_turns_round_keeps_its_size() -> None:
    rng = np.random.default_rng(4)
    x, M = directions(HELD_OUT + 40), rng.normal(size=(D, F))
    rows = effect_multiples(effects(x, x @ M), at_multiples(x[:HELD_OUT], {2.0: -x[:HELD_OUT] @ M}), HELD_OUT, SETTINGS)
    assert rows["size"].item() == pytest.approx(1)
    assert rows["cosine"].item() == pytest.approx(-1)
    assert rows["pattern"].item() == pytest.approx(-1)


def test_a_pseudo_inverse_of_a_wide_spread_leaves_the_columns() -> None:
    """M with orthonormal rows is its own pseudo-inverse, transposed; with one small singular value, vectors go along its direction."""
    rng = np.random.default_rng(5)
    x = directions(HELD_OUT + 300)
    M = np.linalg.qr(rng.normal(size=(F, D)))[0].T
    b = 0.5 * M[0]
    even = pseudo_inverses(effects(x, x @ M + b), range(F), HELD_OUT, SETTINGS)
    assert even["condition"].to_list() == pytest.approx([1] * 3, abs=1e-3)
    expected = [[_cosine(t * M[:, j] - b @ M.T, M[:, j]) for j in range(F)] for t in (1, 10, 100)]
    assert even["column_cosine"].to_list() == pytest.approx([np.mean(row) for row in expected], abs=1e-4)
    shared = [[_cosine(t * M[:, j] - b @ M.T, -b @ M.T) for j in range(F)] for t in (1, 10, 100)]
    assert even["shared_cosine"].to_list() == pytest.approx([np.mean(row) for row in shared], abs=1e-4)
    uneven = np.diag([1, 1, 1, 1, 0.01]) @ M
    rows = pseudo_inverses(effects(x, x @ uneven), range(F), HELD_OUT, SETTINGS)
    assert rows["condition"].to_list() == pytest.approx([100] * 3, rel=0.01)
    assert rows["column_cosine"].max() < 0.3


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
