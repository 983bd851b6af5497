"""The concept a feature stands for, where texts are labelled: the clear topic with the highest lift in its max-activating examples."""

from collections.abc import Sequence

import polars as pl

ALGORITHM_VERSION = 2
NO_TOPIC = 255  # in token_topics: BOS, neutral openers


def clear_concepts(examples: pl.DataFrame, texts: pl.DataFrame, topics: Sequence[str], min_share: float) -> pl.DataFrame:
    """The CONCEPTS rows of features, from their MAX_ACTIVATING_EXAMPLES rows and the labelled texts (text_id, token_topics).

    share = the topic's part of the max-activating examples' maxima (all max-activating examples, those on no topic too); lift = share
    over the topic's part of all labelled tokens; a topic is clear when its share is at least min_share, and the concept is the clear
    topic of highest lift. Where none is clear, share and lift are of the topic of highest lift, which can be one that few texts are about.
    """
    labels = texts.select("text_id", topic="token_topics").explode("topic").with_columns(token_index=pl.int_range(pl.len()).over("text_id"))
    base = labels.filter(pl.col("topic") != NO_TOPIC)["topic"].value_counts(normalize=True, name="base")
    maxima = examples.filter(pl.col("n_examples") > 0).explode("examples")
    maxima = maxima.select("layer", "feature", "n_examples", pl.col("examples").struct.field("text_id", "token_index"))
    at_maxima = maxima.join(labels.cast({"token_index": pl.UInt16}), on=["text_id", "token_index"], how="left")
    best = _highest_lift(at_maxima, base, min_share)
    rows = examples.select("layer", "feature", "n_examples").join(best, on=["layer", "feature"], how="left")
    clear = pl.col("concept_share") >= min_share
    names = pl.col("topic").replace_strict(dict(enumerate(topics)), return_dtype=pl.String, default=None)
    reason = pl.when(pl.col("n_examples") == 0).then(pl.lit("no max-activating examples")).when(clear.fill_null(False)).then(None)
    return rows.select(
        "layer",
        "feature",
        concept=pl.when(clear).then(names),
        concept_share="concept_share",
        lift="lift",
        reason=reason.otherwise(pl.lit(f"no topic has a share of {min_share:g} of its max-activating examples")),
    )


def _highest_lift(at_maxima: pl.DataFrame, base: pl.DataFrame, min_share: float) -> pl.DataFrame:
    """layer, feature, topic, concept_share and lift: of the clear topics, where there are any, else of all, the one of highest lift."""
    on_topic = at_maxima.filter(pl.col("topic") != NO_TOPIC)
    shares = on_topic.group_by("layer", "feature", "topic").agg(concept_share=pl.len() / pl.col("n_examples").first())
    lifts = shares.join(base, on="topic").with_columns(lift=pl.col("concept_share") / pl.col("base"))
    clear = pl.col("concept_share") >= min_share
    ordered = lifts.sort("layer", "feature", clear, "lift", "topic", descending=[False, False, True, True, False])
    return ordered.unique(subset=["layer", "feature"], keep="first", maintain_order=True)


def explained_concepts(examples: pl.DataFrame) -> pl.DataFrame:
    """The CONCEPTS rows of features whose source explains them: the first explanation is the concept."""
    concept = pl.col("explanations").list.first()
    return examples.select(
        "layer",
        "feature",
        concept=concept,
        concept_share=pl.lit(None, pl.Float64),
        lift=pl.lit(None, pl.Float64),
        reason=pl.when(concept.is_null()).then(pl.lit("the source does not explain it")),
    )


def nearest_concepts(examples: pl.DataFrame, names: pl.DataFrame, min_share: float) -> pl.DataFrame:
    """The CONCEPTS rows of features from the name that is nearest to each of their max-activating examples (layer, feature, name): the most
    frequent one, ties by the alphabet, where it has at least min_share of them."""
    of_feature = ["layer", "feature"]
    shares = names.group_by(*of_feature, "name").agg(n=pl.len()).with_columns(share=pl.col("n") / pl.col("n").sum().over(of_feature))
    best = shares.sort(*of_feature, "share", "name", descending=[False, False, True, False]).unique(of_feature, keep="first")
    rows = examples.select(of_feature).join(best, on=of_feature, how="left", maintain_order="left")
    clear, known = pl.col("share") >= min_share, pl.col("share").is_not_null()
    reason = pl.when(~known).then(pl.lit("no max-activating examples")).when(clear).then(None)
    return rows.select(
        *of_feature,
        concept=pl.when(clear).then("name"),
        concept_share="share",
        lift=pl.lit(None, pl.Float64),
        reason=reason.otherwise(pl.lit(f"no name is nearest to a share of {min_share:g} of its max-activating examples")),
    )


def no_concepts(examples: pl.DataFrame) -> pl.DataFrame:
    """The CONCEPTS rows of features that stand for nothing by a source."""
    unexplained = explained_concepts(examples.with_columns(explanations=pl.lit([], pl.List(pl.String))))
    return unexplained.with_columns(reason=pl.lit("the experiment has no concepts"))


def given_concept(examples: pl.DataFrame, concept: str) -> pl.DataFrame:
    """The CONCEPTS rows of features that are all rated against one concept."""
    return explained_concepts(examples.with_columns(explanations=pl.lit([concept], pl.List(pl.String))))


def with_concept(generations: pl.DataFrame, concepts: pl.DataFrame) -> pl.DataFrame:
    """GENERATIONS rows with the concept that each is to be about: its feature's, of CONCEPTS rows (null where that has none), or of
    COMPARED_CONCEPTS rows the concept that the method was fitted for."""
    of_features = "feature" in concepts.columns
    on = ["layer", "target"] if of_features else ["target"]
    named = concepts.rename({"feature" if of_features else "concept_id": "target"}).cast({"target": pl.String}).select(*on, "concept")
    unknown = generations.join(named, on=on, how="anti")
    if unknown.height:
        raise ValueError(f"there are texts for target {unknown['target'][0]}, of which no concept is known: compute the step before anew")
    return generations.join(named, on=on, how="left", maintain_order="left")
