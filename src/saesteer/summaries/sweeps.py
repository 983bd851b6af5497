"""The tables that are made of a sweep's rows."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tqdm import tqdm

from saesteer.analysis.tables import (
    BEST_FACTORS,
    CHOSEN_STRENGTHS,
    EXAMPLES,
    FACTOR_BINS,
    FEATURE_PMI,
    FILTER_VARIANTS,
    OUTCOMES,
    PMI,
    SELECTION,
    STEERING,
)
from saesteer.core.texts import FEATURE_TEXT, of_features
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, Experiment, OracleJudge, Sweep
from saesteer.sources.pins import pmi_file
from saesteer.steps.concepts import CONCEPTS, N_DESCRIBED_BY
from saesteer.steps.features import FEATURES
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS, examples_of_concepts
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.pilot import PILOT
from saesteer.summaries.summary import Summary, counted_ratings, sweeps


def steering_means(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Means over generations: one row a feature, factor and half of the prefixes."""
    from saesteer.analysis.halves import split_halves
    from saesteer.analysis.summaries import steering_table

    ratings = counted_ratings(run, layers) if run.sweep.is_rated else pl.DataFrame(schema=JUDGEMENTS.schema)
    steps = (run.rows(GEN_SUCCESS, layers), run.rows(PERPLEXITY, layers), ratings)
    success, losses, rated = (of_features(rows).drop("reason") for rows in steps)
    return {STEERING.name: steering_table(success, losses, _with_outside(run, layers, rated), split_halves(run.prompts()))}


def _with_outside(run: Run, layers: Sequence[int], rated: pl.DataFrame) -> pl.DataFrame:
    """Ratings with `concept_outside`, by the words that are no top logit-lens tokens; null where a language model judges, which would
    have to be paid for it."""
    judge = run.sweep.judge
    if not isinstance(judge, OracleJudge | EmbeddingJudge):
        return rated.with_columns(concept_outside=pl.lit(None, pl.Float64))
    concepts, lens = run.rows(CONCEPTS, layers, ["concept"]), run.rows(LOGIT_LENS, layers, ["tokens"])
    known = concepts.join(lens, on=CONCEPTS.keys, how="left")
    texts = of_features(run.rows(GENERATIONS, layers, ["text"])).join(known, on=CONCEPTS.keys, how="left", maintain_order="left")
    if isinstance(judge, EmbeddingJudge):
        outside = _outside_by_embedding(run, judge, texts)
    else:
        from saesteer.world.rating import ratings_outside

        outside = texts.select(*FEATURE_TEXT, ratings_outside(texts, run.world_judge(), run.topics()))
    return rated.join(outside, on=FEATURE_TEXT, how="left", maintain_order="left")


def _outside_by_embedding(run: Run, judge: EmbeddingJudge, texts: pl.DataFrame) -> pl.DataFrame:
    """FEATURE_TEXT and concept_outside of texts that have a concept. texts: FEATURE_TEXT, text, concept, tokens."""
    from saesteer.analysis.label_evidence import excerpts_of_concepts
    from saesteer.judge.embedding import load_embedder
    from saesteer.judge.rate_embedding import concept_of
    from saesteer.judge.rate_outside import of_lens_tokens, ratings_outside

    embedder, tokens = load_embedder(run.model_folder("judge_model")), run.tokens()
    parts = [pl.DataFrame(schema=texts.select(FEATURE_TEXT).schema | {"concept_outside": pl.Float64})]
    named = texts.drop_nulls("concept")
    with tqdm(total=named.height, desc=STEERING.name, unit="text", mininterval=5, leave=False) as bar:
        for (layer,), of_layer in named.group_by("layer", maintain_order=True):
            examples = excerpts_of_concepts(examples_of_concepts(run, int(str(layer))), N_DESCRIBED_BY, tokens.text_of)
            for (feature, name), rows in of_layer.group_by("feature", "concept", maintain_order=True):
                described = examples.get(str(feature), judge.descriptions).get(str(name), ())
                is_left_out = of_lens_tokens(rows["tokens"][0].to_list(), str(name), tokens)
                said, plain = (of["text"].fill_null("").to_list() for of in (rows, rows.filter(factor="0")))
                outside = ratings_outside(concept_of(str(name), described, embedder.vectors), said, plain, is_left_out)
                parts.append(rows.select(FEATURE_TEXT).with_columns(concept_outside=pl.Series(outside, dtype=pl.Float64)))
                bar.update(rows.height)
    return pl.concat(parts)


