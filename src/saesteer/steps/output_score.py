"""P1's output score of each feature, and P5's delta token confidence."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.step import Step, by_layer, every_feature, values_of

OUTPUT_SCORE = Table(
    "output_score",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "output_score": Column(pl.Float64, "P1's S_out, in [0, 1]"),
        "min_rank": Column(
            pl.UInt32,
            (
                "rank of the best logit-lens token after steering, 0-based, among the tokens of the tokenizer: rows "
                "of the head without a token do not count"
            ),
        ),
        "max_prob": Column(pl.Float64, "probability of that token"),
        "delta_token_confidence": Column(pl.Float64, "log probability (nats) of the likeliest token unsteered, minus steered; P5"),
        "a_max": Column(
            pl.Float64,
            "largest activation of any feature at the prompt's last position, times the size that the SAE divides its input by",
        ),
    },
)

SCORE = OUTPUT_SCORE  # its columns are in the table of features


def step(experiment: Experiment) -> Step | None:
    settings = {**values_of(experiment.output_score), "dtype": experiment.model.dtype, "bos": experiment.model.bos}  # its prompt is plain
    inputs, modules = ("model", "saes", "logit_lens"), ("engine.output_score",)
    return Step(OUTPUT_SCORE, every_feature(experiment), settings, inputs, modules, compute, runs_model=True)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import torch

    from saesteer.engine.output_score import output_scores_from_file

    settings, lm = run.experiment.output_score, run.model()
    for layer, rows in by_layer(missing):
        lens = run.rows(LOGIT_LENS, [layer], ["token_ids"])
        ids = torch.tensor(rows.join(lens, on=["layer", "feature"], maintain_order="left")["token_ids"].to_list())  # [feature, k]
        scored = rows["feature"].to_list(), ids, settings.prompt, float(settings.factor)
        for frame in output_scores_from_file(lm, run.sae_file(layer), layer, *scored):
            yield frame.with_columns(layer=pl.lit(layer, pl.UInt16))
