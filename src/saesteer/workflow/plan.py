"""What a job of a step has to compute, and its completion. No torch.

A step's fingerprint is closed: its settings, the ALGORITHM_VERSION of every module that computes its rows, and the digests of everything it
reads.
"""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import value_digest
from saesteer.core.store import MEASURED_ON, StoreError, Upstream, WantedRows, complete, entry_digest, missing_keys, read_manifest
from saesteer.core.tables import Table, row_digests
from saesteer.run import SHARED_STEPS, Run
from saesteer.settings import Comparison, Endpoint, Scores, SettingsError
from saesteer.sources.concept_tables import STEERING_PROMPTS
from saesteer.sources.model_size import QUANTISED, bytes_of_weights
from saesteer.sources.pins import MODELS, PIN_KEYS, model_settings
from saesteer.steps.explanations import EXPLANATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.judges import judge_of
from saesteer.steps.keys import is_unsteered, layer_of_unsteered
from saesteer.steps.step import Axis, Step, is_step, step_of, steps_of
from saesteer.workflow.code_digest import algorithm_versions, code_digest

_FEATURES = (("feature",), ("target",))
"""Axes whose values are a layer's features, in the order of its list."""
MOST_WORDS = 400
"""Characters of a value that a job's params show; a longer one is shown by its digest."""
LIBRARIES = ("torch", "transformers", "tokenizers", "sae-lens", "numpy", "polars")
"""Libraries whose arithmetic, tokenisers or models rows come from: parts name their versions."""


def model_bytes(run: Run, step: str) -> int:
    """Bytes of the largest model that a step loads, as far as it is there: a folder of the experiment, or where a fetch left one."""
    most = 0
    for name in set(step_of(run.experiment, step).inputs) & set(MODELS):
        settings, place = model_settings(run.experiment, name), run.fetched_place(name)
        folder = settings.folder
        if folder is None and place.is_file():
            folder = Path(json.loads(place.read_text(encoding="utf-8"))["folder"])
        if folder is not None:
            most = max(most, bytes_of_weights(folder, settings.dtype))
    return most


def input_files(run: Run, step: str, layers: Sequence[int]) -> dict[str, Path]:
    """The file behind each of a step's inputs, for a job of these layers."""
    files = {}
    for name in step_of(run.experiment, step).inputs:
        (files[name],) = run.manifests(name, layers) if name == "saes" or is_step(name) else [run.data / f"pins/{name}.json"]
    return files


def axes_of(run: Run, step: str, layer: int) -> list[Axis]:
    """The axes of a step's keys at a layer, with the features that the job covers."""
    axes = step_of(run.experiment, step).keys(layer)
    if step not in SHARED_STEPS or run.first_feature is None:
        return axes
    return [axis.some(run.features_of_job) if axis.columns in _FEATURES else axis for axis in axes]


def files_of_keys(run: Run, step: str, layers: Sequence[int]) -> list[Path]:
    """The files that decide which keys a job of these layers misses."""
    plan = step_of(run.experiment, step)
    read_from = {axis.file(run): None for axis in axes_of(run, step, layers[0]) if axis.file}
    return [*input_files(run, step, layers).values(), *read_from, *map(run.summary_path, plan.written)]


def wanted_rows(run: Run, step: str, layers: Sequence[int]) -> list[WantedRows]:
    """The keys that a job of the step has to see to, each layer with its fingerprint."""
    plan = step_of(run.experiment, step)
    common: dict[str, Any] = {"step": step, "algorithm_versions": versions(plan), "settings": plan.settings}
    files = input_files(run, step, layers)
    read = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}  # pins, and manifests of earlier steps
    wanted = []
    for layer in layers:
        axes = [axis.values(run) for axis in axes_of(run, step, layer)]
        rows_read = upstream(run, step, layer, axes)
        entries = {name: values["layers"][str(layer)] if "layers" in values else values for name, values in read.items()}
        digests = {name: entry.get("fingerprint") or entry["digest"] for name, entry in entries.items() if name not in plan.reads}
        fingerprint = {**common, "inputs": digests}
        fingerprint |= {MEASURED_ON: "rows"} if rows_read else {}  # parts without the column are of another fingerprint
        wanted.append(WantedRows(layer, axes, fingerprint, rows_read))
    return wanted


