"""Neuronpedia's JSON -> rows of the MAX_ACTIVATING_EXAMPLES table: the same for both routes, so that they give the same tables."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

import numpy as np
import polars as pl

from saesteer.core.files import value_digest
from saesteer.core.texts import EXAMPLE

ALGORITHM_VERSION = 4
NOT_THERE = "not on Neuronpedia"
NO_EXAMPLES = "no max-activating examples on Neuronpedia"

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_TYPE = "oai_token-act-pair"  # the type of explanation that most sources have
_DTYPES: Mapping[str, Any] = {
    "layer": pl.UInt16,
    "feature": pl.UInt32,
    "density": pl.Float64,
    "max_activation": pl.Float32,
    "histogram_activations": pl.List(pl.Float32),
    "histogram_counts": pl.List(pl.UInt32),
    "n_examples": pl.UInt32,
    "examples": pl.List(EXAMPLE),
    "explanations": pl.List(pl.String),
    "source": pl.String,
    "reason": pl.String,
}
_MOST_TOKENS = 2**16  # token_index is a UInt16


@dataclass(frozen=True)
class Example:
    """One text in which a feature was recorded."""

    text_id: str
    token_index: int
    max_value: float  # as a 32-bit float holds it, so that ties here are ties in the table
    context: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """One feature as Neuronpedia has it, or that it has not (`is_present` is false)."""

    feature: int
    density: float | None = None
    max_activation: float | None = None
    histogram: tuple[Sequence[float], Sequence[int]] | None = None
    """Activations at the middles of the bins, and tokens in each."""
    explanations: Sequence[str] = ()
    examples: Sequence[Example] = ()
    n_unusable: int = 0
    """Max-activating examples left out because a list in them is null, lists or numbers do not fit, or the feature is not active."""
    is_present: bool = True

    @property
    def reason(self) -> str | None:
        """Why there are no max-activating examples."""
        if self.examples:
            return None
        if not self.is_present:
            return NOT_THERE
        return f"none of its {self.n_unusable} max-activating examples on Neuronpedia can be used" if self.n_unusable else NO_EXAMPLES


@dataclass(frozen=True)
class Failed:
    """Features about which nothing is known for now, and why."""

    features: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Outcome:
    """What one request or batch brought."""

    features: Sequence[Known] = ()
    failed: Sequence[Failed] = ()
    unsure: Sequence[int] = ()
    """Features on which the exports are silent; only the API's word is taken for what Neuronpedia does not have."""


def first_of(numbers: Iterable[int]) -> str:
    """The first few of some numbers, for messages."""
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:5])) + (", ..." if len(ordered) > 5 else "")


def clean(text: str) -> str:
    """The text fit for a table: U+FFFD for each half of a broken surrogate pair, as JSON can spell those and UTF-8 cannot. Of equal texts
    one copy is held: a batch of max-activating examples has millions of tokens but few different ones."""
    return sys.intern(text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text))


def parse_json(text: bytes) -> Any:
    """A JSON value, or a ValueError; NaN and Infinity, which are no JSON, are refused."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def number(value: Any) -> float | None:
    """A JSON value as a float, None where it is no finite number."""
    numbers = _numbers([value])
    return numbers[0] if numbers else None


def _numbers(values: list[Any]) -> list[float] | None:
    """JSON values as floats, null as minus infinity; None where some value is no finite number or all are null."""
    if not set(map(type, values)) <= {int, float, NoneType}:
        return None
    try:
        floats = [-math.inf if value is None else float(value) for value in values]
    except OverflowError:
        return None
    n_finite = sum(map(math.isfinite, floats))
    return floats if n_finite and n_finite + values.count(None) == len(values) else None


def example(item: Mapping[str, Any]) -> Example | None:
    """One max-activating example; None where it cannot be used: a list is null, lists or numbers do not fit, or nothing in it is above 0.

    The maximum is at the first of the largest values (single ones may be null: unknown); a missing maxValue is the largest value.
    """
    tokens, values = item.get("tokens"), item.get("values")
    if not isinstance(tokens, list) or not isinstance(values, list) or not 0 < len(tokens) == len(values) <= _MOST_TOKENS:
        return None
    numbers = _numbers(values)
    if numbers is None or set(map(type, tokens)) != {str}:
        return None
    largest = max(numbers)
    maximum = as_float32(largest if item.get("maxValue") is None else number(item["maxValue"]))
    if maximum is None or min(maximum, largest) <= 0:
        return None
    return Example(_example_id(item), numbers.index(largest), maximum, tuple(map(clean, tokens)))


def as_float32(value: float | None) -> float | None:
    """The number as the table holds it; None where that is none."""
    with np.errstate(over="ignore"):
        rounded = math.nan if value is None else float(np.float32(value))
    return rounded if math.isfinite(rounded) else None


def _example_id(item: Mapping[str, Any]) -> str:
    """Neuronpedia's id of an example, or a name by its content."""
    name = item.get("id")
    return clean(name) if isinstance(name, str) and name else value_digest([list(map(clean, item["tokens"])), item["values"]])[:16]


