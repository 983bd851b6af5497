"""One figure and the data behind it, by its module in studies.questions.figures."""

from saesteer.workflow.job import open_job, write_figure
from studies.questions.registry import FIGURES, TABLES

write_figure(open_job(snakemake), FIGURES[snakemake.wildcards.figure], TABLES)
