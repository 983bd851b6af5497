"""What each fit does to ordinary text, at every factor."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import DAMAGE, FITS
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, LocalExamples, Steering
from saesteer.settings.methods import N_ORDINARY_TEXTS, ORDINARY_TOKENS
from saesteer.sources.corpus import read_texts
from saesteer.steps import keys
from saesteer.steps.step import Step, by_layer, model_values


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Comparison) or (texts := ordinary_texts_pin(experiment)) is None:
        return None
    settings = {"n_ordinary_texts": N_ORDINARY_TEXTS, "ordinary_tokens": ORDINARY_TOKENS, "sae_features": experiment.methods.sae_features}
    settings |= model_values(experiment)
    inputs, modules = ("model", "saes", "fits", texts), ("engine.damage", "sources.corpus")
    return Step(DAMAGE, keys.fits_at_factors(experiment), settings, inputs, modules, compute, runs_model=True, unit="fit")


def ordinary_texts_pin(experiment: Steering) -> str | None:
    """The pin of the ordinary texts; None: there are none."""
    if isinstance(experiment, Comparison) and experiment.methods.ordinary_texts:
        return "ordinary_texts"
    return "texts" if isinstance(experiment.max_activating_examples, LocalExamples) else None


def ordinary(run: Run, n_texts: int, n_tokens: int = ORDINARY_TOKENS) -> list[list[int]]:
    """The first tokens of so many ordinary texts."""
    from saesteer.engine.damage import ordinary_texts

    file, model = run.file(str(ordinary_texts_pin(run.steering))), run.experiment.model
    corpus = read_texts(file, run.model_folder(), model.bos, n_tokens)
    return ordinary_texts(corpus["token_ids"].to_list(), n_texts, n_tokens)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.damage import text_damage

    settings, texts, lm = run.comparison.methods, ordinary(run, N_ORDINARY_TEXTS), run.model()
    for layer, rows in by_layer(missing):
        fits = run.rows(FITS, [layer], ["kind", "tensors", "values"])
        yield from text_damage(lm, run.sae(layer), layer, rows, fits, texts, settings.sae_features)
