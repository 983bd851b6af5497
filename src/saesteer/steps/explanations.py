"""What the experiment's judge calls each feature, from its max-activating examples, its top logit-lens tokens or both, and how well the
name tells held-out texts in which the feature is active from others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.judges import judge_of
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import Step, by_layer, every_feature, values_of

if TYPE_CHECKING:
    from saesteer.analysis.label_evidence import Corpus, Evidence, Namer

EXPLANATIONS = Table(
    "explanations",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "label": Column(pl.String, "what the judge calls the feature", "see reason"),
        "model": Column(
            pl.String, "the model as the judge names itself; oracle: a shipped world's judge", "label is null, or the judge does not say"
        ),
        "evidence": Column(pl.String, "what it was named from: examples, lens or both"),
        "n_shown": Column(pl.UInt16, "max-activating examples that were shown"),
        "detection": Column(
            pl.Float64,
            "balanced accuracy, in [0, 1], by which the label tells held-out texts in which the feature is active from others",
            "see reason",
        ),
        "n_active": Column(pl.UInt16, "held-out max-activating examples with a readable answer"),
        "n_active_detected": Column(pl.UInt16, "... of which the judge says that the feature is active"),
        "n_inactive": Column(pl.UInt16, "texts without activation with a readable answer"),
        "n_inactive_detected": Column(pl.UInt16, "... of which the judge says that the feature is active"),
        "reason": Column(pl.String, "why label is null, or else detection", "neither is null"),
    },
)


def step(experiment: Experiment) -> Step | None:
    judge = judge_of(experiment)
    if judge is None or judge.experiment.explanations is None:
        return None
    section = judge.experiment.explanations
    inputs: tuple[str, ...] = (MAX_ACTIVATING_EXAMPLES.name, *((LOGIT_LENS.name,) if section.evidence != "examples" else ()))
    if experiment.local_examples:
        inputs = ("texts", ACTIVATIONS.name, *inputs)
    settings = {"kind": judge.settings.kind, **values_of(section), **judge.naming_values()}
    modules = (*judge.naming_modules, "analysis.label_evidence", "sources.corpus")
    return Step(EXPLANATIONS, every_feature(experiment), settings, (*judge.pins, *inputs), modules, compute, judge.runs_model)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    section, judge = run.steering.explanations, judge_of(run.experiment)
    assert section is not None
    assert judge is not None
    evidence = [one for layer, rows in by_layer(missing) for one in _evidence(run, layer, rows["feature"].to_list())]
    with judge.namer(run) as namer:
        namer.expect(evidence)
        size = max(1, namer.at_once // (2 * section.n_held_out))
        for start in range(0, len(evidence), size):
            rows = pl.DataFrame(_rows(evidence[start : start + size], namer, section.evidence), schema=EXPLANATIONS.schema)
            yield from rows.partition_by("layer", maintain_order=True)


def _evidence(run: Run, layer: int, features: Sequence[int]) -> "Iterator[Evidence]":
    from saesteer.analysis.label_evidence import evidence_of

    section, text = run.steering.explanations, run.tokens().text_of
    assert section is not None
    wanted = pl.DataFrame({"feature": features}, schema={"feature": pl.UInt32})
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"]).join(wanted, on="feature", how="semi")
    lens: Mapping[int, list[str]] = {}
    if section.evidence != "examples":
        lens = dict(run.rows(LOGIT_LENS, [layer], ["tokens"]).select("feature", "tokens").iter_rows())
    n_shown = 0 if section.evidence == "lens" else section.n_shown
    corpus = _corpus(run, layer, features)
    for row in examples.iter_rows(named=True):
        yield evidence_of(row, lens.get(row["feature"], []), corpus, n_shown, section.n_held_out, section.seed, text)


def _corpus(run: Run, layer: int, features: Sequence[int]) -> "Corpus | None":
    """The texts of local max-activating examples; Neuronpedia does not say in which texts a feature is not active."""
    from saesteer.analysis.label_evidence import Corpus, texts_with
    from saesteer.core.counter_rng import text_keys

    local = run.experiment.local_examples
    if local is None:
        return None
    texts = run.corpus(local.max_tokens)
    by_id, strings = dict(texts.select("text_id", "token_ids").iter_rows()), run.tokens().strings
    active = texts_with(run.rows(ACTIVATIONS, [layer], ["feature"]), features)
    return Corpus(list(by_id), text_keys(by_id), lambda name: strings(by_id[name]), active)


def _rows(features: "Sequence[Evidence]", namer: "Namer", evidence: str) -> Iterator[dict[str, Any]]:
    """EXPLANATIONS rows: names first, then all held-out texts of those that have one."""
    from saesteer.analysis.label_evidence import balanced_accuracy

    labels = namer.names(features)
    named = [(label.text, one) for label, one in zip(labels, features, strict=True) if label.text]
    answers = iter(namer.is_active([(name, text) for name, one in named for text in (*one.active, *one.inactive)]))
    for label, one in zip(labels, features, strict=True):
        active, inactive = (_counts(islice(answers, len(texts) if label.text else 0)) for texts in (one.active, one.inactive))
        score = balanced_accuracy(active, inactive)
        yield {
            "layer": one.layer,
            "feature": one.feature,
            "label": label.text,
            "model": label.model,
            "evidence": evidence,
            "n_shown": len(one.shown),
            "detection": score,
            "n_active": active[1],
            "n_active_detected": active[0],
            "n_inactive": inactive[1],
            "n_inactive_detected": inactive[0],
            "reason": label.reason or (NOT_SCORED if score is None else None),
        }


def _counts(answers: Iterable[bool | None]) -> tuple[int, int]:
    """How many say yes, and how many are readable."""
    readable = [answer for answer in answers if answer is not None]
    return sum(readable), len(readable)


NOT_SCORED = "no held-out texts, or no readable answers about them"
"""Why a label has no score."""
