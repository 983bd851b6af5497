"""The tables of a comparison's concepts: what they are, the labelled texts of each, and prompts that a language model wrote for them."""

import polars as pl

from saesteer.core.tables import Column, Table

COMPARED_CONCEPTS = Table(
    "compared_concepts",
    ("concept_id",),
    {
        "concept_id": Column(pl.String, "first 16 hex digits of the SHA-256 of the concept's text"),
        "concept": Column(pl.String, "what the texts should be about"),
        "label_feature": Column(pl.UInt32, "the feature that the concept labels", "the source names none (topics: see table features)"),
    },
)

CONCEPT_TEXTS = Table(
    "concept_texts",
    ("concept_id", "positive", "number"),
    {
        **COMPARED_CONCEPTS.some("concept_id"),
        "positive": Column(pl.Boolean, "whether the text shows the concept"),
        "number": Column(pl.UInt32, "number of the text among its like, 0-based"),
        "input": Column(pl.String, "prompt that the text follows; may be empty"),
        "output": Column(pl.String, "the text"),
    },
)

STEERING_PROMPTS = Table(
    "steering_prompts",
    ("concept_id", "number"),
    {
        **COMPARED_CONCEPTS.some("concept_id"),
        "number": Column(pl.UInt8, "number of the prompt, from the least insistent, 1"),
        "prompt": Column(
            pl.String, "what a language model wrote, to be put before a request", "it wrote nothing that can be used; see reason"
        ),
        "model": Column(pl.String, "the model as it names itself", "it does not say"),
        "reason": Column(pl.String, "why prompt is null", "prompt is not null"),
    },
    file="{name}/prompts.parquet",  # beside the answers, which were paid for
)
