"""The table of features: what the steps say of each feature, with the columns of every module of this room that has a `SCORE`."""

from collections.abc import Sequence

import polars as pl

import saesteer.steps
from saesteer.core.modules import declared
from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table, read_summary
from saesteer.run import Run
from saesteer.settings import SettingsError
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

SCORES: tuple[Table, ...] = tuple(declared(saesteer.steps, "SCORE").values())
"""The tables of scores of single features."""


def columns_of_score(table: Table) -> dict[str, Column]:
    """What the table of features takes over of a score: all but how many examples it is the mean of, why it is null under its name."""
    values = {name: column for name, column in table.columns.items() if name not in (*table.keys, "n_examples")}
    return {f"{table.name}_reason" if name == "reason" else name: column for name, column in values.items()}


FEATURES = Table(
    "features",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        **MAX_ACTIVATING_EXAMPLES.some("density", "max_activation", "n_examples"),
        "explanations": Column(pl.List(pl.String), "all that the source says the feature means, then the label of the table explanations"),
        "explanation": Column(pl.String, "the first of them: the one that is shown", "the source has none"),
        **CONCEPTS.some("concept", "concept_share"),
        "top_logit_lens_tokens": LOGIT_LENS.columns["tokens"],
        "top_logit_lens_token_ids": LOGIT_LENS.columns["token_ids"],
        **{name: column for table in SCORES for name, column in columns_of_score(table).items()},
        "decoder_norm": Column(pl.Float64, "norm of the decoder row, to three digits", "the SAE's manifest does not say"),
        "page": Column(
            pl.String, "address of the feature's page on Neuronpedia", "neither max_activating_examples.source nor sae-lens names a source"
        ),
    },
)


def features_of_layers(run: Run, layers: Sequence[int]) -> pl.DataFrame:
    """Rows of the table of features of some layers, from the files that there is one of for each layer."""
    paths = [run.data / f"features/layer_{layer:02d}.parquet" for layer in layers]
    if absent := [path for path in paths if not path.is_file()]:
        raise SettingsError(f"{absent[0]} is missing: run the workflow of experiment {run.name} first")
    return pl.concat([read_summary(FEATURES, path) for path in paths])
