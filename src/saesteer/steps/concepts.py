"""The concept that each feature stands for: the topic of its max-activating examples by the texts' labels, the name nearest to them, what
Neuronpedia says it means, these examples themselves, or none."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, ExampleConcepts, Experiment, GivenConcept, NearestConcepts, NoConcepts, Scores, TopicConcepts
from saesteer.sources.corpus import text_ids
from saesteer.steps.judges import EmbeddingKind
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import Step, by_layer, every_feature, layers_of

CONCEPTS = Table(
    "concepts",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "concept": Column(pl.String, "the source's explanation, or the topic of highest lift", "no topic is clear; see reason"),
        "concept_share": Column(pl.Float64, "share of the max-activating examples' maxima on that topic", "no example is on a topic"),
        "lift": Column(pl.Float64, "that share over the topic's of all labelled tokens", "no example is on a topic"),
        "reason": Column(pl.String, "why concept is null", "concept is not null"),
    },
)


FEATURES_AT_ONCE = 128
"""Features that are named together."""
N_DESCRIBED_BY = 10
"""Max-activating examples whose vectors a feature's concept is made of, where it stands for these."""
MIN_SHARE = 0.4
"""A feature has a concept when at least this share of its max-activating examples have their maximum on one topic."""


def step(experiment: Experiment) -> Step | None:
    concepts = experiment.concepts
    if isinstance(concepts, NearestConcepts):
        return _nearest_step(experiment)
    of_topics = isinstance(concepts, TopicConcepts)
    settings = {"min_share": MIN_SHARE} if of_topics else concepts.model_dump(mode="json", exclude={"topics"})
    inputs = ("texts", "topics", "max_activating_examples") if of_topics else ("max_activating_examples",)
    modules = ("analysis.words_at_maxima",) if isinstance(concepts, ExampleConcepts) else ("analysis.concepts",)
    return Step(CONCEPTS, every_feature(experiment), settings, inputs, modules, compute)


def _nearest_step(experiment: Experiment) -> Step:
    assert not isinstance(experiment, Scores)
    assert isinstance(experiment.judge, EmbeddingJudge)
    settings = {"min_share": MIN_SHARE, "n_described_by": N_DESCRIBED_BY, **EmbeddingKind(experiment, experiment.judge).naming_values()}
    inputs = ("judge_model", "max_activating_examples")
    modules = ("analysis.concepts", "analysis.label_evidence", "judge.embedding", "judge.nearest")
    return Step(CONCEPTS, every_feature(experiment), settings, inputs, modules, compute, runs_model=True)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import clear_concepts, explained_concepts, given_concept, no_concepts
    from saesteer.analysis.words_at_maxima import example_concepts

    concepts = run.experiment.concepts
    if isinstance(concepts, NearestConcepts):
        yield from _nearest(run, missing)
        return
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers_of(missing)).join(missing, on=["layer", "feature"], how="semi")
    if isinstance(concepts, TopicConcepts):
        topics = pl.read_parquet(run.pinned_file("texts"), columns=["token_topics"])
        texts = topics.with_columns(text_id=pl.Series(text_ids(run.file("texts"))))
        rows = clear_concepts(examples, texts, run.topics(), MIN_SHARE)
    elif isinstance(concepts, GivenConcept):
        rows = given_concept(examples, concepts.concept)
    elif isinstance(concepts, ExampleConcepts):
        rows = example_concepts(examples)
    else:
        rows = no_concepts(examples) if isinstance(concepts, NoConcepts) else explained_concepts(examples)
    yield from rows.partition_by("layer")


def _nearest(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows by the names nearest to the first max-activating examples of features, FEATURES_AT_ONCE together."""
    from saesteer.analysis.concepts import nearest_concepts
    from saesteer.analysis.label_evidence import excerpts

    judge, text_of = run.steering.judge, run.tokens().text_of
    assert isinstance(judge, EmbeddingJudge)
    namer = EmbeddingKind(run.steering, judge).nearest_namer(run)
    for layer, features in by_layer(missing):
        known = run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"]).join(features, on=["layer", "feature"], how="semi")
        for some in known.iter_slices(FEATURES_AT_ONCE):
            shown = some.with_columns(pl.col("examples").list.head(N_DESCRIBED_BY)).explode("examples").drop_nulls("examples")
            names = namer.nearest(excerpts(shown["examples"].to_list(), text_of))
            of_example = shown.select("layer", "feature", name=pl.Series(names, dtype=pl.String))
            yield nearest_concepts(some, of_example, MIN_SHARE)
