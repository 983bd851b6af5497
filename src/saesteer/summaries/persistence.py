"""The concept rating of texts at the chosen factors, stretch by stretch."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import ASKED_CONCEPTS, GENERATIONS, METHOD_SUMMARIES, PERSISTENCE, of_fits
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment
from saesteer.summaries.summary import Summary


def exists(experiment: Experiment) -> bool:
    return isinstance(experiment, Comparison) and experiment.methods.stretch_words is not None


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.compare.layers import at_every_layer
    from saesteer.methods.compare.persistence import held_out_texts, persistence
    from saesteer.methods.compare.protocol import prompt_halves
    from saesteer.world.rating import stretch_ratings

    settings = run.comparison.methods
    assert settings.stretch_words is not None
    choices, methods = (run.summary(METHOD_SUMMARIES[name]) for name in ("method_choices", "methods"))
    concepts = run.summary(ASKED_CONCEPTS).select("concept_id", "concept")
    texts = at_every_layer(of_fits(run.rows(GENERATIONS)), run.experiment.layers)
    texts = held_out_texts(texts, choices, prompt_halves(list(run.prompts()), settings.factor_choice))
    texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
    rated = stretch_ratings(texts, run.world_judge(), run.topics(), settings.stretch_words)
    return {PERSISTENCE.name: persistence(rated, methods, settings)}


SUMMARY = Summary((PERSISTENCE,), exists, compute)
