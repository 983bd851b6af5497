"""Tables made from tables, by a function of saesteer.summaries."""

from saesteer.summaries.summary import summaries
from saesteer.workflow.job import open_job, write_summaries

write_summaries(open_job(snakemake), summaries()[snakemake.params.summary])
