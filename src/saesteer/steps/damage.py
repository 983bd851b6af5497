"""What each fit does to ordinary text, at every factor."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from saesteer.core.tables import LAYER, Column, Table
from saesteer.core.texts import OF_TEXT
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment
from saesteer.settings.methods import N_ORDINARY_TEXTS, ORDINARY_TOKENS
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps import keys
from saesteer.steps.fits import FITS
from saesteer.steps.pilot import ordinary, ordinary_texts_pin
from saesteer.steps.step import Step, by_layer, model_values

DAMAGE = Table(
    "damage",
    ("layer", "method", "concept_id", "factor"),
    {
        "layer": LAYER,
        "method": OF_TEXT["method"],
        **COMPARED_CONCEPTS.some("concept_id"),
        "factor": OF_TEXT["factor"],
        "loss": Column(pl.Float64, "mean over tokens of ordinary texts, steered, of -log p, in nats", "the method abstains"),
        "unsteered_loss": Column(pl.Float64, "the same, unsteered"),
        "divergence": Column(
            pl.Float64,
            "mean over the tokens of the Kullback-Leibler divergence of the next-token distribution from the unsteered one, in nats",
            "the method abstains",
        ),
        "n_tokens": Column(pl.UInt32, "tokens counted; 0 where the method abstains"),
    },
)


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Comparison) or (texts := ordinary_texts_pin(experiment)) is None:
        return None
    settings: dict[str, Any] = {"n_ordinary_texts": N_ORDINARY_TEXTS, "ordinary_tokens": ORDINARY_TOKENS}
    settings |= {"sae_features": experiment.methods.sae_features, **model_values(experiment)}
    if experiment.model.bos != "always":  # rows of before lack a text's first token where text was added to it
        settings |= {"first_token": "read"}
    inputs, modules = ("model", "saes", "fits", texts), ("engine.divergence", "sources.corpus")
    return Step(DAMAGE, keys.fits_at_factors(experiment), settings, inputs, modules, compute, runs_model=True, unit="fit")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.divergence import text_damage

    settings, texts, lm = run.comparison.methods, ordinary(run, N_ORDINARY_TEXTS), run.model()
    for layer, rows in by_layer(missing):
        fits = run.rows(FITS, [layer], ["kind", "tensors", "values"])
        yield from text_damage(lm, run.sae(layer), layer, rows, fits, texts, settings.sae_features)
