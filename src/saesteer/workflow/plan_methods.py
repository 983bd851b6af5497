"""What each step of the comparison of steering methods wants and what its rows depend on. No torch.

Methods, concepts, factors and prompts are keys: one more of them leaves all other rows valid. Fits depend on every feature's scores, since
methods choose among all features.
"""

from typing import Any

import polars as pl

from saesteer.core.files import text_id, value_digest
from saesteer.core.tables import EFFECTS, FITS, STEERED, STEERED_JUDGEMENTS, STEERED_PERPLEXITY
from saesteer.settings import Experiment, LanguageModelJudge, MethodSettings, PublishedConcepts, TopicTexts
from saesteer.settings.registry import Method, method
from saesteer.sources.prefixes import read_prefixes
from saesteer.sources.published import published_file
from saesteer.workflow.code_digest import algorithm_version
from saesteer.workflow.plan_base import Axes, Files, StepPlan, language_model_judge


def settings_of(experiment: Experiment) -> MethodSettings:
    """The section that an experiment with `until: methods` has."""
    assert experiment.methods is not None
    return experiment.methods


def method_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Effects where a method needs them; fits, texts, their loss under the second model, their ratings."""
    asked, second = settings_of(experiment), experiment.perplexity.model
    model = experiment.model.model_dump(mode="json", include={"dtype", "bos", "prompt_format"})
    sampling = {"max_new_tokens", "temperature", "top_k", "stop", "seed", "sae_features"}
    texts = {**asked.model_dump(mode="json", include=sampling), **model}
    scoring = {**second.model_dump(mode="json", include={"dtype", "bos"}), "prompt_format": experiment.model.prompt_format}
    steps = _effect_steps(experiment, asked, model)
    scores = ("records", "concepts", "logit_lens", "input_score", "output_score")
    read = ("model", "saes", *_concept_pins(asked), *scores, *steps, *(["vectors"] if asked.vectors else []))
    steps["fits"] = StepPlan(FITS, "methods.fit.fits", _fits, {**_training(experiment), **model, **_candidates(experiment)}, read)
    steps["steered"] = StepPlan(STEERED, "engine.intervention_texts", _steered, texts, ("model", "saes", "fits"))
    steps["steered_perplexity"] = StepPlan(STEERED_PERPLEXITY, "engine.method_loss", _steered, scoring, ("perplexity_model", "steered"))
    return {**steps, "steered_judge": _judge_step(experiment)}


def _effect_steps(experiment: Experiment, asked: MethodSettings, model: dict[str, Any]) -> dict[str, StepPlan]:
    if not any("effects" in method(name).needs for name in asked.methods):
        return {}
    settings = asked.effects.model_dump(mode="json", exclude={"n_vectors", "n_held_out", "prompts"})
    settings |= {"prompts": value_digest(effect_prompts(asked)), "seed": asked.seed, **model}
    return {"effects": StepPlan(EFFECTS, "methods.fit.effects", _vectors, settings, ("model", "saes"))}


def effect_prompts(asked: MethodSettings) -> list[str]:
    """The prompts that effects are measured on, none of those that methods are judged on: neutral prefixes, and "" for the
    beginning-of-sequence token alone, three times as in P2 (arXiv 2411.02193, section 3) or as often as there is room for."""
    judged = set(prompts_file_lines(asked))
    n_alone = min(3, asked.effects.n_prompts)
    lines = [line for line in asked.effects.prompts.read_text(encoding="utf-8").splitlines() if line.strip() and line not in judged]
    return ["" for _ in range(n_alone)] + lines[: asked.effects.n_prompts - n_alone]


def prompts_file_lines(asked: MethodSettings) -> list[str]:
    """The prompts that methods are judged on, where they are a file of one's own."""
    return list(read_prefixes(asked.prompts, asked.n_prompts).values()) if asked.prompts else []


def _concept_pins(asked: MethodSettings) -> tuple[str, ...]:
    return ("lexicon",) if isinstance(asked.concepts, TopicTexts) else ()


def _training(experiment: Experiment) -> dict[str, Any]:
    """What training texts depend on, but for the concepts, which are keys."""
    asked = settings_of(experiment)
    source: Any = "topics"
    module = "saesteer.world.concept_texts"
    if isinstance(asked.concepts, PublishedConcepts):
        source = [published_file(key).identity for key in (asked.concepts.concepts, asked.concepts.texts)]
        module = "saesteer.sources.concept_texts"
    return {
        **asked.model_dump(mode="json", include={"n_positive", "n_negative", "seed"}),
        "texts": [source, training_openers(asked), algorithm_version(module)],
        "n_held_out": asked.effects.n_held_out,
    }


