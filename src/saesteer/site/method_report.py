"""The report of a comparison of methods, in Markdown: every number comes from the tables, none is typed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from saesteer.core.markdown import number, table, with_interval
from saesteer.core.texts import RATING_COLUMNS
from saesteer.methods.compare.means import told_apart
from saesteer.methods.compare.paper_values import FACTS, PaperValue, Protocol, read_paper_values
from saesteer.methods.compare.protocol import UNSTEERED, row_of
from saesteer.settings.methods import HELD_OUT_TEXTS, MethodSettings
from saesteer.settings.registry import method

_Row = dict[str, Any]
_CHOICES = {
    "held_out": "chosen on one half of the prompts (every other one) and reported on the other, both directions averaged",
    "first_half": "chosen on the first half of the prompts and reported on the second",
    "same_texts": "chosen on the very texts that are reported, which flatters every method that has a choice",
}
_RULES = {
    "score": "",
    "gen_success": "; for methods of one SAE feature GenSuccess@20 over perplexity chooses it (P1), for all others the score",
}
_SCORES = {
    "harmonic_mean": "mean over texts of the harmonic mean of a text's ratings (0 to 2; 0 if any rating is 0)",
    "harmonic_mean_of_means": "harmonic mean of the means of each rating (0 to 2)",
    "product_of_means": "product of the mean of concept / 2 and the mean of fluency / 2 (0 to 1)",
}
_BLANK = {"unrated": "", "rated": " Blank texts are rated as any other."}
_METHOD_COLUMNS = (
    "method", "score", "rank", "abstains", "survivors only", "unrated texts", "concept", "instruction", "fluency", "perplexity",
    "factor", "of residual norm", "at smallest / largest factor", "chosen by", "density", "share on concept", "labelled texts",
    "learning rate", "epochs", "held-out loss", "fit, s", "ms a token", "R²",
)  # fmt: skip
_LABELLED = method("sae_label").key
"""P4's win rates are against the SAE feature with the concept's label."""
MAX_SHARE_AT_END = 0.05
"""Share of a method's choices at its smallest or its largest factor above which its grid is called too short."""


