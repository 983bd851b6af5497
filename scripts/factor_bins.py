"""GenSuccess and perplexity against factor, by output-score bin."""

from common import open_job

from saesteer.analysis.factor_bins import factor_bins
from saesteer.core.tables import FACTOR_BINS, FEATURES, STEERING, read_summary, write_summary

job = open_job(snakemake)
steering, features = read_summary(STEERING, job.input("steering")), read_summary(FEATURES, job.input("features"))
edges = job.experiment.figures.output_score_bins
write_summary(FACTOR_BINS, factor_bins(steering, features, edges, job.experiment.selection), job.outputs["table"])
