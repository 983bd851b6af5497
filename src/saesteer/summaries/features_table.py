"""One row a feature: max-activating examples, concept, top logit-lens tokens, scores, decoder row's norm, page on Neuronpedia. Of all
layers."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import CONCEPTS, EXPLANATIONS, FEATURES, INPUT_SCORE, LOGIT_LENS, MAX_ACTIVATING_EXAMPLES, OUTPUT_SCORE, Table
from saesteer.run import Run
from saesteer.steps.step import steps_of
from saesteer.summaries.summary import Summary, every_experiment


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.summaries import features_table, with_labels
    from saesteer.sources.neuronpedia.sources import known_sources

    concepts, lens = run.rows(CONCEPTS, layers), run.rows(LOGIT_LENS, layers)
    columns = ["density", "max_activation", "n_examples", "explanations"]
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers, columns).join(concepts, on=CONCEPTS.keys, how="semi", maintain_order="left")
    if EXPLANATIONS.name in steps_of(run.experiment):
        examples = with_labels(examples, run.rows(EXPLANATIONS, layers, ["label"]))
    scores = [_named_reason(table, run.rows(table, layers)) for table in (INPUT_SCORE, OUTPUT_SCORE)]
    address = run.workflow.addresses.neuronpedia.rstrip("/")
    pages = {layer: f"{address}/{source}" for layer, source in known_sources(run.experiment, list(layers)).items()}
    return {FEATURES.name: features_table(examples, concepts, lens, scores, run.decoder_norms(layers), pages)}


def _named_reason(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Why a score is null, under its name."""
    return rows.rename({"reason": f"{table.name}_reason"}, strict=False)


SUMMARY = Summary((FEATURES,), every_experiment, compute)
