"""The table of features: one of all layers, and one file per layer where every feature is scored, which can be shared by itself."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import Table
from saesteer.run import Run
from saesteer.settings import Experiment, Sweep
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.explanations import EXPLANATIONS
from saesteer.steps.features import FEATURES, SCORES, columns_of_score
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import steps_of
from saesteer.summaries.summary import Summary, every_experiment


def described_features(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Max-activating examples, concept, top logit-lens tokens, scores, norm of the decoder row and page on Neuronpedia of each feature."""
    from saesteer.analysis.summaries import features_table, with_labels
    from saesteer.sources.neuronpedia.sources import known_sources

    concepts, lens = run.rows(CONCEPTS, layers), run.rows(LOGIT_LENS, layers)
    columns = ["density", "max_activation", "n_examples", "explanations"]
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers, columns).join(concepts, on=CONCEPTS.keys, how="semi", maintain_order="left")
    steps = steps_of(run.experiment)
    if EXPLANATIONS.name in steps:
        examples = with_labels(examples, run.rows(EXPLANATIONS, layers, ["label"]))
    scores = [_score(table, run.rows(table, layers)) for table in SCORES if table.name in steps]
    address = run.workflow.addresses.neuronpedia.rstrip("/")
    pages = {layer: f"{address}/{source}" for layer, source in known_sources(run.experiment, list(layers)).items()}
    table = features_table(examples, concepts, lens, scores, run.decoder_norms(layers), pages)
    return {FEATURES.name: table.select(list(FEATURES.columns))}


def _score(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a score with the columns that the table of features takes over."""
    return rows.rename({"reason": f"{table.name}_reason"}, strict=False).select(*table.keys, *columns_of_score(table))


def is_no_sweep(experiment: Experiment) -> bool:
    """A sweep has the one table of all layers only."""
    return not isinstance(experiment, Sweep)


SUMMARIES = {
    "features_table": Summary((FEATURES,), every_experiment, described_features),
    "layer_features": Summary((FEATURES,), is_no_sweep, described_features, by_layer=True),
}
