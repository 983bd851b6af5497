"""Held-out scores of steering methods with intervals, their differences and costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.tables import COMPARED_CONCEPTS, FITS, GEN_SUCCESS, GENERATIONS, METHOD_SUMMARIES, PERPLEXITY, of_fits
from saesteer.run import Run
from saesteer.steps import gen_success
from saesteer.summaries.counted_ratings import counted_ratings
from saesteer.summaries.summary import Summary, compares

if TYPE_CHECKING:
    from saesteer.methods.compare.paper_values import Protocol


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.compare.layers import at_every_layer
    from saesteer.methods.compare.protocol import Rows
    from saesteer.methods.compare.summaries import method_summaries

    experiment, settings = run.comparison, run.comparison.methods
    by_success = gen_success.step(experiment) is not None  # whether it chooses factors
    counts = run.rows(GEN_SUCCESS) if by_success else pl.DataFrame(schema=GEN_SUCCESS.schema)
    of_texts = [of_fits(rows) for rows in (run.rows(GENERATIONS), run.rows(PERPLEXITY), counted_ratings(run), counts)]
    fits = run.rows(FITS, None, [name for name in FITS.columns if name not in ("tensors", "values")])
    texts, losses, ratings, success, fits = (at_every_layer(rows, experiment.layers) for rows in (*of_texts, fits))
    concepts, features = run.summary(COMPARED_CONCEPTS), run.features(run.layers)
    rows = Rows(texts, losses, ratings, fits, concepts, success.drop_nulls("gen_success_20"), features)
    return method_summaries(rows, list(run.prompts()), settings, experiment.best_factor, protocols(run, concepts.height))


def protocols(run: Run, n_concepts: int) -> "dict[int, Protocol]":
    """What sets each layer's figures apart from a paper's."""
    from saesteer.methods.compare.paper_values import our_protocol

    judge = getattr(run.comparison.judge, "model", run.comparison.judge.kind)
    rater, settings, model = judge if isinstance(judge, str) else judge.name, run.comparison.methods, run.experiment.model.name
    return {layer: our_protocol(settings, model, layer, rater, n_concepts) for layer in run.layers}


SUMMARY = Summary(tuple(METHOD_SUMMARIES.values()), compares, compute)
