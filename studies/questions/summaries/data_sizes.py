"""How much data the quantities need: input score and concept's share from fewer max-activating examples, detection from fewer labelled
texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.analysis.input_score import input_scores
from saesteer.core.tables import ACTIVATIONS, FEATURES, LOGIT_LENS, MAX_ACTIVATING_EXAMPLES, STEERING
from saesteer.core.tokens import TextTokens
from saesteer.run import Run
from saesteer.settings import SelectionSettings
from saesteer.summaries.summary import Summary
from studies.questions.choice_rules import by_judge, mean_of, picked
from studies.questions.experiments import steers_every_feature
from studies.questions.labelled_texts import detection, texts_by_topic
from studies.questions.quantity_correlations import correlation
from studies.questions.tables import DATA_SIZES

N_EXAMPLES = (5, 10, 20, 50, 100)
N_TEXTS = (2, 5, 10, 20, 50)
"""Of a concept, and as many others."""
_FEATURE = ["layer", "feature"]


def by_examples(
    examples: pl.DataFrame, lens: pl.DataFrame, texts: pl.DataFrame, features: pl.DataFrame, tokens: TextTokens, convention: str
) -> pl.DataFrame:
    """rule, n, layer, feature, value: input_score and concept_share (of the concept that all max-activating examples give) from the n
    max-activating examples of largest maximum, for features that have the largest number of max-activating examples. `texts` are text_id
    and token_topics."""
    most = examples.filter(pl.col("n_examples") >= N_EXAMPLES[-1])
    frames = []
    for n in N_EXAMPLES:
        fewer = most.with_columns(pl.col("examples").list.head(n))
        scores = input_scores(fewer, lens, tokens, convention, n).select(*_FEATURE, value="input_score")
        for rule, values in (("input_score", scores), ("concept_share", _shares(fewer, texts, features, n))):
            frames.append(
                values.drop_nulls("value").select(pl.lit(rule).alias("rule"), pl.lit(n, pl.UInt32).alias("n"), *_FEATURE, "value")
            )
    return pl.concat(frames)


def _shares(examples: pl.DataFrame, texts: pl.DataFrame, features: pl.DataFrame, n: int) -> pl.DataFrame:
    """layer, feature, value: share of the max-activating examples' maxima that are on the feature's concept (`texts`: text_id,
    token_index, concept)."""
    long = examples.select(*_FEATURE, "examples").explode("examples").unnest("examples").select(*_FEATURE, "text_id", "token_index")
    at = long.join(texts, on=["text_id", "token_index"], how="left").join(
        features.select(*_FEATURE, label="concept").drop_nulls("label"), on=_FEATURE
    )
    return at.group_by(_FEATURE).agg(value=(pl.col("concept") == pl.col("label")).fill_null(False).sum() / n).sort(_FEATURE)


def token_concepts(texts: pl.DataFrame, topics: list[str]) -> pl.DataFrame:
    """Labelled texts -> text_id, token_index, concept of each token that has one."""
    rows = texts.select("text_id", topic="token_topics").explode("topic")
    rows = rows.with_columns(token_index=pl.int_range(pl.len(), dtype=pl.UInt16).over("text_id")).filter(pl.col("topic") != NO_TOPIC)
    return rows.select("text_id", "token_index", concept=pl.col("topic").replace_strict(dict(enumerate(topics)), return_dtype=pl.String))


def by_texts(activations: Mapping[int, pl.DataFrame], texts: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """rule, n, layer, feature, value: label_f1 and information from n texts of a concept and as many others. `texts`: `texts_by_topic`."""
    frames = []
    for layer, rows in activations.items():
        for n in N_TEXTS:
            values = detection(rows, texts, features.filter(pl.col("layer") == layer), n)
            long = values.unpivot(["label_f1", "information"], index=_FEATURE, variable_name="rule", value_name="value")
            frames.append(long.select("rule", pl.lit(n, pl.UInt32).alias("n"), *_FEATURE, "value"))
    return pl.concat(frames)


def data_sizes(values: pl.DataFrame, features: pl.DataFrame, steering: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """What `by_records` and `by_texts` give, FEATURES and STEERING -> DATA_SIZES."""
    judged = by_judge(steering).join(features.select(*_FEATURE, "concept"), on=_FEATURE)
    rows = values.join(judged, on=_FEATURE, how="left").sort("layer", "rule", "n", "feature")
    lines = [line for group in rows.partition_by("layer", "rule", maintain_order=True) for line in _lines(group, settings)]
    return pl.DataFrame(lines, schema=DATA_SIZES.schema).sort(DATA_SIZES.keys)


def _lines(rows: pl.DataFrame, settings: SelectionSettings) -> Iterator[dict[str, Any]]:
    largest = rows.filter(pl.col("n") == rows["n"].max()).select(*_FEATURE, most="value")
    beside = rows.join(largest, on=_FEATURE, how="inner", maintain_order="left")
    for group in beside.partition_by("n", maintain_order=True):
        layer, rule, n = group.select("layer", "rule", "n").row(0)
        line: dict[str, Any] = {"layer": layer, "rule": rule, "n": n}
        rho = correlation(group, "value", "most", settings)
        candidates = group.drop_nulls("score")
        picks = picked(candidates, ["value", "most"], "feature")
        scores = picked(candidates, ["value"])["value"].drop_nulls().to_numpy()
        line |= {"n_features": rho.pop("n"), **rho, "n_concepts": len(scores)}
        same = (picks["value"] == picks["most"]).mean()
        yield line | {"same_pick": same} | mean_of(scores, "score", settings)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    labelled, topics = pl.read_parquet(run.file("texts")), run.topics()
    features, steering = run.summary(FEATURES), run.summary(STEERING)
    activations = {layer: run.rows(ACTIVATIONS, [layer]) for layer in run.experiment.layers}
    examples, lens, convention = run.rows(MAX_ACTIVATING_EXAMPLES), run.rows(LOGIT_LENS), run.experiment.input_score.tokens
    of_examples = by_examples(examples, lens, token_concepts(labelled, topics), features, run.tokens(), convention)
    values = pl.concat([of_examples, by_texts(activations, texts_by_topic(labelled, topics), features)])
    return {DATA_SIZES.name: data_sizes(values, features, steering, run.sweep.selection)}


SUMMARY = Summary((DATA_SIZES,), steers_every_feature, compute)
