"""Each feature's max-activating examples: from the activations of local texts, or from Neuronpedia, with explanations."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import ACTIVATIONS, MAX_ACTIVATING_EXAMPLES
from saesteer.run import Run
from saesteer.settings import Experiment, LocalExamples, NeuronpediaExamples
from saesteer.steps.step import Step, by_layer, described_features, every_feature, layers_of, values_of


def step(experiment: Experiment) -> Step | None:
    section, settings = experiment.max_activating_examples, values_of(experiment.max_activating_examples, "n_examples")
    if isinstance(section, LocalExamples):
        inputs, modules = ("texts", "activations"), ("analysis.max_activating_examples", "sources.corpus")
        return Step(MAX_ACTIVATING_EXAMPLES, described_features(experiment), settings, inputs, modules, from_activations)
    settings = {"source": section.source or [experiment.saes.release, experiment.saes.id], **settings}
    return Step(MAX_ACTIVATING_EXAMPLES, every_feature(experiment), settings, (), ("sources.neuronpedia.convert",), from_neuronpedia)


def from_activations(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.max_activating_examples import max_activating_examples
    from saesteer.sources.corpus import read_texts

    local, tokens = run.experiment.max_activating_examples, run.tokens()
    assert isinstance(local, LocalExamples)
    texts = read_texts(local.texts, run.model_folder(), run.experiment.model.bos, local.max_tokens)
    for layer, rows in by_layer(missing):
        yield max_activating_examples(run.rows(ACTIVATIONS, [layer]), texts, rows["feature"].to_list(), local.n_examples, tokens)


def from_neuronpedia(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.sources.neuronpedia.fetch import max_activating_examples
    from saesteer.sources.neuronpedia.sources import sources_of

    settings, downloads = run.experiment.max_activating_examples, run.workflow.cache_dir or run.downloads
    assert isinstance(settings, NeuronpediaExamples)
    yield from max_activating_examples(run.workflow.addresses, sources_of(run.experiment, layers_of(missing)), missing, settings, downloads)
