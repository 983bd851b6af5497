"""Tables made from tables, by the module of the rule's name in studies.questions.summaries."""

from saesteer.workflow.job import open_job, write_summaries
from studies.questions.registry import SUMMARIES

write_summaries(open_job(snakemake), SUMMARIES[snakemake.rule])
