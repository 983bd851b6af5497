"""How hard to steer with a feature has one answer: by hand, and the same wherever it is asked for."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_folders import swept, write_step
from test_best_factor import steering_rows
from test_recommendation import ratings, recommended

from saesteer.analysis.recommended_factor import recommended_factors
from saesteer.analysis.tables import STEERING
from saesteer.core.errors import SettingsError
from saesteer.exchange.fits import recommended_factor
from saesteer.settings import BestFactorSettings
from saesteer.steps.judge import JUDGEMENTS

JUDGED, BY_SUCCESS = "judge score, on all prompts", "GenSuccess@20 under the perplexity cap, on all prompts"


def chosen(values: dict[str, tuple[float | None, float, float]]) -> tuple[str | None, str]:
    """Of factor -> (judge score, GenSuccess@20, log perplexity), the same in both halves."""
    columns = ("judge_score", "gen_success_20", "log_perplexity")
    rows = {(factor, half): dict(zip(columns, row, strict=True)) for factor, row in values.items() for half in (0, 1)}
    ((layer, feature, factor, chosen_by),) = recommended_factors(steering_rows(rows), BestFactorSettings()).rows()
    assert (layer, feature) == (3, 7)
    return factor, chosen_by


def test_by_hand() -> None:
    """The judge goes first; without one, factor 10 is above 4 times the unsteered perplexity (ln 4 = 1.39)."""
    judged = {"0": (1.9, 0.0, 1.0), "2": (0.5, 1.0, 1.1), "4": (1.5, 2.0, 2.0), "10": (1.5, 9.0, 5.0)}
    assert chosen(judged) == ("4", JUDGED)
    assert chosen({factor: (None, *row[1:]) for factor, row in judged.items()}) == ("4", BY_SUCCESS)
    assert chosen({"0": (1.0, 0.0, 1.0), "2": (0.0, 1.0, 1.0)}) == (None, JUDGED)
    assert chosen({"0": (None, 1.0, 1.0), "2": (None, 0.0, 1.0)}) == (None, BY_SUCCESS)


def test_it_is_chosen_on_both_halves_together() -> None:
    """One half is best at 2, the other at 6; together 4 is: 1.0 against 0.9 and 0.8."""
    scores = {"2": (1.6, 0.2), "4": (1.0, 1.0), "6": (0.0, 1.6)}
    rows = {(factor, half): {"judge_score": of[half], "gen_success_20": 1.0} for factor, of in scores.items() for half in (0, 1)}
    assert recommended_factors(steering_rows(rows), BestFactorSettings())["factor"].to_list() == ["4"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 4 / 3, 2.0]), min_size=8, max_size=8), min_size=3, max_size=3))
def test_it_is_what_a_recommendation_says(scores: list[list[float]]) -> None:
    rated = pl.concat([ratings("feature", 3, "7", factor, list(of)) for factor, of in zip(("10", "2", "4"), scores, strict=True)])
    halves = rated.with_columns(half=pl.col("prefix_id").str.tail(1).cast(pl.Int64) % 2)
    means = halves.group_by("factor", "half").agg(pl.col("judge_score").mean()).iter_rows()
    rows = {(factor, half): {"judge_score": mean, "gen_success_20": 0.0} for factor, half, mean in means}
    choice = recommended(rated).feature
    assert choice is not None
    if max(map(max, scores)) > 0:
        assert recommended_factors(steering_rows(rows), BestFactorSettings())["factor"].to_list() == [choice.factor]


def test_a_command_says_why_there_is_none(tmp_path: Path) -> None:
    run = swept(tmp_path)
    (layer, feature, factor, chosen_by), *_ = recommended_factors(run.summary(STEERING), run.sweep.best_factor).rows()
    assert recommended_factor(run, layer, feature) == (float(factor), f"recommended: chosen by {chosen_by}")
    with pytest.raises(SettingsError, match="tiny has not steered with feature 0/999, so no factor is recommended: name one"):
        recommended_factor(run, 0, 999)
    sweep = run.sweep.model_copy(update={"sweep": run.sweep.sweep.model_copy(update={"edit": "projection"})})
    with pytest.raises(SettingsError, match="edits features by projection .sweep.edit. and recommends no factor of an addition"):
        recommended_factor(replace(run, experiment=sweep), layer, feature)


def test_candidates_of_a_recommendation_have_ratings_and_no_tables(tmp_path: Path) -> None:
    """Both give the same factor; of a feature that was not rated there is none."""
    run = swept(tmp_path)
    features = run.summary(STEERING).select("layer", "feature").unique().sort("layer", "feature").rows()
    scores = {"0": 1.5, "2": 0.5, "10": 1.0, "20": 1.0}
    rows = [
        (layer, "feature", str(feature), factor, prefix_id, 0, score)
        for layer, feature in features
        for factor, score in scores.items()
        for prefix_id in ("a", "b")
    ]
    rated = pl.DataFrame(rows, schema=[*JUDGEMENTS.keys, "judge_score"], orient="row")
    columns = [pl.lit(None, kind).alias(name) for name, kind in JUDGEMENTS.schema.items() if name not in rated.columns]
    shutil.rmtree(run.data / "judge")
    write_step(run.data, JUDGEMENTS, rated.with_columns(columns).select(*JUDGEMENTS.columns).cast(pl.Schema(JUDGEMENTS.schema)))
    run.summary_path(STEERING).unlink()
    layer, feature = features[0]
    assert recommended_factor(run, layer, feature) == (10.0, f"recommended: chosen by {JUDGED}")
    with pytest.raises(SettingsError, match="no factor is recommended"):
        recommended_factor(run, layer, 999)
