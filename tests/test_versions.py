"""What a step's rows depend on is complete: every module that computes them counts, for the steps that use it and for no other."""

from functools import cache
from pathlib import Path

import grimp
import pytest

from saesteer.settings import EmbeddingJudge, ExampleConcepts, LocalModelJudge, NearestConcepts, load_experiment
from saesteer.settings.registry import METHODS
from saesteer.steps.step import Step, steps_of
from saesteer.summaries.summary import summaries
from saesteer.workflow.code_digest import PLUMBING, VALUES, imported_by, used_by, version_of
from saesteer.workflow.plan import versions

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("micro", "micro-methods", "gemma-2-2b", "gemma-2-2b-it-methods", "gemma-2-9b-it-concept500")
SCIENCE = ("engine", "analysis", "methods.fit", "judge", "world")
WITHOUT = {
    "engine.finite": "refuses numbers, and makes none",
    "engine.loss_rise": "what engine.pilot and methods.fit.effects, which have versions, have in common",
    "engine.memory": "how many rows go together, which no row depends on",
    "judge.answers": "keeps answers; questions and parsing have versions of their own",
    "judge.rubric": "its digest is among the judge's settings",
}
"""Modules of the science without a version, and why."""
OTHERWISE_TOLD = {"fits": {"judge.parse"}, "concepts": {"engine.quantised", "sources.corpus"}}
"""Step -> modules that compute no row of it: behind the digest of how prompts are written, which is among its settings; the quantising of
weights, which an embedder's never are; and the names of texts, by which it joins the max-activating examples that have them."""
OPENED_BY = {"model": "engine.models", "sae": "engine.saes", "tokens": "core.tokens", "world_judge": "world.judges"}
"""Method of Run -> the module that it opens something with."""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("saesteer", exclude_type_checking_imports=True, cache_dir=None)


@cache
def steps() -> dict[tuple[str, str], Step]:
    experiments = {name: load_experiment(name, ROOT / "config/experiments") for name in EXPERIMENTS}
    for name in ("micro", "micro-methods"):
        quantised = experiments[name].model.model_copy(update={"dtype": "nf4"})
        second = experiments[name].perplexity.model_copy(update={"model": quantised})
        experiments[f"quantised {name}"] = experiments[name].model_copy(update={"model": quantised, "perplexity": second})
    second_model = experiments["micro"].perplexity.model
    judges = {"a model": LocalModelJudge(kind="model", model=quantised), "embeddings": EmbeddingJudge(kind="embedding", model=second_model)}
    for by, judge in judges.items():
        experiments[f"judged by {by}"] = experiments["micro"].model_copy(update={"judge": judge})
    for concepts in (ExampleConcepts(kind="examples"), NearestConcepts(kind="nearest")):
        by_embeddings = experiments["judged by embeddings"].model_copy(update={"concepts": concepts})
        experiments[f"concepts of kind {concepts.kind}"] = by_embeddings
    return {(name, of): step for name, experiment in experiments.items() for of, step in steps_of(experiment).items()}


def used(step: Step) -> set[str]:
    """Modules that a step's computation imports, but for those that fit a method, whose versions are in the keys, and for the quantising of
    a model's weights where they are not quantised."""
    start = {f"saesteer.{name}" for name in step.modules}
    closure = start.union(*(graph().find_upstream_modules(name) for name in start))
    left_out = set() if step.settings.get("dtype") in ("int8", "nf4") else {"engine.quantised"}
    return {name.removeprefix("saesteer.") for name in closure} - set(step.modules_of_methods) - left_out


def test_every_module_of_the_science_has_a_version() -> None:
    modules = {name for step in steps().values() for name in used(step) if name.startswith(SCIENCE)}
    folders = {name for name in modules if (ROOT / "src/saesteer" / name.replace(".", "/")).is_dir()}
    assert {name for name in modules if version_of(name) is None} == (folders | set(WITHOUT)) & modules


def test_a_steps_versions_are_those_of_the_modules_that_it_uses() -> None:
    """So a raised version makes every step that uses the module due, and no other."""
    expected = {name: {module: version_of(module) for module in used(step)} for name, step in steps().items()}
    versioned = {name: {module: number for module, number in of.items() if number is not None} for name, of in expected.items()}
    assert {name: versions(step) for name, step in steps().items()} == versioned


def test_quantised_weights_count_where_the_model_is_quantised_and_nowhere_else() -> None:
    """Rows of other models keep their fingerprints."""
    counted = {name for name, step in steps().items() if "engine.quantised" in versions(step)}
    run_the_model = {"activations", "logit_lens", "output_score", "generations", "perplexity"}
    of_methods = {*run_the_model, "effects", "fits", "damage"}
    expected = {"quantised micro": run_the_model, "quantised micro-methods": of_methods, "judged by a model": {"judge"}}
    assert counted == {(name, step) for name, steps_of_it in expected.items() for step in steps_of_it}


@pytest.mark.parametrize("name", sorted({of for _, of in steps()}))
def test_what_computes_a_steps_rows_is_among_its_modules(name: str) -> None:
    """What its module in saesteer.steps imports besides, itself or through the run, computes no row."""
    direct = {module.removeprefix("saesteer.") for module in graph().find_modules_directly_imported_by(f"saesteer.steps.{name}")}
    text = (ROOT / f"src/saesteer/steps/{name}.py").read_text(encoding="utf-8")
    direct |= {module for method, module in OPENED_BY.items() if f"run.{method}(" in text}
    science = {
        module for module in imported_by(*(one for one in direct if one.split(".")[0] not in PLUMBING)) if version_of(module) is not None
    }
    counted = set().union(*(used(step) for (_, of), step in steps().items() if of == name)) | OTHERWISE_TOLD.get(name, set())
    assert science - counted - {row.module.removeprefix("saesteer.") for row in METHODS} == set()


def test_plumbing_is_no_part_of_what_a_table_or_figure_is_computed_with() -> None:
    """What plans a job, opens an experiment or computes rows makes no table anew."""
    of_summary = {name: used_by(functions=(summary.function,)) for name, summary in summaries().items()}
    selection, figure = of_summary["selection"], used_by(scripts=(ROOT / "scripts/figure.py",))
    assert "analysis.selection" in selection
    assert not {name for name in {*selection, *figure} if name.split(".")[0] in PLUMBING}
    assert "judge.prompt_writing" in of_summary["steering_prompts"] - selection
    assert {"analysis.repeats", "analysis.halves"} <= of_summary["steering_table"] & of_summary["method_tables"]  # by counted_ratings
    assert not {name for names in of_summary.values() for name in names if name.startswith("summaries.") or name in VALUES}
