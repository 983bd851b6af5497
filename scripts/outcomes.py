"""Each feature's best factor by both rules, and what steering at it gave on held-out prefixes."""

from common import open_job

from saesteer.analysis.best_factor import best_factors, outcomes
from saesteer.core.tables import BEST_FACTORS, FEATURES, OUTCOMES, STEERING, read_summary, write_summary

job = open_job(snakemake)
chosen = best_factors(read_summary(STEERING, job.input("steering")), job.experiment.best_factor)
write_summary(BEST_FACTORS, chosen, job.outputs["best_factors"])
write_summary(OUTCOMES, outcomes(chosen, read_summary(FEATURES, job.input("features"))), job.outputs["outcomes"])
