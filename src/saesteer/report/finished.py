"""What there is of a finished experiment, loaded again: its models, SAEs, prompts, and what its methods fitted."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SettingsError
from saesteer.core.tables import FITS, read_summary
from saesteer.core.tables.methods import METHOD_CHOICES
from saesteer.engine.continuation import Sampling
from saesteer.engine.dtypes import available_device, number_type
from saesteer.engine.interventions import Intervention, unpacked
from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.engine.saes import Sae, load_sae
from saesteer.methods.compare.layers import at_every_layer
from saesteer.report.step_rows import asked_concepts, rows_of
from saesteer.settings import Experiment, MethodSettings, Workflow, settings_of
from saesteer.settings.steps import SweepSettings
from saesteer.sources.pins import converted_sae, fetched_folder, model_settings
from saesteer.sources.prefixes import prompts_in_order
from saesteer.workflow.plan import layer_groups


@dataclass(frozen=True)
class Fit:
    """What a method fitted for a concept, and how hard it is to steer."""

    layer: int
    method: str
    concept: str
    intervention: Intervention
    factor: float
    factor_from: str  # what chose it


@dataclass(frozen=True)
class Finished:
    """An experiment that has been run here."""

    workflow: Workflow
    experiment: Experiment
    name: str

    @property
    def data(self) -> Path:
        """Folder of its data artifacts."""
        return self.workflow.data_dir / self.name

    @property
    def downloads(self) -> Path:
        """Where it is written down what was fetched for it."""
        return self.workflow.data_dir / "downloads" / self.name

    def model_folder(self, which: str = "model") -> Path:
        """The folder of one of its models (sources.pins.MODELS)."""
        return model_settings(self.experiment, which).path or fetched_folder(self.downloads / f"{which}.json")

    def model(self, which: str = "model") -> LanguageModel:
        """One of its models, loaded."""
        settings = model_settings(self.experiment, which)
        how = (settings.bos, settings.prompt_format, settings.chat)
        return load_language_model(self.model_folder(which), settings.dtype, available_device(), *how)

    def sae(self, layer: int) -> Sae:
        """The converted SAE of one of its layers, loaded."""
        check_known("layer", str(layer), list(map(str, sorted(self.experiment.layers))))
        group = next(group for group, layers in layer_groups(self.experiment).items() if layer in layers)
        manifest = self.data / f"saes/{group}.json"
        if not manifest.is_file():
            raise SettingsError(f"{manifest} is missing: run the workflow on this machine first, which converts the experiment's SAEs")
        fetched = self.downloads / f"saes/{group}.json" if self.experiment.saes.from_hub else None
        return load_sae(converted_sae(manifest, fetched, layer), number_type(self.experiment.model.dtype), available_device())

    def sae_with(self, layer: int, feature: int) -> Sae:
        """The same, if it has a feature."""
        sae = self.sae(layer)
        if feature >= sae.meta.n_features:
            raise SettingsError(f"feature {layer}/{feature} does not exist: the SAE has features 0 to {sae.meta.n_features - 1}")
        return sae

    def pin(self, which: str = "model") -> dict[str, Any]:
        """The pin of one of its models."""
        pin: dict[str, Any] = json.loads((self.data / f"pins/{which}.json").read_text(encoding="utf-8"))
        return pin

    def model_record(self) -> dict[str, Any]:
        """Which model was steered."""
        pin, settings = self.pin(), self.experiment.model
        return {"name": settings.name, "revision": pin["revision"], "digest": pin["digest"], "dtype": settings.dtype}

    def prompts(self) -> dict[str, str]:
        """prefix_id -> prompt of its texts."""
        return prompts_in_order(self.experiment, self.workflow.data_dir / "downloads")


def parse_feature(which: str) -> tuple[int, int] | None:
    """LAYER/FEATURE as numbers; None where it is something else."""
    layer, slash, feature = which.partition("/")
    return (int(layer), int(feature)) if slash and layer.isdecimal() and feature.isdecimal() else None


def protocol_of(experiment: Experiment) -> SweepSettings | MethodSettings:
    """How an experiment's texts are generated: the settings of the sweep, or of the comparison of methods."""
    return settings_of(experiment) if experiment.until == "methods" else experiment.sweep


def sampling_of(experiment: Experiment) -> Sampling:
    """How its tokens are drawn."""
    settings = protocol_of(experiment)
    return Sampling(settings.max_new_tokens, settings.temperature, settings.top_k, settings.stop or "", settings.top_p)


def fit_of(experiment: Experiment, folder: Path, method: str, concept: str, layer: int, factor: float | None = None) -> Fit:
    """A fit of a finished comparison, whose data folder this is; `factor` None: the one that was chosen."""
    check_known("layer", str(layer), list(map(str, sorted(experiment.layers))))
    fits = at_every_layer(rows_of(FITS, folder, experiment, sorted({layer, min(experiment.layers)})), experiment.layers).filter(layer=layer)
    check_known("method", method, sorted(set(fits["method"])))
    concepts = dict(asked_concepts(folder).select("concept", "concept_id").iter_rows())
    check_known("concept", concept, list(concepts))
    (row,) = fits.filter(method=method, concept_id=concepts[concept]).to_dicts()
    if row["kind"] is None:
        raise SettingsError(f"method {method} abstains for concept {concept!r} at layer {layer}: {row['reason']}")
    strength, factor_from = _chosen_factor(folder, row) if factor is None else (factor, "given")
    return Fit(layer, method, concept, unpacked(row["kind"], row["tensors"], row["values"]), strength, factor_from)


def check_known(what: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not among those known, with the nearest of them."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:20]
        raise SettingsError(f"there is no {what} {name!r} here; there are {len(known)}, such as {', '.join(near)}")


def _chosen_factor(folder: Path, fit: Mapping[str, Any]) -> tuple[float, str]:
    """The factor that the comparison chose, and in words how. Of two halves' the larger, which does more to the model."""
    choices = read_summary(METHOD_CHOICES, folder / "tables/method_choices.parquet")
    mine = choices.filter(pl.col("factor").is_not_null(), **{name: fit[name] for name in FITS.keys})
    factors = sorted(set(mine["factor"].cast(pl.Float64)))
    if not factors:
        raise SettingsError(f"no factor could be chosen for method {fit['method']} and this concept: name one (--factor)")
    return factors[-1], "chosen" if len(factors) == 1 else f"the largest of those that halves chose: {', '.join(map(str, factors))}"
