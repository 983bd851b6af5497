"""The top logit-lens tokens of each feature, which its decoder direction promotes most, and those that it suppresses most."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.core.tokens import TextTokens
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.step import Step, by_layer, described_features

if TYPE_CHECKING:
    from saesteer.engine.logit_lens import LensTokens

LOGIT_LENS = Table(
    "logit_lens",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "token_ids": Column(pl.List(pl.UInt32), "top logit-lens tokens, most promoted first"),
        "tokens": Column(pl.List(pl.String), "their strings, as in max-activating examples"),
        "logits": Column(pl.List(pl.Float32), "lm_head(final_norm(decoder direction)), no soft cap"),
        "suppressed_token_ids": Column(pl.List(pl.UInt32), "most suppressed tokens, those of the smallest logits, smallest first"),
        "suppressed_tokens": Column(pl.List(pl.String), "their strings"),
        "suppressed_logits": Column(pl.List(pl.Float32), "their logits"),
    },
)


N_TOKENS = 20
"""Top logit-lens tokens of a feature: GenSuccess@20 counts them all (P1). As many of the most suppressed."""
N_AT_A_TIME = 4096
"""Features between two progress reports."""


def step(experiment: Experiment) -> Step | None:
    model = experiment.model
    settings = {"k": N_TOKENS, "dtype": model.dtype} | ({} if model.lens_tokens == "all" else {"tokens": model.lens_tokens})
    inputs, modules = ("model", "saes"), ("engine.logit_lens", "engine.saes", "engine.hook_points")
    return Step(LOGIT_LENS, described_features(experiment), settings, inputs, modules, compute, runs_model=True)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.hook_points import to_residual
    from saesteer.engine.logit_lens import logit_lens_tokens
    from saesteer.engine.saes import checked_meta, decoder_blocks

    lm, tokens = run.model(), run.tokens()
    for layer, of_layer in by_layer(missing):
        file = run.sae_file(layer)
        residual = to_residual(lm, layer, checked_meta(file).hook_point)
        blocks = decoder_blocks(file, of_layer["feature"].to_list(), lm.device, N_AT_A_TIME)
        for rows, directions in zip(of_layer.iter_slices(N_AT_A_TIME), blocks, strict=True):
            promoted, suppressed = logit_lens_tokens(lm, directions, N_TOKENS, to_residual=residual)
            yield rows.with_columns(**lens_columns(promoted, suppressed, tokens))


def lens_columns(promoted: "LensTokens", suppressed: "LensTokens", tokens: TextTokens) -> dict[str, pl.Series]:
    """The columns of LOGIT_LENS besides its keys."""
    columns = {}
    for prefix, (ids, logits) in (("", promoted), ("suppressed_", suppressed)):
        columns[f"{prefix}token_ids"] = pl.Series(ids.tolist(), dtype=pl.List(pl.UInt32))
        columns[f"{prefix}tokens"] = pl.Series([tokens.strings(row) for row in ids.tolist()], dtype=pl.List(pl.String))
        columns[f"{prefix}logits"] = pl.Series(logits.tolist(), dtype=pl.List(pl.Float32))
    return columns
