"""Tasks of lm-evaluation-harness (lm_eval, where it is installed) under a fit of a finished comparison: the model as it is, and steered.

lm_eval builds the requests, batches them, and calls the very model that steers here. Prompts are built as the experiment's are: by
`model.bos` and, with `prompt_format: chat`, in the chat template with the experiment's system prompt.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

from saesteer.core import markdown
from saesteer.core.errors import SettingsError, check_known
from saesteer.engine.conversation import dated_template
from saesteer.engine.generations import placed
from saesteer.engine.models import LanguageModel, plain_token_ids
from saesteer.engine.steering import check_every_position, steered_model
from saesteer.exchange.fits import Fit
from saesteer.run import Run

PACKAGES = ("saesteer", "lm_eval", "torch", "transformers", "datasets")
"""Whose versions stand with the results."""


@dataclass(frozen=True)
class Tasks:
    """What lm_eval is to run."""

    names: tuple[str, ...]  # tasks, groups or tags
    limit: int | None = None  # documents of each task; None: all
    include_path: Path | None = None  # folder with tasks of one's own, in lm_eval's YAML
    batch_size: int = 8


def evaluate(run: Run, fit: Fit, tasks: Tasks) -> dict[str, Any]:
    """The tasks' results with the model as it is and steered, and what they depend on, as JSON values."""
    settings = run.experiment.model
    if settings.chat and settings.chat.turns:
        raise SettingsError("lm_eval puts no earlier turns before its prompts, which model.chat.turns asks for: take another experiment")
    sae = run.sae(fit.layer)
    intervention = placed(fit.intervention, sae, run.comparison.methods.sae_features)
    check_every_position(intervention)
    manager = task_manager(tasks)
    lm = run.model()
    harness = harness_model(lm, tasks.batch_size)
    unsteered = results_of(harness, lm, tasks, manager)
    with steered_model(lm, sae, fit.layer, intervention, fit.factor):
        steered = results_of(harness, lm, tasks, manager)
    return {
        "experiment": run.name,
        "model": run.model_record() | {"device": lm.device.type},
        "sae": sae.meta.sha256,
        "fit": {name: getattr(fit, name) for name in ("layer", "method", "concept", "factor", "factor_from")} | {"kind": intervention.kind},
        "tasks": {"versions": steered["versions"], "limit": tasks.limit, "batch_size": tasks.batch_size},
        "versions": {package: version(package) for package in PACKAGES},
        "results": list(_rows(unsteered, steered)),
    }


def task_manager(tasks: Tasks) -> Any:
    """lm_eval's list of tasks. Refused without lm_eval, or where it does not know one of the tasks or cannot get at its documents."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SettingsError("lm-evaluation-harness is not installed here: run `pip install 'saesteer[evaluation]'`")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks.include_path)
    for name in tasks.names:
        check_known("task", name, manager.all_tasks)
    with _explained((ValueError, RuntimeError, ImportError)):
        manager.load(list(tasks.names))  # fetches what is not there yet, before a model is loaded
    return manager


def harness_model(lm: LanguageModel, batch_size: int) -> Any:
    """The model as lm_eval's own class for models of transformers runs it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=lm.model,
        tokenizer=harness_tokenizer(lm),
        batch_size=batch_size,
        add_bos_token=False if lm.prompt_format == "chat" and lm.bos == "tokenizer" else None,  # templates write their own
        chat_template_args=dict(lm.chat.options),
    )


def harness_tokenizer(lm: LanguageModel) -> Any:
    """A copy of the model's tokenizer, by the model's `bos` rule and with its fixed date; lm_eval may add padding to it."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    if tokenizer("a")["input_ids"] != plain_token_ids(lm, "a"):
        tokenizer.add_bos_token = True
    if lm.prompt_format == "chat":
        tokenizer.chat_template = dated_template(tokenizer, lm.chat.date)
    return tokenizer


def results_of(harness: Any, lm: LanguageModel, tasks: Tasks, manager: Any) -> dict[str, Any]:
    """What lm_eval finds, with the model as it is now."""
    from lm_eval import simple_evaluate

    with _explained():
        results = simple_evaluate(
            harness,
            tasks=list(tasks.names),
            task_manager=manager,
            limit=tasks.limit,
            apply_chat_template=lm.prompt_format == "chat",
            system_instruction=lm.chat.system,
            log_samples=False,
        )
    return dict(results)


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
            metric, _, answer_filter = key.partition(",")
            if not answer_filter or metric.endswith("_stderr"):
                continue
            row = {"task": task, "metric": metric if answer_filter == "none" else f"{metric}, {answer_filter}"}
            for name, results in (("unsteered", unsteered), ("steered", steered)):
                for column, source in ((name, key), (f"{name}_stderr", f"{metric}_stderr,{answer_filter}")):
                    value = results["results"][task].get(source)
                    row[column] = float(value) if isinstance(value, Real) and math.isfinite(value) else None
            yield row | {"n": unsteered["n-samples"].get(task, {}).get("effective")}


def table_of(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as a table in Markdown, with standard errors."""

    def cell(value: float | None, error: float | None) -> str:
        return "–" if value is None else f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")

    names = ("unsteered", "steered")
    rows = ((row["task"], row["metric"], row["n"] or "–", *(cell(row[name], row[f"{name}_stderr"]) for name in names)) for row in results)
    return markdown.table(("task", "metric", "n", *names), rows)
