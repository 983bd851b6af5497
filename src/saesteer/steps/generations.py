"""Generated texts, of single features (P1's sweep) or of fits (the comparison of methods), at each factor, prompt and sample."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.tables import Column, Table
from saesteer.core.texts import OF_TEXT, TEXT_KEYS, as_generations, of_features, of_fits
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, Scores, Sweep
from saesteer.steps import keys
from saesteer.steps.fits import FITS
from saesteer.steps.pilot import PILOT
from saesteer.steps.step import Step, by_layer, layers_of, model_values, sampling_values

if TYPE_CHECKING:
    from saesteer.engine.continuation import Sampling

GENERATIONS = Table(
    "generations",
    TEXT_KEYS,
    {
        **OF_TEXT,
        "token_ids": Column(pl.List(pl.UInt32), "generated tokens, the one that ended the text included", "see reason"),
        "text": Column(pl.String, "the continuation or response", "the method abstains; see reason"),
        "n_tokens": Column(pl.UInt16, "number of generated tokens; 0 where there is no text"),
        "stopped": Column(pl.Boolean, "ended by the stop text or EOS, not by length"),
        "seconds": Column(
            pl.Float64,
            "its share of its batch's wall time",
            "single features: their rows are the same whenever they are made",
            is_wall_time=True,
        ),
        "reason": Column(pl.String, "why text is null", "text is not null"),
    },
)


SAMPLING = {"max_new_tokens", "temperature", "top_k", "top_p", "stop", "seed"}


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores):
        return None
    of_fits = isinstance(experiment, Comparison)
    included = SAMPLING | {"sae_features"} if of_fits else SAMPLING
    settings = {**sampling_values(experiment.sampling, include=included), **model_values(experiment)}
    if isinstance(experiment, Sweep) and experiment.sweep.edit != "addition":
        settings["edit"] = experiment.sweep.edit
    deciding = [FITS.name] if of_fits else [PILOT.name] if isinstance(experiment, Sweep) and experiment.sweep.pilot else []
    inputs, modules = ("model", "saes", *deciding), ("engine.generations",)
    texts = keys.texts_of(experiment)
    return Step(GENERATIONS, texts, settings, inputs, modules, compute, runs_model=True, unit="text", tokens="n_tokens")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.generations import feature_texts, fit_texts

    experiment, lm = run.experiment, run.model()
    how = (run.prompts(), sampling_of(experiment), experiment.sampling.seed)
    for layer, rows in by_layer(missing):
        if isinstance(experiment, Comparison):
            fits = run.rows(FITS, [layer], ["kind", "tensors", "values"])
            frames = fit_texts(lm, run.sae(layer), layer, of_fits(rows), fits, *how, experiment.methods.sae_features)
        else:
            frames = feature_texts(lm, run.sae(layer), layer, of_features(rows), *how, edit=run.sweep.sweep.edit)
        yield from map(as_generations, frames)


def sampling_of(experiment: Experiment) -> "Sampling":
    """How an experiment's tokens are drawn."""
    from saesteer.engine.continuation import Sampling

    drawn = experiment.sampling
    return Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_k, drawn.stop or "", drawn.top_p)


def texts_of(run: Run, missing: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The texts of missing keys, with some of their columns."""
    texts = run.rows(GENERATIONS, layers_of(missing), columns)
    return texts.join(missing, on=GENERATIONS.keys, how="semi", maintain_order="left")
