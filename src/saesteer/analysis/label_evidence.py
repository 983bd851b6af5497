"""What a feature's label is made from, what it is scored on, and the score: balanced accuracy of detection.

Detection is that of Paulo et al. (arXiv 2410.13928, section on scoring): told a label only, a judge says of each held-out text whether the
feature is active in it. Here the held-out active texts are max-activating examples that took no part in the naming, and the others are
texts of the corpus in which the feature's activation is 0 at every token, by the stored activations of all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt64

from saesteer.core.counter_rng import text_keys, uniforms
from saesteer.core.uncertainty import Interval, difference_interval

ALGORITHM_VERSION = 2

BEFORE, AFTER = 32, 16
"""Tokens of a text that are shown around its maximum, or around a place drawn at random."""
OPENS, CLOSES = "«", "»"
"""What stands around the token of largest activation."""
NOTHING = "nothing to name it from"
"""Why a feature without examples or tokens has no label."""
_HOLD_OUT, _INACTIVE, _PLACE = range(3)


@dataclass(frozen=True)
class Label:
    """What a feature is called, by which model, as that names itself; or why it is not."""

    text: str | None
    model: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Corpus:
    """Texts of one layer of which it is known where a feature is active."""

    text_ids: Sequence[str]
    keys: UInt64[np.ndarray, " text"]
    """A key of each text, from which draws are made (counter_rng.text_keys)."""
    tokens: Callable[[str], Sequence[str]]
    """A text's tokens as strings, by its text_id."""
    active_in: Mapping[int, frozenset[str]]
    """Feature of the layer -> texts with a token at which it is active."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a feature. All texts are excerpts on one line."""

    layer: int
    feature: int
    shown: tuple[str, ...]
    """Max-activating examples for the naming, the largest maximum first, its token between OPENS and CLOSES."""
    tokens: tuple[str, ...]
    """Top logit-lens tokens for the naming."""
    active: tuple[str, ...]
    """Held-out max-activating examples, without marks."""
    inactive: tuple[str, ...]
    """Texts without activation."""

    @property
    def unmarked(self) -> list[str]:
        """The examples for the naming, without marks."""
        return [text.replace(OPENS, "").replace(CLOSES, "") for text in self.shown]