def with_examples(known: Known, parsed: Sequence[Example | None], n_examples: int) -> Known:
    """The feature with those of its max-activating examples that have the largest maxima, ties by id, and the number of those that cannot
    be used (None). Several with one id count once, whatever order they come in."""
    usable, first = [item for item in parsed if item is not None], dict[str, Example]()
    for item in sorted(usable, key=lambda r: (-r.max_value, r.text_id, r.token_index, r.context)):
        first.setdefault(item.text_id, item)
    return replace(known, examples=list(first.values())[:n_examples], n_unusable=len(parsed) - len(usable))


def descriptions(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """A feature's explanations, each once; the first is the one that is shown.

    Those of type oai_token-act-pair come first, then by type, explaining model and text, so that their order there does not matter.
    """
    ranked = set()
    for item in items:
        if isinstance(text := item.get("description"), str) and text.strip():
            kind, model = (clean(str(item.get(name) or "")) for name in ("typeName", "explanationModelName"))
            ranked.add((kind != _FIRST_TYPE, kind, model, clean(text).strip()))
    return list(dict.fromkeys(text for *_, text in sorted(ranked)))


def feature_of(item: Mapping[str, Any], feature: int, explanations: Sequence[str]) -> Known:
    """A feature from its JSON object and its explanations, without max-activating examples yet."""
    density = number(item.get("frac_nonzero"))
    if density is not None and not 0 <= density <= 1:
        density = None
    return Known(feature, density, as_float32(number(item.get("maxActApprox"))), histogram(item), explanations)


def histogram(item: Mapping[str, Any]) -> tuple[list[float], list[int]] | None:
    """A feature's activation histogram; None where there is none, or one that cannot be: its lists do not fit, the middles of its bins do
    not ascend, or its heights are no counts."""
    middles, heights = item.get("freq_hist_data_bar_values"), item.get("freq_hist_data_bar_heights")
    if not isinstance(middles, list) or not isinstance(heights, list):
        return None
    activations = [value for value in map(as_float32, map(number, middles)) if value is not None]
    counts = [int(value) for value in map(number, heights) if value is not None and value.is_integer() and 0 <= value < 2**32]
    fits = 0 < len(middles) == len(activations) == len(counts) == len(heights)
    return (activations, counts) if fits and activations == sorted(activations) else None


def rows(layer: int, features: Sequence[Known]) -> pl.DataFrame:
    """The MAX_ACTIVATING_EXAMPLES rows of features of one layer. No token ids: Neuronpedia gives strings only."""
    columns = {
        "layer": [layer] * len(features),
        "feature": [item.feature for item in features],
        "density": [item.density for item in features],
        "max_activation": [_max_activation(item) for item in features],
        "histogram_activations": [item.histogram and item.histogram[0] for item in features],
        "histogram_counts": [item.histogram and item.histogram[1] for item in features],
        "n_examples": [len(item.examples) for item in features],
        "examples": [[_struct(rank, example) for rank, example in enumerate(item.examples)] for item in features],
        "explanations": [item.explanations for item in features],
        "source": ["neuronpedia"] * len(features),
        "reason": [item.reason for item in features],
    }
    return pl.DataFrame(columns, schema=_DTYPES)


def _max_activation(item: Known) -> float | None:
    """Neuronpedia's estimate, else the largest example's maximum; null where neither says that the feature is ever active."""
    largest = max((example.max_value for example in item.examples), default=0.0)
    estimate = item.max_activation or 0.0
    return estimate if estimate > 0 else largest if largest > 0 else None


def _struct(rank: int, item: Example) -> dict[str, Any]:
    return {
        "rank": rank,
        "text_id": item.text_id,
        "token_index": item.token_index,
        "token": item.context[item.token_index],
        "token_id": None,
        "max_value": item.max_value,
        "context": item.context,
    }
