"""An experiment and all that the workflow keeps of it: folders, manifests, tables, prompts, models, SAEs and the judge of a shipped world.

Scripts of rules, commands, the Python interface and the report all open an experiment through this one object. Files are read when a method
is called, and torch is imported only where a model or an SAE is loaded.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from saesteer.core.errors import SettingsError, check_known
from saesteer.core.files import read_json
from saesteer.core.store import SHARE, read_manifest, read_rows
from saesteer.core.tables import Table, read_summary
from saesteer.core.tokens import TextTokens, load_tokens
from saesteer.settings import (
    Comparison,
    Experiment,
    OracleJudge,
    Scores,
    Steering,
    Sweep,
    Workflow,
    derived_from,
    load_experiment,
)
from saesteer.settings.base import DOWNLOADS
from saesteer.sources.corpus import read_texts, topic_names
from saesteer.sources.features import features_of
from saesteer.sources.pins import check_is_pinned, check_model_is_pinned, converted_sae, fetched_folder, model_settings, pinned_path
from saesteer.sources.prefixes import prompt_source, read_prefixes, unused_prefixes
from saesteer.sources.published import cached_path

if TYPE_CHECKING:
    from saesteer.engine.models import LanguageModel
    from saesteer.engine.saes import Sae
    from saesteer.world.judges import WorldJudge

SHARED_STEPS = ("generations", "gen_success", "perplexity", "judge")
"""Steps whose jobs cover `features_per_job` features of each of their layers: texts, and what is measured on them. The others read what all
features have in common, or take less time than a job's start."""

log = logging.getLogger("saesteer")


