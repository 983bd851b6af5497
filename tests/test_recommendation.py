"""Which feature is recommended for a concept, by hand-made ratings."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from saesteer.analysis.recommendation import (
    PromptMean,
    Recommendation,
    as_multiple,
    best_options,
    harmless,
    met,
    recommend,
    scored,
)
from saesteer.core.uncertainty import Interval
from saesteer.recommendations.presentation import sentences_of
from saesteer.recommendations.scoring import choosing_and_scoring
from saesteer.settings import SelectionSettings
from saesteer.settings.load import load_workflow, read_yaml

WORKFLOW = load_workflow(read_yaml(Path("config/config.yaml")))
SETTINGS = SelectionSettings(thresholds=(0.1,), late_layers_from=1)
PROMPTS = [f"p{number}" for number in range(8)]


def ratings(kind: str, layer: int, name: str, factor: str, scores: Sequence[float | None]) -> pl.DataFrame:
    columns = {"kind": kind, "layer": layer, "name": name, "factor": factor, "prefix_id": PROMPTS, "judge_score": scores}
    rows = pl.DataFrame(columns, schema_overrides={"judge_score": pl.Float64}, strict=False)
    return rows.with_columns(concept_rating=pl.col("judge_score"), fluency_rating=pl.lit(2.0), mean_nll=pl.lit(1.0))


def unsteered(score: float = 0.25) -> pl.DataFrame:
    return ratings("feature", 3, "", "0", [score, 0.0] * 4)


def recommended(
    rated: pl.DataFrame,
    plain: pl.DataFrame | None = None,
    max_damage: float | None = None,
    loss: PromptMean | None = None,
    scoring: pl.DataFrame | None = None,
) -> Recommendation:
    """For the sea, of texts that choose, and of those that score: the same, or others."""
    plain = unsteered() if plain is None else plain
    options = best_options(rated if max_damage is None else harmless(rated, plain, SETTINGS, max_damage))
    return recommend("sea", options, pl.concat([rated if scoring is None else scoring, plain]), SETTINGS, max_damage or 4.0, loss)


def test_what_some_prompts_choose_is_scored_on_others():
    """By hand: 7 is best where it is chosen (1.5 against .75), and scores .5 on the prompts that score, where 9 has 1."""
    chose = pl.concat([ratings("feature", 3, "7", "1", [2, 1] * 4), ratings("feature", 3, "9", "2", [0, 1.5] * 4)])
    scoring = pl.concat([ratings("feature", 3, "7", "1", [0, 1] * 4), ratings("feature", 3, "9", "2", [1] * 8)])
    chosen = recommended(chose, scoring=scoring).feature
    assert chosen is not None
    assert (chosen.name, chosen.factor) == ("7", "1")
    assert chosen.by_prompt == {prompt: float(number % 2) for number, prompt in enumerate(PROMPTS)}
    assert (chosen.score.mean, chosen.score.n, chosen.fluency.mean) == (0.5, 8, 2.0)
    assert chosen.above_unsteered.mean == pytest.approx(0.5 - 0.125)


@pytest.mark.parametrize(("n_prompts", "n_unused", "chose", "scoring"), [(20, 30, 20, 20), (20, 10, 20, 10), (20, 9, 10, 19), (5, 0, 3, 2)])
def test_no_prompt_chooses_and_scores(n_prompts: int, n_unused: int, chose: int, scoring: int):
    """Where too few are left over, every other prompt of the experiment scores instead, and those left over as well."""
    lines = [(f"{number:02}", f"line {number}") for number in range(n_prompts + n_unused)]
    prompts, others = choosing_and_scoring(dict(lines[:n_prompts]), dict(lines[n_prompts:]))
    assert (len(prompts), len(others)) == (chose, scoring)
    assert prompts.items() <= dict(lines[:n_prompts]).items()
    assert others.items() <= dict(lines).items()
    assert not set(prompts) & set(others)


SCORE_OF = {"0": 0.0, "1": 1.0, "2": 4 / 3, "3": 2.0}
"""Of the digits of judge_scores.csv: the harmonic means of ratings of 0, 1 and 2."""


def coverage(scores: list[list[float]], n_draws: int, n_prompts: int = 20) -> tuple[float, float]:
    """How often the interval holds the mean of what was chosen, and how far above it the score is on average. Prompts are drawn from those
    of score vectors, one an option, whose means are over all; 20 choose, and others score."""
    options, means = np.array(scores), np.mean(scores, axis=1)
    draws, held = np.random.default_rng(54).integers(0, options.shape[1], (n_draws, 20 + n_prompts)), 0
    above = 0.0
    number = pl.Series("name", [f"{name:02}" for name in range(len(means))])
    for draw in draws:
        drawn = pl.DataFrame(options[:, draw], schema=[str(place) for place in range(len(draw))]).with_columns(number)
        texts = drawn.unpivot(index="name", variable_name="prefix_id", value_name="judge_score").with_columns(
            kind=pl.lit("feature"), layer=3, factor=pl.lit("1"), place=pl.col("prefix_id").cast(pl.Int64)
        )
        texts = texts.with_columns(concept_rating=pl.col("judge_score"), fluency_rating=pl.lit(2.0), mean_nll=pl.lit(1.0))
        chose, scoring = texts.filter(pl.col("place") < 20), texts.filter(pl.col("place") >= 20)
        (option,) = best_options(chose).to_dicts()
        score, mean = scored(option, scoring, SETTINGS).score, means[int(option["name"])]
        assert score.mean is not None
        assert score.interval is not None
        held += score.interval.low <= mean <= score.interval.high
        above += score.mean - mean
    return held / n_draws, above / n_draws


@pytest.mark.parametrize("n_draws", [pytest.param(60, id="a few"), pytest.param(400, marks=pytest.mark.exhaustive, id="many")])
def test_the_interval_covers_the_mean_of_what_was_chosen(n_draws: int):
    """Score vectors of the grammar's judge, of features at five factors on 50 prompts; .95 is said."""
    vectors = pl.read_csv(Path(__file__).with_name("judge_scores.csv"), infer_schema=False)
    by_concept = vectors.filter(pl.col("factor") != "0").partition_by("concept", maintain_order=True)
    held, above = np.mean([coverage([[SCORE_OF[digit] for digit in row] for row in of["scores"]], n_draws) for of in by_concept], axis=0)
    assert held >= 0.93
    assert abs(above) < 0.03  # on the prompts that chose it is .07 too high


