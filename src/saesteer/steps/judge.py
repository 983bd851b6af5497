"""Ratings of texts by the experiment's judge: concept, instruction (where there is one) and fluency, each 0, 1 or 2, with their harmonic
mean.

The judge is that of a shipped world, a language model behind an OpenAI-compatible address, or a transformers model on the GPU.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from saesteer.core.tables import ASKED_CONCEPTS, CONCEPTS, JUDGEMENTS, PERPLEXITY
from saesteer.judge.rubric import rubric_digest
from saesteer.run import Run
from saesteer.settings import Comparison, EndpointJudge, Experiment, LocalModelJudge, NoJudge, OracleJudge, Scores, Sweep
from saesteer.steps import keys
from saesteer.steps.generations import texts_of
from saesteer.steps.step import Step, layers_of


def step(experiment: Experiment) -> Step | None:
    if isinstance(experiment, Scores) or isinstance(experiment.judge, NoJudge):
        return None
    judge, of_texts = experiment.judge, keys.texts_of(experiment)
    concepts = () if isinstance(experiment, Comparison) else ("concepts",)
    blank = {"blank_texts": "rated"} if experiment.rates_blank_texts else {}
    if isinstance(judge, OracleJudge):
        read = ("oracle", "topics", *concepts, "generations", "perplexity")
        return Step(
            table=JUDGEMENTS,
            keys=of_texts,
            settings={"kind": judge.kind} | blank,
            inputs=read,
            modules=("world.rating", "analysis.concepts"),
            compute=compute,
            unit="text",
        )
    settings = {"rubric": rubric_digest(), **judge.model_dump(mode="json", include={"kind", "max_tokens", "seed"})}
    settings |= {"prompt_format": experiment.model.prompt_format, **blank, **_model_values(judge)}
    on_gpu = isinstance(judge, LocalModelJudge)
    inputs = (*(["judge_model"] if on_gpu else []), *concepts, "generations")
    modules = ("judge.rate_llm", "analysis.concepts", *(["judge.local_model"] if on_gpu else []))
    if isinstance(experiment, Sweep):
        of_texts = keys.texts_of_features(experiment, min(judge.n_prefixes or experiment.sweep.n_prefixes, experiment.sweep.n_prefixes))
    return Step(
        table=JUDGEMENTS,
        keys=of_texts,
        settings=settings,
        inputs=inputs,
        modules=modules,
        compute=compute,
        runs_model=on_gpu,
        unit="text",
    )


def _model_values(judge: EndpointJudge | LocalModelJudge) -> dict[str, Any]:
    if isinstance(judge, EndpointJudge):
        return {"model": judge.model}
    return judge.model.model_dump(mode="json", include={"dtype", *(["chat"] if judge.model.chat else [])})


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.concepts import with_concept

    layers = layers_of(missing)
    concepts = run.summary(ASKED_CONCEPTS) if isinstance(run.experiment, Comparison) else run.rows(CONCEPTS, layers)
    texts = with_concept(texts_of(run, missing, ["text", "reason"]), concepts)
    losses = run.rows(PERPLEXITY, layers) if isinstance(run.steering.judge, OracleJudge) else None
    yield from ratings(run, texts, losses)


def ratings(run: Run, texts: pl.DataFrame, losses: pl.DataFrame | None) -> Iterator[pl.DataFrame]:
    """JUDGEMENTS rows of texts that have a column `concept`, in frames of one layer each. A world's judge reads the texts' PERPLEXITY
    rows too, the others none."""
    experiment, judge = run.experiment, run.steering.judge
    if isinstance(judge, OracleJudge):
        from saesteer.world.rating import rate

        assert losses is not None
        rated = rate(texts, losses, run.world_judge(), run.topics(), experiment.rates_blank_texts)
        yield from rated.partition_by("layer", maintain_order=True)
        return
    from saesteer.judge.answers import Asker
    from saesteer.judge.askers import endpoint_asker, local_model_asker
    from saesteer.judge.rate_llm import judge_texts

    if isinstance(judge, EndpointJudge):
        asker: Asker = endpoint_asker(judge, os.environ, run.data)
    else:
        from saesteer.engine.dtypes import available_device

        assert isinstance(judge, LocalModelJudge)
        asker = local_model_asker(judge, run.model_folder("judge_model"), available_device(), run.pin("judge_model")["digest"])
    instructions: Mapping[str, str] | None = run.prompts() if experiment.model.prompt_format == "chat" else None
    folder, seconds = run.data / "judge/answers", run.workflow.part_seconds
    yield from judge_texts(texts, instructions, asker, folder, seconds, experiment.rates_blank_texts)
