"""Feature activations of the texts that local max-activating examples are made from: sparse, one row a layer and text."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import LAYER, Column, Table
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.sources.corpus import text_ids
from saesteer.steps.step import Axis, Step

ACTIVATIONS = Table(
    "activations",
    ("layer", "text_id"),
    {
        "layer": LAYER,
        "text_id": Column(pl.String, "digest of the text; of a corpus with token_ids, its text_id and their digest"),
        "n_tokens": Column(pl.UInt16, "tokens of the text, BOS included"),
        "n_ordinary": Column(pl.UInt16, "of them, those that count: neither BOS nor another special token"),
        "token_index": Column(pl.List(pl.UInt16), "position of each non-zero activation at a token that counts"),
        "feature": Column(pl.List(pl.UInt32), "feature of each non-zero activation"),
        "value": Column(pl.List(pl.Float32), "feature activation, > 0"),
    },
)


def step(experiment: Experiment) -> Step | None:
    local = experiment.local_examples
    if local is None:
        return None
    settings = {"dtype": experiment.model.dtype, "bos": experiment.model.bos, "max_tokens": local.max_tokens}
    modules = ("engine.activations", "sources.corpus")
    return Step(ACTIVATIONS, _texts, settings, ("model", "saes"), modules, compute, runs_model=True, unit="text", tokens="n_tokens")


def _texts(layer: int) -> list[Axis]:
    """Every text of the corpus."""
    return [Axis(("text_id",), lambda run: pl.DataFrame({"text_id": text_ids(run.file("texts"))}), None, lambda run: run.file("texts"))]


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.activations import sparse_activations

    local = run.experiment.local_examples
    assert local is not None
    texts = run.corpus(local.max_tokens)
    lm = run.model()
    for layers, names in _same_layers(missing):
        saes = {layer: run.sae(layer) for layer in layers}
        yield from sparse_activations(lm, saes, texts.filter(pl.col("text_id").is_in(names)))


def _same_layers(missing: pl.DataFrame) -> Iterator[tuple[list[int], list[str]]]:
    """Groups of texts that miss the same layers, so that one forward serves them all."""
    by_text = missing.group_by("text_id", maintain_order=True).agg(pl.col("layer").sort())
    for (layers,), rows in by_text.group_by("layer", maintain_order=True):
        yield layers, rows["text_id"].to_list()
