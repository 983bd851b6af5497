"""One row a feature: records, concept, lens tokens, scores, decoder row's norm, page on Neuronpedia. Of a job's one layer, or of all."""

from common import open_job

from saesteer.analysis.summaries import features_table
from saesteer.core.store import read_manifest, read_rows
from saesteer.core.tables import CONCEPTS, FEATURES, INPUT_SCORE, LOGIT_LENS, OUTPUT_SCORE, RECORDS, write_summary
from saesteer.sources.neuronpedia.sources import known_sources

job = open_job(snakemake)
layers = [int(job.wildcards["layer"])] if "layer" in job.wildcards else None
records = read_rows(RECORDS, job.inputs["records"], layers, ["density", "max_activation", "n_records", "explanations"])
steps = [read_rows(table, job.inputs[table.name], layers) for table in (CONCEPTS, LOGIT_LENS, INPUT_SCORE, OUTPUT_SCORE)]
saes = {int(layer): entry for path in job.inputs["saes"] for layer, entry in read_manifest(path)["layers"].items()}
norms = {layer: entry.get("decoder_norm") for layer, entry in saes.items()}
sources = known_sources(job.experiment, list(saes))
pages = {layer: f"{job.workflow.addresses.neuronpedia.rstrip('/')}/{source}" for layer, source in sources.items()}
write_summary(FEATURES, features_table(records, *steps, norms, pages), job.outputs["table"])