def factors_and_outcomes(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Each feature's best factor by both rules, and what steering at it gave on the prefixes that report."""
    from saesteer.analysis.best_factor import best_factors, outcomes

    chosen = best_factors(run.summary(STEERING), run.sweep.best_factor)
    return {BEST_FACTORS.name: chosen, OUTCOMES.name: outcomes(chosen, run.summary(FEATURES))}


def selection_table(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """What filtering by output score does, against random removal and within layers."""
    from saesteer.analysis.selection import selection

    return {SELECTION.name: selection(run.summary(OUTCOMES), run.sweep.selection)}


def variants_table(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """What the filter by output score gains in every variant of the analysis."""
    from saesteer.analysis.selection import filter_variants, lens_frequencies

    experiment, features = run.sweep, run.summary(FEATURES)
    frequencies = lens_frequencies(run.rows(GENERATIONS).filter(factor="0"), features)
    rows = filter_variants(run.summary(STEERING), features, frequencies, experiment.best_factor, experiment.selection)
    return {FILTER_VARIANTS.name: rows}


def factor_bins_table(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """GenSuccess and perplexity against factor, by output-score bin."""
    from saesteer.analysis.pilot_grid import by_multiple, grid
    from saesteer.analysis.selection import EDGES, factor_bins

    experiment, steering, features = run.sweep, run.summary(STEERING), run.summary(FEATURES)
    if experiment.sweep.pilot:
        steering = by_multiple(steering, grid(run.rows(PILOT), experiment.sweep.factors))
    return {FACTOR_BINS.name: factor_bins(steering, features, EDGES, experiment.selection)}


def has_pilot(experiment: Experiment) -> bool:
    return isinstance(experiment, Sweep) and experiment.sweep.pilot is not None


def strengths_table(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """How strong the factors are that were chosen, in units that compare features and layers."""
    from saesteer.analysis.pilot_grid import chosen_strengths, grid

    chosen = chosen_strengths(run.summary(BEST_FACTORS), grid(run.rows(PILOT), run.sweep.sweep.factors))
    return {CHOSEN_STRENGTHS.name: chosen}


def has_pmi_texts(experiment: Experiment) -> bool:
    """Whether there are texts whose co-occurrences can be counted."""
    return isinstance(experiment, Sweep) and pmi_file(experiment, Path()) is not None


def pmi_tables(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """PMI of each feature's most generated tokens with its top logit-lens tokens, and its mean by threshold."""
    from saesteer.analysis.pmi import feature_pmi, pmi_by_threshold
    from saesteer.sources.corpus import pmi_texts

    texts_file = pmi_file(run.sweep, run.downloads)
    assert texts_file is not None
    experiment, outcomes, features = run.sweep, run.summary(OUTCOMES), run.summary(FEATURES)
    texts = pmi_texts(texts_file, run.model_folder())
    by_feature = feature_pmi(of_features(run.rows(GENERATIONS)), outcomes, features, texts, experiment.best_factor.rule)
    return {FEATURE_PMI.name: by_feature, PMI.name: pmi_by_threshold(by_feature, experiment.selection)}


def examples_table(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Example features, chosen by a fixed rule, with an example, top logit-lens tokens and a steered text."""
    from saesteer.analysis.examples import N_FEATURES, examples

    experiment = run.sweep
    table = examples(
        run.summary(OUTCOMES),
        run.summary(FEATURES),
        run.rows(MAX_ACTIVATING_EXAMPLES),
        of_features(run.rows(GENERATIONS, None, ["text"])),
        list(run.prompts().values()),
        experiment.best_factor.rule,
        N_FEATURES,
        experiment.selection.late_layers_from,
    )
    return {EXAMPLES.name: table}


SUMMARIES = {
    "steering_table": Summary((STEERING,), sweeps, steering_means),
    "outcomes": Summary((BEST_FACTORS, OUTCOMES), sweeps, factors_and_outcomes),
    "selection": Summary((SELECTION,), sweeps, selection_table),
    "filter_variants": Summary((FILTER_VARIANTS,), sweeps, variants_table),
    "factor_bins": Summary((FACTOR_BINS,), sweeps, factor_bins_table),
    "chosen_strengths": Summary((CHOSEN_STRENGTHS,), has_pilot, strengths_table),
    "pmi": Summary((FEATURE_PMI, PMI), has_pmi_texts, pmi_tables),
    "examples": Summary((EXAMPLES,), sweeps, examples_table),
}
