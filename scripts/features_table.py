"""One row a feature: records, concept, lens tokens, scores. Of a job's one layer, or of all."""

from common import open_job

from saesteer.analysis.summaries import features_table
from saesteer.core.store import read_rows
from saesteer.core.tables import CONCEPTS, FEATURES, INPUT_SCORE, LOGIT_LENS, OUTPUT_SCORE, RECORDS, write_summary

job = open_job(snakemake)
layers = [int(job.wildcards["layer"])] if "layer" in job.wildcards else None
records = read_rows(RECORDS, job.inputs["records"], layers, ["density", "max_activation", "n_records", "explanation"])
steps = [read_rows(table, job.inputs[table.name], layers) for table in (CONCEPTS, LOGIT_LENS, INPUT_SCORE, OUTPUT_SCORE)]
write_summary(FEATURES, features_table(records, *steps), job.outputs["table"])
