"""The answers to docs/plan.md's questions on the two public models, beside what P1 reports, from results in git."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.metrics import DOES_NOT_HOLD, HOLDS, OPEN
from saesteer.analysis.recommendation import UNSTEERED
from saesteer.analysis.repeats import without_repeats
from saesteer.analysis.score import harmonic_mean
from saesteer.core.markdown import table
from saesteer.core.uncertainty import RATINGS, Estimate, Interval, interval_columns, mean_interval
from saesteer.methods.compare.tables import METHOD_SCORES
from saesteer.site.headline import depth_rho, p_value, share, times
from studies.pages.results import MODELS, REGISTERED, comparison, metrics, metrics_file, stored
from studies.public.judges import topic_ratings
from studies.public.recommendations import N_BRUTE_FORCE, SCHEMA, TRIES

FILTERED_FEATURE, ADAPTER = "sae_label_output_score", "lora"
"""Methods of question 5: P1's choice, where a concept that the filter drops counts as unsteered, and what it is compared with."""
NEAR = 0.9
"""The share of the adapter's score, and of brute force's, that counts as near."""
CONFIDENCE = 0.95
NOT_RUN = "not run yet"
_KEYS = pl.Schema({"concept": pl.String(), "n_per_layer": pl.Int64()})
_MEANS = pl.Schema(_KEYS | dict.fromkeys(("steered", "unsteered"), pl.Float64()))
_Numbers = Mapping[str, Any]
_Pairs = Float[np.ndarray, "n 2"]


QUESTIONS = {
    "1. Input scores fall with depth, output scores rise": "both, by a figure",
    "2. Both scores are rarely above .5": "rare, by a figure",
    "3. Features of output score ≥ .1 write at least 1.5 times as many of their lens tokens": "2 to 3 times, not net of unsteered texts",
    "4. The same, by a success that counts no lens tokens": "–",
    f"5. The filtered feature reaches {NEAR:g} of LoRA": ".91 and .81 of P4's LoRA on Gemma-2 9B, at two layers, kept concepts only",
    f"6. `recommend` reaches {NEAR:g} of brute force": "–",
}
"""Question of the plan -> what P1 reports."""
N_OF_SWEEP = 4
"""Questions that a sweep answers."""


def answers_markdown(root: Path) -> str:
    """One line per question, one column per model."""
    of_models = [list(answers(root, experiment)) for experiment in MODELS]
    lines = ([question, of_p1, *cells] for (question, of_p1), *cells in zip(QUESTIONS.items(), *of_models, strict=True))
    return table(["question", "P1, on Gemma-2 2B and 9B", *MODELS.values()], lines)


def answers(root: Path, experiment: str) -> Iterator[str]:
    """The verdict on each of QUESTIONS, with its numbers."""
    yield from of_sweep(root, experiment) if metrics_file(root, experiment).is_file() else [NOT_RUN] * N_OF_SWEEP
    pairs = method_pairs(root, experiment)
    yield f"{_ratio_cell(pairs)}, {_n_abstaining(root, experiment)} of them unsteered" if len(pairs) else NOT_RUN
    tried = {of_try: brute_force_pairs(by_books_judge(root, experiment, of_try)) for of_try in TRIES}
    yield "; ".join(f"{of_try} try {_ratio_cell(pairs)}" for of_try, pairs in tried.items() if len(pairs)) or NOT_RUN


def of_sweep(root: Path, experiment: str) -> Iterator[str]:
    """The first N_OF_SWEEP of them."""
    numbers = metrics(root, experiment)
    holds, both = numbers["findings"], numbers["both_above_half"]
    yield _cell(holds["roles_change_with_depth"], f"ρ {depth_rho(numbers, 'input_score')} and {depth_rho(numbers, 'output_score')}")
    none = "" if both["n"] else " (of none, no interval can be given)"
    high = f"{times(both['to_independence'])} as many as by chance{none}, {share(both['n'], both['n_scored'])}"
    yield _cell(holds["both_scores_high_is_rare"], high)
    kept, n = (numbers["filter"][REGISTERED]["all"][name]["n"] for name in ("kept", "unfiltered"))
    gain = _gain(numbers["filter"][REGISTERED]["all"]["net"], numbers["variants"])
    yield _cell(holds["filter_helps"], f"{gain}; {kept} of {n} features")
    outside = numbers["outside"]
    yield _cell(holds["filter_helps_without_lens_tokens"], _gain(outside[REGISTERED], outside["variants"]))


def _cell(verdict: str, measured: str) -> str:
    return f"**{verdict}**: {measured}"


def _gain(net: _Numbers, variants: _Numbers) -> str:
    """A net gain, within layers too, and in how many variants of the analysis it is shown."""
    within = f"within layers {times(net['within_layers'])} (p {p_value(net['p_within_layers'])})"
    return f"{times(net['ratio'])}, {within}; in {variants['n_showing']} of {variants['n']} variants"


