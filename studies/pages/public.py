"""The answers to docs/plan.md's questions on the two public models, beside what P1 reports, and the README's demonstration, from results in
git."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.metrics import DOES_NOT_HOLD, HOLDS, OPEN
from saesteer.analysis.recommendation import Verdict
from saesteer.core.markdown import escaped, table
from saesteer.core.uncertainty import RATINGS, Estimate, Interval, mean_interval
from saesteer.methods.compare.tables import METHOD_SCORES
from saesteer.site.headline import depth_rho, headline_markdown, p_value, share, times
from saesteer.site.method_pages import SHOWN_LIMIT
from studies.pages import methods
from studies.pages.findings import metrics, results_file
from studies.pages.tables import Row, Shown, beside, best_first, every
from studies.public import judges, recommendations
from studies.public.recommendations import DEMONSTRATION, N_BRUTE_FORCE, SCHEMA

MODELS = {"smollm2": "SmolLM2-135M", "gemma-3-270m": "Gemma 3 270M"}
"""Sweep -> model."""
RESULTS = Path("docs/results")
FILTERED_FEATURE, ADAPTER = "sae_label_output_score", "lora"
"""Methods of question 5: P1's choice, where a concept that the filter drops counts as unsteered, and what it is compared with."""
NEAR = 0.9
"""Of the adapter's score, and of brute force's."""
CONFIDENCE = 0.95
REGISTERED = "capped"
"""Factor rule of the registered variant."""
TABLE_COLUMNS = methods.TABLE_COLUMNS | {METHOD_SCORES.name: ("layer", "method", "concept", "abstains", "score")}
_Numbers = Mapping[str, Any]


def comparison(experiment: str) -> str:
    """The comparison of methods on a sweep's model."""
    return f"{experiment}-methods"


def methods_folder(experiment: str) -> Path:
    """Where git has its tables."""
    return methods.FOLDER / comparison(experiment)


def answers_markdown(root: Path) -> str:
    """One line per question, one column per model."""
    of_models = [list(answers(root, experiment)) for experiment in MODELS]
    lines = ([question, of_p1, *cells] for (question, of_p1), *cells in zip(QUESTIONS.items(), *of_models, strict=True))
    return table(["question", "P1, on Gemma-2 2B and 9B", *MODELS.values()], lines)


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
NOT_RUN = "not run yet"


def answers(root: Path, experiment: str) -> Iterator[str]:
    """The verdict on each of QUESTIONS, with its numbers."""
    yield from of_sweep(root, experiment) if results_file(root, experiment).is_file() else [NOT_RUN] * N_OF_SWEEP
    for file, pairs in (
        (methods_folder(experiment) / f"{METHOD_SCORES.name}.csv", partial(method_pairs, names=(FILTERED_FEATURE, ADAPTER))),
        (recommendations.FOLDER / f"{experiment}.csv", brute_force_pairs),
    ):
        yield _ratio_cell(pairs(root, experiment)) if (root / file).is_file() else NOT_RUN


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


def _ratio_cell(pairs: Float[np.ndarray, "concept 2"]) -> str:
    if not len(pairs):
        return NOT_RUN
    ratio = ratio_of_means(pairs)
    return _cell(near(pairs), f"{times({'value': ratio.value, **_ends(ratio.interval)})}, {len(pairs)} concepts")


def _ends(interval: Interval | None) -> dict[str, float | None]:
    return {"low": None, "high": None} if interval is None else interval._asdict()


def method_pairs(root: Path, experiment: str, names: Sequence[str]) -> Float[np.ndarray, "concept 2"]:
    """The held-out scores of two methods in a model's comparison, by concept; those without both are left out."""
    scores = pl.read_csv(root / methods_folder(experiment) / f"{METHOD_SCORES.name}.csv")
    wide = scores.pivot("method", index="concept", values="score").select(*names).drop_nulls()
    return wide.to_numpy()


def brute_force_pairs(root: Path, experiment: str) -> Float[np.ndarray, "concept 2"]:
    """Mean scores on fresh prompts of what `recommend` picks and of what brute force does; 0 where nothing was picked."""
    rows = pl.read_csv(root / recommendations.FOLDER / f"{experiment}.csv", schema=SCHEMA)
    brute = rows.filter(n_per_layer=N_BRUTE_FORCE).select("concept", brute=pl.col("fresh").fill_null(0))
    picks = rows.filter(pl.col("n_per_layer").is_null()).select("concept", pick=pl.col("fresh").fill_null(0))
    return picks.join(brute, on="concept").select("pick", "brute").to_numpy()


