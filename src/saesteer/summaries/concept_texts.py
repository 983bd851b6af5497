"""The concepts of a comparison of methods, and the labelled texts that methods learn from."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import ASKED_CONCEPTS, CONCEPT_TEXTS
from saesteer.run import Run
from saesteer.settings import OwnTexts, TopicTexts
from saesteer.settings.registry import method
from saesteer.summaries.summary import Summary, compares


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.sources.concept_texts import own_texts, published_texts, with_own_labels
    from saesteer.sources.neuronpedia.sources import known_sources
    from saesteer.sources.prefixes import prompts_of, training_openers
    from saesteer.sources.published import kept_at
    from saesteer.world.concept_texts import topic_texts
    from saesteer.world.lexicon import load_lexicon

    settings = run.comparison.methods
    listed, sizes = settings.concepts, (settings.n_positive, settings.n_negative, settings.seed)
    if isinstance(listed, TopicTexts):
        lexicon = load_lexicon(listed.lexicon, listed.openers)
        concepts, texts = topic_texts(lexicon, listed.topics, training_openers(settings), *sizes)
    elif isinstance(listed, OwnTexts):
        concepts, texts = own_texts(listed, prompts_of(settings), *sizes)
    else:
        metadata, train = (kept_at(key, run.downloads) for key in (listed.concepts, listed.texts))
        concepts, texts = published_texts(metadata, train, listed.n_concepts, *sizes)
        by_label = [name for name in settings.methods if "label" in method(name).needs]
        saes = {layer: source.source for layer, source in known_sources(run.experiment, run.experiment.layers).items()}
        concepts = with_own_labels(concepts, metadata, saes, by_label)
    return {ASKED_CONCEPTS.name: concepts, CONCEPT_TEXTS.name: texts}


SUMMARY = Summary((ASKED_CONCEPTS, CONCEPT_TEXTS), compares, compute)
