"""One figure and the data behind it, by its module in saesteer.figures."""

from saesteer.figures.registry import FIGURES
from saesteer.workflow.job import open_job, write_figure

write_figure(open_job(snakemake), FIGURES[snakemake.wildcards.figure])
