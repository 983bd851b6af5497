"""P1's figures beside an experiment's."""

from saesteer.analysis.tables import OUTCOMES, SELECTION
from saesteer.core.files import write_text
from saesteer.site.paper import paper_markdown
from saesteer.steps.features import FEATURES
from saesteer.workflow.job import open_job

job = open_job(snakemake)
tables = [job.run.summary(table) for table in (FEATURES, OUTCOMES, SELECTION)]
write_text(job.outputs["page"], paper_markdown(job.run.name, job.run.sweep, *tables))
