"""Results in the form of AxBench's own (P4, arXiv 2501.17148): one wide table, a row a concept, prompt and factor, columns for each method.

Columns are those of its `inference/steering_data.parquet`, which its evaluation reads, with the ratings that the evaluation adds
(`evaluate/steering_data.parquet`); names were taken from a public copy of its program (stanfordnlp/axbench). Not checked by running that
program on a file of ours. What differs, because the protocols do:

- Its methods share one grid of factors and ours need not: where a method's grid lacks a row's factor, its columns are null.
- A further sample of a prompt has an input_id of its own: number of the prompt + sample x number of prompts. AxBench has one sample.
- An unreadable rating is null here; its program writes 0.
- `strength` is its factor x max_act; here factor x the mean norm of the residual's change at factor 1, which is the same for a unit vector
  added everywhere, and null for prompts.
- `steered_input`, a prompt with a method's instruction added, differs between methods here and is left out, as are judges' explanations;
  `sae_link` too. The columns that its evaluation needs to rate texts anew are all there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from saesteer.core.tables.steps import FIT_TEXT
from saesteer.methods.compare.protocol import ProtocolError, Rows, row_of

NAMES = {
    "prompting": "PromptSteering",
    "random_vector": "Random",
    "diffmean": "DiffMean",
    "pca": "PCA",
    "lat": "LAT",
    "probe": "LinearProbe",
    "ssv": "SteeringVector",
    "reft_r1": "LsReFT",
    "loreft": "LoReFT",
    "lora": "LoRA",
    "sft": "SFT",
    "sae_label": "GemmaScopeSAE",
    "sae_auroc": "GemmaScopeSAEMaxAUC",
}
"""Name in our registry -> its name there. Other methods keep their names here: it has none for them."""

ROW = ["concept_id", "input_concept", "sae_id", "dataset_name", "input_id", "factor", "original_prompt"]
_JUDGE = "LMJudgeEvaluator"


def to_axbench(rows: Rows, order: Sequence[str], prompts: Mapping[str, str], layer: int, dataset_name: str) -> pl.DataFrame:
    """Texts of one layer, with what was measured on it, as AxBench's table; its name for instructions of AlpacaEval is AlpacaEval.

    `order` are concept_ids in the order of their source (its concept_id is the number there); `prompts` is prefix_id -> text in the file's
    order.
    """
    keys = list(FIT_TEXT)
    texts = rows.texts.filter(pl.col("text").is_not_null(), layer=layer).select(*keys, "text")
    _refuse_unknown(texts, order, prompts)
    texts = texts.join(rows.perplexity.select(*keys, "mean_nll"), on=keys, how="left")
    texts = texts.join(rows.judgements.drop("reason"), on=keys, how="left")
    texts = texts.join(rows.fits.select("layer", "method", "concept_id", "residual_change"), on=keys[:3], how="left")
    numbered = _numbered(texts, rows.concepts, order, prompts, dataset_name)
    wide, place = numbered.select(ROW).unique().sort(ROW), ["concept_id", "input_id", "factor"]
    for key in sorted(numbered["method"].unique()):
        wide = wide.join(_columns_of(key, numbered.filter(method=key)), on=place, how="left", maintain_order="left")
    return wide


def _refuse_unknown(texts: pl.DataFrame, order: Sequence[str], prompts: Mapping[str, str]) -> None:
    for column, known in (("concept_id", order), ("prefix_id", list(prompts))):
        unknown = sorted(set(texts[column]) - set(known))
        if unknown:
            raise ProtocolError(f"table steered holds {column} {unknown[0]!r}, which is not among the {len(known)} given")


def _numbered(
    texts: pl.DataFrame, concepts: pl.DataFrame, order: Sequence[str], prompts: Mapping[str, str], dataset_name: str
) -> pl.DataFrame:
    """With its integer ids, names and prompts."""
    number = {prefix_id: place for place, prefix_id in enumerate(prompts)}
    named = texts.join(concepts.select("concept_id", input_concept="concept", sae_id="label_feature"), on="concept_id", how="left")
    input_id = pl.col("prefix_id").replace_strict(number, return_dtype=pl.Int64) + pl.col("sample").cast(pl.Int64) * len(prompts)
    return named.with_columns(
        input_id=input_id,
        original_prompt=pl.col("prefix_id").replace_strict(dict(prompts), return_dtype=pl.String),
        concept_id=pl.col("concept_id").replace_strict({name: place for place, name in enumerate(order)}, return_dtype=pl.Int64),
        factor=pl.col("factor").cast(pl.Float64),
        dataset_name=pl.lit(dataset_name),
    )


def _columns_of(key: str, rows: pl.DataFrame) -> pl.DataFrame:
    method = row_of(key)
    name = NAMES.get(method.name, method.name)
    strength = pl.lit(None, pl.Float64) if method.grid == "prompt" else pl.col("factor") * pl.col("residual_change")
    return rows.select(
        "concept_id",
        "input_id",
        "factor",
        pl.col("text").alias(f"{name}_steered_generation"),
        pl.col("mean_nll").exp().alias(f"{name}_perplexity"),
        strength.alias(f"{name}_strength"),
        pl.col("judge_score").alias(f"{name}_{_JUDGE}"),
        pl.col("concept_rating").cast(pl.Float64).alias(f"{name}_{_JUDGE}_relevance_concept_ratings"),
        pl.col("instruction_rating").cast(pl.Float64).alias(f"{name}_{_JUDGE}_relevance_instruction_ratings"),
        pl.col("fluency_rating").cast(pl.Float64).alias(f"{name}_{_JUDGE}_fluency_ratings"),
    )
