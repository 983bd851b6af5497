"""Tables made from tables, by the module of the rule's name in saesteer.summaries."""

from saesteer.summaries.summary import summaries
from saesteer.workflow.job import open_job, write_summaries

write_summaries(open_job(snakemake), summaries()[snakemake.rule])
