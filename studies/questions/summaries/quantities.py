"""Cheap quantities of every feature beside its two scores, and its output score at other prompts and factors."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.tables import ACTIVATIONS, FEATURES
from saesteer.run import Run, log
from saesteer.summaries.summary import FILE_OF_GROUP, Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import OUTPUT_SCORE_SETTINGS, QUANTITIES

if TYPE_CHECKING:
    from saesteer.engine.models import LanguageModel

KEY = ["layer", "feature"]


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.labelled_texts import texts_by_topic, token_shares

    lm, features, topics, labelled = run.model(), run.summary(FEATURES), run.topics(), pl.read_parquet(run.file("texts"))
    shares, texts = token_shares(labelled, topics), texts_by_topic(labelled, topics)
    of_layers = [(layer, features.filter(pl.col("layer") == layer).sort("feature")) for layer in layers]
    columns = list(OUTPUT_SCORE_SETTINGS.columns)
    at_settings = [frame.select(columns) for layer, rows in of_layers for frame in scores_at_settings(run, lm, layer, rows)]
    quantities = [quantities_of_layer(run, lm, layer, rows, shares, texts) for layer, rows in of_layers]
    return {QUANTITIES.name: pl.concat(quantities), OUTPUT_SCORE_SETTINGS.name: pl.concat(at_settings)}


def quantities_of_layer(
    run: Run, lm: "LanguageModel", layer: int, rows: pl.DataFrame, shares: pl.DataFrame, texts: pl.DataFrame
) -> pl.DataFrame:
    """QUANTITIES of a layer, from labelled_texts.token_shares and texts_by_topic."""
    from saesteer.engine.hook_points import to_residual
    from saesteer.engine.saes import load_decoder_rows, read_meta
    from studies.questions.labelled_texts import concept_tokens, detection, lens_on_concept
    from studies.questions.quantities import SCHEMA, decoder_quantities, label_quantities

    settings, file = run.experiment.output_score, run.sae_file(layer)
    directions = load_decoder_rows(file, rows["feature"].to_list())
    table = rows.select(KEY).hstack(decoder_quantities(lm, directions, to_residual(lm, layer, read_meta(file).hook_point)))
    tokens = concept_tokens(shares)
    of_concepts = rows.filter(pl.col("concept").is_in(list(tokens)))
    ids = [tokens[name] for name in of_concepts["concept"]]
    as_concepts = output_scores_at(run, lm, layer, of_concepts, ids, settings.prompt, str(settings.factor))
    effects = pl.concat([pl.DataFrame(schema=SCHEMA), *label_quantities(lm, run.sae(layer), layer, rows, texts)])
    fired = detection(run.rows(ACTIVATIONS, [layer]), texts, rows)
    for columns in (as_concepts.rename({"output_score": "concept_score"}), effects, fired, lens_on_concept(rows, shares)):
        table = table.join(columns, on=KEY, how="left")
    log.info("layer %d: %d features, %d of a concept", layer, table.height, effects.height)
    return table


def scores_at_settings(run: Run, lm: "LanguageModel", layer: int, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """OUTPUT_SCORE_SETTINGS of a layer."""
    from studies.questions.setting_agreement import score_settings

    for prompt, factor in score_settings(run.experiment.output_score, list(run.prompts().values())):
        scores = output_scores_at(run, lm, layer, rows, rows["top_logit_lens_token_ids"].to_list(), prompt, factor)
        yield scores.with_columns(prompt=pl.lit(prompt), factor=pl.lit(factor))


def output_scores_at(
    run: Run, lm: "LanguageModel", layer: int, rows: pl.DataFrame, ids: list[list[int]], prompt: str, factor: str
) -> pl.DataFrame:
    """layer, feature, output_score, of features with given tokens in place of the top logit-lens tokens."""
    import torch

    from saesteer.engine.output_score import output_scores_from_file

    features = rows["feature"].to_list()
    frames = output_scores_from_file(lm, run.sae_file(layer), layer, features, torch.tensor(ids), prompt, float(factor))
    empty = pl.DataFrame(schema=OUTPUT_SCORE_SETTINGS.schema).select("feature", "output_score")
    scores = pl.concat([empty, *(frame.select("feature", "output_score") for frame in frames)])
    return scores.select(pl.lit(layer, pl.UInt16).alias("layer"), "feature", "output_score")


SUMMARY = Summary((QUANTITIES, OUTPUT_SCORE_SETTINGS), steers_every_feature, compute, FILE_OF_GROUP, runs_model=True)
