"""Means over generations: one row a feature, factor and half of the prefixes."""

from common import open_job

from saesteer.analysis.halves import split_halves
from saesteer.analysis.summaries import steering_table
from saesteer.core.store import read_rows
from saesteer.core.tables import GEN_SUCCESS, JUDGEMENTS, PERPLEXITY, STEERING, of_features, write_summary

job = open_job(snakemake)
half_of = split_halves(job.prefixes())
steps = [of_features(read_rows(table, job.inputs[table.name])).drop("reason") for table in (GEN_SUCCESS, PERPLEXITY, JUDGEMENTS)]
write_summary(STEERING, steering_table(*steps, half_of), job.outputs["table"])
