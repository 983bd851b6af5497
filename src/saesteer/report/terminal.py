"""Steered texts in a terminal, side by side, while they are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.core.tables import NOT_FINITE
from saesteer.engine.generations import feature_texts_by_token
from saesteer.report.fits import not_a_feature, parse_feature
from saesteer.run import Run
from saesteer.settings.base import canonical_factor
from saesteer.steps.generations import sampling_of


@dataclass(frozen=True)
class Request:
    """A prompt that is continued unsteered and at each factor."""

    layer: int
    feature: int
    factors: tuple[float, ...]
    prompt: str
    seed: int | None = None  # None: the experiment's
    max_tokens: int | None = None  # None: the experiment's

    @property
    def every_factor(self) -> list[str]:
        """Decimals, the unsteered model's first."""
        return list(dict.fromkeys(map(canonical_factor, (0, *self.factors))))


def request_of(feature: str, factors: Sequence[float], prompt: str, seed: int | None = None, max_tokens: int | None = None) -> Request:
    """A request for LAYER/FEATURE."""
    layer_and_feature = parse_feature(feature)
    if layer_and_feature is None:
        raise not_a_feature(feature)
    return Request(*layer_and_feature, tuple(factors), prompt, seed, max_tokens)


def texts_by_token(run: Run, request: Request) -> Iterator[list[str | None]]:
    """The texts of `every_factor` after each token, by the experiment's own steering (P1's) and sampling."""
    sae, lm, sampling = run.sae_with(request.layer, request.feature), run.model(), sampling_of(run.experiment)
    if request.max_tokens is not None:
        sampling = replace(sampling, max_new_tokens=request.max_tokens)
    prompt_id = text_id(request.prompt)
    schema = {"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    keys = itertools.product([request.feature], request.every_factor, [prompt_id], [0])
    rows = pl.DataFrame(list(keys), schema=schema, orient="row")
    seed = run.experiment.sampling.seed if request.seed is None else request.seed
    try:
        yield from feature_texts_by_token(lm, sae, request.layer, rows, {prompt_id: request.prompt}, sampling, seed)
    except ValueError as fault:  # too long a prompt, or none
        raise SettingsError(str(fault)) from fault


def show(texts: Iterable[Sequence[str | None]], request: Request, console: Console) -> None:
    """Draw the texts side by side as they grow; where the output is no terminal, once they are there."""
    titles = [f"factor {factor}" if float(factor) else "unsteered" for factor in request.every_factor]
    width = max(24, console.width // min(len(titles), 4) - 1)
    with Live(console=console, refresh_per_second=12) as live:
        for by_factor in texts:
            shown = (_printable(f" ({NOT_FINITE})" if text is None else text) for text in by_factor)
            bodies = (Text.assemble((_printable(request.prompt), "dim"), text) for text in shown)
            live.update(Columns([Panel(body, title=title, width=width) for title, body in zip(titles, bodies, strict=True)]))


def _printable(text: str) -> str:
    """A model's text without what would move the cursor or change the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text)
