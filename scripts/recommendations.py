"""What `saesteer recommend` would say of each concept, against the best that could be said."""

import polars as pl
from common import open_job

from saesteer.analysis.recommendation import N_PER_LAYER, recommendations
from saesteer.core.store import read_rows
from saesteer.core.tables import FEATURES, JUDGEMENTS, RECOMMENDATIONS, of_features, read_summary, write_summary

job = open_job(snakemake)
place = {prompt: number for number, prompt in enumerate(job.prefixes())}
texts = of_features(read_rows(JUDGEMENTS, job.inputs["judge"], job.experiment.layers))
texts = texts.sort(pl.col("prefix_id").replace_strict(place, return_dtype=pl.Int64), maintain_order=True)
table = recommendations(read_summary(FEATURES, job.input("features")), texts, N_PER_LAYER, job.experiment.selection)
write_summary(RECOMMENDATIONS, table, job.outputs["table"])
