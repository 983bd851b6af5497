"""Means over generations: one row a feature, factor and half of the prefixes."""

from common import open_job

from saesteer.analysis.summaries import steering_table
from saesteer.core.store import read_rows
from saesteer.core.tables import GEN_SUCCESS, JUDGEMENTS, PERPLEXITY, STEERING, write_summary
from saesteer.sources.prefixes import halves

job = open_job(snakemake)
half_of = halves(job.prefixes())
steps = [read_rows(table, job.inputs[table.name]) for table in (GEN_SUCCESS, PERPLEXITY, JUDGEMENTS)]
write_summary(STEERING, steering_table(*steps, half_of), job.outputs["table"])
