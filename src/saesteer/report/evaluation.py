"""Tasks of lm-evaluation-harness (lm_eval, where it is installed) under a fit of a finished comparison: the model as it is, and steered.

lm_eval builds the requests, batches them, and calls the very model that steers here. Prompts are built as the experiment's are: by
`model.bos` and, with `prompt_format: chat`, in the chat template with the experiment's system prompt.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core import markdown
from saesteer.core.errors import SettingsError
from saesteer.core.tables import FITS, read_summary
from saesteer.core.tables.methods import METHOD_CHOICES
from saesteer.engine.dtypes import available_device, number_type
from saesteer.engine.generations import placed
from saesteer.engine.interventions import Intervention, kind_of, unpacked
from saesteer.engine.models import LanguageModel, load_language_model, plain_token_ids
from saesteer.engine.saes import load_sae
from saesteer.engine.steered_model import check_every_position, steered_model
from saesteer.methods.compare.layers import at_every_layer
from saesteer.report.exports import asked_concepts, rows_of
from saesteer.settings import Experiment, Workflow, settings_of
from saesteer.sources.pins import converted_sae, fetched_folder
from saesteer.workflow.plan import layer_groups

PACKAGES = ("saesteer", "lm_eval", "torch", "transformers", "datasets")
"""Whose versions stand with the results."""


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
class Tasks:
    """What lm_eval is to run."""

    names: tuple[str, ...]  # tasks, groups or tags
    limit: int | None = None  # documents of each task; None: all
    include_path: Path | None = None  # folder with tasks of one's own, in lm_eval's YAML
    batch_size: int = 8


def fit_of(experiment: Experiment, folder: Path, method: str, concept: str, layer: int, factor: float | None = None) -> Fit:
    """A fit of a finished comparison, whose data folder this is; `factor` None: the one that was chosen."""
    if experiment.model.chat and experiment.model.chat.turns:
        raise SettingsError("lm_eval puts no earlier turns before its prompts, which model.chat.turns asks for: take another experiment")
    _check_known("layer", str(layer), list(map(str, sorted(experiment.layers))))
    fits = at_every_layer(rows_of(FITS, folder, sorted({layer, min(experiment.layers)})), experiment.layers).filter(layer=layer)
    _check_known("method", method, sorted(set(fits["method"])))
    concepts = dict(asked_concepts(folder).select("concept", "concept_id").iter_rows())
    _check_known("concept", concept, list(concepts))
    (row,) = fits.filter(method=method, concept_id=concepts[concept]).to_dicts()
    if row["kind"] is None:
        raise SettingsError(f"method {method} abstains for concept {concept!r} at layer {layer}: {row['reason']}")
    strength, factor_from = _chosen_factor(folder, row) if factor is None else (factor, "given")
    return Fit(layer, method, concept, unpacked(row["kind"], row["tensors"], row["values"]), strength, factor_from)


def _check_known(what: str, name: str, known: Sequence[str]) -> None:
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


def evaluate(workflow: Workflow, experiment: Experiment, name: str, fit: Fit, tasks: Tasks) -> dict[str, Any]:
    """The tasks' results with the model as it is and steered, and what they depend on, as JSON values."""
    settings, device = experiment.model, available_device()
    sae = load_sae(_sae_file(workflow, experiment, name, fit.layer), number_type(settings.dtype), device)
    intervention = placed(fit.intervention, sae, settings_of(experiment).sae_features)
    check_every_position(intervention)
    manager = task_manager(tasks)
    folder = settings.path or fetched_folder(workflow.data_dir / "downloads" / name / "model.json")
    lm = load_language_model(folder, settings.dtype, device, settings.bos, settings.prompt_format, settings.chat)
    harness = harness_model(lm, tasks.batch_size)
    unsteered = results_of(harness, lm, tasks, manager)
    with steered_model(lm, sae, fit.layer, intervention, fit.factor):
        steered = results_of(harness, lm, tasks, manager)
    pin = json.loads((workflow.data_dir / name / "pins/model.json").read_text(encoding="utf-8"))
    return {
        "experiment": name,
        "model": {"name": settings.name, "revision": pin["revision"], "digest": pin["digest"], "dtype": settings.dtype, "device": device},
        "sae": sae.meta.sha256,
        "fit": {name: getattr(fit, name) for name in ("layer", "method", "concept", "factor", "factor_from")}
        | {"kind": kind_of(intervention)},
        "tasks": {"versions": steered["versions"], "limit": tasks.limit, "batch_size": tasks.batch_size},
        "versions": {package: version(package) for package in PACKAGES},
        "results": list(_rows(unsteered, steered)),
    }


