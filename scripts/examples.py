"""Example features, chosen by a fixed rule, with a record, lens tokens and a steered text."""

from common import open_job

from saesteer.analysis.examples import examples
from saesteer.core.store import read_rows
from saesteer.core.tables import EXAMPLES, FEATURES, GENERATIONS, OUTCOMES, RECORDS, of_features, read_summary, write_summary

job = open_job(snakemake)
settings = job.experiment
prefixes = list(job.prefixes().values())
table = examples(
    read_summary(OUTCOMES, job.input("outcomes")),
    read_summary(FEATURES, job.input("features")),
    read_rows(RECORDS, job.inputs["records"]),
    of_features(read_rows(GENERATIONS, job.inputs["generations"], None, ["text"])),
    prefixes,
    settings.best_factor.rule,
    settings.figures.example_features,
    settings.selection.late_layers_from,
)
write_summary(EXAMPLES, table, job.outputs["table"])
