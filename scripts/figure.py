"""One figure and the data behind it."""

import importlib

from common import log, open_job

from saesteer.core.tables import ALL_SUMMARIES, read_summary
from saesteer.figures.definition import Options
from saesteer.figures.save import save_figure

job = open_job(snakemake)
figure = importlib.import_module(f"saesteer.figures.{job.wildcards['figure']}")
tables = {name: read_summary(ALL_SUMMARIES[name], job.input(name)) for name in job.inputs}
data = figure.data(tables, Options(job.experiment.best_factor.rule, job.experiment.selection))
save_figure(figure.draw(data), data, job.outputs["pdf"].with_suffix(""))
log.info("%s %s", snakemake.params.caption, figure.counts(data))
