"""What a finished comparison of methods gives to others: fitted vectors, and results in the form of AxBench's own (P4, arXiv 2501.17148).

That is one wide table, one row per concept, prompt and factor, columns for each method. Columns are those of its
`inference/steering_data.parquet`, which its evaluation reads, with the ratings that the evaluation adds (`evaluate/steering_data.parquet`);
names were taken from a public copy of its program (stanfordnlp/axbench). Not checked by running that program on a file of ours. What
differs, because the protocols do:

- Its methods share one grid of factors and ours need not: where a method's grid lacks a row's factor, its columns are null.
- A further sample of a prompt has an input_id of its own: number of the prompt + sample x number of prompts. AxBench has one sample.
- An unreadable rating is null here; its program writes 0.
- Where a method abstains, its columns are null; of a method that abstains for every concept, all of them.
- `strength` is its factor x max_act; here factor x the mean norm of the residual's change at factor 1, which is the same for a unit vector
  added everywhere, and null for prompts.
- `steered_input`, a prompt with a method's instruction added, differs between methods here and is left out, as are judges' explanations;
  `sae_link` too. The columns that its evaluation needs to rate texts anew are all there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from saesteer.core.files import text_id, write_atomically
from saesteer.core.texts import FIT_TEXT, RATING_COLUMNS, of_fits
from saesteer.methods.compare.protocol import ProtocolError, Rows, at_every_layer, row_of
from saesteer.run import Run
from saesteer.settings import NamedConcepts
from saesteer.settings.registry import key_of
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.published import cached_path, labelled_concepts
from saesteer.steps.fits import FITS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY

AXBENCH_METHODS = {
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
"""Name in our registry -> AxBench's. Other methods keep their names there: it has none for them."""
_JUDGE = "_LMJudgeEvaluator"
AXBENCH_COLUMNS = {
    "text": "_steered_generation",
    "perplexity": "_perplexity",
    "concept_rating": f"{_JUDGE}_relevance_concept_ratings",
    "instruction_rating": f"{_JUDGE}_relevance_instruction_ratings",
    "fluency_rating": f"{_JUDGE}_fluency_ratings",
}
"""What of a text -> how its column is called in AxBench's results, after the method's name."""
ROW = ["concept_id", "input_concept", "sae_id", "dataset_name", "input_id", "factor", "original_prompt"]


def export_vectors(run: Run, method: str, layer: int, path: Path) -> None:
    """Write the unit vectors that a method fitted at a layer: safetensors, one tensor per concept, as the method from_file reads them."""
    from saesteer.methods.fit.vectors_file import write_vectors

    run.check_layer(layer)
    write_vectors(run.rows(FITS, [layer]), run.summary(COMPARED_CONCEPTS), key_of(method), path)


def export_axbench(run: Run, folder: Path) -> Iterator[Path]:
    """Write a layer's results to FOLDER/layer_LL/steering_data.parquet, for each layer; gives the files."""
    experiment = run.comparison
    tables = [*(of_fits(run.rows(table)) for table in (GENERATIONS, PERPLEXITY, JUDGEMENTS)), run.rows(FITS)]
    texts, losses, ratings, fits = (at_every_layer(table, experiment.layers) for table in tables)
    rows, prompts, concepts = Rows(texts, losses, ratings, fits, run.summary(COMPARED_CONCEPTS)), run.prompts(), experiment.methods.concepts
    if isinstance(concepts, NamedConcepts):
        names = concepts.names
    else:
        labelled = labelled_concepts(cached_path(concepts.concepts, run.downloads))
        names = tuple(entry.concept for entry in labelled[: concepts.n_concepts])
    dataset = "AlpacaEval" if experiment.methods.published_prompts == "alpaca_eval/instructions" else "prompts"
    for layer in run.layers:
        path = folder / f"layer_{layer:02d}" / "steering_data.parquet"
        write_atomically(path, to_axbench(rows, [text_id(name) for name in names], prompts, layer, dataset).write_parquet)
        yield path


def to_axbench(rows: Rows, order: Sequence[str], prompts: Mapping[str, str], layer: int, dataset_name: str) -> pl.DataFrame:
    """Texts of one layer, with what was measured on it, as AxBench's table; its name for instructions of AlpacaEval is AlpacaEval.

    `order` are concept_ids in the order of their source (its concept_id is the number there); `prompts` is prefix_id -> text in the file's
    order.
    """
    keys = list(FIT_TEXT)
    texts = rows.texts.filter(pl.col("text").is_not_null(), layer=layer).select(*keys, "text")
    for column, expected in (("concept_id", order), ("prefix_id", list(prompts))):
        unknown = sorted(set(texts[column]) - set(expected))
        if unknown:
            raise ProtocolError(f"table steered holds {column} {unknown[0]!r}, which is not among the {len(expected)} given")
    texts = texts.join(rows.perplexity.select(*keys, "mean_nll"), on=keys, how="left")
    texts = texts.join(rows.judgements.drop("reason"), on=keys, how="left")
    texts = texts.join(rows.fits.select("layer", "method", "concept_id", "residual_change"), on=keys[:3], how="left")
    concepts = rows.concepts.select("concept_id", input_concept="concept", sae_id="label_feature")
    numbers = {prefix_id: place for place, prefix_id in enumerate(prompts)}
    number = pl.col("prefix_id").replace_strict(numbers, return_dtype=pl.Int64)
    numbered = texts.join(concepts, on="concept_id", how="left").with_columns(
        input_id=number + pl.col("sample").cast(pl.Int64) * len(prompts),
        original_prompt=pl.col("prefix_id").replace_strict(dict(prompts), return_dtype=pl.String),
        concept_id=pl.col("concept_id").replace_strict({name: place for place, name in enumerate(order)}, return_dtype=pl.Int64),
        factor=pl.col("factor").cast(pl.Float64),
        dataset_name=pl.lit(dataset_name),
    )
    wide, place = numbered.select(ROW).unique().sort(ROW), ["concept_id", "input_id", "factor"]
    for key in sorted(rows.fits.filter(layer=layer)["method"].unique()):
        wide = wide.join(_columns_of(key, numbered.filter(method=key)), on=place, how="left", maintain_order="left")
    return wide


def _columns_of(key: str, rows: pl.DataFrame) -> pl.DataFrame:
    method = row_of(key)
    name = AXBENCH_METHODS.get(method.name, method.name)
    strength = pl.lit(None, pl.Float64) if method.grid == "prompt" else pl.col("factor") * pl.col("residual_change")
    return rows.select(
        "concept_id",
        "input_id",
        "factor",
        pl.col("text").alias(f"{name}{AXBENCH_COLUMNS['text']}"),
        pl.col("mean_nll").exp().alias(f"{name}{AXBENCH_COLUMNS['perplexity']}"),
        strength.alias(f"{name}_strength"),
        pl.col("judge_score").alias(f"{name}{_JUDGE}"),
        *(pl.col(column).cast(pl.Float64).alias(f"{name}{AXBENCH_COLUMNS[column]}") for column in RATING_COLUMNS),
    )
