"""The missing rows of a step, by its module in saesteer.steps."""

from saesteer.workflow.job import complete_step, open_job

complete_step(open_job(snakemake))
