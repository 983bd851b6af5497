"""The concept rating of texts at the chosen factors, stretch by stretch."""

from common import open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import ASKED_CONCEPTS, GENERATIONS, METHOD_SUMMARIES, PERSISTENCE, of_fits, read_summary, write_summary
from saesteer.methods.compare.layers import at_every_layer
from saesteer.methods.compare.persistence import held_out_texts, persistence
from saesteer.methods.compare.protocol import prompt_halves
from saesteer.world.rating import stretch_ratings

job = open_job(snakemake)
experiment, settings = job.experiment, job.experiment.methods
choices, methods = (read_summary(METHOD_SUMMARIES[name], job.input(name)) for name in ("method_choices", "methods"))
concepts = read_summary(ASKED_CONCEPTS, job.input("asked_concepts")).select("concept_id", "concept")
texts = at_every_layer(of_fits(read_rows(GENERATIONS, job.inputs["generations"])), experiment.layers)
texts = held_out_texts(texts, choices, prompt_halves(list(job.prefixes()), settings.factor_choice))
texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
rated = stretch_ratings(texts, job.world_judge(), job.topics(), settings.stretch_words)
write_summary(PERSISTENCE, persistence(rated, methods, settings), job.outputs["table"])