def upstream(run: Run, step: str, layer: int, axes: Sequence[pl.DataFrame]) -> Upstream | None:
    """The rows of earlier steps that a step's rows of a layer are measured on, by their digests; None: models and files with pins only.

    A fingerprint says how the earlier rows were computed, not what came out: on another machine rounding samples another token, an
    explanation is fetched on another day, a language model writes another prompt. So each row names the digest of the rows that it reads:
    those that share its values in the key columns of both tables (a text for its perplexity), or all of its layer where they share none
    (all scores for a fit). Rows that share no wanted key, by the axes, are left out: their digests take long and are not read.
    """
    plan = step_of(run.experiment, step)
    earlier = [name for name in plan.inputs if is_step(name)]
    tables = [(table, run.rows(table, [layer])) for table in (step_of(run.experiment, name).table for name in earlier)]
    tables += [(table, run.summary(table)) for table in plan.written]
    of_texts = "concept_id" if isinstance(run.experiment, Comparison) else "feature"
    target = of_texts if "target" in plan.table.keys else None
    digests = {table.name: _digests(plan, table, _of_keys(rows, plan, table, axes), target) for table, rows in tables}
    frames = [frame for name, frame in digests.items() if name not in plan.reads]
    if plan.beside_unsteered:
        assert not isinstance(run.experiment, Scores)
        unsteered, at = is_unsteered(run.experiment), layer_of_unsteered(run.experiment, layer)
        of_texts_alone = [table for table, _ in tables if {"target", "factor"} <= {*table.keys}]
        frames += [_combined_digests(table, run.rows(table, [at]).filter(unsteered), ["target"]) for table in of_texts_alone]
    frames += [_of_methods(frame, plan.reads[name], axes) for name, frame in digests.items() if name in plan.reads]
    entries = {}
    for name in earlier:
        (manifest,) = run.manifests(name, [layer])
        entries[name] = entry_digest(read_manifest(manifest)["layers"][str(layer)])
    return Upstream(frames, entries) if frames else None


