"""The concept that each feature stands for: the topic of its max-activating examples by the texts' labels, what Neuronpedia says it
means, these examples themselves, or none."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import CONCEPTS, MAX_ACTIVATING_EXAMPLES
from saesteer.run import Run
from saesteer.settings import ExampleConcepts, Experiment, GivenConcept, NoConcepts, TopicConcepts
from saesteer.steps.step import Step, every_feature, layers_of

MIN_SHARE = 0.4
"""A feature has a concept when at least this share of its max-activating examples have their maximum on one topic."""


def step(experiment: Experiment) -> Step | None:
    concepts = experiment.concepts
    of_topics = isinstance(concepts, TopicConcepts)
    settings = {"min_share": MIN_SHARE} if of_topics else concepts.model_dump(mode="json", exclude={"topics"})
    inputs = ("texts", "topics", "max_activating_examples") if of_topics else ("max_activating_examples",)
    modules = ("analysis.words_at_maxima",) if isinstance(concepts, ExampleConcepts) else ("analysis.concepts",)
    return Step(CONCEPTS, every_feature(experiment), settings, inputs, modules, compute)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import clear_concepts, explained_concepts, given_concept, no_concepts
    from saesteer.analysis.words_at_maxima import example_concepts

    concepts = run.experiment.concepts
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers_of(missing)).join(missing, on=["layer", "feature"], how="semi")
    if isinstance(concepts, TopicConcepts):
        texts = pl.read_parquet(run.file("texts"), columns=["text_id", "token_topics"]).cast({"text_id": pl.String})
        rows = clear_concepts(examples, texts, run.topics(), MIN_SHARE)
    elif isinstance(concepts, GivenConcept):
        rows = given_concept(examples, concepts.concept)
    elif isinstance(concepts, ExampleConcepts):
        rows = example_concepts(examples)
    else:
        rows = no_concepts(examples) if isinstance(concepts, NoConcepts) else explained_concepts(examples)
    yield from rows.partition_by("layer")
