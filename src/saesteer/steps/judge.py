"""Ratings of texts by the experiment's judge: concept, instruction (where there is one) and fluency, each 0, 1 or 2, with their harmonic
mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import polars as pl

from saesteer.core.tables import Column, Table
from saesteer.core.texts import OF_TEXT, TEXT_KEYS
from saesteer.run import Run
from saesteer.settings import Comparison, ExampleConcepts, Experiment, Sweep
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps import keys
from saesteer.steps.concepts import CONCEPTS, N_DESCRIBED_BY
from saesteer.steps.generations import GENERATIONS, texts_of
from saesteer.steps.judges import Rated, judge_of
from saesteer.steps.keys import is_unsteered, layer_of_unsteered
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.step import Step, layers_of

JUDGEMENTS = Table(
    "judge",
    TEXT_KEYS,
    {
        **OF_TEXT,
        "concept_rating": Column(pl.UInt8, "0, 1 or 2: how much the text is about the feature's concept", "see reason"),
        "concept_log_odds": Column(
            pl.Float64,
            "log P / (1 - P) in nats of the concept given the text without the words that speak most for it",
            "another judge than the books' rates, or there is no text, concept or content",
        ),
        "instruction_rating": Column(
            pl.UInt8, "0, 1 or 2: how well the text answers the instruction", "there is no instruction, or see reason"
        ),
        "fluency_rating": Column(pl.UInt8, "0, 1 or 2: how well-formed the text is", "see reason"),
        "judge_score": Column(pl.Float64, "harmonic mean of those that apply, 0 if any is 0", "one that applies is null"),
        "reason": Column(pl.String, "why judge_score is null", "judge_score is not null"),
    },
)


def step(experiment: Experiment) -> Step | None:
    judge = judge_of(experiment)
    if judge is None:
        return None
    settings: dict[str, Any] = {"kind": judge.settings.kind} | ({"blank_texts": "rated"} if judge.experiment.rates_blank_texts else {})
    settings |= judge.rating_values()
    texts = ("generations",) if isinstance(experiment, Comparison) else ("concepts", "generations")
    inputs = (*judge.pins, *judge.further_pins, *texts, *(("perplexity",) if judge.reads_losses else ()))
    modules = judge.rating_modules
    if rates_by_examples(experiment):
        inputs, modules = (*inputs, MAX_ACTIVATING_EXAMPLES.name), (*modules, "analysis.label_evidence")
        settings["n_described_by"] = N_DESCRIBED_BY
    of_texts = keys.texts_of_features(experiment, judge.n_prompts) if isinstance(experiment, Sweep) else keys.texts_of(judge.experiment)
    is_beside = judge.beside_unsteered
    return Step(JUDGEMENTS, of_texts, settings, inputs, modules, compute, judge.runs_model, unit="text", beside_unsteered=is_beside)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import with_concept

    layers, judge = layers_of(missing), judge_of(run.experiment)
    assert judge is not None
    concepts = run.summary(COMPARED_CONCEPTS) if isinstance(run.experiment, Comparison) else run.rows(CONCEPTS, layers)
    texts = with_concept(texts_of(run, missing, ["text", "reason"]), concepts)
    unsteered = _unsteered(run, layers, GENERATIONS, ["text"]) if judge.beside_unsteered else None
    losses = [run.rows(PERPLEXITY, layers, ["mean_nll"])] if judge.reads_losses else []
    losses += [_unsteered(run, layers, PERPLEXITY, ["mean_nll"])] if judge.beside_unsteered else []
    known = pl.concat(losses).unique(PERPLEXITY.keys, maintain_order=True) if losses else None
    yield from ratings(run, texts, known, run.prompts(), unsteered)


def _unsteered(run: Run, layers: Sequence[int], table: Table, columns: list[str]) -> pl.DataFrame:
    """Rows of the unsteered texts beside which the texts of these layers are rated, at each of these layers."""
    experiment = run.steering
    at = {layer_of_unsteered(experiment, layer) for layer in layers}
    rows = run.rows(table, sorted(at), columns).filter(is_unsteered(experiment))
    return pl.concat(
        [
            rows.filter(layer=layer_of_unsteered(experiment, layer)).with_columns(layer=pl.lit(layer, rows.schema["layer"]))
            for layer in layers
        ]
    )


def ratings(
    run: Run, texts: pl.DataFrame, losses: pl.DataFrame | None, prompts: Mapping[str, str], unsteered: pl.DataFrame | None
) -> Iterator[pl.DataFrame]:
    """JUDGEMENTS rows of texts that have a column `concept`, in frames of one layer each; the rest is what a judge may read of
    them (judges.Rated)."""
    from saesteer.analysis.label_evidence import excerpts_of_concepts

    judge = judge_of(run.experiment)
    assert judge is not None

    @cache
    def described(layer: int) -> dict[str, dict[str, list[str]]]:
        return excerpts_of_concepts(examples_of_concepts(run, layer), N_DESCRIBED_BY, run.tokens().text_of)

    yield from map(JUDGEMENTS.of, judge.ratings(run, Rated(texts, prompts, losses, unsteered, described)))


def rates_by_examples(experiment: Experiment) -> bool:
    """Whether what texts are rated for is what a feature's max-activating examples are about; a comparison names its concepts."""
    return isinstance(experiment, Sweep) and isinstance(experiment.concepts, ExampleConcepts)


def examples_of_concepts(run: Run, layer: int) -> pl.DataFrame:
    """Feature, concept and max-activating examples, where texts are rated for what these are about; else of none."""
    named = run.rows(CONCEPTS, [layer], ["concept"]).drop_nulls("concept")
    if not rates_by_examples(run.experiment):
        return named.clear().with_columns(examples=pl.lit(None))
    return run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"]).join(named, on=CONCEPTS.keys)