def report_markdown(
    methods: pl.DataFrame,
    differences: pl.DataFrame,
    published: pl.DataFrame,
    protocols: dict[int, Protocol],
    settings: MethodSettings,
    equal_cost: pl.DataFrame | None = None,
) -> str:
    """METHODS_TABLE, METHOD_DIFFERENCES, METHOD_PUBLISHED, `our_protocol` of each layer and, where damage is measured, METHOD_EQUAL_COST ->
    the whole report."""
    parts = ["# Steering methods under one protocol", protocol_text(methods, settings)]
    for layer in methods["layer"].unique().sort().to_list():
        ours = methods.filter(layer=layer)
        cells = _table(_METHOD_COLUMNS, map(_method_cells, ranked(ours, settings).iter_rows(named=True)))
        parts += [f"## Layer {layer}", cells, method_notes(ours, settings)]
        if equal_cost is not None:
            parts += ["### At equal cost", equal_cost_markdown(ours, equal_cost.filter(layer=layer), settings)]
        parts += ["### Differences between methods", differences_markdown(ours, differences.filter(layer=layer), settings)]
        theirs = published.filter(layer=layer)
        if theirs.height:
            parts += ["### Published figures beside ours", published_markdown(theirs, protocols[layer])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def protocol_text(methods: pl.DataFrame, settings: MethodSettings) -> str:
    """What was generated, how it is scored, how factors are chosen and intervals drawn."""
    n_concepts, n_prompts = int(methods["n_concepts"].to_numpy().max()), settings.n_prompts
    return (
        f"{methods['method'].n_unique()} methods, {n_concepts} concepts, {n_prompts} prompts, {settings.n_samples} "
        f"text{'' if settings.n_samples == 1 else 's'} for each prompt and factor, at most {settings.max_new_tokens} tokens, temperature "
        f"{settings.temperature:g}. A concept's score is the {_SCORES[settings.score]}.{_BLANK[settings.blank_texts]} "
        f"The factor is {_CHOICES[settings.factor_choice]}; "
        f"of equals the smallest{_RULES[settings.factor_rule]}. Intervals are {settings.confidence:.0%} over concepts; those of "
        f"ranks by {settings.bootstrap_draws:,} draws, seed {settings.seed}."
        + (f" Steering prompts are written by {settings.prompt_writer.model}." if settings.prompt_writer else "")
    )


def ranked(methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """METHODS_TABLE, best first by the mean that the experiment calls its headline; those without a score last."""
    column = "surviving_score" if settings.averaged == "surviving" else "score"
    return methods.sort("layer", pl.col(column), "method", descending=[False, True, False], nulls_last=True)


def _method_cells(row: _Row) -> Iterator[str]:
    yield row["title"]
    yield f"{_interval(row['score'], row['score_low'], row['score_high'])} (n = {row['n']})"
    rank = "" if row["rank_low"] is None else f" [{row['rank_low']:g}, {row['rank_high']:g}]"
    yield _shown(row["rank"], "g") + rank
    yield f"{row['n_abstaining']} of {row['n_concepts']}"
    yield f"{_interval(row['surviving_score'], row['surviving_low'], row['surviving_high'])} (n = {row['n_surviving']})"
    yield f"{row['n_missing']} of {row['n_texts']}"
    for name in RATING_COLUMNS:
        yield number(row[name])
    yield _shown(row["perplexity"], ".3g")
    yield _shown(row["median_factor"], "g")
    yield number(row["median_relative_change"])
    ends = (row["share_at_smallest"], row["share_at_largest"])
    yield "–" if None in ends else f"{ends[0]:.0%} / {ends[1]:.0%} of {row['n_choices']}"
    yield row["chosen_by"]
    yield _shown(row["density"], ".2%")
    yield number(row["concept_share"])
    yield number(row["labelled_texts"], 0)
    low, high = row["learning_rate_low"], row["learning_rate_high"]
    yield _shown(row["learning_rate"], "g") + ("" if low == high else f" ({low:g} to {high:g})")
    yield number(row["n_epochs"], 0)
    yield "–" if row["loss_after"] is None else f"{number(row['loss_before'])} → {number(row['loss_after'])}"
    yield number(row["fit_seconds"])
    yield number(None if row["seconds_per_token"] is None else 1000 * row["seconds_per_token"])
    yield number(row["r2"]) + (f", fitted on {row['n_effect_vectors']:,} vectors" if row["n_effect_vectors"] else "")


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def method_notes(methods: pl.DataFrame, settings: MethodSettings) -> str:
    """How the columns of one layer's table are to be read."""
    headline = "surviving concepts only" if settings.averaged == "surviving" else "all concepts"
    training = "Methods that learn by gradient descent are trained as published for the model (settings/recipes.csv)."
    if settings.learning_rates:
        rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
        training = (
            f"Methods that learn by gradient descent: the learning rate (of {rates}) and the number of epochs of lowest loss (nats a "
            f"token) on {HELD_OUT_TEXTS:.0%} of the training texts, held out; then trained on all. Shown: median over concepts "
            "(smallest to largest), and the held-out loss before and after."
        )
    sentences = [
        f"Sorted by the mean over {headline}.",
        "Where a method abstains (it has no feature or vector for the concept), `score` counts the unsteered text's score; `survivors "
        "only` leaves such concepts out and so flatters methods that abstain often.",
        "Ratings, perplexity, factors and norms are of the method's own texts at the factors chosen. Factor: median, in multiples of what "
        "the method itself calls 1 (prompts: number of the text); of residual norm: median of factor times the change at factor 1, over "
        "the norm of the unsteered residual; exact for additions of a fixed vector, otherwise as if the change grew with the factor.",
        "Chosen by: what chose the features or made the vector; labelled texts: how many of them took part in that (most vectors are "
        "scaled by the texts' largest activation besides, SAE features by their max activation). Density: share of tokens on which the "
        "features used are active, median; share on concept: of the max-activating examples of those that are labelled with it.",
        training,
        "R²: of the linear approximator of steering effects, on vectors that it was not fitted on (P2 fits it on 50,000).",
        "Methods that depend on no layer (unsteered, added text, adapters, fine-tuning) are fitted and judged once, at the first layer: "
        "their rows, the norms among them, are the same at each.",
        "An unrated text is missing, not 0. A grid of one factor is no choice, and prompts have no order: neither has an end.",
        *_grids_too_short(methods),
    ]
    if methods["instruction_rating"].null_count() == methods.height:
        sentences.append("The prompts are no instructions (a base model): there is no instruction rating, scores rest on two ratings.")
    short = methods.filter(pl.col("n") < pl.col("n_concepts"))
    if short.height:
        names = ", ".join(f"{row['title']} ({row['n_concepts'] - row['n']})" for row in short.sort("method").iter_rows(named=True))
        sentences.append(f"Concepts without any score, left out of the means: {names}.")
    return " ".join(sentences)


def _grids_too_short(methods: pl.DataFrame) -> Iterator[str]:
    """The methods whose choices lie at an end of their grid more often than `MAX_SHARE_AT_END`, and what to do. It reads choices only,
    no score."""
    for end, beyond in (("smallest", "smaller"), ("largest", "larger")):
        short = methods.filter(pl.col(f"share_at_{end}") > MAX_SHARE_AT_END).sort("method")
        if short.height:
            names = ", ".join(f"{row['title']} ({row[f'share_at_{end}']:.0%})" for row in short.iter_rows(named=True))
            yield (
                f"More than {MAX_SHARE_AT_END:.0%} of choices are the {end} factor, so that {beyond} ones may be better "
                f"(methods.factors.of_method): {names}."
            )


def both_ways(differences: pl.DataFrame) -> pl.DataFrame:
    """METHOD_DIFFERENCES with each pair also the other way round."""
    turned = {name: -pl.col(other) for name, other in {"mean": "mean", "low": "high", "high": "low"}.items()}
    shares = {"win_rate": "win_rate", "win_rate_low": "win_rate_high", "win_rate_high": "win_rate_low"}
    turned |= {name: 1 - pl.col(other) for name, other in shares.items()}
    return pl.concat([differences, differences.with_columns(method="other", other="method", **turned)])


def differences_markdown(methods: pl.DataFrame, differences: pl.DataFrame, settings: MethodSettings) -> str:
    """One layer's paired differences from the unsteered text and from the best method, and how many pairs can be told apart."""
    order = ranked(methods, settings)
    titles = dict(zip(order["method"], order["title"], strict=True))
    unsteered = next(key for key in titles if row_of(key).name == UNSTEERED)
    best = next(iter(titles))
    rival = _LABELLED if _LABELLED in titles else unsteered
    pairs = {(row["method"], row["other"]): row for row in both_ways(differences).iter_rows(named=True)}
    header = ("method", "minus unsteered", "p", f"minus {titles[best]}", "p", f"wins over {titles[rival]}")
    rows = [
        [title, *_difference_cells(pairs.get((key, unsteered))), *_difference_cells(pairs.get((key, best))), _wins(pairs.get((key, rival)))]
        for key, title in titles.items()
    ]
    intervals = differences.drop_nulls("low")
    plain = intervals.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    together = intervals.filter(told_apart(settings.confidence)).height
    return (
        f"{intervals.height} pairs are compared, paired by concept. The {settings.confidence:.0%} interval of {plain} of them leaves out "
        f"0; if no methods differed, about {1 - settings.confidence:.0%} of the pairs would. Of all pairs together {together} are "
        f"told apart: one scores above the other on more concepts than below (exact sign test; `p` is its p times the number of pairs). "
        f"No claim is made about all pairs' means together. With as many concepts a pair's difference of {detectable_text(intervals)} "
        f"would be seen with probability .8 (median and range over pairs, as if means were normal). `wins`: the share of concepts on "
        f"which the method scores above that one, a tie counting one half (P4's win rate).\n\n{_table(header, rows)}"
    )


def _difference_cells(row: _Row | None) -> tuple[str, str]:
    if row is None or row["mean"] is None:
        return "–", "–"
    p = "< .001" if row["p_all_pairs"] < 0.001 else number(row["p_all_pairs"], 3)
    return f"{_interval(row['mean'], row['low'], row['high'])} (n = {row['n']})", p


def _wins(row: _Row | None) -> str:
    return "–" if row is None else _interval(row["win_rate"], row["win_rate_low"], row["win_rate_high"])


def detectable_text(differences: pl.DataFrame) -> str:
    """The detectable difference of METHOD_DIFFERENCES: median and range over pairs."""
    values = differences["detectable"].drop_nulls()
    if values.is_empty():
        return "–"
    low, middle, high = (float(values.quantile(q, "linear") or 0) for q in (0, 0.5, 1))
    return f"{number(middle)} ({number(low)} to {number(high)})"


def equal_cost_markdown(methods: pl.DataFrame, equal_cost: pl.DataFrame, settings: MethodSettings) -> str:
    """One layer's METHOD_EQUAL_COST: one column per limit, the methods in the order of the table above."""
    limits = equal_cost["limit"].unique().sort().to_list()
    cells = {(row["method"], row["limit"]): _equal_cost_cell(row) for row in equal_cost.iter_rows(named=True)}
    rows = [
        [row["title"], _interval(row["score"], row["score_low"], row["score_high"]), *(cells[row["method"], limit] for limit in limits)]
        for row in ranked(methods, settings).iter_rows(named=True)
    ]
    rho = equal_cost.unique("limit").sort("limit").select("limit", *(f"rank_correlation{end}" for end in ("", "_low", "_high")))
    correlations = "; ".join(f"{limit:g} nats: {_interval(*values)}" for limit, *values in rho.iter_rows())
    note = (
        "Each method at its strongest under a limit on its damage: the divergence of the next-token distribution on ordinary text from the "
        "unsteered one, in nats a token. The factor is chosen as above, among those within the limit; where there is none, the concept "
        "counts with the unsteered text's score (share of concepts: unsteered). Rank correlation of the methods' order under a limit "
        f"with that without one, {settings.confidence:.0%} over methods: {correlations}."
    )
    return f"{_table(('method', 'no limit', *(f'≤ {limit:g} nats' for limit in limits)), rows)}\n\n{note}"


def _equal_cost_cell(row: _Row) -> str:
    unsteered = f", {row['share_unsteered']:.0%} unsteered" if row["share_unsteered"] else ""
    return _interval(row["score"], row["score_low"], row["score_high"]) + unsteered


def published_markdown(published: pl.DataFrame, ours: Protocol) -> str:
    """One layer's METHOD_PUBLISHED: ours, theirs, the difference, where theirs stands, and in what the protocols differ.

    Of each source the figures of our model are shown where it has some, else all of them.
    """
    nearest = []
    for source in published.sort("source").partition_by("source", maintain_order=True):
        same_model = source.filter(their_model=ours.model or "")
        nearest.append(same_model if same_model.height else source)
    order = pl.concat(nearest).sort("source", "method", "place", "their_model", "their_layer")
    header = ("method", "ours", "published", "difference", "mean over", "source", "model, layer", "protocols match")
    note = (
        "A difference between figures whose protocols do not match says nothing about either. Ours is the mean over the same kind of "
        "concepts as theirs; there is no difference where scales differ. The facts compared:"
    )
    sources: dict[str, list[PaperValue]] = {}
    for value in read_paper_values():
        sources.setdefault(value.source, []).append(value)
    facts = [[_words(name), _fact(name, getattr(ours, name)), *(_facts_of(values, name) for values in sources.values())] for name in FACTS]
    cells = _table(header, map(_published_cells, order.iter_rows(named=True)))
    return f"{cells}\n\n{note}\n\n{_table(('fact', 'ours', *sources), facts)}"


def _published_cells(row: _Row) -> Iterator[str]:
    yield row_of(row["method"]).title
    yield "–" if row["ours"] is None else f"{row['ours']:.3f} of {row['our_scale']:g}"
    yield f"{row['theirs']:.3f} of {row['their_scale']:g}"
    yield "–" if row["difference"] is None else f"{row['difference']:+.3f}".replace("-", "−")
    yield {"all": "all concepts", "surviving": "survivors"}.get(row["averaged"], f"topic {row['averaged']}")
    yield f"{row['source']}, {row['place']}" + (f": {row['task']}" if row["task"] else "")
    yield row["their_model"] + (f", {row['their_layer']}" if row["their_layer"] else "")
    reasons = {"differ": row["differs"], "not stated": row["not_stated"]}
    named = "; ".join(f"{reason}: {', '.join(map(_words, names))}" for reason, names in reasons.items() if names)
    yield "yes" if row["matches"] else f"**no**, {named}"


def _facts_of(values: Iterable[PaperValue], name: str) -> str:
    """A fact of a source's figures; several values where they come from several settings."""
    return "; ".join(dict.fromkeys(_fact(name, getattr(value.protocol, name)) for value in values))


def _fact(name: str, value: object) -> str:
    if value is None:
        return "not stated"
    return _words(str(value)) if name in ("factor_choice", "score") else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells hold nothing that could break a row."""
    return table(header, ([" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows))


def _interval(middle: float | None, low: float | None, high: float | None) -> str:
    return with_interval(middle, low, high, 3)