def _of_keys(rows: pl.DataFrame, plan: Step, table: Table, axes: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of an earlier table that have the wanted values of the key columns that it shares with the step's table."""
    for axis in axes:
        if shared := [name for name in axis.columns if name in table.keys and name in plan.table.keys]:
            values = axis.select(pl.col(name).cast(table.key_schema[name]) for name in shared)
            rows = rows.join(values, on=shared, how="semi", maintain_order="left")
    return rows


def _digests(plan: Step, table: Table, rows: pl.DataFrame, target: str | None) -> pl.DataFrame:
    """The digests of an earlier table's rows, by the key columns that a row of the step shares with them; `target` is what the column of
    that name holds."""
    shared = [name for name in table.keys if name in plan.table.keys or name == target]
    digests = _combined_digests(table, rows, shared)
    return digests.rename({target: "target"}).cast({"target": pl.String}) if target in shared else digests


def _of_methods(digests: pl.DataFrame, reading: Sequence[str], axes: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The digests for the rows of some methods, empty ones for those of the others."""
    methods = next(axis for axis in axes if "method" in axis.columns).select("method").unique()
    return methods.join(digests, how="cross").with_columns(pl.when(pl.col("method").is_in(reading)).then(MEASURED_ON).otherwise(pl.lit("")))


def _combined_digests(table: Table, rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The digests of a table's rows, one for all that share their values of some keys."""
    return row_digests(table, rows, keys).select(*keys, pl.format(f"{table.name}:{{}}", "digest").alias(MEASURED_ON))


def versions(step: Step) -> dict[str, int]:
    """Module -> ALGORITHM_VERSION, of all modules that a step's rows depend on."""
    unused = () if step.settings.get("dtype") in QUANTISED else ("engine.quantised",)
    return algorithm_versions(*step.modules, without=(*step.modules_of_methods, *unused))


def params_of_rows(run: Run, step: str, layers: Sequence[int]) -> dict[str, str]:
    """For a job's params: what its rows depend on besides its files, in words, so that `snakemake -n` shows what has changed. Needs no file
    that is still to be fetched."""
    plan = step_of(run.experiment, step)
    rows = {}
    for layer in layers:
        axes = [axis for axis in axes_of(run, step, layer) if axis.configured is not None]
        rows[f"layer {layer}"] = {", ".join(axis.columns): axis.configured for axis in axes}
    return {
        "rows": in_words(rows),
        "settings": in_words(plan.settings),
        "versions": in_words(versions(plan)),
    }


def in_words(value: Any) -> str:
    """A JSON value as text; of a long one its digest, of a long mapping what it maps to in turn."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_WORDS:
        return text
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {in_words(inner)}" for name, inner in value.items()) + "}"
    size = f"{len(value)} values, " if isinstance(value, Sequence) and not isinstance(value, str) else ""
    return f"{size}digest {value_digest(value)[:16]}"


def n_missing(run: Run, step: str, layers: Sequence[int]) -> int | None:
    """How many keys a job would compute; None while what it reads is not there yet, or has to be made again. run: as the job sees it."""
    plan = step_of(run.experiment, step)
    if not all(path.is_file() for path in files_of_keys(run, step, layers)):
        return None
    try:
        return sum(missing_keys(run.data / step, plan.table, want).height for want in wanted_rows(run, step, layers))
    except StoreError:  # what is wrong with the earlier step's rows, its own job sees to, or this one says when it reads them
        return None


def complete_manifest(run: Run, manifest: Path, layers: Sequence[int], compute: Callable[[pl.DataFrame], Iterable[pl.DataFrame]]) -> None:
    """See to the rows of a step's manifest, which covers these layers; `compute` gives those that are missing."""
    name = manifest.parent.name
    step = step_of(run.experiment, name)
    wanted = wanted_rows(run, name, layers)
    complete(manifest.parent, step.table, wanted, compute, manifest, run.workflow.part_seconds, lambda: _made_with(step))


def _made_with(step: Step) -> dict[str, str]:
    libraries = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"code": code_digest(*step.modules), "python": platform.python_version(), **libraries}


def endpoints_to_ask(run: Run) -> list[Endpoint]:
    """The language models behind addresses that jobs will ask, as far as can be known before what they read is made."""
    experiment = run.experiment
    if isinstance(experiment, Scores):
        return []
    endpoints: list[Endpoint] = []
    asking = [step for step in (JUDGEMENTS.name, EXPLANATIONS.name) if step in steps_of(experiment)]
    jobs = (job for step in asking for job in _jobs(run, step))
    endpoint = judge.endpoint if (judge := judge_of(experiment)) else None
    if endpoint and any(n_missing(*job) != 0 for job in jobs):
        endpoints.append(endpoint)
    if isinstance(experiment, Comparison) and experiment.methods.prompt_writer and not run.summary_path(STEERING_PROMPTS).exists():
        endpoints.append(experiment.methods.prompt_writer)
    return endpoints


def check_bfloat16(run: Run) -> None:
    """Refuse, on a machine without a GPU, what a job would refuse only when its turn comes: to compute with a model in bfloat16."""
    for name, step in steps_of(run.experiment).items():
        models = {pin: model_settings(run.experiment, pin) for pin in step.inputs if pin in MODELS}
        if pin := next((pin for pin, model in models.items() if model.dtype == "bfloat16"), None):
            from saesteer.engine.weights import available_device

            if available_device() == "cpu" and any(n_missing(*of_job) != 0 for of_job in _jobs(run, name)):
                key = PIN_KEYS[pin].replace(".path", ".dtype")
                raise SettingsError(f"experiment {run.name}: {key} is bfloat16, which needs a GPU, and here is none: write float32")


def _jobs(run: Run, step: str) -> Iterator[tuple[Run, str, Sequence[int]]]:
    for group in run.groups(step):
        of_job, layers = run.of_job(group)
        yield of_job, step, layers
