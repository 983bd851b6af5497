"""The concepts of a comparison of methods, and the labelled texts that methods learn from."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import COMPARED_CONCEPTS, CONCEPT_TEXTS
from saesteer.run import Run
from saesteer.settings import LabelledTexts, TopicTexts
from saesteer.settings.registry import method
from saesteer.summaries.summary import Summary, compares


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
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


SUMMARY = Summary((COMPARED_CONCEPTS, CONCEPT_TEXTS), compares, compute)
