"""The report to walk through, of all tables and figures of an experiment."""

from common import open_job

from saesteer.report.site.folder import write_report
from saesteer.report.site.results import results_of

job = open_job(snakemake)
write_report(results_of(job.wildcards["experiment"], job.experiment, job.workflow), job.outputs["folder"])