def _ratio_cell(pairs: _Pairs) -> str:
    ratio = ratio_of_means(pairs)
    return _cell(near(pairs), f"{times(interval_columns('value', ratio.value, ratio.interval, ends=''))}, {len(pairs)} concepts")


def method_pairs(root: Path, experiment: str) -> _Pairs:
    """The held-out scores of the filtered feature and of the adapter in a model's comparison, by concept, of concepts with both; none
    where methods were not compared."""
    scores = stored(root, comparison(experiment), METHOD_SCORES.name)
    if scores is None:
        return np.empty((0, 2))
    return scores.pivot("method", index="concept", values="score").select(FILTERED_FEATURE, ADAPTER).drop_nulls().to_numpy()


def _n_abstaining(root: Path, experiment: str) -> int:
    """Concepts for which there is no filtered feature, whose texts are unsteered."""
    scores = stored(root, comparison(experiment), METHOD_SCORES.name)
    return 0 if scores is None else scores.filter(pl.col("abstains"), method=FILTERED_FEATURE).height


def brute_force_pairs(scores: pl.DataFrame) -> _Pairs:
    """Scores (concept, n_per_layer, steered) of what `recommend` picks and of what brute force does; 0 where nothing was picked."""
    picks, brute = (
        scores.filter(pl.col("n_per_layer").eq_missing(n_per_layer)).select("concept", pl.col("steered").fill_null(0).alias(name))
        for n_per_layer, name in ((None, "pick"), (N_BRUTE_FORCE, "brute"))
    )
    return picks.join(brute, on="concept").select("pick", "brute").to_numpy()


def by_books_judge(root: Path, experiment: str, of_try: str) -> pl.DataFrame:
    """concept, n_per_layer, steered, unsteered: mean scores on fresh prompts where the books' judge rates the concept in place of the
    embedding judge, whose encoder chose the candidates; of concepts that are topics of the books."""
    keys, file = list(_KEYS), root / TRIES[of_try] / f"{experiment}.parquet"
    means = _means_by_topic(file) if file.is_file() else pl.DataFrame(schema=_MEANS)
    of_topics = recommended(root, experiment, of_try).select(keys).filter(pl.col("concept").is_in(means["concept"].implode()))
    return of_topics.join(means, on=keys, how="left", nulls_equal=True, maintain_order="left")


@cache
def _means_by_topic(file: Path) -> pl.DataFrame:
    """_MEANS of the texts in a file, which several tables show and which take seconds."""
    texts, is_plain, score = pl.read_parquet(file), pl.col("factor") == UNSTEERED, pl.col("judge_score")
    rated = texts.with_columns(concept_rating=pl.Series(topic_ratings(texts), dtype=pl.UInt8)).drop_nulls("concept_rating")
    scored = rated.with_columns(judge_score=harmonic_mean(["concept_rating", "fluency_rating"]))
    counted = without_repeats(scored, [*_KEYS, "factor"], dict.fromkeys(rated["prefix_id"], 0))
    means = counted.group_by(*_KEYS).agg(steered=score.filter(~is_plain).mean(), unsteered=score.filter(is_plain).mean())
    return means.cast(_MEANS)


def recommended(root: Path, experiment: str, of_try: str) -> pl.DataFrame:
    """What `recommend` says, as it lies in git (SCHEMA); no rows where it was not asked."""
    file = root / TRIES[of_try] / f"{experiment}.csv"
    return pl.read_csv(file, schema=SCHEMA) if file.is_file() else pl.DataFrame(schema=SCHEMA)


def ratio_of_means(pairs: _Pairs) -> Estimate:
    """Mean of the first over mean of the second, with the interval of all ratios r at which the mean of first - r * second may be 0
    (Fieller's), found by halving; None where the second mean is not above 0."""
    first, second = pairs.mean(axis=0) if len(pairs) else (0.0, 0.0)
    if second <= 0:
        return Estimate(None, None)
    ratio = float(first / second)
    low = _crossing(lambda r: _difference(pairs, r).low > 0, 0.0, ratio)
    high = _crossing(lambda r: _difference(pairs, r).high >= 0, ratio, 1e3)
    return Estimate(ratio, Interval(low, high))


def near(pairs: _Pairs) -> str:
    """Whether the mean of the first is at least NEAR of the second's, by the interval of the ratio."""
    difference = _difference(pairs, NEAR)
    return HOLDS if difference.low >= 0 else DOES_NOT_HOLD if difference.high < 0 else OPEN


def _difference(pairs: _Pairs, ratio: float) -> Interval:
    """Interval of the mean of first - ratio * second, both on the scale of ratings."""
    scale = Interval(-ratio * RATINGS.high, RATINGS.high)
    return mean_interval(pairs[:, 0] - ratio * pairs[:, 1], CONFIDENCE, scale) or scale


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds at `low` and not at `high` ends."""
    if not holds(low):
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
