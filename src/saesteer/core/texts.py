"""How rows of texts are told apart: the key of a text names the intervention behind it, a single feature (SINGLE_FEATURE) or the fit of a
method, at a factor, and the prompt and the sample. And what a max-activating example is."""

import polars as pl

from saesteer.core.tables import LAYER, Column

OF_TEXT = {
    "layer": LAYER,
    "method": Column(pl.String, "key of the method in saesteer.settings.registry, or `feature`: a single feature"),
    "target": Column(pl.String, "what it steers towards: the number of the single feature, or a concept_id"),
    "factor": Column(
        pl.String, "steering factor, a canonical decimal: of single features in multiples of a_max, of a method in its own unit"
    ),
    "prefix_id": Column(pl.String, "first 16 hex digits of the SHA-256 of the prefix's text"),
    "sample": Column(pl.UInt32, "number of the sample, 0-based"),
}
TEXT_KEYS = tuple(OF_TEXT)
FEATURE_TEXT = ("layer", "feature", "factor", "prefix_id", "sample")
"""Keys of a text of a single feature, where no other texts are."""
FIT_TEXT = ("layer", "method", "concept_id", "factor", "prefix_id", "sample")
"""Keys of a text of a fit, where no other texts are."""
SINGLE_FEATURE = "feature"
"""The `method` of texts that one feature steers, as in P1."""
NO_FIT = "the method abstains"
RATING_COLUMNS = ("concept_rating", "instruction_rating", "fluency_rating")
"""What a judge rates of a text."""

EXAMPLE = pl.Struct(
    {
        "rank": pl.UInt16,  # 0 = largest maximum
        "text_id": pl.String,  # Neuronpedia's id of the example where it is the source
        "token_index": pl.UInt16,  # position of the maximum in the text
        "token": pl.String,  # as the tokenizer writes it ("▁" kept); of byte-level ones the text that it stands for
        "token_id": pl.UInt32,  # null where the source has none
        "max_value": pl.Float32,
        "context": pl.List(pl.String),  # the text's tokens
    }
)
"""A max-activating example, whatever its source."""


def of_features(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of single features with the keys FEATURE_TEXT, sorted by them."""
    renamed = rows.drop("method").rename({"target": "feature"}).cast({"feature": pl.UInt32})
    return renamed.select(*FEATURE_TEXT, *(name for name in renamed.columns if name not in FEATURE_TEXT)).sort(FEATURE_TEXT)


def of_fits(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of fits with the keys FIT_TEXT."""
    return rows.rename({"target": "concept_id"})


def as_generations(rows: pl.DataFrame) -> pl.DataFrame:
    """The opposite of both: rows with the keys TEXT_KEYS first."""
    if "feature" in rows.columns:
        rows = rows.rename({"feature": "target"}).cast({"target": pl.String}).with_columns(method=pl.lit(SINGLE_FEATURE))
    else:
        rows = rows.rename({"concept_id": "target"})
    return rows.select(*TEXT_KEYS, *(name for name in rows.columns if name not in TEXT_KEYS))
