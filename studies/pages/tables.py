"""The tables of the pages, in Markdown, from results in git."""

from collections.abc import Iterator, Mapping
from itertools import chain, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.recommendation import Verdict
from saesteer.core.markdown import escaped, number, table, with_interval
from saesteer.core.uncertainty import RATINGS, Interval, mean_interval, of_differences
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_DIFFERENCES, METHOD_EQUAL_COST, METHOD_SCORES, METHODS_TABLE
from saesteer.reference.sae_docs import Release, releases, verdict
from saesteer.site.headline import headline_markdown, share, times
from saesteer.site.method_pages import SHOWN_LIMIT
from studies.pages.answers import CONFIDENCE, NOT_RUN, by_books_judge, recommended
from studies.pages.results import GRID_ENDS, MODELS, REGISTERED, SHIPPED, comparison, metrics, metrics_file, stored
from studies.public import judges
from studies.public.recommendations import BRUTE_FORCE, DEMONSTRATION, FOLDER, N_BRUTE_FORCE, TRIES

GAINS = {"The filter's net gain": "ratio", "The filter's net gain within layers": "within_layers"}
"""Finding -> its name among the net gains of the registered variant."""
DIFFERENCES = {
    "A labelled feature − a random direction": ("sae_label", "random_vector"),
    "P1's choice − the labelled feature": ("sae_label_output_score", "sae_label"),
    "The feature nearest to DiffMean − the labelled feature": ("sae_cosine", "sae_label"),
    "DiffMean − the labelled feature": ("diffmean", "sae_label"),
    "SAE-TS − DiffMean": ("sae_ts", "diffmean"),
    "ReFT-r1 − DiffMean": ("reft_r1", "diffmean"),
    "LoRA − ReFT-r1": ("lora", "reft_r1"),
    "LoRA − a prompt": ("lora", "prompting"),
}
"""Finding -> the two methods whose held-out scores are compared, paired over concepts."""
SHOWN_LIMITS = (SHOWN_LIMIT, 0.5)
"""Nats of divergence on ordinary text that a method may cost; the CSV files have two more."""
_Row = Mapping[str, Any]


def saes_markdown(_root: Path) -> str:
    """Counts of the SAEs that sae-lens lists, by place, form and what is said of them, and in all."""
    listed = releases()
    classes: dict[tuple[str, str, str], list[Release]] = {}
    for release in listed:
        classes.setdefault((", ".join(release.hook_points), release.form, verdict(release)), []).append(release)
    rows = [
        (place, f"`{form}`", len(group), f"{sum(release.n for release in group):,}", reading)
        for (place, form, reading), group in sorted(classes.items())
    ]
    usable, n = sum(release.n for release in listed if release.reason is None), sum(release.n for release in listed)
    in_all = ("in all", "", len({release.name for release in listed}), f"{n:,}", f"{usable:,}")
    return table(("hook point", "form", "releases", "SAEs", "can be used"), [*rows, in_all])


def headlines_markdown(root: Path) -> str:
    """All headline numbers, one table per model that was run."""
    run = {name: model for name, model in MODELS.items() if metrics_file(root, name).is_file()}
    return "\n\n".join(f"## {model}\n\n{headline_markdown(metrics(root, name)).rstrip()}" for name, model in run.items())


def demonstration(root: Path) -> str:
    """The plan's prompts, with a column unsteered and one steered by what `recommend` says of the plan's concept."""
    rows = pl.read_csv(root / FOLDER / "demonstration.csv", schema=DEMONSTRATION)
    first = rows.row(0, named=True)
    steered = f"feature {first['layer']}/{first['feature']}, factor {first['factor']}"
    texts = rows.select("prompt", "unsteered", "steered").iter_rows()
    return table(["prompt", "unsteered", steered], [[prompt, *(escaped(text.strip()) for text in both)] for prompt, *both in texts])


def grid_ends_markdown(root: Path) -> str:
    """Where in the grid of factors choices lie on the public models, and what is written there."""
    lines = []
    for experiment, model in MODELS.items():
        rows = stored(root, experiment, GRID_ENDS)
        for row in [] if rows is None else rows.iter_rows(named=True):
            means = [number(row[name]) for name in ("net_gen_success_20", "fluency_rating")]
            lines.append((model, RULES[row["rule"]], row["place"], row["n"], f"{row['share']:.1%}", *means))
    heading = ("model", "factor by", "factor of the grid", "choices", "share", "net GenSuccess@20", "fluency rating")
    return table(heading, lines)


def carried_over_markdown(root: Path) -> str:
    """What of the grammar's findings carries over to the public models: one line per finding, one column per model."""
    of_models = [list(findings(root, experiment)) for experiment in (SHIPPED, *MODELS)]
    lines = zip((*GAINS, *DIFFERENCES), *of_models, strict=True)
    return table(("finding", "the grammar's model", *MODELS.values()), lines)


