"""The intervention of each wanted method and concept."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import ASKED_CONCEPTS, CONCEPT_TEXTS, EFFECTS, FEATURES, STEERING_PROMPTS, read_summary
from saesteer.settings.recipes import Training, recipes_of
from saesteer.sources.prefixes import effect_prompts

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import open_sae

    from saesteer.engine.models import plain_token_ids
    from saesteer.methods.fit.approximator import fitted
    from saesteer.methods.fit.fits import fitted_rows, problems_of
    from saesteer.methods.fit.vectors_file import read_vectors

    settings = job.experiment.methods
    concepts, texts = read_summary(ASKED_CONCEPTS, job.input("asked_concepts")), read_summary(CONCEPT_TEXTS, job.input("concept_texts"))
    features = pl.concat(read_summary(FEATURES, path) for path in job.inputs["features"])
    written = [read_summary(STEERING_PROMPTS, path) for path in job.inputs.get("steering_prompts", [])]
    prompts = pl.concat([pl.DataFrame(schema=STEERING_PROMPTS.schema), *written])
    lm = open_model(job)
    vectors = read_vectors(settings.vectors, job.experiment.saes.d_model) if settings.vectors else {}
    training = Training(recipes_of(job.experiment.model.name), settings.learning_rates, settings.held_out_texts)
    neutral = [plain_token_ids(lm, text) for text in effect_prompts(settings) if text]
    for layer, rows in by_layer(missing):
        effects = None
        if "effects" in job.inputs:
            effects = fitted(read_rows(EFFECTS, job.inputs["effects"], [layer]), settings.effects.n_held_out)
        scored = features.filter(pl.col("layer") == layer)
        given = (scored, effects, vectors, prompts, settings.words, settings.seed, training, settings.training_tokens)
        problems = problems_of(lm, open_sae(job, layer), layer, concepts, texts, *given)
        yield from with_progress(fitted_rows(problems, rows, neutral), rows.height, "fit")


complete_step(job, "fits", compute)