class Namer(ABC):
    """Who names features, and says by a name in which texts a feature is active."""

    @property
    @abstractmethod
    def at_once(self) -> int:
        """About how many questions it wants to get together."""

    def expect(self, features: Sequence[Evidence]) -> None:
        """Say what those would cost that have no name yet: nothing."""
        return

    @abstractmethod
    def names(self, features: Sequence[Evidence]) -> list[Label]:
        """A label of each feature."""

    @abstractmethod
    def is_active(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether the feature is said to be active, for each name and text; None where that cannot be said."""


def evidence_of(
    row: Mapping[str, Any], lens: Sequence[str], corpus: Corpus | None, n_shown: int, n_held_out: int, seed: int, text: Callable[[str], str]
) -> Evidence:
    """A feature's evidence, from its row of MAX_ACTIVATING_EXAMPLES and its top logit-lens tokens.

    `n_held_out` of the examples, at most half, are drawn for the score, and the `n_shown` largest of the others for the naming; of excerpts
    that say the same only the one of largest maximum counts. As many texts without activation are drawn of the `corpus`; none where there
    is none. Draws depend on seed, layer, feature and the texts' ids. `text` gives what a token string says.
    """
    layer, feature = row["layer"], row["feature"]
    largest: dict[str, Mapping[str, Any]] = {}
    for one in row["examples"]:
        largest.setdefault(excerpt(one["context"], one["token_index"], text), one)
    examples = list(largest.values())
    drawn = np.argsort(uniforms(seed, layer, feature, text_keys(one["text_id"] for one in examples), step=_HOLD_OUT), kind="stable")
    held_out = set(drawn[: min(n_held_out, len(examples) // 2)].tolist())
    shown = [example for place, example in enumerate(examples) if place not in held_out][:n_shown]
    return Evidence(
        layer,
        feature,
        tuple(excerpt(one["context"], one["token_index"], text, marked=True) for one in shown),
        tuple(_line(text(token)) for token in lens),
        tuple(excerpt(examples[place]["context"], examples[place]["token_index"], text) for place in sorted(held_out)),
        () if corpus is None else _inactive(corpus, layer, feature, len(held_out), seed, text),
    )


def _inactive(corpus: Corpus, layer: int, feature: int, n: int, seed: int, text: Callable[[str], str]) -> tuple[str, ...]:
    """Excerpts of n texts in which the feature is nowhere active, each around a place drawn at random."""
    drawn, places = (uniforms(seed, layer, feature, corpus.keys, step=step) for step in (_INACTIVE, _PLACE))
    active, excerpts = corpus.active_in.get(feature, frozenset()), dict[str, None]()
    for number in np.argsort(drawn, kind="stable").tolist():
        if len(excerpts) == n:
            break
        if corpus.text_ids[number] not in active:
            tokens = corpus.tokens(corpus.text_ids[number])
            excerpts[excerpt(tokens, int(places[number] * len(tokens)), text)] = None
    return tuple(excerpts)


def excerpt(tokens: Sequence[str], at: int, text: Callable[[str], str], marked: bool = False) -> str:
    """What stands around a token, on one line, without marks or with marks around the token."""
    before, token, after = (
        "".join(map(text, part)).replace(OPENS, '"').replace(CLOSES, '"')
        for part in (tokens[max(0, at - BEFORE) : at], tokens[at : at + 1], tokens[at + 1 : at + 1 + AFTER])
    )
    if not marked:
        return _line(before + token + after)
    said = token.strip() or token
    return _line(before + token.replace(said, f"{OPENS}{said}{CLOSES}", 1) + after)


def excerpts(examples: Sequence[Mapping[str, Any]], text: Callable[[str], str]) -> list[str]:
    """What stands around the maximum of each of some max-activating examples."""
    return [excerpt(one["context"], one["token_index"], text) for one in examples]


def excerpts_of_concepts(examples: pl.DataFrame, n: int, text: Callable[[str], str]) -> dict[str, dict[str, list[str]]]:
    """A feature's number -> its concept's name -> excerpts of its first n max-activating examples. examples: feature, concept, examples."""
    rows = examples.select("feature", "concept", "examples").iter_rows()
    return {str(feature): {concept: excerpts(of_feature[:n], text)} for feature, concept, of_feature in rows}


def _line(text: str) -> str:
    return " ".join(text.split())


def texts_with(activations: pl.DataFrame, features: Sequence[int]) -> dict[int, frozenset[str]]:
    """Feature -> text_ids in which it is active, of one layer's ACTIVATIONS rows."""
    wanted = pl.DataFrame({"feature": list(features)}, schema={"feature": pl.UInt32})
    pairs = activations.select("text_id", pl.col("feature").list.unique()).explode("feature").join(wanted, on="feature", how="semi")
    return {feature: frozenset(ids) for feature, ids in pairs.group_by("feature").agg("text_id").iter_rows()}


def balanced_accuracy(active: tuple[int, int], inactive: tuple[int, int]) -> float | None:
    """(TPR + TNR) / 2 in [0, 1]; chance is 1/2. Of active and of inactive texts: how many the judge says are active, and how many it
    answered about. None where either kind has no answer."""
    if not active[1] or not inactive[1]:
        return None
    return (active[0] / active[1] + 1 - inactive[0] / inactive[1]) / 2


def detection_interval(active: tuple[int, int], inactive: tuple[int, int], confidence: float) -> Interval | None:
    """Its interval: (1 + TPR - FPR) / 2 has that of a difference of two shares. None where either kind has fewer than 2 answers."""
    of_active, of_inactive = (np.repeat([1.0, 0.0], [yes, n - yes]) for yes, n in (active, inactive))
    difference = difference_interval(of_active, of_inactive, confidence, Interval(0.0, 1.0))
    return difference and Interval((1 + difference.low) / 2, (1 + difference.high) / 2)
