"""The concepts of a comparison of methods, and the labelled texts that methods learn from."""

from common import open_job

from saesteer.core.tables import ASKED_CONCEPTS, CONCEPT_TEXTS, write_summary
from saesteer.settings import OwnTexts, TopicTexts
from saesteer.settings.registry import method
from saesteer.sources.concept_texts import own_texts, published_texts, sae_names, with_own_labels
from saesteer.sources.prefixes import prompts_of, training_openers
from saesteer.world.concept_texts import topic_texts
from saesteer.world.lexicon import load_lexicon

job = open_job(snakemake)
settings = job.experiment.methods
sizes = (settings.n_positive, settings.n_negative, settings.seed)
if isinstance(settings.concepts, TopicTexts):
    lexicon = load_lexicon(settings.concepts.lexicon, settings.concepts.openers)
    concepts, texts = topic_texts(lexicon, settings.concepts.topics, training_openers(settings), *sizes)
elif isinstance(settings.concepts, OwnTexts):
    concepts, texts = own_texts(settings.concepts, prompts_of(settings), *sizes)
else:
    metadata, train = job.inputs["sources"]
    concepts, texts = published_texts(metadata, train, settings.concepts.n_concepts, *sizes)
    by_label = [name for name in settings.methods if "label" in method(name).needs]
    concepts = with_own_labels(concepts, metadata, sae_names(job.experiment), by_label)
write_summary(ASKED_CONCEPTS, concepts, job.outputs["concepts"])
write_summary(CONCEPT_TEXTS, texts, job.outputs["texts"])
