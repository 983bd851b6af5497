"""The records and explanations of each feature, from Neuronpedia."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.sources.neuronpedia.fetch import feature_records
    from saesteer.sources.neuronpedia.sources import sources_of

    downloads = job.workflow.cache_dir or job.workflow.data_dir / "downloads"
    sources = sources_of(job.experiment, job.layers)
    yield from feature_records(job.workflow.addresses, sources, missing, job.experiment.records, downloads)


complete_step(job, "records", compute)
