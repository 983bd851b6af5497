"""The tables of what the papers leave open, from results in git."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import polars as pl

from saesteer.analysis.recommendation import STEERS, Verdict
from saesteer.core.uncertainty import RATINGS, SHARES, Interval, interval_columns, mean_interval, of_differences
from saesteer.settings import SelectionSettings
from studies.pages.pooled import seeds_reach, widened_by_seeds
from studies.pages.tables import Cell, Column, Row, Rows, Shown, beside, best_first, grouped, matching, text_of
from studies.questions.choice_rules import BEST, BY_JUDGE, COMMON, RANDOM, SCALED
from studies.questions.figures.choice_rules import TITLES
from studies.questions.registry import LABEL_TABLES, QUESTION_TABLES
from studies.questions.summaries.attributes import BEST as BEST_ON_PROMPTS
from studies.questions.summaries.attributes import BY_COLUMN, DIFFMEAN, UNSTEERED
from studies.questions.summaries.attributes import RULES as ATTRIBUTE_RULES
from studies.questions.summaries.feature_sets import GREEDY
from studies.questions.summaries.side_effects import EFFECTS, PREDICTORS
from studies.questions.summaries.suppression import WAYS
from studies.questions.text_attributes import ATTRIBUTES as WORDS_OF_ATTRIBUTES

FOLDER, LABEL_FOLDER = Path("docs/open-questions"), Path("docs/labelled-features")
"""A folder an experiment, a file a table of QUESTION_TABLES or of LABEL_TABLES."""
FIRST = "tiny"
"""How the experiments begin that stand first: those on the model that the pages' text is about."""
SEED = "-seed-"
"""In the name of an experiment that is another's on a further training seed."""
JUDGED = {"factor_rule": BY_JUDGE}
SHOWN_RULES = (BEST, "max_activation", "input_score", "output_score", RANDOM)
"""Rules whose picks are shown over seeds: they do not read the labels that the judge goes by."""
FRESH_MEANS = ("score", "fresh", "best", "regret")
"""Columns of recommendations whose means are shown."""
DIFFERENCES = ("regret", "gain", "change", "fall", "beyond_control", "fluency_change", "above_random", "above_diffmean")
"""Columns that are differences of what the others hold."""
_SET = ["layer", "rule", "size"]


def results(root: Path, name: str) -> Iterator[Row]:
    """Rows of a table of all experiments that git has it of, one experiment after the other. A column that came later is null."""
    folder, schema = root / (LABEL_FOLDER if name in LABEL_TABLES else FOLDER), (QUESTION_TABLES | LABEL_TABLES)[name].schema
    experiments = (path.parent.name for path in folder.glob(f"*/{name}.csv"))
    for experiment in sorted(experiments, key=lambda name: (not name.startswith(FIRST), name)):
        rows = pl.read_csv(folder / experiment / f"{name}.csv", schema=schema, missing_columns="insert")
        yield from ({"experiment": f"`{experiment}`", **row} for row in rows.iter_rows(named=True))


def _apart(source: str | Callable[[Path], Iterator[Row]], lines: str, columns: Mapping[str, Column], **further: Any) -> Shown:
    """A table of each experiment by itself; what is shown of those on further training seeds stands in tables over seeds."""

    def rows(root: Path) -> Iterator[Row]:
        every = results(root, source) if isinstance(source, str) else source(root)
        return (row for row in every if SEED not in row["experiment"])

    return Shown(rows, lines, columns, apart="experiment", **further)


def _at_layers(what: str, cell: Cell, **where: Any) -> Callable[[Rows], str]:
    """A sentence below a table that says a cell of each layer."""
    at_layer = beside(" at layer ", cell, "layer")
    return lambda rows: f"{what}: {', '.join(text_of(at_layer, [row]) for row in matching(rows, where))}."


def _threshold(rows: Rows) -> str:
    low, high = rows[0]["threshold_low"], rows[0]["threshold_high"]
    return f"{rows[0]['threshold']:.2g}" + (f" [{low:.2g}, {high:.2g}]" if low != high else "")