def findings(root: Path, experiment: str) -> Iterator[str]:
    """What was measured of each finding on a sweep's model."""
    is_run = metrics_file(root, experiment).is_file()
    net = metrics(root, experiment)["filter"][REGISTERED]["all"]["net"] if is_run else None
    yield from (times(net[name]) if net else NOT_RUN for name in GAINS.values())
    pairs = stored(root, comparison(experiment), METHOD_DIFFERENCES.name)
    for pair in DIFFERENCES.values():
        yield NOT_RUN if pairs is None else "; ".join(differences(pairs, *pair)) or number(None)


def differences(pairs: pl.DataFrame, method: str, other: str) -> Iterator[str]:
    """METHOD_DIFFERENCES -> a method's mean less another's with its interval, at each layer; each pair is there in one order."""
    for row in pairs.filter(pl.concat_list("method", "other").list.sort() == sorted((method, other))).sort("layer").iter_rows(named=True):
        same_order = row["method"] == method
        yield with_interval(*(row["mean"], row["low"], row["high"]) if same_order else (-row["mean"], -row["high"], -row["low"]))


def methods_markdown(root: Path) -> str:
    """Every method's held-out score on both models, also at a limit on what it costs ordinary text, and that cost; best first."""
    read = [(model, scores_and_costs(root, experiment)) for experiment, model in MODELS.items()]
    rows = pl.concat(rows.with_columns(model=pl.lit(model)) for model, rows in read if rows is not None)
    best_first = rows.group_by("title").agg(pl.mean("score")).sort("score", "title", descending=[True, False], nulls_last=True)["title"]
    by_key = {(row["title"], row["model"]): row for row in rows.iter_rows(named=True)}
    lines = []
    for title in best_first:
        of_models = [by_key.get((title, model)) for model in MODELS.values()]
        scores = [_with_ends(row, name) for name in ("score", *map(_limited, SHOWN_LIMITS)) for row in of_models]
        lines.append((title, *scores, " / ".join(number(row["loss_rise"]) for row in of_models if row)))
    limited = [f"at most {limit} nats, {model}" for limit in SHOWN_LIMITS for model in MODELS.values()]
    return table(("method", *MODELS.values(), *limited, "loss rise"), lines)


def scores_and_costs(root: Path, experiment: str) -> pl.DataFrame | None:
    """The methods compared on a sweep's model with what each costs ordinary text, and its scores at limits on that (`_limited`)."""
    names = (METHODS_TABLE.name, METHOD_DAMAGE.name, METHOD_EQUAL_COST.name)
    methods, damage, equal_cost = (stored(root, comparison(experiment), name) for name in names)
    if methods is None or damage is None or equal_cost is None:
        return None
    keys = ["layer", "method"]
    rows = methods.join(damage, on=keys, how="left", maintain_order="left")
    for limit in SHOWN_LIMITS:
        scores = {f"{_limited(limit)}{end}": f"score{end}" for end in ("", "_low", "_high")}
        rows = rows.join(equal_cost.filter(limit=limit).select(*keys, **scores), on=keys, how="left", maintain_order="left")
    return rows


def _limited(limit: float) -> str:
    """What the score at a limit is called."""
    return f"at_most_{limit}"


def _with_ends(row: _Row | None, name: str) -> str:
    """A value of a row with its interval; a dash where there is no row."""
    return number(None) if row is None else with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def recommendations_markdown(root: Path) -> str:
    """How often the printed interval of what `recommend` picks holds its mean on fresh prompts, that mean over concepts, and by the books'
    judge that mean less the unsteered texts'."""
    verdicts = get_args(Verdict)
    lines = []
    for (experiment, model), of_try in product(MODELS.items(), TRIES):
        rows, by_topic = (of.filter(pl.col("n_per_layer").is_null()) for of in _of_try(root, experiment, of_try))
        if rows.is_empty():
            continue
        scored, gains = rows.drop_nulls("fresh"), (by_topic["steered"] - by_topic["unsteered"]).drop_nulls()
        held = scored.filter(pl.col("fresh").is_between("score_low", "score_high")).height
        said = (rows.filter(verdict=name).height for name in verdicts)
        score, gain = mean_with_interval(scored["fresh"].to_numpy(), RATINGS), mean_with_interval(gains.to_numpy(), of_differences(RATINGS))
        lines.append((model, of_try, rows.height, *said, share(held, scored.height), score, f"{gain}, n = {len(gains)}"))
    measured = ("interval holds", "score on fresh prompts", "by the books' judge, less unsteered")
    return table(("model", "try", "concepts", *verdicts, *measured), lines)


