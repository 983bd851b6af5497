"""How much data quantities need that come from records or from labelled texts."""

import polars as pl
from common import open_job

from saesteer.analysis.data_sizes import by_records, by_texts, data_sizes, token_concepts
from saesteer.analysis.labelled_texts import texts_by_topic
from saesteer.core.store import read_rows
from saesteer.core.tables import ACTIVATIONS, DATA_SIZES, FEATURES, LOGIT_LENS, RECORDS, STEERING, read_summary, write_summary
from saesteer.core.tokens import load_tokens

job = open_job(snakemake)
labelled = pl.read_parquet(job.input("texts_file"))
topics = job.topics()
features, steering = (read_summary(table, job.input(table.name)) for table in (FEATURES, STEERING))
records, lens = (read_rows(table, job.inputs[table.name]) for table in (RECORDS, LOGIT_LENS))
tokens, convention = load_tokens(job.model_folder()), job.experiment.input_score.tokens
activations = {layer: read_rows(ACTIVATIONS, job.inputs["activations"], [layer]) for layer in job.experiment.layers}
values = pl.concat(
    [
        by_records(records, lens, token_concepts(labelled, topics), features, tokens, convention),
        by_texts(activations, texts_by_topic(labelled, topics), features),
    ]
)
write_summary(DATA_SIZES, data_sizes(values, features, steering, job.experiment.selection), job.outputs["table"])
