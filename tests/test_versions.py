"""What a step's rows depend on is complete: every module that computes them counts, for the steps that use it and for no other.

The graph of imports is grimp's, not the package's own.
"""

from functools import cache
from pathlib import Path

import grimp
import pytest

from saesteer.settings import LocalModelJudge, load_experiment
from saesteer.settings.registry import METHODS
from saesteer.workflow import code_digest
from saesteer.workflow.steps import StepPlan, plans

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("micro", "micro-methods", "gemma-2-2b", "gemma-2-2b-it-methods", "gemma-2-9b-it-concept500")
SCIENCE = ("engine", "analysis", "methods.fit", "judge", "world")
WITHOUT = {
    "engine.dtypes": "names of number formats, which are settings",
    "engine.memory": "how many rows go together, which no row depends on",
    "judge.answering_models": "says who answered, which is in no row",
    "judge.answers": "keeps answers; questions and parsing have versions of their own",
    "judge.rubric": "its digest is among the judge's settings",
}
"""Modules of the science without a version, and why."""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("saesteer", exclude_type_checking_imports=True, cache_dir=None)


@cache
def steps() -> dict[tuple[str, str], StepPlan]:
    experiments = {name: load_experiment(name, ROOT / "config/experiments") for name in EXPERIMENTS}
    for name in ("micro", "micro-methods"):
        quantised = experiments[name].model.model_copy(update={"dtype": "nf4"})
        second = experiments[name].perplexity.model_copy(update={"model": quantised})
        experiments[f"quantised {name}"] = experiments[name].model_copy(update={"model": quantised, "perplexity": second})
    judge = LocalModelJudge(kind="model", model=quantised)
    experiments["judged by a model"] = experiments["micro"].model_copy(update={"judge": judge})
    return {(name, step): plan for name, experiment in experiments.items() for step, plan in plans(experiment).items()}


def used(plan: StepPlan) -> set[str]:
    """Modules that a step's computation imports, but for those that fit a method, whose versions are in the keys, and for the quantising of
    a model's weights where they are not quantised."""
    start = {f"saesteer.{name}" for name in plan.modules}
    closure = start.union(*(graph().find_upstream_modules(name) for name in start))
    left_out = set() if plan.settings.get("dtype") in ("int8", "nf4") else {"engine.quantised"}
    return {name.removeprefix("saesteer.") for name in closure} - set(plan.versioned_rows) - left_out


def version_of(module: str) -> int | None:
    file = code_digest._module_file(f"saesteer.{module}")
    assert file is not None
    return code_digest._version(file)


@cache
def modules() -> list[str]:
    return sorted(set().union(*(used(plan) for plan in steps().values())))


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(SCIENCE)])
def test_every_module_of_the_science_has_a_version(module: str) -> None:
    assert (version_of(module) is None) is (module in WITHOUT or (ROOT / "src/saesteer" / module.replace(".", "/")).is_dir())


@pytest.mark.parametrize("module", [name for name in modules() if version_of(name) is not None])
def test_a_raised_version_makes_every_step_that_uses_it_due_and_no_other(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {step: plan.versions for step, plan in steps().items()}
    read = code_digest._version
    raised = code_digest._module_file(f"saesteer.{module}")
    monkeypatch.setattr(code_digest, "_version", lambda file: 99 if file == raised else read(file))
    code_digest.algorithm_versions.cache_clear()
    try:
        due = {step for step, plan in steps().items() if plan.versions != before[step]}
    finally:
        monkeypatch.undo()
        code_digest.algorithm_versions.cache_clear()
    assert due == {step for step, plan in steps().items() if module in used(plan)}
    assert due


def test_quantised_weights_count_where_the_model_is_quantised_and_nowhere_else() -> None:
    """Rows of other models keep their fingerprints."""
    counted = {(name, step) for (name, step), plan in steps().items() if "engine.quantised" in plan.versions}
    run_the_model = {"activations", "logit_lens", "output_score", "generations", "perplexity"}
    of_methods = {*run_the_model, "effects", "fits", "damage"}
    expected = {"quantised micro": run_the_model, "quantised micro-methods": of_methods, "judged by a model": {"judge"}}
    assert counted == {(name, step) for name, steps_of_it in expected.items() for step in steps_of_it}


@pytest.mark.parametrize("script", sorted({step for _, step in steps()} - {"records", "concepts"}))
def test_a_scripts_imports_are_its_steps_modules(script: str) -> None:
    """What a script runs besides its step's modules computes no row."""
    run = {
        code_digest._dotted(file)
        for file in code_digest._closure(ROOT / f"scripts/{script}.py")
        if file.is_relative_to(code_digest.PACKAGE)
    }
    science = {name for name in run if version_of(name) is not None}
    counted = set().union(*(used(plan) for (_, step), plan in steps().items() if step == script))
    assert science - counted - {row.module.removeprefix("saesteer.") for row in METHODS} == set()


@pytest.mark.parametrize(
    ("module", "scripts"),
    [("judge/rubric.py", {"judge.py", "steering_prompts.py"}), ("workflow/plan.py", set()), ("figures/style.py", {"figure.py"})],
)
def test_a_module_counts_for_the_scripts_that_use_it_alone(module: str, scripts: set[str]) -> None:
    """A common helper that plans what a job computes is no part of how it is computed; figures are named by their rule."""
    file = ROOT / "src/saesteer" / module
    assert {script.name for script in (ROOT / "scripts").glob("*.py") if file in code_digest._closure(script)} - {"common.py"} == scripts