def _predictions(root: Path) -> Iterator[Row]:
    """The predictor's rows, each with the score of what the max activation alone picks there."""
    picks = grouped(matching(results(root, "choice_rules"), {**JUDGED, "rule": "max_activation"}), "experiment layer")
    for row in results(root, "predictions"):
        (pick,) = picks.get((row["experiment"], row["layer"])) or [dict.fromkeys(("score", "score_low", "score_high"))]
        yield {**row, **{f"activation{end}": pick[f"score{end}"] for end in ("", "_low", "_high")}}


def _verdicts(root: Path) -> Iterator[Row]:
    """Of each verdict on an experiment's features: how many score STEERS or more on prompts that took no part, and their share, a mean
    over concepts."""
    for (experiment,), rows in grouped(results(root, "recommendations"), "experiment").items():
        every = pl.DataFrame(rows, infer_schema_length=None).with_columns(reached=pl.col("fresh").fill_null(0) >= STEERS)
        for verdict in get_args(Verdict):
            of = every.filter(verdict=verdict)
            by_concept = of.group_by("concept", maintain_order=True).agg(share=pl.col("reached").cast(pl.Float64).mean())
            reached = f"{of['reached'].sum()} of {of.height}"
            row = {"experiment": experiment, "verdict": verdict, "reached": reached, "n": by_concept.height}
            yield row | {"took": f"{of['reached'].sum()} of {every['reached'].sum()}"} | _means(by_concept, ("share",), SHARES)


def _recommendations(root: Path) -> Iterator[Row]:
    """Of a layer's recommendations: how many printed intervals hold the mean on prompts that took no part, and means over concepts."""
    for (experiment, layer), rows in grouped(results(root, "recommendations"), "experiment layer").items():
        concepts = pl.DataFrame(rows, infer_schema_length=None).drop_nulls("fresh")
        above, below = (
            concepts.filter(beyond).height for beyond in (pl.col("fresh") > pl.col("score_high"), pl.col("fresh") < pl.col("score_low"))
        )
        held = f"{concepts.height - above - below} of {concepts.height} ({above} lie above, {below} below)"
        regrets = concepts.with_columns(regret=pl.col("best") - pl.col("fresh"))
        yield {"experiment": experiment, "layer": layer, "held": held} | _means(regrets, FRESH_MEANS)


def _means(concepts: pl.DataFrame, columns: Iterable[str], scale: Interval = RATINGS) -> dict[str, Any]:
    """Means over concepts of columns of a scale, or of differences on it, with their intervals."""
    row: dict[str, Any] = {}
    for name in columns:
        values = concepts[name].drop_nulls().to_numpy()
        confidence = SelectionSettings.model_fields["confidence"].default
        interval = mean_interval(values, confidence, of_differences(scale) if name in DIFFERENCES else scale)
        row |= interval_columns(name, values.mean() if len(values) else None, interval)
    return row


def _feature_sets(root: Path) -> Iterator[Row]:
    """Means over concepts of the sets of each rule and size, and what they gain."""
    for (experiment, layer, rule, size), concepts in _set_gains(root).group_by("experiment", *_SET, maintain_order=True):
        row = {"experiment": experiment, "layer": layer, "rule": rule, "size": size, "n": concepts.height}
        compared = concepts.with_columns(gain=None) if (rule, size) == (GREEDY, 1) else concepts
        yield row | _means(compared, ("score", "gain"))


def _set_gains_over_seeds(root: Path) -> Iterator[Row]:
    """What the sets gain over a model's training seeds, concepts and seeds random: a concept's gain is its mean over seeds."""
    confidence, scale = SelectionSettings.model_fields["confidence"].default, of_differences(RATINGS)
    gains = _set_gains(root).with_columns(pl.col("experiment").str.replace(f"{SEED}\\d+", "").alias("model"))
    for (model, layer, rule, size), rows in gains.group_by("model", *_SET, maintain_order=True):
        by_seed = rows.pivot(on="experiment", index="concept", values="gain").drop_nulls().drop("concept").to_numpy().T  # [seed concept]
        interval = mean_interval(by_seed.mean(axis=0), confidence, scale)
        if len(by_seed) > 1 and interval is not None and (rule, size) != (GREEDY, 1):
            mean, reach = float(by_seed.mean()), seeds_reach(by_seed, confidence)
            row = {"experiment": model, "layer": layer, "rule": rule, "size": size, "n_seeds": by_seed.shape[0], "n": by_seed.shape[1]}
            yield row | interval_columns("gain", mean, widened_by_seeds(mean, interval, reach, scale))


