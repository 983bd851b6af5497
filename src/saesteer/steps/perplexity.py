"""The loss of each text, given its prompt, under a second model."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import PERPLEXITY
from saesteer.run import Run
from saesteer.settings import Experiment, Scores
from saesteer.steps import keys
from saesteer.steps.generations import texts_of
from saesteer.steps.step import Step


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores):
        return None
    second = experiment.perplexity.model
    settings = {**second.model_dump(mode="json", include={"dtype", "bos"}), "prompt_format": experiment.model.prompt_format}
    inputs, modules = ("perplexity_model", "generations"), ("engine.perplexity",)
    return Step(
        table=PERPLEXITY,
        keys=keys.texts_of(experiment),
        settings=settings,
        inputs=inputs,
        modules=modules,
        compute=compute,
        runs_model=True,
        unit="text",
        tokens="n_scored",
    )


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.perplexity import text_losses

    texts = texts_of(run, missing, ["text", "reason"])
    yield from text_losses(run.model("perplexity_model"), texts, run.prompts(), run.experiment.model.prompt_format)
