"""Each method's means over concepts with intervals, its rank among those of its layer, its costs, and how far it moves the residual; what
each factor does; paired differences between methods, and which of all pairs are told apart together.

The mean is over all concepts, where an abstaining method counts as the unsteered text; the mean over surviving concepts, which P1 (arXiv
2505.20063, table 1) reports, flatters a method that abstains often and stands beside it under that name.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.best_factor import TIE
from saesteer.core.texts import RATING_COLUMNS
from saesteer.core.uncertainty import RATINGS, SHARES, Interval, mean_columns, of_differences, random_stream, resampled_interval, student_t
from saesteer.methods.compare.protocol import FIT, Rows, row_of, score_scale
from saesteer.methods.compare.tables import METHOD_CURVES, METHOD_DIFFERENCES, METHODS_TABLE
from saesteer.settings.methods import MethodSettings, ProtocolSettings
from saesteer.settings.registry import Method

ELSEWHERE = "From elsewhere"
"""The family of imported texts whose method the registry does not have."""
POWER = 0.8
"""Power of the test for which a difference is called `detectable`."""
_METHOD = ["layer", "method"]
_RANKS = {name: METHODS_TABLE.schema[name] for name in (*_METHOD, "rank", "rank_low", "rank_high")}
_BLOCK = 2**22
"""Comparisons of two methods' means at a time, where concepts are resampled."""
_Row = dict[str, Any]


def family_of(row: Method) -> str:
    """Which kind of method a row of the registry is, by what it needs and how its strength is swept (figures.style.LOOKS has each)."""
    if row.paper in ("baseline", "control"):
        return "Controls"
    if row.adds_text or row.grid == "adapter":
        return "Prompt" if row.adds_text else "Trained weights"
    if "effects" in row.needs:
        return "Effects of steering"
    return "SAE features" if "sae" in row.needs else "Vectors"


def methods_table(scores: pl.DataFrame, choices: pl.DataFrame, rows: Rows, settings: MethodSettings) -> pl.DataFrame:
    """METHOD_SCORES, METHOD_CHOICES and `Rows` -> METHODS_TABLE."""
    lines = []
    for layer, key in scores.select(_METHOD).unique().iter_rows():
        row = row_of(key)
        label = {"layer": layer, "method": key, "family": family_of(row)}
        label |= {name: getattr(row, name) for name in ("title", "paper", "chosen_by", "text_use")}
        n_vectors = settings.effects.n_vectors - settings.effects.n_held_out if "effects" in row.needs else None
        lines.append(label | {"n_effect_vectors": n_vectors})
    table = pl.DataFrame(lines, schema={name: METHODS_TABLE.schema[name] for name in lines[0]})
    for part in (
        held_out_means(scores, choices, settings), _of_features(rows), _fit_costs(rows.fits, settings), _generation_costs(rows.texts),
    ):  # fmt: skip
        table = table.join(part, on=_METHOD, how="left")
    return table.select(list(METHODS_TABLE.columns)).sort(METHODS_TABLE.keys)


