"""Published figures of steering methods: what they are, where they stand, and under which protocol they came about.

paper_values.csv holds P4's steering scores and issue 149's, P1's table 1 (of its thresholds the one that our row has; its rows of other
methods are P4's figures), P2's averages and tasks, P5's means; paper_protocols.csv the protocols. A fact of a protocol that is empty is one
that we do not know. Ratings are 0, 1 or 2; P2's two are scaled to [0, 1], and their means multiplied.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import polars as pl

from saesteer.methods.compare.protocol import row_of, score_scale
from saesteer.methods.compare.tables import METHOD_PUBLISHED
from saesteer.settings.methods import ConceptSource, MethodSettings, PublishedConcepts

VALUES, PROTOCOLS = (Path(__file__).with_name(f"paper_{name}.csv") for name in ("values", "protocols"))


@dataclass(frozen=True)
class Protocol:
    """What two figures must share to be comparable."""

    model: str | None  # name without its owner
    layer: int | None
    judge: str | None
    temperature: float | None
    max_new_tokens: int | None
    stop: str | None  # what ends a text besides its length
    factor_choice: str | None
    score: str | None
    concepts: str | None
    n_concepts: int | None
    prompts: str | None
    top_p: float | None
    learning_rates: str | None
    training_tokens: str | None
    blank_texts: str | None


FACTS = tuple(field.name for field in fields(Protocol))
_OF_VALUE = ("model", "layer", "n_concepts")
"""Facts that stand with each figure; the others are those of the protocol that its row names."""


@dataclass(frozen=True)
class PaperValue:
    """One published figure."""

    method: str  # name in saesteer.settings.registry
    source: str
    place: str
    protocol: Protocol
    value: float
    averaged: Literal["all", "surviving"]  # P1 and P5 average over the features that their filters keep
    scale: float  # the largest value that the score can have
    task: str  # "" for means
    topic: str  # the shipped world's topic that is closest to the task


P4 = "P4, arXiv 2501.17148"
_EOS = "end of sequence only"
_BY_SUCCESS = "by GenSuccess over perplexity"
_CONCEPT500 = "axbench/concept500, of its layer"
_PUBLISHED_RATES = "as published"


def read_paper_values(values: Path = VALUES, protocols: Path = PROTOCOLS) -> tuple[PaperValue, ...]:
    """The rows of the two tables."""
    by_name = {row.pop("protocol"): row for row in pl.read_csv(protocols).to_dicts()}
    rows = pl.read_csv(values).with_columns(pl.col("task", "topic").fill_null("")).to_dicts()
    return tuple(_paper_value(row, by_name[row.pop("protocol")]) for row in rows)


def _paper_value(row: dict[str, Any], protocol: dict[str, Any]) -> PaperValue:
    return PaperValue(protocol=Protocol(**protocol, **{name: row.pop(name) for name in _OF_VALUE}), **row)


def our_protocol(settings: MethodSettings, model: str, layer: int, judge: str, n_concepts: int) -> Protocol:
    """The facts of an experiment; `model` and `judge` as the experiment file names them."""
    return Protocol(
        model=model.rpartition("/")[2].lower(),
        layer=layer,
        judge=judge.rpartition("/")[2].lower(),
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        stop=_EOS if settings.stop is None else f"{settings.stop!r}",
        factor_choice=settings.factor_choice + (f", {_BY_SUCCESS}" if settings.factor_rule == "gen_success" else ""),
        score=settings.score,
        concepts=_concepts(settings.concepts),
        n_concepts=n_concepts,
        prompts=f"the first {settings.n_prompts} of {settings.published_prompts or 'a file'}, for all concepts the same",
        top_p=settings.top_p,
        learning_rates="chosen on held-out texts" if settings.learning_rates else _PUBLISHED_RATES,
        training_tokens=settings.training_tokens,
        blank_texts=settings.blank_texts,
    )


def _concepts(source: ConceptSource) -> str:
    if not isinstance(source, PublishedConcepts):
        return "topics of the shipped world"
    return _CONCEPT500 if source.concepts.startswith("axbench/concept500") else source.concepts


def compared(ours: Protocol, theirs: Protocol) -> tuple[list[str], list[str]]:
    """Names of the facts that differ, and of those of theirs that are not known."""
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in FACTS}
    unknown = [name for name, (_, their) in pairs.items() if their is None]
    return [name for name, (our, their) in pairs.items() if name not in unknown and our != their], unknown


def published_beside_ours(
    methods: pl.DataFrame, scores: pl.DataFrame, protocols: dict[int, Protocol], settings: MethodSettings
) -> pl.DataFrame:
    """METHODS_TABLE and METHOD_SCORES -> METHOD_PUBLISHED: one row per layer of ours and published figure of a method that is in the table.

    Ours is the mean over the same kind of concepts (all, or surviving), and of one task the score of the topic that is closest to it. The
    difference is taken where both scores have the same scale. `protocols` is `our_protocol` of each layer.
    """
    rows, published = [], read_paper_values()
    for ours in methods.iter_rows(named=True):
        topics = scores.filter(layer=ours["layer"], method=ours["method"])
        by_topic = dict(zip(topics["concept"].str.to_lowercase(), topics["score"], strict=True))
        for value in (value for value in published if value.method == row_of(ours["method"]).name):
            column = "surviving_score" if value.averaged == "surviving" else "score"
            mine = by_topic.get(value.topic) if value.topic else ours[column]
            rows.append(_beside(ours, mine, value, protocols[ours["layer"]], score_scale(settings).high))
    return pl.DataFrame(rows, schema=METHOD_PUBLISHED.schema).sort(METHOD_PUBLISHED.keys)


def _beside(ours: dict[str, object], mine: float | None, value: PaperValue, protocol: Protocol, scale: float) -> dict[str, object]:
    differs, unknown = compared(protocol, value.protocol)
    return {
        "layer": ours["layer"],
        "method": ours["method"],
        "source": value.source,
        "place": value.place,
        "their_model": value.protocol.model or "not stated",
        "their_layer": "" if value.protocol.layer is None else str(value.protocol.layer),
        "task": value.task,
        "theirs": value.value,
        "their_scale": value.scale,
        "averaged": value.topic or value.averaged,
        "ours": mine,
        "our_scale": scale,
        "difference": mine - value.value if mine is not None and scale == value.scale else None,
        "differs": differs,
        "not_stated": unknown,
        "matches": not differs and not unknown,
    }
