"""Held-out scores of steering methods, with intervals; and the report that sets them beside the papers' figures."""

from saesteer.core.files import write_text
from saesteer.core.tables import COMPARED_CONCEPTS
from saesteer.report.method_report import report_markdown
from saesteer.summaries.method_tables import SUMMARY, protocols
from saesteer.workflow.job import open_job, write_summaries

job = open_job(snakemake)
tables = write_summaries(job, SUMMARY)
n_concepts = job.run.summary(COMPARED_CONCEPTS).height
compared = (tables[name] for name in ("methods", "method_differences", "method_published"))
write_text(job.outputs["report"], report_markdown(*compared, protocols(job.run, n_concepts), job.run.comparison.methods))