@dataclass(frozen=True)
class Run:
    workflow: Workflow
    name: str
    experiment: Experiment
    first_feature: int | None = None
    """Where the features of a job begin in each layer's list; None: there are all of them."""
    loaded: dict[str, LanguageModel] | None = field(default=None, compare=False, repr=False)
    """Models that stay in the host's memory for whoever asks next, also of experiments derived from this one; None: none does."""

    @property
    def data(self) -> Path:
        """The folder of its data artifacts."""
        return self.workflow.data_dir / self.name

    @property
    def spending(self) -> Path:
        """The data folder with the ledger of what questions cost: what `saesteer recommend` derives spends its source's budget."""
        name = self.name
        while source := derived_from(name, self.workflow):
            name = source
        return self.workflow.data_dir / name

    @property
    def figures(self) -> Path:
        """The folder of its figures."""
        return self.workflow.figures_dir / self.name

    @property
    def downloads(self) -> Path:
        """The folder of what the experiments of this workflow fetched."""
        return self.workflow.data_dir / DOWNLOADS

    @property
    def steering(self) -> Steering:
        """The experiment as one that generates texts; refused where it stops at the scores."""
        if isinstance(self.experiment, Scores):
            raise SettingsError(f"{self.name} generates no texts, it is of kind scores: name an experiment of kind sweep or comparison")
        return self.experiment

    @property
    def sweep(self) -> Sweep:
        """The experiment as a sweep, which it has to be."""
        assert isinstance(self.experiment, Sweep)
        return self.experiment

    @property
    def comparison(self) -> Comparison:
        """The experiment as a comparison of methods; any other is refused."""
        if not isinstance(self.experiment, Comparison):
            raise SettingsError(
                f"{self.name} compares no methods, it is of kind {self.experiment.kind}: name an experiment of kind comparison"
            )
        return self.experiment

    @property
    def layers(self) -> list[int]:
        """Its layers, ascending."""
        return sorted(self.experiment.layers)

    def check_layer(self, layer: int) -> None:
        """Refuse a layer that the experiment does not have."""
        check_known("layer", str(layer), [str(number) for number in self.layers])

    def check_feature(self, layer: int, feature: int) -> None:
        """Refuse a feature that the experiment's SAEs do not have."""
        self.check_layer(layer)
        if feature >= self.experiment.saes.n_features:
            n_features = self.experiment.saes.n_features
            raise SettingsError(f"feature {layer}/{feature} does not exist: the SAE has features 0 to {n_features - 1}")

    def of_job(self, group: str) -> tuple[Run, tuple[int, ...]]:
        """The run as a job sees it, without other jobs' features, and the job's layers; `group` is what the job's manifest is called."""
        name, _, first = group.partition(SHARE)
        return replace(self, first_feature=int(first) if first else None), self.experiment.layer_groups[name]

    @property
    def features_of_job(self) -> slice:
        """Which features of a layer's list a job of SHARED_STEPS covers."""
        size = self.experiment.features_per_job
        if self.first_feature is None or size is None:
            return slice(None)
        return slice(self.first_feature, self.first_feature + size)

    def groups(self, step: str) -> Mapping[str, tuple[int, ...]]:
        """What each job of a step is called, and its layers."""
        return self._shared_groups if step in SHARED_STEPS else self.experiment.layer_groups

    @functools.cached_property
    def _shared_groups(self) -> Mapping[str, tuple[int, ...]]:
        experiment, size = self.experiment, self.experiment.features_per_job
        if size is None or isinstance(experiment, Comparison):
            return experiment.layer_groups
        groups = {}
        for name, layers in experiment.layer_groups.items():
            for first in range(0, max(1, *(len(features_of(experiment, layer)) for layer in layers)), size):
                if self.first_feature in (None, first):
                    groups[f"{name}{SHARE}{first:05d}"] = layers
        return groups

    def manifests(self, step: str, layers: Sequence[int] | None = None) -> list[Path]:
        """A step's manifests of the jobs that have some of the layers (None: of all jobs)."""
        groups = self.groups(step).items()
        return [self.data / step / f"{group}.json" for group, of_group in groups if layers is None or {*layers} & {*of_group}]

    def present_manifests(self, step: str, layers: Sequence[int] | None = None) -> list[Path]:
        """The manifests that are there."""
        return [path for path in self.manifests(step, layers) if path.is_file()]

    def rows(self, table: Table, layers: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of a step (of some layers, some columns; keys always), sorted by key; refused where the step has not run."""
        present = self.present_manifests(table.name, layers)
        if not present:
            raise SettingsError(f"{self.data} holds no {table.name}: run the workflow of experiment {self.name} first")
        return read_rows(table, present, layers, columns)

    def rows_if_any(self, table: Table, layers: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """`rows`; none where the step has not run, or the experiment has no such step."""
        return read_rows(table, self.present_manifests(table.name, layers), layers, columns)

    def has_rows(self, table: Table, layer: int) -> bool:
        """Whether a step has run at a layer."""
        return bool(self.present_manifests(table.name, [layer]))

    def summary_path(self, table: Table) -> Path:
        """Where a table is that is computed afresh from others."""
        return self.data / table.path

    def summary(self, table: Table) -> pl.DataFrame:
        """A summary table; refused where it has not been made."""
        path = self.summary_path(table)
        if not path.is_file():
            raise SettingsError(f"{path} is missing: run the workflow of experiment {self.name} first")
        return read_summary(table, path)

    def summary_if_any(self, table: Table) -> pl.DataFrame | None:
        """`summary`; None where it has not been made."""
        return self.summary(table) if self.summary_path(table).is_file() else None

    @property
    def prompts_path(self) -> Path:
        """The file of its prompts: the experiment file's, or where a published one is or will be."""
        source = prompt_source(self.experiment)
        return source.file or cached_path(str(source.published), self.downloads)

    def prompts(self) -> dict[str, str]:
        """prefix_id -> prefix of the sweep, or prompt of the comparison, in order."""
        return read_prefixes(self.prompts_path, prompt_source(self.experiment).n)

    def unused_prompts(self) -> dict[str, str]:
        """The prompts of the same file that come after them."""
        return unused_prefixes(self.prompts_path, prompt_source(self.experiment).n)

    def prompts_if_any(self) -> dict[str, str]:
        """`prompts`; none where nothing is generated, or while their file is not there."""
        if isinstance(self.experiment, Scores) or not self.prompts_path.is_file():
            return {}
        return self.prompts()

    def topics(self) -> list[str]:
        """The topics of a shipped world, by number."""
        return topic_names(self.file("topics"))

    def file(self, name: str) -> Path:
        """A data file that the experiment names (sources.pins)."""
        path = pinned_path(self.experiment, name)
        assert path is not None
        return path

    def pinned_file(self, name: str) -> Path:
        """`file`, refused where it is no longer that of the results."""
        path = self.file(name)
        if (pinned := self.data / f"pins/{name}.json").is_file():
            check_is_pinned(path, None, pinned, self.downloads / "digests")
        return path

    def corpus(self, max_tokens: int, name: str = "texts") -> pl.DataFrame:
        """The texts of a data file, text_id and token_ids; those to be tokenised are cut after so many tokens."""
        return read_texts(self.pinned_file(name), self.model_folder(), self.experiment.model.bos, max_tokens)

    def pin(self, name: str = "model") -> dict[str, Any]:
        """What a pin holds: digests of a model or data file."""
        pin: dict[str, Any] = read_json(self.data / f"pins/{name}.json")
        return pin

    def model_record(self) -> dict[str, Any]:
        """Which model is steered."""
        pin, settings = self.pin(), self.experiment.model
        return {"name": settings.name, "revision": pin["revision"], "digest": pin["digest"], "dtype": settings.dtype}

    def model_folder(self, name: str = "model") -> Path:
        """The folder of one of its models (sources.pins.MODELS): the experiment file's, or where the model was fetched or converted to."""
        return model_settings(self.experiment, name).folder or fetched_folder(self.fetched_place(name))

    def fetched_place(self, name: str) -> Path:
        """The file that says where a model was fetched or converted to."""
        return self.downloads / self.name / f"{name}.json"

    def tokens(self) -> TextTokens:
        """The tokenizer of the model that is steered."""
        return load_tokens(self.model_folder())

    def model(self, name: str = "model") -> LanguageModel:
        """One of its models, loaded; refused where it is no longer that of the results."""
        from saesteer.engine.models import load_language_model
        from saesteer.engine.weights import available_device

        settings, device = model_settings(self.experiment, name), available_device()
        loaded = self.loaded if self.loaded is not None and device == "cpu" else {}  # a GPU's memory may not hold them all
        key = f"{name} {settings.model_dump_json()}"
        if key in loaded:
            return loaded[key]
        if (pinned := self.data / f"pins/{name}.json").is_file():
            check_model_is_pinned(settings, pinned, self.downloads / "digests")
        log.info("model %s, revision %s, %s on %s", settings.name, settings.revision or "by its files' digests", settings.dtype, device)
        lm = load_language_model(self.model_folder(name), settings.dtype, device, settings.bos, *settings.conversation)
        loaded[key] = replace(lm, lens_tokens=self.experiment.model.lens_tokens) if name == "model" else lm
        return loaded[key]

    def sae_file(self, layer: int) -> Path:
        """The converted SAE of a layer: beside its manifest, or where SAEs from the hub were put."""
        self.check_layer(layer)
        (manifest,) = self.manifests("saes", [layer])
        if not manifest.is_file():
            raise SettingsError(f"{manifest} is missing: run the workflow on this machine first, which converts the experiment's SAEs")
        fetched = self.downloads / self.name / "saes" / manifest.name if self.experiment.saes.from_hub else None
        return converted_sae(manifest, fetched, layer)

    def sae_file_if_any(self, layer: int) -> Path | None:
        """`sae_file`; None where it is not on this machine."""
        present = self.present_manifests("saes", [layer])
        if not present or (self.experiment.saes.from_hub and not (self.downloads / self.name / "saes" / present[0].name).is_file()):
            return None
        path = self.sae_file(layer)
        return path if path.is_file() else None

    def sae(self, layer: int) -> Sae:
        """The converted SAE of a layer, loaded."""
        from saesteer.engine.saes import load_sae
        from saesteer.engine.weights import available_device, number_type

        sae = load_sae(self.sae_file(layer), number_type(self.experiment.model.dtype), available_device())
        log.info("SAE of layer %d: %s, digest %s", layer, sae.meta.source, sae.meta.source_digest[:16])
        return sae

    def decoder_norms(self, layers: Sequence[int]) -> dict[int, Any]:
        """Layer -> norm of each decoder row of its SAE; one number where all are equal, None where it is not known."""
        saes = [read_manifest(path)["layers"] for path in self.manifests("saes", layers)]
        return {int(layer): entry.get("decoder_norm") for of_group in saes for layer, entry in of_group.items() if int(layer) in layers}

    def world_judge(self) -> WorldJudge:
        """The judge of a shipped world, which the experiment names."""
        from saesteer.world.judges import load_judge

        judge = self.steering.judge
        assert isinstance(judge, OracleJudge)
        return load_judge(judge.oracle, self.tokens())


def open_run(name: str, workflow: Workflow) -> Run:
    """The experiment of this name, in a workflow's folders."""
    return Run(workflow, name, load_experiment(name, *workflow.all_experiments_dirs))
