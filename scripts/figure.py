"""One figure and the data behind it."""

from saesteer.figures.definition import Options
from saesteer.figures.registry import FIGURES
from saesteer.figures.save import save_figure
from saesteer.settings import Sweep
from saesteer.summaries.summary import summary_tables
from saesteer.workflow.job import log, open_job

job = open_job(snakemake)
figure, experiment = FIGURES[job.wildcards["figure"]], job.run.experiment
tables = {name: job.run.summary(summary_tables()[name]) for name in figure.tables}
rule = experiment.best_factor.rule if isinstance(experiment, Sweep) else ""
data = figure.data(tables, Options(rule, experiment.intervals))
save_figure(figure.draw(data), data, job.outputs["pdf"].with_suffix(""))
log.info("%s %s", figure.caption, figure.counts(data))
