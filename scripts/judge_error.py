"""Mean scores corrected for how often the judge is measured to err."""

from pathlib import Path

import polars as pl
from common import open_job

from saesteer.analysis.choice_rules import with_quantities
from saesteer.analysis.halves import split_halves
from saesteer.analysis.judge_error import judge_error, read_counts
from saesteer.core.store import read_rows
from saesteer.core.tables import FEATURES, JUDGE_ERROR, JUDGEMENTS, QUANTITIES, STEERING, of_features, read_summary, write_summary

job = open_job(snakemake)
features, steering = (read_summary(table, job.input(table.name)) for table in (FEATURES, STEERING))
quantities = pl.concat([read_summary(QUANTITIES, path) for path in job.inputs["quantities"]])
half_of = split_halves(job.prefixes())
texts = of_features(read_rows(JUDGEMENTS, job.inputs["judge"], job.experiment.layers))
texts = texts.with_columns(half=pl.col("prefix_id").replace_strict(half_of, return_dtype=pl.Int64))
counts = next((read_counts(Path(path)) for path in job.inputs["counts"]), None)
table = judge_error(with_quantities(features, quantities), steering, texts, counts, job.experiment.selection)
write_summary(JUDGE_ERROR, table, job.outputs["table"])
