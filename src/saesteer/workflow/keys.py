"""The keys that a step wants: the values of each key column besides the layer.

Each kind of keys says two things: what the configuration alone says of them, which a job's params show, and the values themselves, which
may have to be read from files that are fetched or made first. No torch: this decides whether a job has anything to compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from saesteer.core.files import text_id
from saesteer.core.tables.steps import SINGLE_FEATURE
from saesteer.settings import Experiment, LocalRecords, MethodSettings, NamedConcepts, settings_of
from saesteer.settings.registry import Method, method
from saesteer.sources.corpus import text_ids
from saesteer.sources.features import features_of
from saesteer.sources.prefixes import read_prefixes
from saesteer.sources.published import published_file

Axes = dict[str, Sequence[Any]]
Files = Mapping[str, Path]
"""The file behind each name of a job's inputs: pins, manifests, `prefixes_file`, `asked_concepts`, `method_choices`."""

FURTHER_FILES = ("prefixes_file", "asked_concepts", "method_choices", "steering_prompts")
"""Inputs that keys are read from, and what a language model wrote."""


@runtime_checkable
class Keys(Protocol):
    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        """What the configuration says of a layer's keys, as JSON values: a change of it makes the layer's job due. Published files are told
        by what pins them, and texts are an input of their own."""
        ...

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        """The values of each key column."""
        ...


@dataclass(frozen=True)
class Features:
    """Every feature of the experiment."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        return self.axes(experiment, layer, {})

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        return {"feature": list(features_of(experiment, layer))}


@dataclass(frozen=True)
class Texts:
    """Every text of the corpus that local records are made from."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        return {}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        assert isinstance(experiment.records, LocalRecords)
        return {"text_id": text_ids(experiment.records.texts)}


@dataclass(frozen=True)
class FeatureGenerations:
    """P1's sweep: every feature with every factor, prefix and sample."""

    n_prefixes: int

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        sweep = experiment.sweep
        if sweep.prefixes:
            return self.axes(experiment, layer, {})
        prefixes = {"published": published_file(str(sweep.published_prefixes)).identity, "n_prefixes": self.n_prefixes}
        return self._of_features(experiment, layer) | {"prefix_id": prefixes, "sample": sweep.n_samples}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        sweep = experiment.sweep
        prefixes = list(read_prefixes(sweep.prefixes or files["prefixes_file"], self.n_prefixes))
        return self._of_features(experiment, layer) | {"prefix_id": prefixes, "sample": list(range(sweep.n_samples))}

    def _of_features(self, experiment: Experiment, layer: int) -> Axes:
        targets = [str(feature) for feature in features_of(experiment, layer)]
        return {"method": [SINGLE_FEATURE], "target": targets, "factor": list(experiment.sweep.factors)}


@dataclass(frozen=True)
class Vectors:
    """The vectors whose effects are measured (P2)."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        return {"n_vectors": len(self.axes(experiment, layer, {})["vector"])}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        return {"vector": list(range(settings_of(experiment).effects.n_vectors))}


@dataclass(frozen=True)
class Fits:
    """Every method with every concept; those without a layer at the first layer only."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        return {"method": [row.key for row in methods_at(experiment, layer)], "concept_id": _configured_concepts(experiment)}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        return {"method": [row.key for row in methods_at(experiment, layer)], "concept_id": concept_ids(experiment, files)}


@dataclass(frozen=True)
class FitGenerations:
    """Every method at every factor of its grid, with every concept, prompt and sample; those without a layer at the first layer only."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        compared = settings_of(experiment)
        prompts: Any = {"published": compared.published_prompts, "n_prompts": compared.n_prompts}
        if compared.prompts:
            prompts = list(read_prefixes(compared.prompts, compared.n_prompts))
        concepts = _configured_concepts(experiment)
        return {"method,factor": strengths(experiment, layer), "target": concepts, "prefix_id": prompts, "sample": compared.n_samples}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        compared = settings_of(experiment)
        prompts = read_prefixes(compared.prompts or files["prefixes_file"], compared.n_prompts)
        return {
            "method,factor": strengths(experiment, layer),
            "target": concept_ids(experiment, files),
            "prefix_id": list(prompts),
            "sample": list(range(compared.n_samples)),
        }


@dataclass(frozen=True)
class ChosenFits:
    """Every fit at the factors that were chosen for it."""

    def configured(self, experiment: Experiment, layer: int) -> dict[str, Any]:
        return {}

    def axes(self, experiment: Experiment, layer: int, files: Files) -> Axes:
        columns = ["method", "concept_id", "factor"]
        choices = pl.read_parquet(files["method_choices"], columns=["layer", "abstains", *columns])
        own = pl.col("method").is_in([row.key for row in methods_at(experiment, layer)])
        chosen = choices.filter(own, pl.col("layer") == layer, ~pl.col("abstains"), pl.col("factor").is_not_null())
        return {",".join(columns): chosen.select(columns).unique(maintain_order=True).rows()}


def methods_at(experiment: Experiment, layer: int) -> list[Method]:
    """The methods that are fitted at a layer: all at the first, at others those that depend on it."""
    rows = [method(name) for name in settings_of(experiment).methods]
    return [row for row in rows if row.has_layer or layer == min(experiment.layers)]


def strengths(experiment: Experiment, layer: int) -> list[tuple[str, str]]:
    """Every method of a layer with each factor of its grid."""
    compared = settings_of(experiment)
    return [(row.key, factor) for row in methods_at(experiment, layer) for factor in _grid(row, compared)]


def _grid(row: Method, compared: MethodSettings) -> tuple[str, ...]:
    return ("1",) if row.grid == "once" else tuple(getattr(compared.factors, row.grid))


def n_fit_generations(experiment: Experiment) -> int:
    """How many texts a comparison generates."""
    compared = settings_of(experiment)
    n_strengths = sum(len(strengths(experiment, layer)) for layer in experiment.layers)
    return n_strengths * n_concepts(compared) * compared.n_prompts * compared.n_samples


def n_concepts(compared: MethodSettings) -> int:
    """How many concepts are asked for; a published list whose length is not given counts as 500."""
    return len(compared.concepts.names) if isinstance(compared.concepts, NamedConcepts) else compared.concepts.n_concepts or 500


def concept_ids(experiment: Experiment, files: Files) -> list[str]:
    """concept_id of every concept asked for: known from the configuration, or from the fetched list."""
    concepts = settings_of(experiment).concepts
    if isinstance(concepts, NamedConcepts):
        return [text_id(name) for name in concepts.names]
    return pl.read_parquet(files["asked_concepts"], columns=["concept_id"])["concept_id"].to_list()


def _configured_concepts(experiment: Experiment) -> Any:
    concepts = settings_of(experiment).concepts
    return concept_ids(experiment, {}) if isinstance(concepts, NamedConcepts) else concepts.model_dump(mode="json")
