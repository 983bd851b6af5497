"""One row a feature: max-activating examples, concept, top logit-lens tokens, scores, decoder row's norm, page on Neuronpedia. Of all
layers."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import CONCEPTS, EXPLANATIONS, FEATURES, LOGIT_LENS, MAX_ACTIVATING_EXAMPLES, Table
from saesteer.run import Run
from saesteer.steps.step import Step, steps_of
from saesteer.summaries.summary import Summary, every_experiment


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.summaries import features_table, with_labels
    from saesteer.sources.neuronpedia.sources import known_sources

    concepts, lens = run.rows(CONCEPTS, layers), run.rows(LOGIT_LENS, layers)
    columns = ["density", "max_activation", "n_examples", "explanations"]
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers, columns).join(concepts, on=CONCEPTS.keys, how="semi", maintain_order="left")
    if EXPLANATIONS.name in steps_of(run.experiment):
        examples = with_labels(examples, run.rows(EXPLANATIONS, layers, ["label"]))
    scores = [_named_reason(step.table, run.rows(step.table, layers)) for step in steps_of(run.experiment).values() if is_score(step)]
    address = run.workflow.addresses.neuronpedia.rstrip("/")
    pages = {layer: f"{address}/{source}" for layer, source in known_sources(run.experiment, list(layers)).items()}
    return {FEATURES.name: features_table(examples, concepts, lens, scores, run.decoder_norms(layers), pages)}


def is_score(step: Step) -> bool:
    """Whether a step computes a score of each feature, whose columns the table takes over; the pilot, which comes later, has none."""
    if step.table in (MAX_ACTIVATING_EXAMPLES, CONCEPTS, LOGIT_LENS, EXPLANATIONS):
        return False
    return step.table.keys == FEATURES.keys and not FEATURES.columns.keys().isdisjoint({*step.table.columns} - {*FEATURES.keys})


def _named_reason(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Why a score is null, under its name."""
    return rows.rename({"reason": f"{table.name}_reason"}, strict=False)


SUMMARY = Summary((FEATURES,), every_experiment, compute)
