"""Fitting methods: the intervention of each method and concept at a layer, what it changes, and what it cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.conditional import switched
from saesteer.engine.finite import rows_named
from saesteer.engine.fit_pilot import at_pilot_factor
from saesteer.engine.hook_points import reading
from saesteer.engine.interventions import PromptText, features_of, packed
from saesteer.engine.models import fewest_texts
from saesteer.engine.steering import Intervention, SteeredRows, steering_of
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.training import Trained
from saesteer.settings.registry import METHODS, Method

ALGORITHM_VERSION = 2


def fit_of(row: Method) -> Callable[[Problem], Intervention | Trained]:
    """The function that fits a method: imported only where it is called, since most need torch."""
    fit: Callable[[Problem], Intervention | Trained] = getattr(import_module(row.module), row.fitted_by.rpartition(".")[2])
    return fit


def labelled_feature(features: pl.DataFrame, concept: str) -> int | None:
    """The feature whose max-activating examples say the concept most clearly: the largest share of their maxima on it; ties: the lowest
    number."""
    labelled = features.filter(pl.col("concept") == concept).sort("concept_share", "feature", descending=[True, False])
    return None if labelled.is_empty() else int(labelled["feature"][0])


def fitted_rows(problem: Problem, missing: pl.DataFrame, neutral: Sequence[Sequence[int]]) -> Iterator[pl.DataFrame]:
    """FITS rows of a concept's missing keys (layer, method, concept_id), one at a time. `neutral` are prompts (token ids) on which the
    change of the residual is measured."""
    by_key = {row.key: row for row in METHODS}
    for key in missing.select("layer", "method", "concept_id").iter_rows(named=True):
        with rows_named(f"layer {key['layer']}, {key['method']}, concept {key['concept_id']}"):
            yield pl.DataFrame([key | _fit(problem, by_key[key["method"]], neutral)], schema_overrides={"features": pl.List(pl.UInt32)})


def _fit(problem: Problem, row: Method, neutral: Sequence[Sequence[int]]) -> dict[str, object]:
    """One fit, or why there is none: the columns beside its key."""
    r2 = problem.effects.r2 if problem.effects is not None and "effects" in row.needs else None
    columns: dict[str, object] = {"features": [], "n_texts": n_choosing_texts(problem, row), "r2": r2}
    started = time.perf_counter()
    try:
        fit = fit_of(row)(problem)
    except Abstains as why:
        return columns | {"fit_seconds": time.perf_counter() - started, "reason": str(why)}
    seconds = time.perf_counter() - started
    intervention = fit.intervention if isinstance(fit, Trained) else fit
    if problem.ordinary_texts:
        intervention = at_pilot_factor(problem.lm, problem.sae, intervention, problem.ordinary_texts, problem.loss_rise)
    tensors, values = packed(intervention)
    change, norm = residual_change(problem, intervention, neutral)
    columns |= {
        "features": features_of(intervention),
        "kind": intervention.kind,
        "tensors": tensors,
        "values": values,
        "fit_seconds": seconds,
    }
    columns |= {name: getattr(fit, name, None) for name in ("learning_rate", "n_epochs", "loss_before", "loss_after")}  # of `Trained`
    return columns | {"residual_change": change, "residual_norm": norm}


def n_choosing_texts(problem: Problem, row: Method) -> int:
    """Labelled texts that choose a method's features, make its vector or stand in its prompts; those that only set a scale do not count."""
    conditions = {"unlabelled": problem.label is None, "base": problem.lm.prompt_format != "chat"}
    choose = conditions.get(row.text_use, row.text_use == "choice")
    return len(problem.positive) + len(problem.negative) if choose else 0


@torch.no_grad()
def residual_change(problem: Problem, intervention: Intervention, neutral: Sequence[Sequence[int]]) -> tuple[float | None, float]:
    """(mean norm of the change that factor 1 makes where the SAE's directions are added, mean norm of what lies there unsteered), over
    every token of the neutral prompts but the first; no change is given for added text."""
    lm, hook_point = problem.lm, problem.hook_point
    changes: list[Float[Tensor, " token"]] = []
    norms: list[Float[Tensor, " token"]] = []
    for prompt in (prompt for prompt in neutral if len(prompt) > 1):
        n_rows = fewest_texts(lm, len(prompt))  # of which each is steered
        which, factor = torch.zeros(n_rows, dtype=torch.long, device=lm.device), torch.ones(n_rows, device=lm.device)
        ids = torch.tensor([list(prompt)] * n_rows, device=lm.device)
        plain = reading(lm, ids, hook_point).value[0, 1:]
        norms.append(plain.float().norm(dim=1))
        if not isinstance(intervention, PromptText):
            switches = switched(lm, hook_point, [intervention], which, factor, [prompt] * n_rows)
            steering = steering_of([intervention], SteeredRows(lm, which, switches, problem.sae, hook_point))
            with steering.installed(lm, 0, len(prompt)):
                changes.append((reading(lm, ids, hook_point).value[0, 1:] - plain).float().norm(dim=1))
    mean_norm = float(torch.cat(norms).mean())
    return (float(torch.cat(changes).mean()) if changes else None), mean_norm