def ratio_of_means(pairs: Float[np.ndarray, "n 2"]) -> Estimate:
    """Mean of the first over mean of the second, with the interval of all ratios r at which the mean of first - r * second may be 0
    (Fieller's), found by halving; None where the second mean is not above 0."""
    first, second = pairs.mean(axis=0) if len(pairs) else (0.0, 0.0)
    if second <= 0:
        return Estimate(None, None)
    ratio = float(first / second)
    low = _crossing(lambda r: _difference(pairs, r).low > 0, 0.0, ratio)
    high = _crossing(lambda r: _difference(pairs, r).high >= 0, ratio, 1e3)
    return Estimate(ratio, Interval(low, high))


def near(pairs: Float[np.ndarray, "n 2"]) -> str:
    """Whether the mean of the first is at least NEAR of the second's, by the interval of the ratio."""
    difference = _difference(pairs, NEAR)
    return HOLDS if difference.low >= 0 else DOES_NOT_HOLD if difference.high < 0 else OPEN


def _difference(pairs: Float[np.ndarray, "n 2"], ratio: float) -> Interval:
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


def demonstration(root: Path) -> str:
    """A Markdown table of the plan's prompts, a column unsteered and one steered by what `recommend` says of the plan's concept."""
    rows = pl.read_csv(root / recommendations.FOLDER / "demonstration.csv", schema=DEMONSTRATION)
    first = rows.row(0, named=True)
    steered = f"feature {first['layer']}/{first['feature']}, factor {first['factor']}"
    texts = rows.select("prompt", "unsteered", "steered").iter_rows()
    return table(["prompt", "unsteered", steered], [[prompt, *(escaped(text.strip()) for text in both)] for prompt, *both in texts])


def headlines_markdown(root: Path) -> str:
    """All headline numbers, one table per model that was run."""
    run = {name: model for name, model in MODELS.items() if results_file(root, name).is_file()}
    return "\n\n".join(f"## {model}\n\n{headline_markdown(metrics(root, name)).rstrip()}" for name, model in run.items())


def _of_models(read: Callable[[Path, str], pl.DataFrame]) -> Callable[[Path], Iterator[Row]]:
    """Rows of both models, each with the model's name."""
    return lambda root: (row | {"model": model} for name, model in MODELS.items() for row in read(root, name).iter_rows(named=True))


def recommendation_summary(root: Path, experiment: str) -> pl.DataFrame:
    """How often the printed interval holds the mean on fresh prompts, and that mean over concepts, of what `recommend` picks."""
    rows = pl.read_csv(root / recommendations.FOLDER / f"{experiment}.csv", schema=SCHEMA).filter(pl.col("n_per_layer").is_null())
    scored = rows.drop_nulls("fresh")
    held = scored.filter(pl.col("fresh").is_between("score_low", "score_high"))
    fresh = scored["fresh"].to_numpy()
    ends = mean_interval(fresh, CONFIDENCE, RATINGS) or (None, None)
    verdicts = {verdict.replace(" ", "_"): rows.filter(verdict=verdict).height for verdict in get_args(Verdict)}
    means = {"fresh": float(fresh.mean()), "fresh_low": ends[0], "fresh_high": ends[1]}
    return pl.DataFrame([{"n": rows.height, "held": share(held.height, scored.height)} | means | verdicts])


def _methods(root: Path, experiment: str) -> pl.DataFrame:
    return methods.scores_and_costs(root, methods_folder(experiment))


def _agreements(root: Path, experiment: str) -> pl.DataFrame:
    return pl.read_csv(root / judges.FOLDER / f"{comparison(experiment)}.csv")


AT_LIMIT = f"at most {SHOWN_LIMIT} nats, {{model}}"
METHODS = Shown(_of_models(_methods), "method", {
    "method": "title", "{model}": "score ±", AT_LIMIT: "limited ±", "loss rise": every("loss_rise .2"),
}, order=best_first)  # fmt: skip
RECOMMENDED = Shown(_of_models(recommendation_summary), "model", {
    "model": "model", "concepts": "n", **{verdict: verdict.replace(" ", "_") for verdict in get_args(Verdict)}, "interval holds": "held",
    "score on fresh prompts": "fresh ±",
})  # fmt: skip
JUDGES = Shown(_of_models(_agreements), "model judge other aspect", {
    "model": "model", "judges": beside(", ", "judge", "other"), "aspect": "aspect", "texts": "n", "equal": "equal .0%",
    "weighted kappa": "kappa ±",
})  # fmt: skip
