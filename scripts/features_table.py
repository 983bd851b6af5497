"""One row a feature: records, concept, lens tokens, scores."""

from common import open_job

from saesteer.store import read_rows
from saesteer.summaries import features_table
from saesteer.tables import CONCEPTS, FEATURES, INPUT_SCORE, LOGIT_LENS, OUTPUT_SCORE, RECORDS, write_summary

job = open_job(snakemake)
records = read_rows(RECORDS, job.inputs["records"], columns=["density", "max_activation", "n_records", "explanation"])
steps = [read_rows(table, job.inputs[table.name]) for table in (CONCEPTS, LOGIT_LENS, INPUT_SCORE, OUTPUT_SCORE)]
write_summary(FEATURES, features_table(records, *steps), job.outputs["table"])
