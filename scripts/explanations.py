"""What Neuronpedia says each feature means, as its concept."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

from saesteer.analysis.concepts import explained_concepts
from saesteer.core.store import read_rows
from saesteer.core.tables import RECORDS

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    records = read_rows(RECORDS, job.inputs["records"], job.layers, ["explanation"]).join(missing, on=["layer", "feature"], how="semi")
    yield from explained_concepts(records).partition_by("layer")


complete_step(job, "concepts", compute)
