"""Commands of studies/: what the Makefile calls is there, with the options that it gives."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from workflow_folder import ROOT

from saesteer.settings import SettingsError
from saesteer.steps.step import steps_of
from studies import open_experiment
from studies.pages import results
from studies.public import __main__ as public
from studies.questions.registry import SUMMARIES, code_of, modules_behind
from studies.world import __main__ as world

APPS = {"world": world.app, "public": public.app}
CALLS = re.findall(r"-m studies\.(\w+) (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("study", "words"), CALLS, ids=[f"{study} {words.split()[0]}" for study, words in CALLS])
def test_the_makefile_calls_a_command_as_it_is(study: str, words: str) -> None:
    command, *options = shlex.split(words.replace("$(NAME)", "llama").replace("$(SEED)", "0"))
    typer.main.get_command(APPS[study]).commands[command].make_context(command, options)


@pytest.mark.parametrize("path", sorted((ROOT / "studies/experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_extends_one_that_a_clone_can_run(path: Path) -> None:
    assert steps_of(open_experiment(path.stem))
    assert not (ROOT / f"config/experiments/{path.name}").exists()


def test_the_rule_of_a_summary_watches_its_own_module() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "studies/rules").glob("*.smk")))
    rules = {rule.partition(":")[0]: rule for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]}
    assert {*SUMMARIES, "study_figure"} == {*rules}
    assert all(f'study_code("summary.py", "summaries.{name}")' in rules[name] for name in SUMMARIES)


def test_a_tables_code_is_that_of_its_module_and_what_it_imports() -> None:
    script = ROOT / "studies/scripts/summary.py"
    digests = {name: code_of(f"summaries.{name}", script) for name in SUMMARIES}
    assert len(set(digests.values())) == len(digests)
    assert {"studies.questions.choice_rules", "studies.questions.tables"} <= modules_behind("summaries.data_sizes")
    assert "studies.questions.choice_rules" not in modules_behind("summaries.recommendations")


def test_every_command_has_a_target() -> None:
    named = {(study, words.split()[0]) for study, words in CALLS}
    assert named == {(study, name) for study, app in APPS.items() for name in typer.main.get_command(app).commands}


def test_pages_are_not_written_without_the_shipped_experiment(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    with pytest.raises(SettingsError, match=r"docs/results/tiny\.json is missing: run `make grammar`"):
        results.update_results(tmp_path)
