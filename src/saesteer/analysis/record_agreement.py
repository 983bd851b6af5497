"""How far what records say of features depends on the texts that they are from."""

import polars as pl

from saesteer.core.tables.questions import RECORD_AGREEMENT
from saesteer.core.uncertainty import random_stream, rank_correlation
from saesteer.settings import SelectionSettings

_FEATURE = ["layer", "feature"]
_NAMES = ("input_score", "max_activation", "density")


def record_agreement(features: pl.DataFrame, others: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """FEATURES of the same features from two corpora -> RECORD_AGREEMENT."""
    pairs = features.select(*_FEATURE, "concept", *_NAMES).join(others.select(*_FEATURE, "concept", *_NAMES), on=_FEATURE, suffix="_other")
    return pl.DataFrame([_line(layer, settings) for layer in pairs.sort(_FEATURE).partition_by("layer")], schema=RECORD_AGREEMENT.schema)


def _line(layer: pl.DataFrame, settings: SelectionSettings) -> dict[str, object]:
    number, labelled = layer["layer"][0], layer.drop_nulls(["concept", "concept_other"])
    line: dict[str, object] = {"layer": number, "n": layer.height}
    for name in _NAMES:
        known = layer.drop_nulls([name, f"{name}_other"])
        x, y = (known[column].cast(pl.Float64).to_numpy() for column in (name, f"{name}_other"))
        strata, stream = known["layer"].cast(pl.Int64).to_numpy(), random_stream(settings.seed, "record agreement", name, number)
        rho = rank_correlation(x, y, strata, settings.bootstrap_draws, settings.confidence, stream)
        line |= {f"rho_{name}": rho.rho, f"rho_{name}_low": rho.low, f"rho_{name}_high": rho.high}
    concepts = {"n_concept": layer["concept"].count(), "n_other_concept": layer["concept_other"].count(), "n_both": labelled.height}
    return line | concepts | {"n_same": (labelled["concept"] == labelled["concept_other"]).sum()}