@pytest.mark.parametrize(
    ("scores", "verdict", "words"),
    [
        ([1.87, 1.53], "use", "Use feature 3/7 at factor 1: judge score 1.70 ["),
        ([1.14, 0.94], "try it", "Try feature 3/7 at factor 1: judge score 1.04 ["),
        ([0.82, 0.68], "don't", "Don't use feature 3/7 at factor 1: judge score 0.75 ["),
        ([0.11, 0.09], "don't", "Don't use feature 3/7"),
    ],
)
def test_the_verdict_goes_by_the_score_and_its_difference_to_unsteered(scores: list[float], verdict: str, words: str):
    """Means of 1.7 and 1.04 are above 1, the interval of the first only."""
    result = recommended(ratings("feature", 3, "7", "1", scores * 4))
    assert result.verdict == verdict
    (said,) = sentences_of(result)
    assert said.startswith(words)
    ends = {"use": " above unsteered.", "try it": " Not shown yet: a score of 1 or more.", "don't": "."}
    assert said.endswith(ends[verdict])
    assert ("Not met: a score of 1 or more" in said) == (verdict == "don't")
    assert ("more than unsteered" in said) == (scores[0] < 0.5)


def test_no_more_than_the_unsteered_texts_is_not_to_be_used_however_high():
    result = recommended(ratings("feature", 3, "7", "1", [1.9] * 8), ratings("feature", 3, "", "0", [1.9] * 8))
    assert (result.verdict, sentences_of(result)[0].split(". ")[-1]) == ("don't", "Not met: more than unsteered.")


def test_a_single_prompt_shows_nothing():
    one = ratings("feature", 3, "7", "1", [2.0] * 8).head(1)
    assert recommended(one).verdict == "try it"


@pytest.mark.parametrize(
    ("perplexity", "spread", "loss", "verdict", "lacking"),
    [
        (3.0, 0.0, 0.2, "use", None),
        (3.0, 0.0, None, "use", None),
        (4857.0, 0.0, 0.2, "don't", "perplexity of its texts within the limit"),
        (3.0, 0.0, 8.0, "don't", "perplexity of ordinary text within the limit"),
        (3.0, 0.6, 0.2, "try it", "perplexity of its texts within the limit"),
        (math.nan, 0.0, 0.2, "don't", "perplexity of its texts within the limit"),
    ],
    ids=["little", "loss unknown", "texts", "ordinary texts", "interval", "not finite"],
)
def test_damage_decides_with_the_score(perplexity: float, spread: float, loss: float | None, verdict: str, lacking: str | None):
    """Use asks for the whole interval to be within the limit, try it for the mean."""
    rated = with_loss(ratings("feature", 3, "7", "1", [1.9, 1.8] * 4), 1 + math.log(perplexity), spread)
    result = recommended(rated, loss=None if loss is None else PromptMean(loss, Interval(loss, loss), 8))
    assert result.verdict == verdict
    (said,) = sentences_of(result)
    assert said.startswith({"use": "Use feature", "try it": "Try feature", "don't": "Don't use feature"}[verdict])
    assert lacking is None or said.endswith(f": {lacking}.")


