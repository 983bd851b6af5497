"""GenSuccess@1, 5 and 20 of each text that a single feature steers: how many of its tokens are the feature's top logit-lens tokens."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import Column, Table
from saesteer.core.texts import OF_TEXT, TEXT_KEYS
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, Scores
from saesteer.steps import keys
from saesteer.steps.fits import FITS
from saesteer.steps.generations import texts_of
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.step import Step, layers_of, values_of

GEN_SUCCESS = Table(
    "gen_success",
    TEXT_KEYS,
    {
        **OF_TEXT,
        "gen_success_1": Column(
            pl.UInt16,
            "tokens of the continuation that are the feature's first top logit-lens token",
            "the intervention is not one feature, or there is no text; see reason",
        ),
        "gen_success_5": Column(
            pl.UInt16, "... that are among the first 5", "the intervention is not one feature, or there is no text; see reason"
        ),
        "gen_success_20": Column(
            pl.UInt16, "... that are among the first 20", "the intervention is not one feature, or there is no text; see reason"
        ),
        "reason": Column(pl.String, "why gen_success_20 is null", "gen_success_20 is not null"),
    },
)


def step(experiment: Experiment) -> Step | None:
    of_fits = isinstance(experiment, Comparison)
    if isinstance(experiment, Scores) or (isinstance(experiment, Comparison) and experiment.methods.factor_rule != "gen_success"):
        return None
    settings, inputs = values_of(experiment.gen_success), ("model", "generations", "logit_lens", *(["fits"] if of_fits else []))
    return Step(GEN_SUCCESS, keys.texts_of(experiment), settings, inputs, ("analysis.gen_success",), compute, unit="text")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.gen_success import gen_success, with_feature

    layers = layers_of(missing)
    fits = run.rows(FITS, layers, ["features"]) if isinstance(run.experiment, Comparison) else pl.DataFrame(schema=FITS.schema)
    texts = with_feature(texts_of(run, missing, ["text", "token_ids", "reason"]), fits)
    counts = gen_success(texts, run.rows(LOGIT_LENS, layers), run.tokens(), run.steering.gen_success.tokens)
    yield from counts.partition_by("layer")