def _set_gains(root: Path) -> pl.DataFrame:
    """Rows of feature_sets, with what each set gains over the concept's single feature of GREEDY."""
    every = pl.DataFrame(list(results(root, "feature_sets")))
    singles = every.filter(rule=GREEDY, size=1).select("experiment", "layer", "concept", single="score")
    with_single = every.join(singles, on=["experiment", "layer", "concept"], maintain_order="left")
    return with_single.with_columns(gain=pl.col("score") - pl.col("single")).drop_nulls("gain")


def _concept_pairs(root: Path) -> Iterator[Row]:
    """Means over concepts, each the mean over those that are steered to at the same time."""
    for (experiment, layer), rows in grouped(results(root, "concept_pairs"), "experiment layer").items():
        pairs = pl.DataFrame(rows).with_columns(change=pl.col("together") - pl.col("alone")).drop_nulls("change")
        concepts = pairs.group_by("concept", maintain_order=True).agg(pl.col("alone", "together", "change").mean())
        row = {"experiment": experiment, "layer": layer, "n": concepts.height, "n_pairs": pairs.height}
        yield row | _means(concepts, ("alone", "together", "change"))


def _suppression(root: Path) -> Iterator[Row]:
    """Means over concepts of each way of steering away from them."""
    for (experiment, layer), rows in grouped(results(root, "suppression"), "experiment layer").items():
        every = pl.DataFrame(rows, infer_schema_length=None).with_columns(
            fall=pl.col("concept_rating_before") - pl.col("concept_rating"),
            beyond_control=pl.col("concept_rating_control") - pl.col("concept_rating"),
            fluency_change=pl.col("fluency_rating") - pl.col("fluency_rating_before"),
            gain=pl.col("score") - pl.col("score_before"),
        )
        for way in WAYS:
            concepts = every.filter(way=way)
            row = {
                "experiment": experiment,
                "layer": layer,
                "way": way,
                "n": concepts.height,
                "before": concepts["concept_rating_before"].mean(),
            }
            yield row | _means(concepts, ("fall", "beyond_control", "fluency_change", "gain"))


def _by_attribute(rows: Rows) -> Rows:
    """Of each experiment the attributes in their order, each at all layers."""
    place = [*WORDS_OF_ATTRIBUTES].index
    return [row for of in grouped(rows, "experiment").values() for row in sorted(of, key=lambda row: place(row["attribute"]))]


def _attributes(root: Path) -> Iterator[Row]:
    """Means over attributes of each way of choosing a direction for them."""
    for (experiment, layer), rows in grouped(results(root, "attributes"), "experiment layer").items():
        every = pl.DataFrame(rows, infer_schema_length=None).drop_nulls("score")
        for rule in ATTRIBUTE_RULES:
            of = every.filter(rule=rule)
            row = {"experiment": experiment, "layer": layer, "rule": rule, "n": of.height, "share": of["share"].mean()}
            yield row | {"auroc": of["auroc"].mean()} | _means(of, ("score", "above_random", "above_diffmean"))


def _side_effects(root: Path) -> Iterator[Row]:
    """Rows with what the predictor is called."""
    return ({**row, "title": PREDICTORS[row["predictor"]]} for row in results(root, "side_effect_correlations"))


def _significant(rows: Rows) -> str:
    """A rank correlation, bold where its corrected p is below .05."""
    text = text_of("rho ±", rows)
    return f"**{text}**" if rows and rows[0]["p"] is not None and rows[0]["p"] < 0.05 else text