def with_loss(rated: pl.DataFrame, loss: float, spread: float = 0.0) -> pl.DataFrame:
    """The same with a mean_nll of each prompt, `spread` above and below in turns of two."""
    return rated.with_columns(mean_nll=loss + spread * (pl.int_range(pl.len()) // 2 % 2 * 2 - 1))


def test_under_a_limit_on_damage_the_strength_is_the_best_of_those_that_are_seen_to_be_within_it():
    """The stronger factor has the higher score at exp(2) = 7.4 times the unsteered perplexity; of the middle one, at 2.7 times, the
    interval reaches beyond 4; the smallest is at 1.6 times. Without a limit the strongest is recommended."""
    texts = [("8", [2.0] * 8, 3.0, 0.0), ("4", [1.95] * 8, 2.0, 0.6), ("2", [1.9, 1.8] * 4, 1.5, 0.0)]
    rated = pl.concat([with_loss(ratings("feature", 3, "7", factor, scores), *loss) for factor, scores, *loss in texts])
    chosen = {limit: recommended(rated, max_damage=limit).feature for limit in (None, 8.0, 4.0, 2.0, 1.2)}
    assert [choice and (choice.factor, choice.score.mean) for choice in chosen.values()] == [
        ("8", 2.0), ("8", 2.0), ("2", pytest.approx(1.85)), ("2", pytest.approx(1.85)), None,
    ]  # fmt: skip
    nothing = recommended(rated, max_damage=1.2)
    said = "Don't steer: no text of a candidate for 'sea' could be rated, or was within the limit on damage."
    assert (nothing.verdict, sentences_of(nothing)) == ("don't", [said])
    assert recommended(rated, max_damage=4.0).verdict == "use"


def test_what_is_not_finite_is_above_every_limit_and_no_rise_is_too_large():
    nan, huge = PromptMean(float("nan"), Interval(float("nan"), float("nan")), 8), PromptMean(2e3, Interval(1e3, 3e3), 8)
    assert [met(as_multiple(rise), high=1e9) for rise in (nan, huge)] == ["no", "no"]


def test_ties_go_to_the_smaller_factor_and_ratings_that_are_missing_count_nowhere():
    rated = pl.concat([ratings("feature", 3, "7", factor, [1, None, 1, 1, 1, 1, None, 1]) for factor in ("10", "2", "4")])
    chosen = recommended(rated).feature
    assert chosen is not None
    assert (chosen.factor, chosen.score.n) == ("2", 6)
    nothing = recommended(ratings("feature", 3, "7", "1", [None] * 8))
    assert (nothing.verdict, nothing.feature) == ("don't", None)


def test_rivals_come_in_order_with_their_difference_by_prompt():
    rivals = [ratings("prompting", 3, "prompting", "2", [1.5] * 8), ratings("diffmean", 3, "diffmean", "1", [2] * 8)]
    rated = pl.concat([ratings("feature", 3, "7", "1", [1, 1.5] * 4), *rivals])
    result = recommended(rated)
    assert [rival.kind for rival in result.rivals] == ["diffmean", "prompting"]
    assert [estimate.mean for estimate in result.behind] == [0.75, 0.25]
    low, high = result.behind[0].interval or (None, None)
    assert low is not None
    assert 0.5 <= low < 0.75 < high <= 1.0


def test_perplexity_is_compared_prompt_by_prompt():
    """By hand: two texts a prompt, unsteered 1 nat each; steered 1 + ln 2 on even and 1 + ln 8 on odd prompts: 2 and 8 times, 4 in the
    geometric mean."""
    rated = ratings("feature", 3, "7", "1", [1.5] * 8)
    steered = rated.with_columns(mean_nll=1 + pl.Series([2.0, 8.0] * 4).log())
    chosen = recommended(pl.concat([steered, steered])).feature
    assert chosen is not None
    ratio = chosen.perplexity
    assert ratio.mean == pytest.approx(4.0)
    low, high = ratio.interval or (0.0, 0.0)
    assert 2 <= low < 4 < high <= 8
