"""The concept that each feature stands for: the topic of its records by the texts' labels, what Neuronpedia says it means, or none."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

from saesteer.analysis.concepts import clear_concepts, explained_concepts, given_concept, no_concepts
from saesteer.core.store import read_rows
from saesteer.core.tables import RECORDS
from saesteer.settings import GivenConcept, NoConcepts, TopicConcepts

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    records = read_rows(RECORDS, job.inputs["records"], job.layers).join(missing, on=["layer", "feature"], how="semi")
    if isinstance(job.experiment.concepts, TopicConcepts):
        texts = pl.read_parquet(job.input("texts_file"), columns=["text_id", "token_topics"])
        topics = job.topics()
        yield from clear_concepts(records, texts, topics, job.experiment.concepts.min_share).partition_by("layer")
    elif isinstance(job.experiment.concepts, GivenConcept):
        yield from given_concept(records, job.experiment.concepts.concept).partition_by("layer")
    elif isinstance(job.experiment.concepts, NoConcepts):
        yield from no_concepts(records).partition_by("layer")
    else:
        yield from explained_concepts(records).partition_by("layer")


complete_step(job, "concepts", compute)
