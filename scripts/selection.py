"""What filtering by output score does, against random removal and within layers."""

from common import open_job

from saesteer.analysis.selection import selection
from saesteer.core.tables import OUTCOMES, SELECTION, read_summary, write_summary

job = open_job(snakemake)
write_summary(SELECTION, selection(read_summary(OUTCOMES, job.input("outcomes")), job.experiment.selection), job.outputs["table"])
