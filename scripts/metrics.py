"""The headline numbers, for DVC and for the README's table."""

from common import open_job

from saesteer.analysis.metrics import headline
from saesteer.core.files import write_json, write_text
from saesteer.core.tables import BEST_FACTORS, FEATURES, OUTCOMES, SELECTION, STEERING, read_summary
from saesteer.report.headline import headline_markdown

job = open_job(snakemake)
tables = [read_summary(table, job.input(table.name)) for table in (FEATURES, BEST_FACTORS, OUTCOMES, SELECTION, STEERING)]
numbers = headline(*tables, job.experiment.best_factor, job.experiment.selection)
write_json(job.outputs["metrics"], numbers)
write_text(job.outputs["headline"], headline_markdown(numbers))
