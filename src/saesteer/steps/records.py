"""Each feature's max-activating examples: from the activations of local texts, or from Neuronpedia, with explanations."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import ACTIVATIONS, RECORDS
from saesteer.run import Run
from saesteer.settings import Experiment, LocalRecords, NeuronpediaRecords
from saesteer.steps import keys
from saesteer.steps.step import Step, by_layer, layers_of, values_of


def step(experiment: Experiment) -> Step | None:
    records, settings = experiment.records, values_of(experiment.records, "n_records")
    if isinstance(records, LocalRecords):
        inputs, modules = ("texts", "activations"), ("analysis.records", "sources.corpus")
        return Step(RECORDS, keys.features(experiment), settings, inputs, modules, from_activations)
    settings = {"source": records.source or [experiment.saes.release, experiment.saes.id], **settings}
    return Step(RECORDS, keys.features(experiment), settings, (), ("sources.neuronpedia.convert",), from_neuronpedia)


def from_activations(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.records import top_records
    from saesteer.sources.corpus import read_texts

    records, tokens = run.experiment.records, run.tokens()
    assert isinstance(records, LocalRecords)
    texts = read_texts(records.texts, run.model_folder(), run.experiment.model.bos, records.max_tokens)
    for layer, rows in by_layer(missing):
        yield top_records(run.rows(ACTIVATIONS, [layer]), texts, rows["feature"].to_list(), records.n_records, tokens)


def from_neuronpedia(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.sources.neuronpedia.fetch import feature_records
    from saesteer.sources.neuronpedia.sources import sources_of

    records, downloads = run.experiment.records, run.workflow.cache_dir or run.downloads
    assert isinstance(records, NeuronpediaRecords)
    yield from feature_records(run.workflow.addresses, sources_of(run.experiment, layers_of(missing)), missing, records, downloads)
