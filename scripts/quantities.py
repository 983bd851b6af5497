"""Cheap quantities of every feature beside its two scores, and its output score at other prompts and factors."""

from collections.abc import Iterator

import polars as pl
import torch
from common import log, open_job
from gpu import open_model
from sae import open_sae, sae_file

from saesteer.analysis.labelled_texts import concept_tokens, detection, lens_on_concept, texts_by_topic, token_shares
from saesteer.analysis.setting_agreement import score_settings
from saesteer.core.store import read_rows
from saesteer.core.tables import ACTIVATIONS, FEATURES, OUTPUT_SCORE_SETTINGS, QUANTITIES, read_summary, write_summary
from saesteer.engine.decoder_quantities import decoder_quantities
from saesteer.engine.output_score import output_scores_from_file
from saesteer.engine.saes import load_decoder_rows, read_meta
from saesteer.engine.sites import to_residual
from saesteer.methods.fit.label_quantities import SCHEMA, label_quantities

KEY = ["layer", "feature"]
job = open_job(snakemake)
lm, own = open_model(job), job.experiment.output_score
labelled = pl.read_parquet(job.input("texts_file"))
topics = job.topics()
shares, texts = token_shares(labelled, topics), texts_by_topic(labelled, topics)
features = read_summary(FEATURES, job.input("features"))


def scores(layer: int, rows: pl.DataFrame, ids: list[list[int]], prompt: str, factor: str) -> pl.DataFrame:
    """layer, feature, output_score."""
    frames = output_scores_from_file(lm, sae_file(job, layer), layer, rows["feature"].to_list(), torch.tensor(ids), prompt, float(factor))
    made = pl.concat(
        [
            pl.DataFrame(schema=OUTPUT_SCORE_SETTINGS.schema).select("feature", "output_score"),
            *(f.select("feature", "output_score") for f in frames),
        ]
    )
    return made.select(pl.lit(layer, pl.UInt16).alias("layer"), "feature", "output_score")


def quantities(layer: int, rows: pl.DataFrame) -> pl.DataFrame:
    """QUANTITIES of a layer."""
    file = sae_file(job, layer)
    directions = load_decoder_rows(file, rows["feature"].to_list())
    made = rows.select(KEY).hstack(decoder_quantities(lm, directions, to_residual(lm, layer, read_meta(file).site)))
    tokens = concept_tokens(shares)
    of_concepts = rows.filter(pl.col("concept").is_in(list(tokens)))
    as_concepts = scores(layer, of_concepts, [tokens[name] for name in of_concepts["concept"]], own.prompt, str(own.factor))
    effects = pl.concat([pl.DataFrame(schema=SCHEMA), *label_quantities(lm, open_sae(job, layer), layer, rows, texts)])
    fired = detection(read_rows(ACTIVATIONS, job.inputs["activations"], [layer]), texts, rows)
    for more in (as_concepts.rename({"output_score": "concept_score"}), effects, fired, lens_on_concept(rows, shares)):
        made = made.join(more, on=KEY, how="left")
    log.info("layer %d: %d features, %d of a concept", layer, made.height, effects.height)
    return made


def at_settings(layer: int, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """OUTPUT_SCORE_SETTINGS of a layer."""
    for prompt, factor in score_settings(own, list(job.prefixes().values())):
        made = scores(layer, rows, rows["lens_token_ids"].to_list(), prompt, factor)
        yield made.with_columns(prompt=pl.lit(prompt), factor=pl.lit(factor))


by_layer = [(layer, features.filter(pl.col("layer") == layer).sort("feature")) for layer in job.layers]
write_summary(QUANTITIES, pl.concat([quantities(layer, rows) for layer, rows in by_layer]), job.outputs["quantities"])
columns = list(OUTPUT_SCORE_SETTINGS.columns)
elsewhere = pl.concat([made.select(columns) for layer, rows in by_layer for made in at_settings(layer, rows)])
write_summary(OUTPUT_SCORE_SETTINGS, elsewhere, job.outputs["settings"])
