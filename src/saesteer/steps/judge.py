"""Ratings of texts by the experiment's judge: concept, instruction (where there is one) and fluency, each 0, 1 or 2, with their harmonic
mean.

The judge is that of a shipped world, a sentence-embedding model, a language model behind an OpenAI-compatible address, or a transformers
model on the GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from saesteer.core.tables import Column, Table
from saesteer.core.texts import OF_TEXT, TEXT_KEYS
from saesteer.judge.rubric import rubric_digest
from saesteer.run import Run
from saesteer.settings import (
    Comparison,
    EmbeddingJudge,
    EndpointJudge,
    ExampleConcepts,
    Experiment,
    LocalModelJudge,
    NoJudge,
    OracleJudge,
    Scores,
    Sweep,
)
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps import keys
from saesteer.steps.concepts import CONCEPTS, N_DESCRIBED_BY
from saesteer.steps.generations import GENERATIONS, texts_of
from saesteer.steps.keys import is_unsteered, layer_of_unsteered
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.step import Step, layers_of, values_of

if TYPE_CHECKING:
    pass

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


TEXTS_AT_ONCE = 512
"""Texts whose losses are measured and whose vectors are made together, for a judge that embeds."""


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores) or isinstance(experiment.judge, NoJudge):
        return None
    judge, of_texts = experiment.judge, keys.texts_of(experiment)
    inputs = ("generations",) if isinstance(experiment, Comparison) else ("concepts", "generations")
    modules: tuple[str, ...] = ("judge.rate_llm", "analysis.concepts")
    settings: dict[str, Any] = {"kind": judge.kind} | ({"blank_texts": "rated"} if experiment.rates_blank_texts else {})
    if isinstance(judge, OracleJudge):
        inputs, modules = ("oracle", "topics", *inputs, "perplexity"), ("world.rating", "analysis.concepts")
    elif isinstance(judge, EmbeddingJudge):
        inputs = ("judge_model", "perplexity_model", *inputs, "perplexity")
        modules = ("judge.embedding", "judge.rate_embedding", "judge.word_order", "analysis.concepts")
        scorer = values_of(experiment.perplexity.model, "dtype", "bos")
        settings |= {"descriptions": values_of(judge, "descriptions")["descriptions"], "scorer": scorer}
        settings["prompt_format"] = experiment.model.prompt_format
    else:
        settings |= {"rubric": rubric_digest(), "max_tokens": judge.max_tokens, "seed": judge.seed}
        settings["prompt_format"] = experiment.model.prompt_format
        if isinstance(experiment, Sweep):
            of_texts = keys.texts_of_features(experiment, min(judge.n_prefixes or experiment.sweep.n_prefixes, experiment.sweep.n_prefixes))
    if isinstance(judge, EndpointJudge):
        settings |= judge.identity
    if isinstance(judge, LocalModelJudge):
        inputs, modules = ("judge_model", *inputs), (*modules, "judge.local_model")
        settings |= {"dtype": judge.model.dtype, **judge.model.template_values}
    if rates_by_examples(experiment):
        inputs, modules = (*inputs, MAX_ACTIVATING_EXAMPLES.name), (*modules, "analysis.label_evidence")
        settings["n_described_by"] = N_DESCRIBED_BY
    embeds = isinstance(judge, EmbeddingJudge)
    runs_model = embeds or isinstance(judge, LocalModelJudge)
    return Step(JUDGEMENTS, of_texts, settings, inputs, modules, compute, runs_model=runs_model, unit="text", beside_unsteered=embeds)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import with_concept

    layers = layers_of(missing)
    concepts = run.summary(COMPARED_CONCEPTS) if isinstance(run.experiment, Comparison) else run.rows(CONCEPTS, layers)
    texts = with_concept(texts_of(run, missing, ["text", "reason"]), concepts)
    unsteered, losses = None, None
    if isinstance(run.steering.judge, EmbeddingJudge):
        unsteered, losses = _unsteered(run, layers, GENERATIONS, ["text"]), _with_unsteered_losses(run, layers)
    elif isinstance(run.steering.judge, OracleJudge):
        losses = run.rows(PERPLEXITY, layers)
    yield from ratings(run, texts, losses, run.prompts(), unsteered)


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


def _with_unsteered_losses(run: Run, layers: Sequence[int]) -> pl.DataFrame:
    losses = [run.rows(PERPLEXITY, layers, ["mean_nll"]), _unsteered(run, layers, PERPLEXITY, ["mean_nll"])]
    return pl.concat(losses).unique(PERPLEXITY.keys, maintain_order=True)


def ratings(
    run: Run, texts: pl.DataFrame, losses: pl.DataFrame | None, prompts: Mapping[str, str], unsteered: pl.DataFrame | None
) -> Iterator[pl.DataFrame]:
    """JUDGEMENTS rows of texts that have a column `concept`, in frames of one layer each. A world's judge and embeddings read the texts'
    PERPLEXITY rows too; the latter also those of unsteered texts with the same layer and target, and these texts themselves (GENERATIONS
    keys and text). `prompts`, by prefix_id, are instructions where the model answers."""
    experiment, judge = run.experiment, run.steering.judge
    if isinstance(judge, OracleJudge):
        from saesteer.world.rating import rate

        assert losses is not None
        rated = rate(texts, losses, run.world_judge(), run.topics(), experiment.rates_blank_texts)
        yield from rated.partition_by("layer", maintain_order=True)
        return
    if isinstance(judge, EmbeddingJudge):
        assert losses is not None
        assert unsteered is not None
        yield from _by_embedding(run, judge, texts, losses, prompts, unsteered)
        return
    from saesteer.judge.rate_llm import judge_texts

    instructions = prompts if experiment.model.prompt_format == "chat" else None
    folder, seconds = run.data / "judge/answers", run.workflow.part_seconds
    by_model = judge_texts(texts, instructions, run.language_judge(), folder, seconds, experiment.rates_blank_texts)
    yield from map(JUDGEMENTS.of, by_model)


def _by_embedding(
    run: Run, judge: EmbeddingJudge, texts: pl.DataFrame, losses: pl.DataFrame, prompts: Mapping[str, str], unsteered: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """`ratings` by the embedding judge. What the order of words is worth is measured of TEXTS_AT_ONCE texts or more, where it matters; a
    layer's target is rated beside its own unsteered texts."""
    from saesteer.judge.embedding import load_embedder
    from saesteer.judge.rate_embedding import order_matters, ranges_of, rate, texts_and_words
    from saesteer.judge.word_order import with_order_nats

    embedder, scorer = load_embedder(run.model_folder("judge_model")), run.model("perplexity_model")

    def ordered(rows: pl.DataFrame) -> pl.DataFrame:
        return with_order_nats(scorer, rows, prompts, run.experiment.model.prompt_format)

    known = losses.select(*GENERATIONS.keys, "mean_nll")
    texts, unsteered = (of.join(known, on=GENERATIONS.keys, how="left", maintain_order="left") for of in (texts, unsteered))
    of_layer = ["layer", "target"]
    for (layer,), rows in texts.group_by("layer", maintain_order=True):
        examples = excerpts_of_examples(run, layer)
        targets = rows["target"].unique(maintain_order=True)
        size = -(-TEXTS_AT_ONCE * len(targets) // rows.height)
        for some in (targets[start : start + size] for start in range(0, len(targets), size)):
            here, beside = (of.filter(pl.col("target").is_in(some.implode()), layer=layer) for of in (rows, unsteered))
            embedder.vectors(texts_and_words(pl.concat([here["text"], beside["text"]]).drop_nulls().to_list()))  # known from then on
            plain = ordered(beside).partition_by(of_layer, as_dict=True)
            ranges = {key: ranges_of(of_target) for key, of_target in plain.items()}
            cells = here.select(*of_layer, "text", "mean_nll").iter_rows()
            matters = pl.Series([order_matters(ranges[layer, target], *measures) for layer, target, *measures in cells], dtype=pl.Boolean)
            orders = ordered(here.filter(matters)).select(*GENERATIONS.keys, "order_nats")
            here = here.join(orders, on=GENERATIONS.keys, how="left", maintain_order="left")
            rated = [
                rate(part, plain[key], embedder.vectors, examples.get(str(key[1]), judge.descriptions), run.experiment.rates_blank_texts)
                for key, part in here.group_by(of_layer, maintain_order=True)
            ]
            yield pl.concat(rated)


def rates_by_examples(experiment: Experiment) -> bool:
    """Whether what texts are rated for is what a feature's max-activating examples are about; a comparison names its concepts."""
    return isinstance(experiment, Sweep) and isinstance(experiment.concepts, ExampleConcepts)


def excerpts_of_examples(run: Run, layer: int) -> dict[str, dict[str, list[str]]]:
    """A feature's number -> its concept's name -> excerpts of its max-activating examples, where features stand for these; empty
    otherwise."""
    from saesteer.analysis.label_evidence import excerpts

    if not rates_by_examples(run.experiment):
        return {}
    named = run.rows(CONCEPTS, [layer], ["concept"]).drop_nulls("concept")
    known = run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"]).join(named, on=CONCEPTS.keys)
    text_of = run.tokens().text_of
    return {
        str(feature): {concept: excerpts(examples[:N_DESCRIBED_BY], text_of)}
        for feature, concept, examples in known.select("feature", "concept", "examples").iter_rows()
    }
