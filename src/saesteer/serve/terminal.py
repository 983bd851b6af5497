"""Steered texts in a terminal, side by side, while they are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.core.markdown import counted, printable
from saesteer.engine.generations import feature_texts_by_token, features_of_set, set_name
from saesteer.exchange.fits import concept_of, not_a_feature, parse_feature, recommended_factor
from saesteer.run import Run
from saesteer.settings import Edit
from saesteer.settings.base import canonical_factor
from saesteer.steps.generations import sampling_of

DONE: dict[Edit, str] = {
    "addition": "steered",
    "decay": "steered with decay",
    "ablation": "ablated",
    "projection": "projected out",
    "clamp": "clamped where active",
}
"""What is done with the feature, in words."""


@dataclass(frozen=True)
class Request:
    """A prompt that is continued unsteered and at each factor."""

    layer: int
    feature: int | str
    """Several at once are named by `set_name`."""
    factors: tuple[float, ...]
    """Multiples of a_max; of several at once of their own factors."""
    prompt: str
    n_samples: int = 1
    factor_from: str = ""  # what chose the factor, where none was given
    seed: int | None = None  # None: the experiment's
    max_tokens: int | None = None  # None: the experiment's
    edit: Edit = "addition"

    @property
    def every_factor(self) -> list[str]:
        """Decimals, the unsteered model's first."""
        return list(dict.fromkeys(map(canonical_factor, (0, *self.factors))))


def request_of(
    run: Run,
    which: str,
    factors: Sequence[float],
    prompt: str | None,
    n_samples: int,
    seed: int | None = None,
    max_tokens: int | None = None,
    edit: Edit = "addition",
) -> Request:
    """A request for LAYER/FEATURE, or several with commas between them, each with *FACTOR behind it. No factors: the recommended one of an
    addition, otherwise 1; no prompt: the experiment's first one."""
    layer, features = _features_of(run, which)
    prompt = next(iter(run.prompts_if_any().values()), None) if prompt is None else prompt
    if prompt is None:
        raise SettingsError(f"{run.name} has no prompts of its own: name one, saesteer steer {run.name} {which} PROMPT")
    factor_from = ""
    (first, given), *others = features.items()
    feature: int | str = first
    if others and edit != "addition":
        raise SettingsError(f"{which}: several features at once are added: leave out --edit {edit}, or name one feature")
    if others:
        feature = set_name({of: recommended_factor(run, layer, of)[0] if factor is None else factor for of, factor in features.items()})
        factors = factors or [1.0]
    elif given is not None:
        factors = [float(given), *factors]
    if factors and edit == "ablation":
        raise SettingsError("an ablation has no strength: leave out --factor")
    if not factors:
        factor, factor_from = _factor_of(run, layer, first, edit)
        factors = [factor]
    return Request(layer, feature, tuple(factors), prompt, n_samples, factor_from, seed, max_tokens, edit)


def _features_of(run: Run, which: str) -> tuple[int, dict[int, str | None]]:
    """The layer, and each feature with its factor, if one is written behind it."""
    factors = dict[tuple[int, int], str | None]()
    for name, star, factor in (part.strip().partition("*") for part in which.split(",")):
        layer_and_feature = parse_feature(name)
        if layer_and_feature is None:
            raise not_a_feature(name)
        run.check_feature(*layer_and_feature)
        factors[layer_and_feature] = canonical_factor(factor) if star else None
    layers = {layer for layer, _ in factors}
    if len(layers) > 1 or len(factors) <= which.count(","):
        raise SettingsError(f"{which}: name features of one layer, each once")
    return layers.pop(), {feature: factor for (_, feature), factor in factors.items()}


def _factor_of(run: Run, layer: int, feature: int, edit: Edit) -> tuple[float, str]:
    """The factor of an edit where none was given, and what chose it."""
    if edit == "addition":
        return recommended_factor(run, layer, feature)
    if edit in ("clamp", "decay"):
        raise SettingsError(f"no strength of a {edit} is recommended: name one in multiples of a_max, e.g. --factor -2")
    return 1.0, ""


def heading(run: Run, request: Request) -> str:
    """What is shown, in a sentence."""
    features = features_of_set(request.feature) if isinstance(request.feature, str) else [request.feature]
    concepts = printable(", ".join(filter(None, (concept_of(run, request.layer, feature) for feature in features))))
    about = f"feature{'s' * (len(features) > 1)} {request.layer}/{request.feature}" + (f" ({concepts})" if concepts else "")
    factors, because = " and ".join(request.every_factor[1:]), f" ({request.factor_from})" if request.factor_from else ""
    done = DONE[request.edit] if request.edit == "ablation" else f"{DONE[request.edit]} at factor {factors}"
    return f"{run.name}, {about}: unsteered, and {done}{because}; {counted(request.n_samples, 'text')} of each."


def texts_by_token(run: Run, request: Request) -> Iterator[list[str]]:
    """The texts after each token, `n_samples` of each of `every_factor` in turn, by the experiment's own steering (P1's) and sampling."""
    sae, lm, sampling = run.sae(request.layer), run.model(), sampling_of(run.experiment)
    if request.max_tokens is not None:
        sampling = replace(sampling, max_new_tokens=request.max_tokens)
    prompt_id = text_id(request.prompt)
    kind = pl.String if isinstance(request.feature, str) else pl.UInt32
    schema = {"feature": kind, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    keys = itertools.product([request.feature], request.every_factor, [prompt_id], range(request.n_samples))
    rows = pl.DataFrame(list(keys), schema=schema, orient="row")
    seed = run.experiment.sampling.seed if request.seed is None else request.seed
    try:
        yield from feature_texts_by_token(lm, sae, request.layer, rows, {prompt_id: request.prompt}, sampling, seed, request.edit)
    except ValueError as fault:  # too long a prompt, or none
        raise SettingsError(str(fault)) from fault


def show(texts: Iterable[Sequence[str]], request: Request, console: Console, prompt_format: str = "plain") -> None:
    """Draw the texts as they grow, one column per factor and one row per sample; where the output is no terminal, once they are there."""
    prompt = printable(request.prompt) + ("\n" if prompt_format == "chat" else "")
    steered = "ablated" if request.edit == "ablation" else "factor {}"
    titles = [steered.format(factor) if float(factor) else "unsteered" for factor in request.every_factor]
    with Live(console=console, refresh_per_second=12) as live:
        for by_factor in texts:
            bodies = [Text.assemble((prompt, "dim"), printable(text)) for text in by_factor]
            table = Table(*titles, show_lines=True, expand=True)
            for row in range(request.n_samples):
                table.add_row(*bodies[row :: request.n_samples])
            live.update(table)
    if not console.is_terminal:
        console.line()
