"""The feature set: which features of each layer an experiment covers. Read at parse time, needs no model and no network."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saesteer.core.counter_rng import uniforms
from saesteer.core.files import value_digest, write_json
from saesteer.settings import AllFeatures, Experiment, ExplainedFeatures, ExplicitFeatures, PublishedFeatures, SettingsError


def resolve(experiment: Experiment) -> dict[int, tuple[int, ...]]:
    """Layer -> its features, for every layer of the experiment."""
    return {layer: features_of(experiment, layer) for layer in experiment.layers}


def features_of(experiment: Experiment, layer: int) -> tuple[int, ...]:
    """A layer's features, ascending.

    A sampled set is nested: features are ranked by a random number of their own, so the first 100 of 101 are the 100.
    """
    chosen = experiment.features
    if isinstance(chosen, AllFeatures):
        return tuple(range(experiment.saes.n_features))
    if isinstance(chosen, ExplicitFeatures):
        return tuple(sorted(chosen.features.get(layer, ())))
    if isinstance(chosen, PublishedFeatures | ExplainedFeatures):
        return _resolved(chosen).get(layer, ())
    ranking = _ranking(chosen.seed, layer, experiment.saes.n_features)
    return tuple(sorted(ranking[: chosen.n_per_layer].tolist()))


def list_digest(features: Mapping[int, Sequence[int]]) -> str:
    """Digest of a resolved list: it says which list a colleague has."""
    return value_digest({str(layer): list(listed) for layer, listed in sorted(features.items())})


def write_list(
    path: Path,
    origin: PublishedFeatures | ExplainedFeatures,
    source: str,
    features: Mapping[int, Sequence[int]],
    answer: Mapping[int, Any] | None = None,
) -> None:
    """Write a resolved list, with what it was resolved from, where it came from, its digest, and a search's answer for a reader."""
    listed = {str(layer): sorted(indices) for layer, indices in sorted(features.items())}
    values = {"asked": _query(origin), "source": source, "digest": list_digest(features), "features": listed}
    write_json(path, values | ({} if answer is None else {"answer": answer}))


def _query(chosen: PublishedFeatures | ExplainedFeatures) -> dict[str, Any]:
    return chosen.model_dump(mode="json", exclude_none=True, exclude={"list"})


def _resolved(chosen: PublishedFeatures | ExplainedFeatures) -> dict[int, tuple[int, ...]]:
    """The list that `saesteer features` wrote; one of another question, or edited by hand, is refused."""
    if not chosen.list.is_file():
        raise SettingsError(
            f"features.list: there is no {chosen.list}; `saesteer features EXPERIMENT` makes it (needs the network), commit it"
        )
    query, features = _read_list(chosen.list, chosen.list.stat().st_mtime_ns)
    if query != _query(chosen):
        raise SettingsError(f"{chosen.list} answers another question, or was edited: run `saesteer features EXPERIMENT` again")
    return features


@functools.cache
def _read_list(path: Path, written_ns: int) -> tuple[dict[str, Any] | None, dict[int, tuple[int, ...]]]:
    """What a list was resolved from, None where its features are not those of its digest; read once, for every step asks for each layer."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not {"features", "asked", "digest"} <= values.keys():
        raise SettingsError(f"{path} is no list that `saesteer features` wrote: name a file that is not there yet, and let it write that")
    features = {int(layer): tuple(sorted(listed)) for layer, listed in values["features"].items()}
    return values["asked"] if values["digest"] == list_digest(features) else None, features


@functools.cache
def _ranking(seed: int, layer: int, n_features: int) -> np.ndarray:
    """A layer's features in the order of the draw; kept, since every step's job asks for it again."""
    ranking = np.argsort(uniforms(seed, layer, np.arange(n_features), step=0), kind="stable")
    ranking.flags.writeable = False
    return ranking
