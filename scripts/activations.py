"""SAE codes of the labelled corpus, sparse, one row a layer and text."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import open_sae

    from saesteer.engine.activations import sparse_codes
    from saesteer.sources.corpus import read_texts

    texts = read_texts(job.input("texts_file"), job.model_folder(), job.experiment.model.bos, job.experiment.records.max_tokens)
    lm = open_model(job)
    for layers, text_ids in _same_layers(missing):
        saes = {layer: open_sae(job, layer) for layer in layers}
        rows = texts.filter(pl.col("text_id").is_in(text_ids))
        yield from with_progress(sparse_codes(lm, saes, rows), rows.height * len(layers), "text", tokens="n_tokens")


def _same_layers(missing: pl.DataFrame) -> Iterator[tuple[list[int], list[str]]]:
    """Groups of texts that miss the same layers, so that one forward serves them all."""
    wanted = missing.group_by("text_id", maintain_order=True).agg(pl.col("layer").sort())
    for (layers,), rows in wanted.group_by("layer", maintain_order=True):
        yield layers, rows["text_id"].to_list()


complete_step(job, "activations", compute)
