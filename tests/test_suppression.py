"""Which feature gives less of a concept, by hand-made ratings; and the prompts that evoke it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_recommendation import PROMPTS, SETTINGS, WORKFLOW

from saesteer.analysis.recommendation import (
    ABLATED,
    CLAMPED,
    CONTROL,
    FEATURE,
    UNSTEERED,
    Recommendation,
    best_options,
    controls,
    edit_of,
    recommend_less,
    scored_by_absence,
)
from saesteer.core.errors import SettingsError
from saesteer.recommendations.answer import as_sweep
from saesteer.recommendations.presentation import sentences_of, where_of
from saesteer.recommendations.question import beginnings, evoking_prompts


def ratings(kind: str, name: str, factor: str, concept: list[float], fluency: float = 2.0) -> pl.DataFrame:
    columns = {"kind": kind, "layer": 3, "name": name, "factor": factor, "prefix_id": PROMPTS, "concept_rating": concept}
    return scored_by_absence(pl.DataFrame(columns, strict=False).with_columns(fluency_rating=pl.lit(fluency), mean_nll=pl.lit(1.0)))


BEFORE = ratings(FEATURE, "", UNSTEERED, [2.0, 1.6] * 4)


def less(chose: pl.DataFrame, scoring: pl.DataFrame | None = None, damage_limit: float = 4.0) -> Recommendation:
    """Of the sea, of texts that choose, and of those that score with the control's: the same, or others."""
    texts = pl.concat([chose if scoring is None else scoring, BEFORE], how="vertical_relaxed")
    options = best_options(chose.filter(kind=FEATURE))
    return recommend_less("sea", options, texts, SETTINGS, damage_limit)


def test_a_text_scores_for_less_where_it_is_fluent_and_not_about_the_concept():
    """By hand: the harmonic mean of 2 - concept and fluency; a missing rating stays missing."""
    rated = pl.DataFrame(
        {"concept_rating": [0, 1, 2, 0, None], "fluency_rating": [2, 2, 2, 0, 2]}, schema_overrides={"concept_rating": pl.UInt8}
    )
    assert scored_by_absence(rated)["judge_score"].to_list() == pytest.approx([2.0, 4 / 3, 0.0, 0.0, None])


def test_what_some_prompts_choose_falls_on_others_and_so_does_the_control_at_the_same_strength():
    """By hand: -4 is chosen; on the prompts that score the rating is .9 with it, 1.8 unsteered and 1.7 with the control."""
    chose = [ratings(FEATURE, "7", "-4", [0.0, 1.0] * 4), ratings(FEATURE, "7", ABLATED, [1.0] * 8)]
    scoring = [ratings(FEATURE, "7", "-4", [0.8, 1.0] * 4), ratings(FEATURE, "7", ABLATED, [0.0] * 8)]
    # Two features of the layer, their mean; at another strength or layer they are no control.
    scoring += [ratings(CONTROL, "8", "-4", [1.9, 1.5] * 4), ratings(CONTROL, "9", "-4", [2.0, 1.4] * 4)]
    scoring += [ratings(CONTROL, "8", ABLATED, [0.0] * 8), ratings(CONTROL, "8", "-4", [0.0] * 8).with_columns(layer=pl.lit(6))]
    result = less(pl.concat(chose), pl.concat(scoring, how="vertical_relaxed"))
    assert result.feature is not None
    assert result.fall is not None
    assert (result.feature.name, result.feature.factor, result.feature.concept.mean) == ("7", "-4", pytest.approx(0.9))
    assert result.fall.of_feature.mean == pytest.approx(1.8 - 0.9)
    assert result.fall.of_control.mean == pytest.approx(1.8 - 1.7)
    assert result.fall.beyond_control.mean == pytest.approx(1.7 - 0.9)


@pytest.mark.parametrize(
    ("of_feature", "of_control", "verdict", "said"),
    [
        ([0.2, 0.0], [2.0, 1.6], "use", "Use feature 3/7 at factor -2 for less of 'sea': the concept rating falls by 1.70 ["),
        ([0.2, 0.0], [0.3, 0.1], "try it", "Try feature 3/7 at factor -2 for less of 'sea'"),
        ([0.3, 0.1], [0.2, 0.0], "don't", "Don't use feature 3/7 at factor -2 for less of 'sea'"),
        ([2.0, 1.8], [2.0, 1.9], "don't", "Don't use feature 3/7 at factor -2 for less of 'sea'"),
    ],
)
def test_the_verdict_asks_for_a_fall_beyond_the_controls(of_feature: list[float], of_control: list[float], verdict: str, said: str):
    result = less(pl.concat([ratings(FEATURE, "7", "-2", of_feature * 4), ratings(CONTROL, "8", "-2", of_control * 4)]))
    first, control = sentences_of(result)
    assert (result.verdict, first.startswith(said)) == (verdict, True)
    assert ("a further fall than the control's" in first) == (of_feature[0] in (0.2, 0.3) and verdict != "use")
    assert ("a fall of the concept rating" in first) == (of_feature[0] == 2.0)
    assert control.startswith("Control, features of the layer that nothing links to it, at the same factor: it falls by ")