def training_openers(asked: MethodSettings) -> list[str]:
    """The neutral openers of training texts that are made here: those of the file that are no prompts."""
    if not isinstance(asked.concepts, TopicTexts):
        return []
    judged = set(prompts_file_lines(asked))
    return [line for line in asked.concepts.openers.read_text(encoding="utf-8").splitlines() if line.strip() and line not in judged]


def _candidates(experiment: Experiment) -> dict[str, Any]:
    """Which features methods choose among."""
    return {"features": experiment.features.model_dump(mode="json"), "n_features": experiment.saes.n_features}


def _judge_step(experiment: Experiment) -> StepPlan:
    judge = experiment.judge
    if not isinstance(judge, LanguageModelJudge):
        read = ("oracle", "topics", "steered", "steered_perplexity")
        return StepPlan(STEERED_JUDGEMENTS, "world.oracle_rating", _steered, {"kind": judge.kind}, read)
    settings, pins = language_model_judge(experiment, judge)
    return StepPlan(STEERED_JUDGEMENTS, "judge.rate_llm", _steered, settings, (*pins, "steered"))


def _vectors(experiment: Experiment, layer: int, files: Files) -> Axes:
    return {"vector": range(min(settings_of(experiment).effects.n_vectors, experiment.saes.n_features))}


def _fits(experiment: Experiment, layer: int, files: Files) -> Axes:
    return {"method": [method(name).key for name in settings_of(experiment).methods], "concept_id": concept_ids(experiment, files)}


def _steered(experiment: Experiment, layer: int, files: Files) -> Axes:
    asked = settings_of(experiment)
    prompts = read_prefixes(asked.prompts or files["prefixes_file"], asked.n_prompts)
    return {
        "method,factor": _strengths(experiment),
        "concept_id": concept_ids(experiment, files),
        "prefix_id": list(prompts),
        "sample": range(asked.n_samples),
    }


def _strengths(experiment: Experiment) -> list[tuple[str, str]]:
    """Every method with each factor of its grid."""
    asked = settings_of(experiment)
    return [(method(name).key, factor) for name in asked.methods for factor in grid_of(method(name), asked)]


def n_steered(experiment: Experiment) -> int:
    """How many texts a comparison generates; of a published list whose length is not given, as of 500 concepts."""
    asked = settings_of(experiment)
    n_concepts = len(asked.concepts.topics) if isinstance(asked.concepts, TopicTexts) else asked.concepts.n_concepts or 500
    return len(experiment.layers) * len(_strengths(experiment)) * n_concepts * asked.n_prompts * asked.n_samples


def grid_of(row: Method, asked: MethodSettings) -> tuple[str, ...]:
    """The factors that a method is steered with."""
    return ("1",) if row.grid == "once" else tuple(getattr(asked.factors, row.grid))


def concept_ids(experiment: Experiment, files: Files) -> list[str]:
    """concept_id of every concept asked for: known from the configuration, or from the fetched list."""
    asked = settings_of(experiment)
    if isinstance(asked.concepts, TopicTexts):
        return [text_id(topic) for topic in asked.concepts.topics]
    return pl.read_parquet(files["asked_concepts"], columns=["concept_id"])["concept_id"].to_list()


def known_axes(experiment: Experiment, plan: StepPlan, layer: int) -> dict[str, Any] | None:
    """A layer's keys as far as the configuration says them; None for a step that is not of this comparison."""
    if plan.table.name not in {"effects", "fits", "steered", "steered_perplexity", "steered_judge"}:
        return None
    asked = settings_of(experiment)
    if plan.axes is _vectors or (isinstance(asked.concepts, TopicTexts) and asked.prompts):
        return {name: list(values) for name, values in plan.axes(experiment, layer, {}).items()}
    concepts = asked.concepts.model_dump(mode="json")
    if plan.axes is _fits:
        return {"method": [method(name).key for name in asked.methods], "concepts": concepts}
    published = [asked.published_prompts, concepts, asked.n_prompts, asked.n_samples]
    return {"strengths": _strengths(experiment), "published": published}
