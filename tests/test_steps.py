"""Steps and summaries as modules: their rules name what they read, each comes after what it reads, and a table has one place."""

import re
from pathlib import Path

import pytest
from job_inputs import inputs_of_outputs, summaries_from_their_inputs
from small_embedder import write_embedder
from workflow_folder import Folder

from saesteer.run import Run
from saesteer.settings import load_experiment, load_workflow
from saesteer.steps.step import step_tables, steps_of
from saesteer.summaries.summary import summaries, summaries_of
from saesteer.workflow import outputs, plan

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "config/experiments"
NAMES = ("micro", "micro-methods", "tiny-methods", "tiny", "piloted")
PILOTED = """\
extends: micro
description: With a pilot, and features that stand for their max-activating examples
sweep: {pilot: {}}
judge: {kind: embedding, model: {path: EMBEDDER}}
concepts: {kind: examples}
"""


def run_of(name: str, *folders: Path) -> Run:
    return Run(load_workflow({"experiments": ["micro"]}), name, load_experiment(name, EXPERIMENTS, *folders))


@pytest.fixture(scope="module")
def further(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment that is not shipped."""
    folder = tmp_path_factory.mktemp("experiments")
    write_embedder(folder / "embedder", ["sea", "ship"])
    (folder / "piloted.yaml").write_text(PILOTED.replace("EMBEDDER", str(folder / "embedder")))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, further: Path) -> dict[str, set[str]]:
    """Output file -> the input files of its job, of some experiments of each kind, by Snakemake."""
    scratch = f"data_dir={tmp_path_factory.mktemp('data')}"  # nothing is there, so that every job is listed
    places = f"experiments_dirs=[config/experiments,{further}]"
    command = ["snakemake", "all", "--dry-run", "--config", f"experiments=[{','.join(NAMES)}]", scratch, places]
    printed = Folder.existing(ROOT).call(*command).stdout
    return inputs_of_outputs(printed)


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_of_a_step_names_every_input_of_the_step(inputs: dict[str, set[str]], further: Path, name: str) -> None:
    listed = {Path(output).relative_to(_data(output, name)).as_posix(): output for output in inputs if f"/{name}/" in output}
    run = run_of(name, further)
    for step in steps_of(run.experiment):
        for group, layers in run.experiment.layer_groups.items():
            output = listed[f"{step}/{group}.json"]
            needed = {str(path.relative_to(run.data)) for path in plan.input_files(run, step, layers).values()}
            given = {Path(path).relative_to(_data(path, name)).as_posix() for path in inputs[output] if f"/{name}/" in path}
            assert needed <= given, step


def _data(path: str, name: str) -> Path:
    """The experiment's folder that a path is in."""
    return next(parent for parent in Path(path).parents if parent.name == name)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_step_comes_after_the_steps_that_it_reads(path: Path) -> None:
    """As steps are run, and as their tables are listed in the documentation and in reports."""
    steps = steps_of(load_experiment(path.stem, EXPERIMENTS))
    listed = [name for name in step_tables() if name in steps]
    for name in listed:
        assert not set(steps[name].inputs) & set(listed[listed.index(name) :])
    seen: set[str] = set()
    for name, step in steps.items():
        assert set(step.inputs) & set(steps) <= seen
        assert step.table.name == name
        seen.add(name)


def rules_and_local() -> tuple[dict[str, str], set[str]]:
    """Rule -> its text, and the rules that run where Snakemake runs."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
    local = re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.MULTILINE)
    rules = re.split(
        r"^(?:use )?rule (?:\w+ as )?(?=\w+(?: with)?:)",
        re.sub(r"^localrules:\n(?:    .*\n)+", "", text, flags=re.MULTILINE),
        flags=re.MULTILINE,
    )
    return {re.split(r"\W", rule)[0]: rule for rule in rules[1:]}, set(re.findall(r"\w+", "".join(local)))


def test_the_rule_of_a_summary_watches_its_own_module() -> None:
    rules, _ = rules_and_local()
    assert set(summaries()) <= set(rules)
    for name in summaries():
        assert f'**summary("{name}")' in rules[name]


def test_a_rules_log_has_its_name_and_what_asks_for_no_gpu_is_local() -> None:
    rules, local = rules_and_local()
    assert len(rules) > 43
    for name, rule in rules.items():
        if "script:" in rule:
            assert f'log:\n        "logs/{{experiment}}/{name}' in rule or f'log:\n        "logs/{name}/' in rule, name
            assert re.sub(r"\.log", ".tsv", rule.split("log:\n")[1].split("\n")[0].rstrip(",")) in rule.split("benchmark:\n")[1], name
            assert '"../envs/saesteer.yaml"' in rule, name
        assert (name in local) is not ("gpu_job(" in rule or "gpu=" in rule), name


@pytest.mark.slow
def test_a_summary_reads_what_its_job_names(finished: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"features_table", "steering_table", "pmi"} <= summaries_from_their_inputs(finished, "micro", tmp_path, monkeypatch)


def test_every_summary_table_is_of_one_summary() -> None:
    tables = [table.name for name, summary in summaries().items() if name != "layer_features" for table in summary.tables]
    assert len(tables) == len(set(tables))


def test_a_summary_is_planned_where_it_exists() -> None:
    run = run_of("tiny-methods")
    planned = set(outputs.planned_outputs(run))
    assert {str(run.data / file) for summary in summaries_of(run.experiment).values() for file in summary.files(run.experiment)} <= planned
    assert {"concept_texts", "method_tables"} <= set(summaries_of(run.experiment))
    assert not {"outcomes", "steering_prompts"} & set(summaries_of(run.experiment))
