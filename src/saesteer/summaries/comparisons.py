"""The tables of a comparison of methods: its concepts, and what is made of its rows."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.texts import of_fits
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_EQUAL_COST, METHOD_EQUAL_COST_SCORES, METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, LabelledTexts, OracleJudge, TopicTexts
from saesteer.settings.registry import method
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, CONCEPT_TEXTS, STEERING_PROMPTS
from saesteer.steps import gen_success
from saesteer.steps.damage import DAMAGE
from saesteer.steps.features import features_of_layers
from saesteer.steps.fits import FITS
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.pilot import ordinary_texts_pin
from saesteer.summaries.summary import Summary, compares, counted_ratings

if TYPE_CHECKING:
    from saesteer.methods.compare.paper_values import Protocol


def concepts_and_texts(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """The concepts of a comparison of methods, and the labelled texts that methods learn from."""
    from saesteer.sources.concept_texts import published_texts, texts_of_file, with_labels
    from saesteer.sources.neuronpedia.sources import known_sources
    from saesteer.sources.prefixes import prompts_of, training_openers
    from saesteer.sources.published import cached_path
    from saesteer.world.concept_texts import topic_texts
    from saesteer.world.lexicon import load_lexicon

    settings = run.comparison.methods
    listed, sizes = settings.concepts, (settings.n_positive, settings.n_negative, settings.seed)
    if isinstance(listed, TopicTexts):
        lexicon = load_lexicon(listed.lexicon, listed.openers)
        concepts, texts = topic_texts(lexicon, listed.topics, training_openers(settings), *sizes)
    elif isinstance(listed, LabelledTexts):
        concepts, texts = texts_of_file(listed, prompts_of(settings), *sizes)
    else:
        metadata, train = (cached_path(key, run.downloads) for key in (listed.concepts, listed.texts))
        concepts, texts = published_texts(metadata, train, listed.n_concepts, *sizes)
        by_label = [name for name in settings.methods if "label" in method(name).needs]
        saes = {layer: source.source for layer, source in known_sources(run.experiment, run.experiment.layers).items()}
        concepts = with_labels(concepts, metadata, saes, by_label)
    return {COMPARED_CONCEPTS.name: concepts, CONCEPT_TEXTS.name: texts}


def has_prompt_writer(experiment: Experiment) -> bool:
    return isinstance(experiment, Comparison) and experiment.methods.prompt_writer is not None


def steering_prompts(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Each concept's steering prompts, written by the language model that the experiment names (P4)."""
    from saesteer.judge.batch import endpoint_asker
    from saesteer.judge.prompt_writing import written_prompts

    concepts = dict(run.summary(COMPARED_CONCEPTS).select("concept_id", "concept").iter_rows())
    endpoint = run.comparison.methods.prompt_writer
    assert endpoint is not None
    writer = endpoint_asker(endpoint, os.environ, run.spending)
    prompts = written_prompts(concepts, writer, run.data / "steering_prompts/answers", run.workflow.part_seconds)
    return {STEERING_PROMPTS.name: prompts}


def method_tables(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Scores of steering methods with intervals, their differences and costs."""
    from saesteer.methods.compare.protocol import Rows, at_every_layer
    from saesteer.methods.compare.summaries import method_summaries

    experiment, settings = run.comparison, run.comparison.methods
    by_success = gen_success.step(experiment) is not None  # whether it chooses factors
    counts = run.rows(GEN_SUCCESS) if by_success else pl.DataFrame(schema=GEN_SUCCESS.schema)
    of_texts = [of_fits(rows) for rows in (run.rows(GENERATIONS), run.rows(PERPLEXITY), counted_ratings(run), counts)]
    fits = run.rows(FITS, None, [name for name in FITS.columns if name not in ("tensors", "values")])
    texts, losses, ratings, success, fits = (at_every_layer(rows, experiment.layers) for rows in (*of_texts, fits))
    concepts, features = run.summary(COMPARED_CONCEPTS), features_of_layers(run, run.layers)
    rows = Rows(texts, losses, ratings, fits, concepts, success.drop_nulls("gen_success_20"), features)
    return method_summaries(rows, list(run.prompts()), settings, experiment.best_factor, protocols(run, concepts.height))


def protocols(run: Run, n_concepts: int) -> "dict[int, Protocol]":
    """What sets each layer's figures apart from a paper's."""
    from saesteer.methods.compare.paper_values import our_protocol

    judge = getattr(run.comparison.judge, "model", run.comparison.judge.kind)
    rater, settings, model = judge if isinstance(judge, str) else judge.name, run.comparison.methods, run.experiment.model.name
    return {layer: our_protocol(settings, model, layer, rater, n_concepts) for layer in run.layers}


def has_ordinary_texts(experiment: Experiment) -> bool:
    """Whether there are ordinary texts on which it can be measured what steering breaks."""
    return isinstance(experiment, Comparison) and ordinary_texts_pin(experiment) is not None


def damage_and_equal_cost(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Each method's score against what it breaks, and its score at equal cost."""
    from saesteer.methods.compare.damage import equal_cost, equal_cost_scores, method_damage
    from saesteer.methods.compare.protocol import at_every_layer

    settings = run.comparison.methods
    halves, choices, methods = (run.summary(METHOD_SUMMARIES[name]) for name in ("method_halves", "method_choices", "methods"))
    rows = at_every_layer(run.rows(DAMAGE), run.experiment.layers)
    scores = equal_cost_scores(rows, halves, choices, settings)
    return {
        METHOD_DAMAGE.name: method_damage(rows, _other_topics(run, choices), choices, methods, settings),
        METHOD_EQUAL_COST_SCORES.name: scores,
        METHOD_EQUAL_COST.name: equal_cost(scores, methods, settings),
    }


def _other_topics(run: Run, choices: pl.DataFrame) -> pl.DataFrame:
    """How much the texts at the chosen factors are about other topics; no rows where the judge is not a world's."""
    keys = list(DAMAGE.keys)
    if not isinstance(run.comparison.judge, OracleJudge):
        return choices.select(keys).clear().with_columns(other_rating=pl.lit(None, pl.Float64))
    from saesteer.methods.compare.protocol import at_every_layer
    from saesteer.world.rating import other_ratings

    concepts = run.summary(COMPARED_CONCEPTS).select("concept_id", "concept")
    texts = at_every_layer(of_fits(run.rows(GENERATIONS)), run.experiment.layers)
    texts = texts.join(choices.select(keys), on=keys, how="semi")
    texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
    return texts.select(*keys, other_ratings(texts, run.world_judge(), run.topics()))


SUMMARIES = {
    "concept_texts": Summary((COMPARED_CONCEPTS, CONCEPT_TEXTS), compares, concepts_and_texts),
    "steering_prompts": Summary((STEERING_PROMPTS,), has_prompt_writer, steering_prompts),
    "method_tables": Summary(tuple(METHOD_SUMMARIES.values()), compares, method_tables),
    "method_damage": Summary((METHOD_DAMAGE, METHOD_EQUAL_COST_SCORES, METHOD_EQUAL_COST), has_ordinary_texts, damage_and_equal_cost),
}
