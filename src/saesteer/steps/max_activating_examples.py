"""Each feature's max-activating examples: from the activations of local texts, or from Neuronpedia, with explanations."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.core.texts import EXAMPLE
from saesteer.run import Run
from saesteer.settings import Experiment, LocalExamples, NeuronpediaExamples
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.step import Step, by_layer, described_features, every_feature, layers_of, values_of

MAX_ACTIVATING_EXAMPLES = Table(
    "max_activating_examples",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "density": Column(
            pl.Float64,
            "share of tokens, special ones left out, on which the feature is active",
            "the source has no density, or no token counts",
        ),
        "max_activation": Column(pl.Float32, "largest activation", "the feature is never active"),
        "histogram_activations": Column(
            pl.List(pl.Float32),
            "activation at the middle of each bin of the feature's activation histogram, ascending",
            "the feature is never active, or the source has no histogram",
        ),
        "histogram_counts": Column(
            pl.List(pl.UInt32), "tokens whose activation, which is above 0, lies in each bin", "histogram_activations is null"
        ),
        "n_examples": Column(pl.UInt32, "max-activating examples kept"),
        "examples": Column(pl.List(EXAMPLE), "texts with the largest maxima; ties broken by text_id"),
        "explanations": Column(
            pl.List(pl.String), "all that the source says the feature means: type oai_token-act-pair first, then by type, model and text"
        ),
        "source": Column(pl.String, "local or neuronpedia"),
        "reason": Column(pl.String, "why there are no max-activating examples", "there are some"),
    },
)


def step(experiment: Experiment) -> Step | None:
    section, settings = experiment.max_activating_examples, values_of(experiment.max_activating_examples, "n_examples")
    if isinstance(section, LocalExamples):
        inputs, modules = ("texts", "activations"), ("analysis.max_activating_examples", "sources.corpus")
        return Step(MAX_ACTIVATING_EXAMPLES, described_features(experiment), settings, inputs, modules, from_activations)
    settings = {"source": section.source or [experiment.saes.release, experiment.saes.id], **settings}
    return Step(MAX_ACTIVATING_EXAMPLES, every_feature(experiment), settings, (), ("sources.neuronpedia.convert",), from_neuronpedia)


def from_activations(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.max_activating_examples import max_activating_examples

    local, tokens = run.experiment.local_examples, run.tokens()
    assert local is not None
    texts = run.corpus(local.max_tokens)
    for layer, rows in by_layer(missing):
        yield max_activating_examples(run.rows(ACTIVATIONS, [layer]), texts, rows["feature"].to_list(), local.n_examples, tokens)


def from_neuronpedia(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.sources.neuronpedia.fetch import max_activating_examples
    from saesteer.sources.neuronpedia.sources import sources_of

    settings, downloads = run.experiment.max_activating_examples, run.workflow.downloads_dir
    assert isinstance(settings, NeuronpediaExamples)
    yield from max_activating_examples(run.workflow.addresses, sources_of(run.experiment, layers_of(missing)), missing, settings, downloads)
