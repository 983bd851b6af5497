"""Each feature's pilot factor, around which its factors lie (`sweep.pilot`); and the ordinary texts, on which it is measured what steering
does to text that has nothing to do with it."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, Steering, Sweep
from saesteer.settings.methods import ORDINARY_TOKENS
from saesteer.sources.features import resolve
from saesteer.steps.step import Step, by_layer, every_feature, values_of

PILOT = Table(
    "pilot",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "factor": Column(
            pl.String,
            (
                "pilot factor, in multiples of a_max, to three digits: steering with it raises the loss of ordinary "
                "texts by sweep.pilot.loss_rise"
            ),
        ),
        "norm_share": Column(
            pl.Float64, "norm of what is added at that factor over the norm of what it is added to, mean over the tokens counted"
        ),
        "beyond": Column(
            pl.String,
            "`smallest` or `largest`: the end of the range searched, which factor then is, and beyond which it lies",
            "it lies within the range",
        ),
    },
)


N_TOKENS = 24
"""Tokens that are read of each text, the first eight as its prompt."""


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Sweep) or experiment.sweep.pilot is None:
        return None
    settings = {**values_of(experiment.sweep.pilot), "n_tokens": N_TOKENS, **values_of(experiment.model, "dtype", "bos")}
    inputs, modules = ("model", "saes", "texts"), ("engine.pilot", "sources.corpus")
    return Step(PILOT, every_feature(experiment), settings, inputs, modules, compute, runs_model=True)


def tokens_read(experiment: Experiment) -> int:
    """About how many tokens the whole model could read in the time that the step takes: half the blocks, at each of four strengths."""
    pilot = experiment.sweep.pilot if isinstance(experiment, Sweep) else None
    return 2 * sum(map(len, resolve(experiment).values())) * pilot.n_texts * N_TOKENS if pilot else 0


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.pilot import pilot_factors

    pilot = run.sweep.sweep.pilot
    assert pilot is not None
    texts, lm = ordinary(run, pilot.n_texts, N_TOKENS), run.model()
    for layer, rows in by_layer(missing):
        yield from pilot_factors(lm, run.sae(layer), rows["feature"].to_list(), texts, pilot.loss_rise)


def ordinary_texts_pin(experiment: Steering) -> str | None:
    """The pin of the ordinary texts; None: there are none."""
    if isinstance(experiment, Comparison) and experiment.methods.ordinary_texts:
        return "ordinary_texts"
    return "texts" if experiment.local_examples else None


def ordinary(run: Run, n_texts: int, n_tokens: int = ORDINARY_TOKENS) -> list[list[int]]:
    """The first `n_tokens` tokens of `n_texts` ordinary texts."""
    from saesteer.engine.damage import ordinary_texts

    corpus = run.corpus(n_tokens, str(ordinary_texts_pin(run.steering)))
    return ordinary_texts(corpus["token_ids"].to_list(), n_texts, n_tokens)
