"""One text for each wanted method, factor, concept, prompt and sample."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import FITS

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, open_sae, with_progress

    from saesteer.engine.continuation import Sampling
    from saesteer.engine.method_texts import method_texts

    settings = job.experiment.methods
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_k, settings.stop or "")
    lm = open_model(job)
    for layer, rows in by_layer(missing):
        fits = read_rows(FITS, job.inputs["fits"], [layer], ["kind", "tensors", "values"])
        sae = open_sae(job, layer)
        frames = method_texts(lm, sae, layer, rows, fits, job.prefixes(), sampling, settings.seed, settings.sae_features)
        yield from with_progress(frames, rows.height, "text", tokens="n_tokens")


complete_step(job, "steered", compute)
