"""The loss of each continuation, given its prefix, under the second model."""

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.prefixes import read_prefixes
from saesteer.store import read_rows
from saesteer.tables import GENERATIONS

AT_A_TIME = 8192  # rows between two progress reports
job = open_job(snakemake)


def compute(missing):
    from gpu import open_model, with_progress

    from saesteer.perplexity import continuation_nll

    prefixes = read_prefixes(job.experiment.sweep.prefixes, job.experiment.sweep.n_prefixes)
    texts = read_rows(GENERATIONS, job.inputs["sweep"], job.layers, ["text"])
    lm = open_model(job, job.experiment.perplexity.model)
    todo = missing.join(texts, on=GENERATIONS.keys).with_columns(prefix=pl.col("prefix_id").replace_strict(prefixes))
    for _, rows in by_layer(todo):
        frames = (_scored(lm, some.with_row_index("row"), continuation_nll) for some in rows.iter_slices(AT_A_TIME))
        yield from with_progress(frames, rows.height, "text", tokens="n_scored")


def _scored(lm, rows, continuation_nll):
    losses = rows.join(continuation_nll(lm, rows), on="row")
    empty = pl.when(pl.col("mean_nll").is_null()).then(pl.lit("the continuation is empty"))
    return losses.select(*GENERATIONS.keys, "mean_nll", "n_scored", reason=empty)


complete_step(job, "perplexity", compute)