def _sae_file(workflow: Workflow, experiment: Experiment, name: str, layer: int) -> Path:
    group = next(group for group, layers in layer_groups(experiment).items() if layer in layers)
    fetched = workflow.data_dir / "downloads" / name / f"saes/{group}.json" if experiment.saes.from_hub else None
    return converted_sae(workflow.data_dir / name / f"saes/{group}.json", fetched, layer)


def task_manager(tasks: Tasks) -> Any:
    """lm_eval's list of tasks. Refused without lm_eval, or where it does not know one of the tasks or cannot get at its documents."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SettingsError("lm-evaluation-harness is not installed here: run `.venv/bin/uv pip install --python .venv/bin/python lm-eval`")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks.include_path)
    for name in tasks.names:
        _check_known("task", name, manager.all_tasks)
    with _explained((ValueError, RuntimeError, ImportError)):
        manager.load(list(tasks.names))  # fetches what is not there yet, before a model is loaded
    return manager


def harness_model(lm: LanguageModel, batch_size: int) -> Any:
    """The model as lm_eval's own class for models of transformers runs it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=lm.model,
        tokenizer=_tokenizer(lm),
        batch_size=batch_size,
        add_bos_token=False if lm.prompt_format == "chat" and lm.bos == "tokenizer" else None,  # templates write their own
        chat_template_args=dict(lm.chat.options),
    )


def _tokenizer(lm: LanguageModel) -> Any:
    """A copy of the tokenizer, to which lm_eval may add padding, with the beginning-of-sequence token of the model's `bos` rule."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    if tokenizer("a")["input_ids"] != plain_token_ids(lm, "a"):
        tokenizer.add_bos_token = True
    return tokenizer


def results_of(harness: Any, lm: LanguageModel, tasks: Tasks, manager: Any) -> dict[str, Any]:
    """What lm_eval finds, with the model as it is now."""
    from lm_eval import simple_evaluate

    with _explained():
        made = simple_evaluate(
            harness,
            tasks=list(tasks.names),
            task_manager=manager,
            limit=tasks.limit,
            apply_chat_template=lm.prompt_format == "chat",
            system_instruction=lm.chat.system,
            log_samples=False,
        )
    return dict(made)


@contextmanager
def _explained(kinds: tuple[type[Exception], ...] = (ValueError, OverflowError)) -> Iterator[None]:
    """Errors of lm_eval's as one message: of a task that it refuses, or of a perplexity that is no number any more."""
    try:
        yield
    except kinds as error:
        raise SettingsError(f"lm_eval stops with {type(error).__name__}: {error}; take another task or a smaller factor") from error


def _rows(unsteered: Mapping[str, Any], steered: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a task (or group of tasks) and metric; null where lm_eval gives no number."""
    for task, values in unsteered["results"].items():
        for key in values:
            metric, _, kept = key.partition(",")  # `kept` names the filter of answers
            if not kept or metric.endswith("_stderr"):
                continue
            row = {"task": task, "metric": metric if kept == "none" else f"{metric}, {kept}"}
            for name, results in (("unsteered", unsteered), ("steered", steered)):
                row[name] = _number(results["results"][task].get(key))
                row[f"{name}_stderr"] = _number(results["results"][task].get(f"{metric}_stderr,{kept}"))
            yield row | {"n": unsteered["n-samples"].get(task, {}).get("effective")}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def table_of(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as a table in Markdown, with standard errors."""
    header = ("task", "metric", "n", "unsteered", "steered")
    rows = ((row["task"], row["metric"], row["n"] or "–", *(_with_error(row, name) for name in header[3:])) for row in results)
    return markdown.table(header, rows)


def _with_error(row: Mapping[str, Any], name: str) -> str:
    value, error = row[name], row[f"{name}_stderr"]
    return "–" if value is None else f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
