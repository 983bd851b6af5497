"""The loss of each continuation, given its prefix, under the second model."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import GENERATIONS

AT_A_TIME = 8192  # rows between two progress reports
job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress

    from saesteer.engine.perplexity import continuation_nll, scored_prefix

    texts = read_rows(GENERATIONS, job.inputs["sweep"], job.layers, ["text"])
    lm = open_model(job, "perplexity_model")
    before = {name: scored_prefix(text, job.experiment.model.prompt_format) for name, text in job.prefixes().items()}
    todo = missing.join(texts, on=GENERATIONS.keys).with_columns(prefix=pl.col("prefix_id").replace_strict(before))
    for _, rows in by_layer(todo):
        numbered = (some.with_row_index("row") for some in rows.iter_slices(AT_A_TIME))
        frames = (_scored(some, continuation_nll(lm, some)) for some in numbered)
        yield from with_progress(frames, rows.height, "text", tokens="n_scored")


def _scored(rows: pl.DataFrame, losses: pl.DataFrame) -> pl.DataFrame:
    empty = pl.when(pl.col("mean_nll").is_null()).then(pl.lit("the continuation is empty"))
    return rows.join(losses, on="row").select(*GENERATIONS.keys, "mean_nll", "n_scored", reason=empty)


complete_step(job, "perplexity", compute)
