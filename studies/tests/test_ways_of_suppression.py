"""Ways of steering away from a concept: which option is chosen, and what each does to a feature's activation and to the residual."""

import polars as pl
import pytest
import torch

import saesteer
from saesteer.engine.interventions import ActivationEdit, Addition, ConditionalClamp, Projection
from studies import ROOT
from studies.questions.summaries.suppression import OF_A_FEATURE
from studies.questions.suppression import Option, best_options, edit, factors_of


def test_each_way_takes_its_highest_mean_and_ties_go_to_the_weaker_factor():
    """By hand: at -1 and -2 feature 3 has a mean of 1; what was not rated counts for nothing; ablating any feature is one strength."""
    rows = [("below", 3, -2.0, 1.0), ("below", 3, -1.0, 0.5), ("below", 3, -1.0, 1.5), ("below", 8, -1.0, None), ("below", 8, -1.0, 0.75)]
    rows += [("ablated", 8, 1.0, 1.25), ("ablated", 3, 1.0, 1.25), ("all", None, 1.0, 0.25)]
    rated = pl.DataFrame(rows, schema=["way", "feature", "factor", "score"], orient="row")
    assert best_options(rated) == [Option("ablated", 3, 1.0), Option("all", None, 1.0), Option("below", 3, -1.0)]
    assert best_options(rated.with_columns(score=pl.lit(None, pl.Float64))) == []


def test_every_way_of_a_feature_lowers_what_it_is_about():
    sae = saesteer.load_sae(ROOT / "data/world/saes/layer_03", device="cpu")
    does = {way: edit(sae, way, 5, 7.5) for way in OF_A_FEATURE}
    assert [factors_of(way, (0.0, 0.4, 2.0)) for way in OF_A_FEATURE] == [[-0.4, -2.0], [1.0], [1.0], [-0.4, -2.0]]
    added, ablated, projected, clamped = does.values()
    assert isinstance(added, Addition)
    assert (added.features, added.positions) == ((5,), "last")
    assert isinstance(ablated, ActivationEdit)
    assert (ablated.features.tolist(), ablated.values.tolist()) == ([5], [0.0])
    assert isinstance(projected, Projection)
    torch.testing.assert_close(projected.vector, sae.W_dec[5] / sae.W_dec[5].norm())
    assert isinstance(clamped, ConditionalClamp)
    assert clamped.features.tolist() == [5]
    assert float(clamped.values) * factors_of("clamped below 0", (2.0,))[0] == pytest.approx(-15)
