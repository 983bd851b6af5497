"""Texts of single features (P1's sweep) or of fits (the comparison of methods), at each wanted factor, prompt and sample."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import FITS, as_generations, of_features, of_fits

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import open_sae

    from saesteer.engine.continuation import Sampling
    from saesteer.engine.generations import feature_texts, fit_texts

    compared = job.experiment.methods if job.experiment.until == "methods" else None
    settings = compared or job.experiment.sweep
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_k, settings.stop or "", settings.top_p)
    lm = open_model(job)
    for layer, rows in by_layer(missing):
        common = (job.prefixes(), sampling, settings.seed)
        if compared:
            fits = read_rows(FITS, job.inputs["fits"], [layer], ["kind", "tensors", "values"])
            frames = fit_texts(lm, open_sae(job, layer), layer, of_fits(rows), fits, *common, compared.sae_features)
        else:
            frames = feature_texts(lm, open_sae(job, layer), layer, of_features(rows), *common)
        yield from with_progress(map(as_generations, frames), rows.height, "text", tokens="n_tokens")


complete_step(job, "generations", compute)
