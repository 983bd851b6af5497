"""The approximator of steering effects against scikit-learn and NumPy; vectors that target features against cases worked by hand, SciPy and
a world that is linear."""

from dataclasses import replace
from functools import cache

import methods_world
import numpy as np
import polars as pl
import pytest
import torch
from oracles import plain_hooks
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge, RidgeCV

from saesteer.engine.interventions import Addition
from saesteer.methods.fit import fgaa, sae_choice, sae_ts
from saesteer.methods.fit.approximator import PENALTIES, fitted, ridge
from saesteer.methods.fit.fits import fit_of
from saesteer.methods.fit.problem import Abstains, Approximator
from saesteer.settings.registry import method
from saesteer.steps.effects import EFFECTS

D, F = 6, 10
NAMES = ("sae_ts", "sae_ts_pinv", "sae_ts_rotation", "sae_ts_bias", "fgaa")


def world(n: int, noise: float, seed: int = 0, of_x: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """n unit directions and their effects of_x * x M + b + noise; M and b."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    M, b = rng.normal(size=(D, F)), 1 + rng.normal(size=F)
    return x, of_x * (x @ M) + b + noise * rng.normal(size=(n, F)), of_x * M, b


def table(x: np.ndarray, y: np.ndarray) -> pl.DataFrame:
    """EFFECTS rows, the last vector first: order must not matter."""
    columns = {"layer": [5] * len(x), "vector": range(len(x)), "direction": x, "effect": y, "loss_rise": [1.0] * len(x)}
    return pl.DataFrame(columns).cast(pl.Schema(EFFECTS.schema)).reverse()


def toy(M: list[list[float]], b: list[float]) -> Approximator:
    return Approximator(torch.tensor(M), torch.tensor(b), 1.0)


def assert_close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual.double(), torch.as_tensor(np.asarray(expected)).double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0, 3.0])
def test_ridge_equals_scikit_learns_leave_one_out(noise: float) -> None:
    x, y, _, _ = world(20, noise)
    M, b, penalty = ridge(x, y)
    unit = float((np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2).mean())
    theirs = RidgeCV(alphas=[unit * each for each in PENALTIES]).fit(x, y)
    assert penalty * unit == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(M, theirs.coef_.T, atol=1e-8)
    np.testing.assert_allclose(b, theirs.intercept_, atol=1e-8)


def test_all_but_the_lowest_vector_numbers_are_fitted_and_r2_is_on_these_about_the_fitted_mean() -> None:
    x, y, _, _ = world(60, 0.5)
    y[:10] += 2  # so that the held-out mean is another
    effects = fitted(table(x, y), 10)
    unit = float((np.linalg.svd(x[10:] - x[10:].mean(axis=0), compute_uv=False) ** 2).mean())
    theirs = Ridge(alpha=unit * ridge(x[10:], y[10:])[2]).fit(x[10:], y[10:])
    assert_close(effects.M, theirs.coef_.T)
    assert_close(effects.b, theirs.intercept_)
    errors, spread = y[:10] - theirs.predict(x[:10]), y[:10] - y[10:].mean(axis=0)
    assert effects.r2 == pytest.approx(1 - (errors**2).sum() / (spread**2).sum(), abs=1e-5)


def test_directions_count_at_unit_norm_as_in_the_papers_program() -> None:
    x, y, _, _ = world(60, 0.3)
    scales = np.random.default_rng(1).uniform(0.5, 20, size=(60, 1))
    one, other = fitted(table(x, y), 10), fitted(table(scales * x, y), 10)
    assert_close(one.M, other.M)
    assert one.r2 == pytest.approx(other.r2, abs=1e-5)


def test_effects_that_do_not_vary_are_refused() -> None:
    x, y, _, _ = world(20, 0.3)
    with pytest.raises(ValueError, match="R2 has no meaning"):
        fitted(table(x, np.ones_like(y)), 5)


def test_targeted_vector_by_hand() -> None:
    """M_0 = (3, 4) has norm 5; M b = (3 * 1 + 0 * 2, 4 * 1 - 2 * 2) = (3, 0)."""
    effects = toy([[3.0, 0.0], [4.0, -2.0]], [1.0, 2.0])
    assert_close(sae_ts.bias_direction(effects), [1, 0])
    assert_close(sae_ts.targeted(effects, 0), [0.6 - 1, 0.8])
    assert_close(sae_ts.targeted(effects, 1), [-1, -1])


def test_a_feature_that_nothing_changes_cannot_be_targeted() -> None:
    with pytest.raises(Abstains, match="feature 1"):
        sae_ts.targeted(toy([[3.0, 0.0], [4.0, 0.0]], [1.0, 2.0]), 1)
    with pytest.raises(Abstains, match="bias is zero"):
        sae_ts.targeted(toy([[3.0, 1.0], [4.0, 0.0]], [0.0, 0.0]), 1)


def problem(label: int | None = 7, **changes: object) -> methods_world.Problem:
    """A topic of the shipped world with a made-up approximator."""
    return replace(methods_world.problem("sea", n_texts=6, effects=methods_world.random_effects()), label=label, **changes)


@cache
def expected_vectors() -> dict[str, np.ndarray]:
    """Of feature 7, with NumPy and SciPy."""
    given = problem()
    assert given.effects is not None
    M, b, W_dec = (part.double().numpy() for part in (given.effects.M, given.effects.b, given.sae.W_dec))
    bias = M @ b / np.linalg.norm(M @ b)
    wanted = np.eye(1024)[7] - b
    R, _ = orthogonal_procrustes(W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True), M.T / np.linalg.norm(M.T, axis=1, keepdims=True))
    turned = W_dec[7] @ R / np.linalg.norm(W_dec[7] @ R)
    vectors = {
        "sae_ts": M[:, 7] / np.linalg.norm(M[:, 7]) - bias,
        "sae_ts_pinv": np.linalg.lstsq(M.T, wanted, rcond=None)[0],  # x M = wanted
        "sae_ts_rotation": turned - bias,
        "sae_ts_bias": -bias,
    }
    return {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}


@pytest.mark.parametrize("name", NAMES[:-1])
def test_methods_give_the_unit_vector_with_its_largest_activation(name: str) -> None:
    given = problem()
    expected = expected_vectors()[name]
    largest = max(
        float(residual.double() @ torch.from_numpy(expected))
        for text in given.positive
        for residual in plain_hooks.residuals(given.lm.model, text.ids, given.layer)[text.n_context :]
    )
    if largest <= 0:
        with pytest.raises(Abstains, match="no positive activation"):
            fit_of(method(name))(given)
        return
    addition = fit_of(method(name))(given)
    assert isinstance(addition, Addition)
    assert_close(addition.vector, expected)
    assert addition.scale == pytest.approx(largest, rel=1e-4)
    assert addition.positions == "all"


def test_the_rotation_turns_decoder_rows_to_where_they_act() -> None:
    """Where M's columns are the decoder rows, rotated and of other lengths, the rotation is found, not its inverse."""
    given = problem()
    Q = torch.linalg.qr(torch.randn(128, 128, dtype=torch.double, generator=torch.Generator().manual_seed(0))).Q
    lengths = torch.rand(1024, dtype=torch.double, generator=torch.Generator().manual_seed(1)) * 3
    lengths[5] = 0  # a feature that no vector changes
    effects = Approximator((Q @ given.sae.W_dec.T.double() * lengths).float(), torch.ones(1024), 1.0)
    assert_close(sae_ts.rotation(effects, given.sae), Q)


def test_a_concept_without_a_label_takes_the_feature_of_best_auroc() -> None:
    given = problem(label=None)
    assert sae_choice.by_auroc(given).features == (sae_ts.target_feature(given),)
    assert sae_ts.target_feature(problem(label=11)) == 11


@pytest.mark.parametrize("name", NAMES)
def test_without_measured_effects_there_is_no_method(name: str) -> None:
    with pytest.raises(ValueError, match="needs the effects of steering"):
        fit_of(method(name))(problem(effects=None))


def test_fgaa_target_by_hand() -> None:
    """Feature 1 is not allowed; two of three positive and one of two negative ones are kept: .5 + .3 + .2 = 1."""
    difference = torch.tensor([0.5, 9.0, -0.1, 0.3, -0.2, 0.1], dtype=torch.double)
    allowed = torch.tensor([True, False, True, True, True, True])
    assert_close(fgaa.v_target(difference, allowed, 2, 1), [0.5, 0, 0, 0.3, -0.2, 0])
    assert_close(fgaa.v_target(difference / 7, allowed, 2, 1), [0.5, 0, 0, 0.3, -0.2, 0])
    assert_close(fgaa.v_target(difference, allowed, 1, 0), [1, 0, 0, 0, 0, 0])
    assert_close(fgaa.v_target(difference, allowed, 9, 9), np.array([5, 0, -1, 3, -2, 1]) / 12)


def test_fgaa_abstains_where_the_filters_leave_nothing() -> None:
    with pytest.raises(Abstains, match="too dense"):
        fgaa.v_target(torch.tensor([0.5, -0.5]).double(), torch.tensor([False, True]), 2, 0)
    dense = problem()
    with pytest.raises(Abstains, match="too dense"):
        fgaa.fit(replace(dense, features=dense.features.with_columns(density=pl.lit(0.02))))


def test_fgaa_takes_means_of_texts_means() -> None:
    given = problem()
    means = []
    for texts in (given.positive, given.negative):
        of_texts = []
        for text in texts:
            residuals = plain_hooks.residuals(given.lm.model, text.ids, given.layer)[text.n_context :]
            of_texts.append(torch.stack([plain_hooks.code_of(given.sae, residual) for residual in residuals]).double().mean(dim=0))
        means.append(torch.stack(of_texts).mean(dim=0))
    assert len({len(text.ids) - text.n_context for text in given.positive}) > 1
    torch.testing.assert_close(fgaa.activation_difference(given), means[0] - means[1], atol=1e-4, rtol=1e-4)


def test_fgaa_leaves_out_dense_features_and_those_of_the_first_token() -> None:
    given = problem()
    density = [0.5 if feature < 100 else (None if feature < 200 else 0.01) for feature in range(1024)]
    given = replace(given, features=given.features.with_columns(density=pl.Series(density)).filter(pl.col("feature") != 300))
    at_bos = plain_hooks.code_of(given.sae, plain_hooks.residuals(given.lm.model, [given.lm.tokenizer.bos_token_id], given.layer)[0]) > 0
    expected = torch.arange(1024) >= 200
    expected[300] = False
    assert bool((expected & at_bos).any())
    assert torch.equal(fgaa.allowed(given), expected & ~at_bos)
    without_bos = replace(given, positive=tuple(replace(text, ids=text.ids[1:]) for text in given.positive))
    assert torch.equal(fgaa.allowed(without_bos), expected)


def test_fgaa_aims_at_the_differing_features() -> None:
    given = problem()
    assert given.effects is not None
    addition = fgaa.fit(given)
    M, b = given.effects.M.double().numpy(), given.effects.b.double().numpy()
    difference, allowed = fgaa.activation_difference(given).numpy(), fgaa.allowed(given).numpy()
    order = [feature for feature in np.argsort(-difference, kind="stable") if allowed[feature] and difference[feature] > 0][:50]
    v = np.zeros(1024)
    v[order] = difference[order]
    expected = M @ v / np.linalg.norm(M @ v) - M @ b / np.linalg.norm(M @ b)
    assert_close(addition.vector, expected / np.linalg.norm(expected))