def held_out_means(scores: pl.DataFrame, choices: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_SCORES and METHOD_CHOICES -> the columns of METHODS_TABLE that these alone say: each method's means over concepts with their
    intervals, its rank, and what its texts are like at the chosen factors."""
    lines = []
    for group in scores.sort(*FIT).partition_by(_METHOD, maintain_order=True):
        measured = _means(group, settings) | _at_chosen(group) | {"confidence": settings.confidence}
        lines.append(group.select(_METHOD).row(0, named=True) | measured)
    means = pl.DataFrame(lines, schema={name: METHODS_TABLE.schema[name] for name in lines[0]})
    factors = choices.group_by(_METHOD).agg(pl.col("factor").cast(pl.Float64).median().alias("median_factor"))
    return means.join(method_ranks(scores, settings), on=_METHOD, how="left").join(factors, on=_METHOD, how="left")


def _means(group: pl.DataFrame, settings: ProtocolSettings) -> _Row:
    scored = group.filter(~pl.col("abstains"))
    sizes = {"n_concepts": group.height, "n": group["score"].count()}
    sizes |= {"n_abstaining": group.height - scored.height, "n_surviving": scored["score"].count()}
    scale = score_scale(settings)
    surviving = mean_over_concepts("surviving_score", scored["score"], settings, ends="surviving_", scale=scale)
    log_odds = mean_over_concepts("concept_log_odds", scored["concept_log_odds"], settings)
    return sizes | mean_over_concepts("score", group["score"], settings, scale=scale) | surviving | log_odds


def mean_over_concepts(
    name: str, values: pl.Series, settings: ProtocolSettings, ends: str | None = None, scale: Interval | None = None
) -> dict[str, float | None]:
    """`mean_columns` of the values that are not null; their order does not matter."""
    present = np.sort(values.drop_nulls().cast(pl.Float64).to_numpy())
    return mean_columns(name, present, settings.confidence, ends, scale)


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
    return pl.DataFrame(rows, schema=_RANKS, orient="row")


def _ends(values: Float[np.ndarray, "concept method"], settings: ProtocolSettings, layer: int) -> list[Interval]:
    stream = random_stream(settings.seed, "methods", "ranks", layer)
    is_known = np.isfinite(values)
    filled, blocks, n = np.where(is_known, values, 0), [], len(values)
    most = max(1, _BLOCK // values.shape[1] ** 2)  # draws at a time: bounds memory
    for done in range(0, settings.bootstrap_draws, most):
        size = min(most, settings.bootstrap_draws - done)
        weights = stream.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)  # how often each concept is drawn
        drawn = weights @ is_known
        means = np.divide(weights @ filled, drawn, out=np.full(drawn.shape, -np.inf), where=drawn > 0)
        blocks.append(_ranked(means))
    return [resampled_interval(of_method, n, settings.confidence) for of_method in np.concatenate(blocks).T]


def _ranked(means: Float[np.ndarray, "draw method"]) -> Float[np.ndarray, "draw method"]:
    """1 + how many are higher + half of the others that are equal, but for rounding."""
    others, of_each = means[:, None, :], means[:, :, None]
    higher, lower = (others > of_each + TIE).sum(axis=2), (others < of_each - TIE).sum(axis=2)
    equal = means.shape[1] - 1 - higher - lower
    ranks: Float[np.ndarray, "draw method"] = 1 + higher + equal / 2
    return ranks


def _at_chosen(group: pl.DataFrame) -> _Row:
    """What the method's own texts are like at the chosen factors, each concept counting once."""
    scored = group.filter(~pl.col("abstains"))
    n_choices = int(scored["n_choices"].sum())
    return {
        "n_texts": scored["n"].sum(),
        "n_missing": scored["n_missing"].sum(),
        **{name: scored[name].mean() for name in RATING_COLUMNS},
        "perplexity": _geometric_mean(scored["log_perplexity"]),
        "median_change": scored["change"].median(),
        "median_relative_change": scored["relative_change"].median(),
        "n_choices": n_choices,
        **{f"share_at_{end}": int(scored[f"n_at_{end}"].sum()) / n_choices if n_choices else None for end in ("smallest", "largest")},
    }


def _geometric_mean(logarithms: pl.Series) -> float | None:
    present = logarithms.drop_nulls().to_numpy()
    return float(np.exp(present.mean())) if len(present) else None


def _of_features(rows: Rows) -> pl.DataFrame:
    """Facts of the SAE features used: median density and, of those labelled with the concept, median share of their max-activating examples
    on it."""
    columns = ["layer", "feature", "density", "concept", "concept_share"]
    used = rows.fits.select(*FIT, feature="features").explode("feature").join(rows.features.select(columns), on=columns[:2], how="left")
    used = used.join(rows.concepts.select("concept_id", wanted="concept"), on="concept_id", how="left")
    share = pl.col("concept_share").filter(pl.col("concept") == pl.col("wanted"))
    return used.group_by(_METHOD).agg(pl.col("density").median(), share.median())


def _fit_costs(fits: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """How a method was trained, and what a fit takes, mean over concepts, those included where it abstained: it was tried."""
    rate, tried = pl.col("learning_rate"), sorted(settings.learning_rates)
    at_end = rate.is_in([tried[0], tried[-1]]).mean() if len(tried) > 1 else pl.lit(None, pl.Float64)
    return (
        fits.sort(FIT)
        .group_by(_METHOD, maintain_order=True)
        .agg(
            pl.col("n_texts").mean().alias("labelled_texts"),
            rate.median(),
            rate.min().alias("learning_rate_low"),
            rate.max().alias("learning_rate_high"),
            at_end.alias("share_at_rate_end"),
            pl.col("n_epochs").median(),
            pl.col("loss_before", "loss_after", "fit_seconds", "r2").mean(),
        )
    )


def _generation_costs(steered: pl.DataFrame) -> pl.DataFrame:
    """Wall time over tokens of all texts that were generated."""
    tokens = pl.col("n_tokens").cast(pl.Float64).sum()
    generated = steered.filter(pl.col("text").is_not_null()).sort("layer", "method", "concept_id", "factor", "prefix_id", "sample")
    per_token = pl.when(tokens > 0).then(pl.col("seconds").sum() / tokens).alias("seconds_per_token")
    return generated.group_by(_METHOD, maintain_order=True).agg(per_token)


def method_curves(halves: pl.DataFrame, choices: pl.DataFrame, methods: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_HALVES, METHOD_CHOICES and METHODS_TABLE -> METHOD_CURVES: what each factor does, on all prompts, mean over concepts."""
    number = pl.col("factor").cast(pl.Float64)
    whole = halves.sort("layer", "method", "factor", "concept_id", "half").group_by([*_METHOD, "factor", "concept_id"], maintain_order=True)
    concepts = whole.agg(pl.col("n", "n_missing").sum(), pl.col("score", *RATING_COLUMNS, "log_perplexity").mean())
    chosen = choices.drop_nulls("factor").group_by([*_METHOD, "factor"]).agg(pl.len().alias("n_chosen"))
    rows = []
    for group in concepts.partition_by([*_METHOD, "factor"], maintain_order=True):
        place = group.select(*_METHOD, "factor").row(0, named=True)
        point = place | {"n": group.height, "n_texts": group["n"].sum(), "n_missing": group["n_missing"].sum()}
        for name in ("score", *RATING_COLUMNS):
            scale = score_scale(settings) if name == "score" else RATINGS
            point |= mean_over_concepts(name, group[name], settings, scale=scale)
        rows.append(point | {"perplexity": _geometric_mean(group["log_perplexity"])})
    points = pl.DataFrame(rows, schema={name: dtype for name, dtype in METHOD_CURVES.schema.items() if rows and name in rows[0]})
    named = methods.select(*_METHOD, "title", "family", "confidence", method_score="score")
    joined = points.join(chosen, on=[*_METHOD, "factor"], how="left").join(named, on=_METHOD, how="left")
    counted = joined.with_columns(pl.col("n_chosen").fill_null(0).cast(pl.UInt32))
    return counted.select(list(METHOD_CURVES.columns)).sort(*_METHOD, number)


def method_differences(scores: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_SCORES -> METHOD_DIFFERENCES: each pair of methods of a layer, paired by concept."""
    rows, scale = [], of_differences(score_scale(settings))
    for layer in scores.sort("layer").partition_by("layer", maintain_order=True):
        keys = sorted(layer["method"].unique())
        table = layer.pivot(on="method", index="concept_id", values="score").sort("concept_id")
        values = {key: table[key].cast(pl.Float64).fill_null(np.nan).to_numpy() for key in keys}
        pairs = [(a, b) for number, a in enumerate(keys) for b in keys[number + 1 :]]
        for a, b in pairs:
            differences = (values[a] - values[b])[~np.isnan(values[a] - values[b])]
            row = {"layer": int(layer["layer"][0]), "method": a, "other": b} | _difference(differences, settings, scale)
            rows.append(row | {"p_all_pairs": p_all_pairs(differences, len(pairs))})
    return pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema).sort(METHOD_DIFFERENCES.keys)


def _difference(differences: Float[np.ndarray, " concept"], settings: ProtocolSettings, scale: Interval) -> _Row:
    mean = mean_columns("mean", differences, settings.confidence, ends="", scale=scale)
    win_rate = mean_columns("win_rate", wins(differences), settings.confidence, scale=SHARES)
    return {"n": len(differences), **mean, "detectable": detectable(differences, settings.confidence), **win_rate}


def p_all_pairs(differences: Float[np.ndarray, " concept"], n_pairs: int) -> float | None:
    """Two-sided p of the exact sign test, that a method is as often above the other as below it, times the number of pairs (Bonferroni), at
    most 1; None without a concept. Ties count for neither.

    It needs concepts that are drawn independently, and nothing of their scores. No such test is known for means: of 16 concepts, intervals
    of all pairs' means by sign flips, or of Student's t with Bonferroni's level, miss one in .17 to .39 of samples of real scores where .05
    is said (docs/tables/intervals.md).
    """
    from scipy.special import bdtr  # its import takes longer than most jobs that need no interval

    won = wins(differences)
    above, below = int((won == 1).sum()), int((won == 0).sum())
    return min(1.0, 2 * n_pairs * float(bdtr(min(above, below), above + below, 0.5))) if len(differences) else None


def told_apart(confidence: float) -> pl.Expr:
    """Whether a pair of METHOD_DIFFERENCES is told apart among all pairs of its layer."""
    return pl.col("p_all_pairs") < 1 - confidence


def wins(differences: Float[np.ndarray, "*concept"]) -> Float[np.ndarray, "*concept"]:
    """1 where a method scores above another, 0 where below, a half where they tie, NaN where one has no score. The mean over concepts is
    P4's win rate (arXiv 2501.17148, section 5.2: overall scores compared on each concept, ties 0.5 wins and 0.5 losses)."""
    return (1 + np.sign(np.where(np.abs(differences) <= TIE, 0.0, differences))) / 2


def detectable(differences: Float[np.ndarray, " concept"], confidence: float) -> float | None:
    """The true mean difference that a two-sided t test at 1 - confidence finds with probability about `POWER`, with as many concepts whose
    differences vary as these do: (t(1 - alpha / 2) + t(power)) times their standard error. None for fewer than 2."""
    n = len(differences)
    if n < 2:
        return None
    return (student_t(confidence, n - 1) + student_t(2 * POWER - 1, n - 1)) * float(differences.std(ddof=1)) / n**0.5
