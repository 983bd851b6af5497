"""Published figures of steering methods: what they are, where they stand, and under which protocol they came about.

A fact of a protocol that is None is one that we do not know. Ratings are 0, 1 or 2;
P2's two are scaled to [0, 1], and their means multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import polars as pl

from saesteer.core.tables.methods import METHOD_PUBLISHED
from saesteer.methods.compare.protocol import largest_score, row_of
from saesteer.settings.methods import ConceptSource, MethodSettings, PublishedConcepts

Averaged = Literal["all", "surviving"]


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


@dataclass(frozen=True)
class PaperValue:
    """One published figure."""

    method: str  # name in saesteer.settings.registry
    source: str
    place: str
    protocol: Protocol
    value: float
    averaged: Averaged = "all"
    scale: float = 2.0  # the largest value that the score can have
    task: str = ""
    topic: str = ""  # the shipped world's topic that is closest to the task


P1, P2, P4, P5 = "P1, arXiv 2505.20063", "P2, arXiv 2411.02193", "P4, arXiv 2501.17148", "P5, arXiv 2510.03659"
ISSUE = "stanfordnlp/axbench issue 149"

_CONCEPT500 = "axbench/concept500, of its layer"
_EOS = "end of sequence only"
_BY_SUCCESS = "by GenSuccess over perplexity"
_ALPACA = "AlpacaEval, ten drawn for each concept"
_PUBLISHED_RATES = "as published"
_AXBENCH = Protocol(
    *(None, None, "gpt-4o-mini", 1.0, 128, _EOS, "first_half", "harmonic_mean", _CONCEPT500, 500, _ALPACA),
    *(1.0, _PUBLISHED_RATES, "all", "rated"),
)
_P1_AXBENCH = replace(
    _AXBENCH,
    judge="claude-3.7-sonnet",
    temperature=0.7,
    factor_choice=f"first_half, {_BY_SUCCESS}",
    score="harmonic_mean_of_means",
)
_UNKNOWN = Protocol(**dict.fromkeys(FACTS, None))
_P2 = replace(
    _UNKNOWN,
    layer=12,
    judge="gpt-4o-mini, 1 to 10",
    factor_choice="same_texts",
    score="product_of_means",
    concepts="nine tasks of its own",
    n_concepts=9,
    prompts='one, "I think"',
    top_p=0.3,
)
_P5 = replace(_UNKNOWN, score="harmonic_mean")

_SITES = (("gemma-2-2b-it", 10), ("gemma-2-2b-it", 20), ("gemma-2-9b-it", 20), ("gemma-2-9b-it", 31))
_P4_STEERING = {
    "prompting": (0.698, 0.731, 1.075, 1.072),
    "loreft": (0.701, 0.722, 0.777, 0.764),
    "sft": (0.637, 0.714),
    "lora": (0.637, 0.641, 0.602, 0.580),
    "reft_r1": (0.633, 0.509, 0.630, 0.401),
    "diffmean": (0.297, 0.178, 0.322, 0.158),
    "sae_label": (0.177, 0.151, 0.191, 0.140),
    "sae_auroc": (0.166, 0.132, 0.186, 0.143),
}
_P4_MEANS = {"lat": 0.127, "pca": 0.105, "probe": 0.098, "ssv": 0.026}
_ISSUE_149 = {
    "prompting": (0.676, 0.724),
    "sft": (0.667, 0.703),
    "loreft": (0.418, 0.446),
    "lora": (0.493, 0.500),
    "reft_r1": (0.208, 0.285),
    "sae_label": (0.329, 0.296),
}
_P1_TABLE_1 = {
    ("sae_label_output_score", "output score at least .1"): (0.546, 0.470),
    ("sae_label", "unfiltered"): (0.293, 0.387),
}
_P2_AVERAGES = {
    "caa": (0.2165, 0.2531),
    "sae_label": (0.1290, 0.2184),
    "sae_ts": (0.3600, 0.3376),
    "sae_ts_pinv": (0.1197,),
    "sae_ts_rotation": (0.3115,),
}
_P2_MODELS = ("gemma-2-2b", "gemma-2-9b")
_P2_TASKS = {
    ("anger", "anger"): 0.2424,
    ("Christian", "religion"): 0.3302,
    ("conspiracy", "politics"): 0.3729,
    ("French", "french"): 0.3186,
    ("London", "city"): 0.5380,
    ("love", "love"): 0.4234,
    ("praise", "gratitude"): 0.2842,
    ("want to die", "sadness"): 0.1870,
    ("wedding", "joy"): 0.5432,
}
_P5_MODELS = ("gemma-2-2b", "qwen-2.5-3b", "gemma-2-9b")
_P5_MEANS = {
    ("sae_label", "no selection"): (0.133, 0.171, 0.142),
    ("sae_label_output_score", "output score"): (0.233, 0.292, 0.255),
    ("sae_label_delta_confidence", "delta token confidence"): (0.328, 0.399, 0.289),
}


def _values() -> Iterator[PaperValue]:
    for name, row in _P4_STEERING.items():
        for (model, layer), value in zip(_SITES, row, strict=False):  # SFT was run on the smaller model only
            protocol = replace(_AXBENCH, model=model, layer=layer, n_concepts=20 if name == "sft" else 500)
            place = "table of steering scores" + (", prompts written by a language model" if name == "prompting" else "")
            yield PaperValue(name, P4, place, protocol, value)
    for name, value in _P4_MEANS.items():
        protocol = replace(_AXBENCH, model="gemma-2-2b-it and gemma-2-9b-it")
        yield PaperValue(name, P4, "table of steering scores, mean of the four sites", protocol, value)
    for name, row in _ISSUE_149.items():
        for (model, layer), value in zip(_SITES[:2], row, strict=True):
            yield PaperValue(name, ISSUE, "P4's table run again", replace(_AXBENCH, model=model, layer=layer), value)
    for (name, variant), row in _P1_TABLE_1.items():
        for (model, layer), value in zip(_SITES[2:], row, strict=True):
            protocol = replace(_P1_AXBENCH, model=model, layer=layer)
            yield PaperValue(name, P1, f"table 1, {variant}", protocol, value, _averaged(name))
    yield from _p2_and_p5()


def _p2_and_p5() -> Iterator[PaperValue]:
    for name, row in _P2_AVERAGES.items():
        for model, value in zip(_P2_MODELS, row, strict=False):  # two variants were run on the smaller model only
            yield PaperValue(name, P2, "average of the nine tasks", replace(_P2, model=model), value, scale=1.0)
    for (task, topic), value in _P2_TASKS.items():
        yield PaperValue("sae_ts", P2, "scores by task", replace(_P2, model="gemma-2-2b"), value, scale=1.0, task=task, topic=topic)
    for (name, variant), row in _P5_MEANS.items():
        for model, value in zip(_P5_MODELS, row, strict=True):
            yield PaperValue(name, P5, f"mean scores, {variant}", replace(_P5, model=model), value, _averaged(name))


def _averaged(name: str) -> Averaged:
    """P1 and P5 average over the features that their filters keep."""
    return "all" if name == "sae_label" else "surviving"


PAPER_VALUES: tuple[PaperValue, ...] = tuple(_values())
"""P4's steering scores and issue 149's, P1's table 1 (of its thresholds the one that our row has; its rows of other methods are P4's
figures), P2's averages and tasks, P5's means."""


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
    """METHODS_TABLE and METHOD_SCORES -> METHOD_PUBLISHED: a row a layer of ours and published figure of a method that is in the table.

    Ours is the mean over the same kind of concepts (all, or surviving), and of one task the score of the topic that is closest to it. The
    difference is taken where both scores have the same scale. `protocols` is `our_protocol` of each layer.
    """
    rows = []
    for ours in methods.iter_rows(named=True):
        topics = scores.filter(layer=ours["layer"], method=ours["method"])
        by_topic = dict(zip(topics["concept"].str.to_lowercase(), topics["score"], strict=True))
        for value in _of_method(row_of(ours["method"]).name):
            column = "surviving_score" if value.averaged == "surviving" else "score"
            mine = by_topic.get(value.topic) if value.topic else ours[column]
            rows.append(_beside(ours, mine, value, protocols[ours["layer"]], largest_score(settings)))
    return pl.DataFrame(rows, schema=METHOD_PUBLISHED.schema).sort(METHOD_PUBLISHED.keys)


def _of_method(name: str) -> Sequence[PaperValue]:
    return [value for value in PAPER_VALUES if value.method == name]


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