def tries_markdown(root: Path) -> str:
    """Mean scores on fresh prompts of what the two tries pick, and the difference by both judges, paired over concepts: over those of brute
    force, after which the second was made, and over the others."""
    lines = []
    for (experiment, model), (which, is_of_six) in product(MODELS.items(), {"of brute force": True, "others": False}.items()):
        picks = [_of_try(root, experiment, of_try) for of_try in TRIES]
        plain = pl.col("n_per_layer").is_null(), pl.col("concept").is_in(BRUTE_FORCE) == is_of_six
        (first, second), (first_by_topic, second_by_topic) = ([rows.filter(*plain) for rows in of] for of in zip(*picks, strict=True))
        both = first.join(second, on="concept").select(pl.col("fresh", "fresh_right").fill_null(0))
        by_topic = first_by_topic.join(second_by_topic, on="concept").select(pl.col("steered", "steered_right").fill_null(0))
        if both.is_empty():
            continue
        means = (mean_with_interval(both[name].to_numpy(), RATINGS) for name in both.columns)
        gains = (mean_with_interval((of.to_series(1) - of.to_series(0)).to_numpy(), of_differences(RATINGS)) for of in (both, by_topic))
        lines.append((model, which, both.height, *means, *gains, by_topic.height))
    measured = ("first", "second", "second − first", "by the books' judge", "topics")
    return table(("model", "concepts", "n", *measured), lines)


def brute_force_markdown(root: Path) -> str:
    """What `recommend` picks and what brute force does, and the scores of each on fresh prompts by the embedding and the books' judge."""
    lines = []
    for (experiment, model), of_try in product(MODELS.items(), TRIES):
        rows, by_topic = _of_try(root, experiment, of_try)
        known = rows.join(by_topic, on=["concept", "n_per_layer"], how="left", nulls_equal=True, maintain_order="left")
        for brute in known.filter(n_per_layer=N_BRUTE_FORCE).iter_rows(named=True):
            (pick,) = known.filter(pl.col("n_per_layer").is_null(), concept=brute["concept"]).to_dicts()
            of_both = ((_feature(row), _with_ends(row, "fresh"), number(row["steered"])) for row in (pick, brute))
            lines.append((model, of_try, pick["concept"], *chain.from_iterable(of_both)))
    scores = ("score", "books' judge")
    return table(("model", "try", "concept", "`recommend`", *scores, "brute force", *scores), lines)


def _of_try(root: Path, experiment: str, of_try: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `recommend` said, and the scores by the books' judge."""
    return recommended(root, experiment, of_try), by_books_judge(root, experiment, of_try)


def _feature(row: _Row) -> str:
    """The feature and factor of a row of recommendations; a dash where nothing was picked."""
    return number(None) if row["feature"] is None else f"{row['layer']}/{row['feature']} × {row['factor']}"


BESIDE = {"unsteered": "unsteered", "a prompt": "prompting", "DiffMean": "diffmean", "LoRA": "lora"}
"""Column -> the method that picks are compared with."""


def picks_markdown(root: Path) -> str:
    """The mean score on fresh prompts of what `recommend` picks for the concepts that methods are compared on, and that less a method's
    held-out score, paired over concepts."""
    lines = []
    for (experiment, model), of_try in product(MODELS.items(), TRIES):
        scores = stored(root, comparison(experiment), METHOD_SCORES.name)
        picks = recommended(root, experiment, of_try).filter(pl.col("n_per_layer").is_null())
        if scores is None or picks.is_empty():
            continue
        both = picks.join(scores.pivot("method", index="concept", values="score"), on="concept").with_columns(pl.col("fresh").fill_null(0))
        columns = [(both["fresh"], RATINGS), *((both["fresh"] - both[method], of_differences(RATINGS)) for method in BESIDE.values())]
        cells = (mean_with_interval(column.drop_nulls().to_numpy(), scale) for column, scale in columns)
        lines.append((model, of_try, both.height, *cells))
    return table(("model", "try", "concepts", "pick", *(f"pick − {name}" for name in BESIDE)), lines)


def mean_with_interval(values: Float[np.ndarray, " n"], scale: Interval) -> str:
    """The mean of values on a scale, with its interval."""
    return with_interval(float(values.mean()), *(mean_interval(values, CONFIDENCE, scale) or (None, None)))


JUDGED = {"": "comparison", "-known": "known topic"}
"""Ending of a file of judges' agreement -> what its texts are."""


def judges_markdown(root: Path) -> str:
    """How far each two judges agree on texts of the comparisons of methods, and on those whose topic is known."""
    lines = []
    for (experiment, model), (ending, texts) in product(MODELS.items(), JUDGED.items()):
        file = root / judges.FOLDER / f"{comparison(experiment)}{ending}.csv"
        for row in pl.read_csv(file).iter_rows(named=True) if file.is_file() else ():
            pair = f"{row['judge']}, {row['other']}"
            lines.append((model, texts, pair, row["aspect"], row["n"], f"{row['equal']:.0%}", _with_ends(row, "kappa")))
    return table(("model", "texts", "judges", "aspect", "n", "equal", "weighted kappa"), lines)
