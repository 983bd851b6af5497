"""Ratings of texts by the experiment's judge: concept, instruction (where there is one) and fluency, each 0, 1 or 2, with their harmonic
mean.

The judge is that of a shipped world, a language model behind an OpenAI-compatible address, or a transformers model on the GPU.
"""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from saesteer.core.tables import COMPARED_CONCEPTS, CONCEPTS, JUDGEMENTS, PERPLEXITY
from saesteer.judge.rubric import rubric_digest
from saesteer.run import Run
from saesteer.settings import Comparison, EndpointJudge, Experiment, LocalModelJudge, NoJudge, OracleJudge, Scores, Sweep
from saesteer.steps import keys
from saesteer.steps.generations import texts_of
from saesteer.steps.step import Step, layers_of

if TYPE_CHECKING:
    from saesteer.judge.answers import Asker


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores) or isinstance(experiment.judge, NoJudge):
        return None
    judge, of_texts = experiment.judge, keys.texts_of(experiment)
    inputs = ("generations",) if isinstance(experiment, Comparison) else ("concepts", "generations")
    modules: tuple[str, ...] = ("judge.rate_llm", "analysis.concepts")
    settings: dict[str, Any] = {"kind": judge.kind} | ({"blank_texts": "rated"} if experiment.rates_blank_texts else {})
    if isinstance(judge, OracleJudge):
        inputs, modules = ("oracle", "topics", *inputs, "perplexity"), ("world.rating", "analysis.concepts")
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
    return Step(JUDGEMENTS, of_texts, settings, inputs, modules, compute, runs_model=isinstance(judge, LocalModelJudge), unit="text")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import with_concept

    layers = layers_of(missing)
    concepts = run.summary(COMPARED_CONCEPTS) if isinstance(run.experiment, Comparison) else run.rows(CONCEPTS, layers)
    texts = with_concept(texts_of(run, missing, ["text", "reason"]), concepts)
    losses = run.rows(PERPLEXITY, layers) if isinstance(run.steering.judge, OracleJudge) else None
    yield from ratings(run, texts, losses, run.prompts())


def ratings(run: Run, texts: pl.DataFrame, losses: pl.DataFrame | None, prompts: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """JUDGEMENTS rows of texts that have a column `concept`, in frames of one layer each. A world's judge reads the texts' PERPLEXITY
    rows too, the others none. `prompts`, by prefix_id, are instructions where the model answers."""
    experiment, judge = run.experiment, run.steering.judge
    if isinstance(judge, OracleJudge):
        from saesteer.world.rating import rate

        assert losses is not None
        rated = rate(texts, losses, run.world_judge(), run.topics(), experiment.rates_blank_texts)
        yield from rated.partition_by("layer", maintain_order=True)
        return
    from saesteer.judge.rate_llm import judge_texts

    instructions = prompts if experiment.model.prompt_format == "chat" else None
    folder, seconds = run.data / "judge/answers", run.workflow.part_seconds
    yield from judge_texts(texts, instructions, language_model(run), folder, seconds, experiment.rates_blank_texts)


def language_model(run: Run) -> "Asker":
    """The experiment's judge, which is a language model, ready to be asked."""
    from saesteer.judge.batch import endpoint_asker

    judge = run.steering.judge
    if isinstance(judge, EndpointJudge):
        return endpoint_asker(judge, os.environ, run.data)
    from saesteer.engine.models import load_language_model
    from saesteer.engine.weights import available_device
    from saesteer.judge.local_model import local_asker

    assert isinstance(judge, LocalModelJudge)
    lm = load_language_model(run.model_folder("judge_model"), judge.model.dtype, available_device())
    return local_asker(lm, judge, run.pin("judge_model")["digest"])