def test_without_a_control_nothing_is_to_be_used_and_damage_counts_as_for_more():
    rated = ratings(FEATURE, "7", ABLATED, [0.2, 0.0] * 4)
    alone = less(rated)
    assert (alone.verdict, sentences_of(alone)[1].endswith("it falls by unknown.")) == ("don't", True)
    both = pl.concat([rated.with_columns(mean_nll=pl.lit(3.3)), ratings(CONTROL, "8", ABLATED, [2.0, 1.6] * 4)])
    broken = less(both)
    assert (broken.verdict, less(both, damage_limit=11.0).verdict) == ("don't", "use")
    assert sentences_of(broken)[0].startswith("Don't use feature 3/7 ablated for less of 'sea'")
    assert sentences_of(broken)[0].endswith(" Not met: perplexity of its texts within the limit.")


def test_broken_texts_are_not_chosen_and_ties_go_to_ablation_then_to_the_factor_nearest_to_0():
    broken, same = ratings(FEATURE, "7", "-20", [0.0] * 8, fluency=0.0), [0.2, 0.0] * 4
    factors = ["-10", "-4", "-2"]
    rated = pl.concat([broken, *(ratings(FEATURE, "7", factor, same) for factor in factors)])
    chosen = [less(of).feature for of in (rated, pl.concat([rated, ratings(FEATURE, "7", ABLATED, same)]))]
    assert [choice and choice.factor for choice in chosen] == ["-2", ABLATED]
    clamped = [ratings(FEATURE, "7", f"{CLAMPED}{factor}", [0.0] * 8) for factor in ("-10", "-2", "-4")]
    choice = less(pl.concat(clamped)).feature
    assert choice is not None
    assert where_of(choice) == "3/7 clamped at factor -2"
    assert edit_of(choice.factor) == ("clamp", -2.0)
    tied = pl.concat([ratings(FEATURE, "7", factor, [0.0] * 8) for factor in (f"{CLAMPED}-2", "-2")])
    again = [less(tied.sample(fraction=1, shuffle=True, seed=seed)).feature for seed in range(8)]
    assert {choice and choice.factor for choice in again} == {"-2"}, "the same ratings in another order"


def test_controls_are_of_the_layer_of_like_max_activation_and_match_nothing():
    """By hand: feature 4 would be nearest but fires on the word; each control is taken once."""
    columns: dict[str, Any] = {
        "layer": [3, 3, 3, 3, 3, 6, 6],
        "feature": [1, 2, 3, 4, 5, 1, 2],
        "concept": ["sea", "sea", None, None, "tea", "sea", None],
        "explanation": None,
        "top_logit_lens_tokens": [["▁a"]] * 7,
        "max_activation": [5.0, 4.0, 4.8, 5.0, 9.0, 2.0, None],
        "fires_on": [None, None, None, "sea", None, None, None],
        "near": False,
    }
    features = pl.DataFrame(columns, schema_overrides={"explanation": pl.String})
    picked = features.filter(concept="sea").select("layer", "feature", "max_activation")
    assert controls(features, picked, "sea").rows() == [(3, 3), (3, 5)]
    by_direction = features.filter(concept="tea").select("layer", "feature", "max_activation")  # nothing says that it is about the sea
    assert controls(features, by_direction, "sea").rows() == [(3, 3)]


def test_prompts_are_beginnings_of_texts_that_begin_with_the_topic():
    """By hand: half of the first eight tokens, none of another topic; once each, of 30 words at most, and the text has to go on."""
    texts = {
        "a ship sailed. it sank.": [255, 1, 1, 1, 1, 255, 255, 255, 1],
        "a ship sailed. we saw it.": [255, 1, 1, 1, 1, 255, 255, 255, 1],
        "it is said that he sailed. it sank.": [255, 255, 255, 255, 255, 1, 1, 1, 1],
        "a judge sailed to the court. it sank.": [255, 2, 1, 1, 1, 1, 1, 1],
        "is it 3.5 miles?\nthe waves": [1, 1, 1, 1],
        "the waves.": [1, 1, 1, 1],
        f"{'sail ' * 30}on. it sank.": [1, 1, 1, 1],
        f"{'sail ' * 29}on. it sank.": [1, 1, 1, 1],
    }
    frame = pl.DataFrame({"text": list(texts), "token_topics": list(texts.values())})
    assert beginnings(frame, 1) == ["a ship sailed.", "is it 3.5 miles?", f"{'sail ' * 29}on."]


def test_prompts_of_ones_own_are_a_files_lines(tmp_path: Path):
    tiny = as_sweep(WORKFLOW, "tiny")
    file = tmp_path / "prompts.txt"
    lines = ["The ship", "The waves", "The tide", "The crew"]
    file.write_text("\n".join(lines))
    prompts, unused = evoking_prompts(tiny, "anything", file)
    assert ([*prompts.values()], unused) == (lines, {})
    prompts, unused = evoking_prompts(tiny, "sea", None)
    assert len(prompts) == tiny.sweep.sweep.n_prefixes
    assert unused
    assert not set(prompts) & set(unused)
    with pytest.raises(SettingsError, match="no texts of tiny are labelled 'seas'. Did you mean 'sea'"):
        evoking_prompts(tiny, "seas", None)
    file.write_text("The ship\nThe waves\nThe tide\n")
    with pytest.raises(SettingsError, match="has 3 prompts: 4 at least are needed"):
        evoking_prompts(tiny, "sea", file)
    with pytest.raises(SettingsError, match="there is no file"):
        evoking_prompts(tiny, "sea", tmp_path / "none.txt")
