"""The report to walk through, of all tables and figures of an experiment."""

from saesteer.site.folder import write_report
from saesteer.workflow.job import open_job

job = open_job(snakemake)
write_report(job.run, job.outputs["folder"])