def _by_effect(cell: Cell) -> Shown:
    """A line a predictor, a column a side effect."""
    columns: dict[str, Column] = {name: name for name in ("experiment", "layer")}
    columns |= {"predictor": "title", "features": ("n", {"side_effect": "judge_score"})}
    columns |= {title: (cell, {"side_effect": effect}) for effect, title in EFFECTS.items()}
    return Shown(_side_effects, "experiment layer predictor", columns)


BLOCKS = {
    "open-choices": _apart("choice_rules", "rule", {
        "picks": "rule title", "layer {layer}": ("score ±", JUDGED), "above random, layer {layer}": ("above_random ±", JUDGED),
        "P1's factor, layer {layer}": ("score .2", {"factor_rule": "p1"}), "capped, layer {layer}": ("score .2", {"factor_rule": "capped"}),
        "one factor, layer {layer}": ("score .2", {"factor_rule": COMMON}),
        "one multiple, layer {layer}": ("score .2", {"factor_rule": SCALED}),
    }, order=best_first("rule", "score", **JUDGED), note=_at_layers("Concepts", "n_concepts", **JUDGED, rule=RANDOM)),
    "open-choices-seeds": Shown(lambda root: matching(results(root, "choice_rules"), JUDGED), "experiment layer", {
        "experiment": "experiment", "layer": "layer", "concepts": ("n_concepts", {"rule": RANDOM}),
        **{TITLES[rule]: ("score ±", {"rule": rule}) for rule in SHOWN_RULES},
    }),
    "open-rankings": _apart("feature_rankings", "rule", {
        "ranks by": "rule title", "area, layer {layer}": "area ±",
        "first 10, layer {layer}": "precision_10 .2", "first 50, layer {layer}": "precision_50 .2",
    }, order=best_first("rule", "area"), note=_at_layers("Steer well", beside(" of ", "n_steers", "n"), rule="output_score")),
    "open-correlations": _apart("quantity_correlations", "quantity", {
        "quantity": "quantity title", "judge, layer {layer}": ("rho ±", {"outcome": "judge_score"}),
        "cosine with means, layer {layer}": ("rho ±", {"outcome": "mean_cosine"}),
    }, order=best_first("quantity", "rho", outcome="judge_score")),
    "open-headline": _apart("headline_samples", "measure layers", {
        "measure": "measure", "layers": "layers", "n": "n", "kept": "n_kept", "mean": "mean .2", "mean of kept": "kept_mean .2",
        "ratio": "ratio ±", "ratio in samples of 30 a layer": "sampled_ratio ±", "kept less removed": "difference ±",
        "of one layer and concept": "within_difference ±",
    }),
    "open-thresholds": _apart("threshold_transfer", "measure chosen_on tried_on", {
        "measure": "measure", "chosen on": "chosen_on", "tried on": "tried_on", "threshold": _threshold,
        "gain where it was chosen": "gain_chosen .2", "gain where it was tried": "gain ±",
    }),
    "open-grid": _apart("grid_ends", "layer factor_rule grid", {
        "layer": "layer", "factor chosen by": "factor_rule", "grid": "grid", "at its smallest": "at_smallest .2",
        "at its largest": "at_largest .2", "moved": "moved .2", "judge score": "score .2", "change": "change ±",
    }),
    "open-settings": _apart("setting_agreement", "layer prompt factor", {
        "layer": "layer", "prompt": lambda rows: rows[0]["prompt"] + (" (own)" if rows[0]["is_own"] else ""), "factor": "factor",
        "agrees: rank correlation": "rho ±", "kept": "n_kept", "Jaccard": "jaccard .2", "of as many": "jaccard_first .2",
        "judge": "rho_judge ±", "score of its pick": "score ±",
    }, order=lambda rows: sorted(rows, key=lambda row: (row["layer"], row["prompt"], float(row["factor"])))),
    "open-sizes": _apart("data_sizes", "layer rule n", {
        "layer": "layer", "quantity": "rule title", "max-activating examples or texts": "n", "rank correlation with most": "rho ±",
        "same pick": "same_pick .2", "score of its pick": "score ±",
    }),
    "open-predictor": _apart("predictions", "layer trained_on", {
        "layer": "layer", "learnt on": "trained_on", "penalty": "penalty .0", "rank correlation": "rho ±", "concepts": "n_concepts",
        "score of its pick": "score ±", "above the max activation's pick": "above_activation ±",
    }),
    "open-predictor-seeds": Shown(_predictions, "experiment layer trained_on", {
        "experiment": "experiment", "layer": "layer", "learnt on": "trained_on", "rank correlation": "rho ±",
        "score of its pick": "score ±", TITLES["max_activation"]: "activation ±", "above the max activation's pick": "above_activation ±",
    }),
    "open-verdicts": Shown(_verdicts, "experiment verdict", {
        "experiment": "experiment", "verdict": "verdict", "score 1 or more on fresh prompts": "reached", "share, over concepts": "share ±",
        "concepts": "n", "of all that score 1 or more": "took",
    }),
    "open-recommendations": Shown(_recommendations, "experiment layer", {
        "experiment": "experiment", "layer": "layer", "intervals that hold the fresh mean": "held", "printed score": "score ±",
        "score on fresh prompts": "fresh ±", "brute force's choice there": "best ±", "regret": "regret ±",
    }),
    "open-feature-sets": Shown(_feature_sets, "experiment layer rule size", {
        "experiment": "experiment", "layer": "layer", "chosen by": "rule", "features": "size", "concepts": "n", "score": "score ±",
        "above the best single feature": "gain ±",
    }),
    "open-feature-set-gains": Shown(_set_gains_over_seeds, "experiment layer rule size", {
        "experiment": "experiment", "layer": "layer", "chosen by": "rule", "features": "size", "seeds": "n_seeds", "concepts": "n",
        "above the best single feature": "gain ±",
    }),
    "open-concept-pairs": Shown(_concept_pairs, "experiment layer", {
        "experiment": "experiment", "layer": "layer", "concepts": "n", "pairs": "n_pairs", "alone": "alone ±", "together": "together ±",
        "change": "change ±",
    }),
    "open-suppression": Shown(_suppression, "experiment layer way", {
        "experiment": "experiment", "layer": "layer", "way": "way", "concepts": "n", "concept rating unsteered": "before .2",
        "it falls by": "fall ±", "further than with the control": "beyond_control ±", "fluency changes by": "fluency_change ±",
        "score for less of it rises by": "gain ±",
    }),
    "open-attributes": Shown(_attributes, "experiment layer rule", {
        "experiment": "experiment", "layer": "layer", "rule": "rule", "attributes": "n", "AUROC": "auroc .2", "share with it": "share .2",
        "score": "score ±", "above a random pick": "above_random ±", "above DiffMean": "above_diffmean ±",
    }),
    "open-attribute-shares": Shown(lambda root: results(root, "attributes"), "experiment attribute layer", {
        "experiment": "experiment", "attribute": "attribute", "layer": "layer", "stretches": ("n_having", {"rule": UNSTEERED}),
        "unsteered": ("share ±", {"rule": UNSTEERED}),
        **{rule: ("share .2", {"rule": rule}) for rule in (*BY_COLUMN.values(), BEST_ON_PROMPTS)},
        DIFFMEAN: ("share ±", {"rule": DIFFMEAN}),
    }, _by_attribute),
    "open-attribute-scores": Shown(lambda root: results(root, "attributes"), "experiment attribute layer", {
        "experiment": "experiment", "attribute": "attribute", "layer": "layer",
        **{rule: ("above_random ±", {"rule": rule}) for rule in (*BY_COLUMN.values(), BEST_ON_PROMPTS, DIFFMEAN)},
    }, lambda rows: [row for row in _by_attribute(rows) if row["n"]]),
    "open-side-effects": _by_effect(_significant),
    "open-side-effect-filter": _by_effect("difference ±"),
}  # fmt: skip
"""Block -> its table."""
