"""What each fit at its chosen factors does to ordinary text."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import FITS
from saesteer.sources.corpus import read_texts

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import open_sae

    from saesteer.engine.damage import ordinary_texts, text_damage

    settings, model = job.experiment.methods, job.experiment.model
    corpus = read_texts(job.input("texts_file"), job.model_folder(), model.bos, settings.ordinary_tokens)
    texts = ordinary_texts(corpus["token_ids"].to_list(), settings.n_ordinary_texts, settings.ordinary_tokens)
    lm = open_model(job)
    for layer, rows in by_layer(missing):
        fits = read_rows(FITS, job.inputs["fits"], [layer], ["kind", "tensors", "values"])
        frames = text_damage(lm, open_sae(job, layer), layer, rows, fits, texts, settings.sae_features)
        yield from with_progress(frames, rows.height, "fit")


complete_step(job, "damage", compute)
