"""What each step wants and what its rows depend on. No torch: this decides whether a job has anything to compute.

A step's fingerprint is closed: its settings, the ALGORITHM_VERSION of the module that computes it, and the digests of everything it reads.
Features, factors, prefixes and texts are keys, not settings: adding one leaves all other rows valid.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer import tables
from saesteer.code_digest import algorithm_version
from saesteer.features import features_of
from saesteer.files import value_digest
from saesteer.prefixes import read_prefixes
from saesteer.settings import Experiment
from saesteer.store import Wanted, missing_keys

Axes = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class StepPlan:
    table: tables.Table
    module: str
    """Module that computes the rows; its ALGORITHM_VERSION is part of the fingerprint."""
    axes: Callable[[Experiment, int], Axes]
    """(experiment, layer) -> the values of each key column."""
    settings: Callable[[Experiment], Any]
    """experiment -> JSON value of the settings that rows depend on."""
    inputs: tuple[str, ...]
    """What the rows depend on besides: names of pins, `saes`, and earlier steps."""


def _features(experiment: Experiment, layer: int) -> Axes:
    return {"feature": features_of(experiment, layer)}


def _texts(experiment: Experiment, layer: int) -> Axes:
    return {"text_id": pl.read_parquet(experiment.records.texts, columns=["text_id"])["text_id"].to_list()}


def _generations(experiment: Experiment, layer: int) -> Axes:
    sweep = experiment.sweep
    prefixes = read_prefixes(sweep.prefixes, sweep.n_prefixes)
    return {**_features(experiment, layer), "factor": sweep.factors, "prefix_id": list(prefixes), "sample": range(sweep.n_samples)}


def _sampling(experiment: Experiment) -> dict[str, Any]:
    sweep = experiment.sweep.model_dump(mode="json", include={"max_new_tokens", "temperature", "top_k", "stop", "seed"})
    return {**sweep, "dtype": experiment.model.dtype}


PLANS = {
    "activations": StepPlan(tables.ACTIVATIONS, "activations", _texts, lambda e: {"dtype": e.model.dtype}, ("model", "saes")),
    "records": StepPlan(tables.RECORDS, "records", _features, lambda e: {"n_records": e.records.n_records}, ("texts", "activations")),
    "concepts": StepPlan(
        tables.CONCEPTS, "concepts", _features, lambda e: {"min_share": e.concepts.min_share}, ("texts", "topics", "records")
    ),
    "logit_lens": StepPlan(
        tables.LOGIT_LENS, "logit_lens", _features, lambda e: {"k": e.logit_lens.k, "dtype": e.model.dtype}, ("model", "saes")
    ),
    "input_score": StepPlan(
        tables.INPUT_SCORE, "input_score", _features, lambda e: e.input_score.model_dump(mode="json"), ("model", "records", "logit_lens")
    ),
    "output_score": StepPlan(
        tables.OUTPUT_SCORE,
        "output_score",
        _features,
        lambda e: {**e.output_score.model_dump(mode="json"), "dtype": e.model.dtype},
        ("model", "saes", "logit_lens"),
    ),
    "sweep": StepPlan(tables.GENERATIONS, "generate", _generations, _sampling, ("model", "saes")),
    "gen_success": StepPlan(
        tables.GEN_SUCCESS, "gen_success", _generations, lambda e: {"tokens": e.gen_success.tokens}, ("model", "sweep", "logit_lens")
    ),
    "perplexity": StepPlan(
        tables.PERPLEXITY, "perplexity", _generations, lambda e: {"dtype": e.perplexity.model.dtype}, ("perplexity_model", "sweep")
    ),
    "judge": StepPlan(
        tables.JUDGEMENTS,
        "judge.rate",
        _generations,
        lambda e: {"backend": e.judge.backend},
        ("oracle", "topics", "concepts", "sweep", "perplexity"),
    ),
}


def layer_groups(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Name -> layers of each job's group, e.g. layers_00-03."""
    size, layers = experiment.layers_per_job, sorted(experiment.layers)
    chunks = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    return {f"layers_{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}


def artifacts(experiment: Experiment) -> list[str]:
    """Every file that the rules make in an experiment's data folder: pins, manifests, tables, metrics.

    The workflow asks for all of them. If it asked for figures only, a job that failed would be taken for done: Snakemake 9.27 removes
    its output, records it as made from the new inputs all the same, and does not miss a file between two that are there.
    """
    pins = sorted({name for step in PLANS.values() for name in step.inputs} - {"saes", *PLANS})
    manifests = [f"{step}/{group}.json" for step in ("saes", *PLANS) for group in layer_groups(experiment)]
    return [*(f"pins/{name}.json" for name in pins), *manifests, *(f"tables/{name}.parquet" for name in tables.SUMMARIES), "metrics.json"]


def wanted(experiment: Experiment, step: str, layers: Sequence[int], files: Mapping[str, Path]) -> list[Wanted]:
    """The keys that a job of the step has to see to, each layer with its fingerprint.

    `files` holds the file behind each of the plan's inputs (others are ignored): pins and manifests.
    """
    plan = PLANS[step]
    inputs = {name: files[name] for name in plan.inputs}
    common = {"step": step, "algorithm_version": algorithm_version(f"saesteer.{plan.module}"), "settings": plan.settings(experiment)}
    return [
        Wanted(
            layer, plan.axes(experiment, layer), {**common, "inputs": {name: _input_digest(path, layer) for name, path in inputs.items()}}
        )
        for layer in layers
    ]


def _input_digest(path: Path, layer: int) -> str:
    """The digest of what a step reads for one layer: a pin's, or the layer's fingerprint in the manifest of an earlier step."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return str(values["layers"][str(layer)]["fingerprint"] if "layers" in values else values["digest"])


def wants_digest(experiment: Experiment, step: str, layers: Sequence[int]) -> str:
    """Digest of keys and settings; in a job's params a change of it makes the job due. Text keys are input files instead."""
    plan = PLANS[step]
    axes = (
        {}
        if plan.axes is _texts
        else {layer: {name: list(values) for name, values in plan.axes(experiment, layer).items()} for layer in layers}
    )
    return value_digest([axes, plan.settings(experiment), algorithm_version(f"saesteer.{plan.module}")])[:16]


def n_missing(folder: Path, experiment: Experiment, step: str, layers: Sequence[int], files: Mapping[str, Path]) -> int | None:
    """How many keys a job would compute; None while what it reads is not there yet."""
    if not all(files[name].is_file() for name in PLANS[step].inputs):
        return None
    return sum(missing_keys(folder, PLANS[step].table, want).height for want in wanted(experiment, step, layers, files))
