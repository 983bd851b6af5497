"""The headline numbers, for DVC and for the README's table."""

from saesteer.analysis.metrics import headline
from saesteer.analysis.tables import BEST_FACTORS, CHOSEN_STRENGTHS, FILTER_VARIANTS, OUTCOMES, SELECTION
from saesteer.core.files import write_json, write_text
from saesteer.site.headline import headline_markdown
from saesteer.steps.features import FEATURES
from saesteer.workflow.job import open_job

job = open_job(snakemake)
tables = [job.run.summary(table) for table in (FEATURES, BEST_FACTORS, OUTCOMES, SELECTION, FILTER_VARIANTS)]
numbers = headline(*tables, job.run.sweep.best_factor, job.run.sweep.selection, job.run.summary_if_any(CHOSEN_STRENGTHS))
write_json(job.outputs["metrics"], numbers)
write_text(job.outputs["headline"], headline_markdown(numbers, job.run.sweep.best_factor.factor_choice))
