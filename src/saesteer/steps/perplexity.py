"""The loss of each text, given its prompt, under a second model."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import Column, Table
from saesteer.core.texts import OF_TEXT, TEXT_KEYS
from saesteer.run import Run
from saesteer.settings import Experiment, Scores
from saesteer.steps import keys
from saesteer.steps.generations import texts_of
from saesteer.steps.step import Step, values_of

PERPLEXITY = Table(
    "perplexity",
    TEXT_KEYS,
    {
        **OF_TEXT,
        "mean_nll": Column(
            pl.Float64,
            "mean loss per token in nats, given the prefix; perplexity is its exp",
            "the continuation is empty, or there is none",
        ),
        "n_scored": Column(pl.UInt16, "tokens scored"),
        "whole_text_nll": Column(
            pl.Float64,
            "mean loss per token in nats of prefix and continuation together",
            "there is no continuation, or both together are one token",
        ),
        "reason": Column(pl.String, "why mean_nll is null", "mean_nll is not null"),
    },
)


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores):
        return None
    settings = {**values_of(experiment.perplexity.model, "dtype", "bos"), "prompt_format": experiment.model.prompt_format}
    inputs, texts = ("perplexity_model", "generations"), keys.texts_of(experiment)
    return Step(PERPLEXITY, texts, settings, inputs, ("engine.perplexity",), compute, runs_model=True, unit="text", tokens="n_scored")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.perplexity import text_losses

    texts = texts_of(run, missing, ["text", "reason"])
    yield from text_losses(run.model("perplexity_model"), texts, run.prompts(), run.experiment.model.prompt_format)
