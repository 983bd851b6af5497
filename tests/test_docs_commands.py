"""Every command that the README and the documentation give is run: here, or by the test that the table names.

Commands run in a clone of the project with a finished experiment and a DVC remote, where `micro` stands for `tiny`. An expensive one is run
here as far as its dry run, and for real, on something small, by the test named; external ones by a test on loopback.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from sharing_folders import Clone, first_clone
from workflow_folder import BIN, ROOT, Folder

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "console", "sh")
OTHER_BLOCKS = ("python", "py", "json", "yaml", "text", "", "{toctree}", "{include}", "{eval-rst}")
PROGRAMS = "make|snakemake|saesteer|dvc|uv|pip|python3?|hf|git"


@dataclass(frozen=True)
class Way:
    """How a command is run: "run" in the clone, "empty" in an empty DVC repository, "dry" with its program's dry run, None: not here."""

    here: str | None
    tests: tuple[str, ...] = ()


def here(how: str, *tests: str) -> Way:
    return Way(how, tests)


def by(*tests: str) -> Way:
    return Way(None, tests)


OWN = "test_own_model_run.py::test_every_figure_is_there_and_none_of_ratings"
INSTALLED = "test_installed.py::test_init_makes_an_empty_folder_a_project"
ON_SLURM = "slurm/test_shipped_on_slurm.py::test_it_finishes"
REAL = "test_real_inputs.py::test_every_figure_is_made"
METHODS = "test_methods_workflow.py::test_a_finished_comparison_is_complete_and_has_nothing_to_do"
COMMANDS = {
    r"make grammar": here("run", ON_SLURM),
    r"make (figures|smollm2|gemma-3-270m)": here("dry", "test_public_models.py::test_the_public_model_goes_through_the_workflow"),
    r"make (test|test-all|lock|check)": here("dry"),  # CI runs make test and make check themselves
    r"make docs": by("test_docs.py::test_the_site_builds_without_a_warning"),
    r"make (pythia-70m|gemma-2-2b)": here("dry", "test_real_inputs.py::test_one_command_checks_runs_and_sets_ours_beside_the_papers"),
    r"make world SEED=1": here("dry", "test_world_training.py::test_a_world_from_nothing_is_complete"),
    r"make (push|pull)( EXPERIMENTS=.*)?": here("run"),
    r"git clone https://example\.org/saesteer\.git": by("test_docs.py::test_the_repositorys_address_is_said_in_one_way"),
    r"git checkout v1 && make pull": here("run"),
    r"(make grammar|git checkout main) && make (push|pull)": by("test_docs_commands.py::test_a_command_runs"),  # each by itself
    r"\. \.venv/bin/activate": here("run"),
    r"pip wheel --no-deps \.|pip install saesteer-\*\.whl|saesteer init": by(INSTALLED),
    r"saesteer check tiny|saesteer run( (micro|tiny).*)?|snakemake --cores 2": by(
        "test_installed.py::test_everything_works_in_that_project"
    ),
    r"snakemake --report report\.html": by("test_module.py::test_it_runs_in_a_foreign_folder"),
    r"python3 -m venv \.venv|pip install (torch|uv)==.*|uv pip install .*": by(
        "test_docs_commands.py::test_setting_up_by_hand_is_what_make_does"
    ),
    r"snakemake -n": here("run"),
    r"snakemake --cores all( --rerun-incomplete)?( --keep-going)?": here("run"),
    r'snakemake --cores all --config "experiments=\[micro\]"': here("run"),
    r'snakemake --cores all --config "experiments=\[tiny-all\]"': here(
        "dry", "test_workflow.py::test_an_experiment_that_stops_at_the_scores"
    ),
    r'snakemake --cores all --config "experiments=\[gemma-2-2b\]" -n': here("run"),
    r'snakemake --cores all --config "experiments=\[gemma-2-2b\]"': here("dry", REAL),
    r"snakemake methods --cores all( --config .*)?": here("dry", METHODS),
    r"saesteer report tiny": here("run", "test_report.py::test_a_feature_page_says_what_the_tables_say"),
    r"saesteer report micro --folder FOLDER": by("test_report.py::test_a_feature_page_says_what_the_tables_say"),
    r"make report-assets": here("dry", "test_report.py::test_the_assets_are_what_their_sources_give"),
    r"snakemake --profile slurm -n": here("run"),
    r"snakemake --profile generic": by("slurm/test_generic.py::test_a_job_killed_for_memory_is_submitted_again"),
    r"snakemake --profile slurm( --configfile config/config\.yaml)?": here("dry", ON_SLURM),
    r"saesteer (gc|gc --remove|unlock)": here("run"),
    r"saesteer init my-model .*|saesteer check my-model|saesteer report my-model": by(OWN),
    r"saesteer (check|run) my-methods": by("test_docs.py::test_an_experiment_on_a_page_is_valid", METHODS),
    r"saesteer init --model": by("test_model_sources.py::test_an_experiment_on_a_gguf_file_and_then_on_its_package"),
    r'snakemake --cores all --config "experiments=\[my-model\]"': by(
        "test_own_model_run.py::test_every_figure_is_there_and_none_of_ratings"
    ),
    r'snakemake --cores all --config "experiments=\[gemma-(five|layer-20)\]"': by(
        "test_docs.py::test_an_experiment_on_a_page_is_valid", REAL, "test_workflow.py::test_an_experiment_that_stops_at_the_scores"
    ),
    r"saesteer check( gemma-(2-2b|five))?": by("test_commands_on_real_inputs.py::test_check_says_what_there_is_and_what_it_takes"),
    r"saesteer saes PATTERN": by("test_hub_sources.py::test_the_command"),
    r"python tests/family_table\.py": by("test_model_families.py::test_every_family_scores_and_steers_as_plain_hooks_do"),
    r"saesteer features EXPERIMENT": by("test_commands_on_real_inputs.py::test_features_are_found_by_their_explanations"),
    r"saesteer explain( my-model.*)?": by("test_explanations.py::test_a_language_model_is_asked_once_and_held_out_texts_were_not_shown"),
    r"saesteer agreement tiny": by("test_commands_on_real_inputs.py::test_judges_of_the_same_texts_are_compared"),
    r"saesteer rate tiny": here("run", "test_report_pages.py::test_texts_are_rated_by_keyboard_and_the_answers_saved"),
    r"saesteer rate tiny --answers .*": by("test_rating.py::test_agreement_is_that_of_a_slow_formula"),
    r"saesteer export tiny .*": here("run", "test_neuronpedia_parts.py::test_export_of_local_examples"),
    r"saesteer upload .*": by("test_neuronpedia_upload.py::test_a_dry_run_prints_what_would_be_sent_and_sends_nothing"),
    r"saesteer vectors .*": by("test_methods_workflow.py::test_vectors_go_out_and_come_in_as_a_method_that_writes_the_same_texts"),
    r"saesteer recommend( .*)?": by("test_recommend.py::test_a_labelled_concept_needs_ratings_only_and_a_second_time_nothing"),
    r"saesteer serve( tiny| smollm2-quick)?": by("test_serve.py::test_the_command"),
    r"saesteer steer( .*)?": by("test_steer_command.py::test_the_command"),
    r"saesteer export-vector( .*)?": by("test_vector_export.py::test_a_features_vector_is_frozen_measured_and_written"),
    r"llama-cli .*": by("test_vector_consumers.py::test_llama_cpps_logits_and_greedy_tokens_are_ours"),
    r"lm_eval --model steered .*": by("test_vector_consumers.py::test_lm_evals_steered_model"),
    r"curl .*": by("test_vector_export.py::test_neuronpedias_request"),
    r"saesteer evaluate( .*)?": by("test_evaluation.py::test_the_command_measures_both_models"),
    r"saesteer import( .*)?": by("test_methods_workflow.py::test_results_in_axbenchs_form_come_back_as_the_same_scores"),
    r"saesteer axbench .*": by("test_methods_workflow.py::test_results_in_axbenchs_form_come_back_as_the_same_scores"),
    r"dvc remote (add|modify) .*|dvc config --local .*|dvc cache dir .*": here("empty"),
    r"dvc (push|pull)": here("run"),
    r"saesteer (push|pull|record)": by("test_sharing.py::test_a_clone_has_nothing_left_to_do"),
    r"saesteer algorithms": by("test_algorithms.py::test_commands_refuse_code_that_is_not_locked"),
    r"python tests/mutants/run\.py": by("test_trust.py::test_a_mutant_breaks_a_line_that_is_there"),
    r"dvc (metrics|plots) diff v1": here("run"),
    r"dvc repro tiny": by("test_sharing.py::test_what_dvc_users_expect"),
    r"dvc import .*": by("test_sharing.py::test_one_table_goes_into_another_project"),
    r"git (clone|pull|merge|checkout)": by("test_sharing_merge.py::test_the_branches_merge_without_conflict"),
    r"hf auth login": by("test_hub.py::test_a_gated_repository_says_how_to_get_in"),
    r"python docs/screenshots\.py .*": by("test_report_pages.py::test_pictures_for_the_documentation"),
}
"""Pattern of a command, without the path of its program, -> how it is run."""


def fenced(page: Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\S*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command in a block of a shell, and every one in running text, without comments and the path of its program."""
    blocks = [content for page in PAGES for language, content in fenced(page) if language in SHELLS]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    texts = [re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL) for page in PAGES]
    inline = [command for text in texts for command in re.findall(rf"`((?:\.venv/bin/)?(?:{PROGRAMS}) [^`]+)`", text)]
    stripped = (re.sub(r"\s+#.*|^\$ ", "", line).strip().removeprefix(".venv/bin/") for line in lines + inline)
    return list(dict.fromkeys(command for command in stripped if command))


def way_of(command: str) -> Way:
    return next((way for pattern, way in COMMANDS.items() if re.fullmatch(pattern, command)), Way(None))


def test_every_command_has_one_way_and_every_way_a_command() -> None:
    matching = {command: [pattern for pattern in COMMANDS if re.fullmatch(pattern, command)] for command in commands()}
    assert {command: patterns for command, patterns in matching.items() if len(patterns) != 1} == {}
    assert set(COMMANDS) - {pattern for patterns in matching.values() for pattern in patterns} == set(), "no page gives these any more"
    assert {language for page in PAGES for language, _ in fenced(page)} <= {*SHELLS, *OTHER_BLOCKS}, "a block that nothing looks at"


def test_json_is_json() -> None:
    blocks = [json.loads(content) for page in PAGES for language, content in fenced(page) if language == "json"]
    assert blocks


@pytest.mark.parametrize("name", sorted({name for way in COMMANDS.values() for name in way.tests}))
def test_the_tests_named_exist(name: str) -> None:
    file, _, function = name.partition("::")
    paths = (ROOT / folder / file for folder in ("tests", "studies/tests"))
    assert any(re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE) for path in paths if path.is_file())


def test_setting_up_by_hand_is_what_make_does() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("$(INSTALLED): ")[1].split("\n\n")[0]
    for old, new in {
        "$(BIN)": ".venv/bin",
        "$(PYTHON)": "python3",
        "python -m pip": "pip",
        " --quiet": "",
        " --compile-bytecode": "",
    }.items():
        recipe = recipe.replace(old, new)
    made = [line.strip().removeprefix(".venv/bin/") for line in recipe.splitlines()[1:]]
    by_hand = [command for command in commands() if re.match(r"python3 -m venv|pip install (torch|uv)|uv pip", command)]
    assert [command for command in by_hand if command not in made] == []
    assert len(by_hand) == 5


@pytest.fixture(scope="module")
def clone(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a published experiment, and this environment as its own."""
    folder = tmp_path_factory.mktemp("documented")
    made = first_clone(folder / "repo", finished, str(folder / "store"))
    (made.path / ".venv").symlink_to(BIN.parent)
    (made.path / ".git/info/exclude").write_text(".venv\nreport.html\nexported\n")
    (made.path / "config/config.yaml").write_text(yaml.safe_dump({"experiments": ["micro"], "methods": ["micro-methods"]}))
    made.commit("Micro by default")
    made.tool("saesteer", "push")
    made.git("tag", "v1")
    return made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A DVC repository without a remote."""
    made = Clone.__new__(Clone)
    made.path, made.root = tmp_path_factory.mktemp("empty"), ROOT
    made.git("init", "--quiet")
    made.tool("dvc", "init", "--quiet")
    return made


def run(folder: Folder, command: str) -> None:
    command = re.sub(r"\btiny\b(?!-)", "micro", command.replace("tiny micro", "tiny"))
    done = folder.call("bash", "-c", command)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("command", [command for command in commands() if way_of(command).here == "run"])
def test_a_command_runs(command: str, clone: Clone) -> None:
    run(clone, command)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "command", [command for command in commands() if way_of(command).here == "dry" and f"{command} -n" not in commands()]
)
def test_a_dry_run_of_a_command_runs(command: str, clone: Clone) -> None:
    run(clone, f"{command} -n")


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in commands() if way_of(command).here == "empty"])
def test_a_command_of_setting_up_runs(command: str, empty: Clone) -> None:
    if command.startswith("dvc remote add"):
        empty.tool("dvc", "remote", "remove", "storage", code=None)
    run(empty, command)


EACH_PAGE = """
import json, pathlib
for page, program in json.loads(pathlib.Path("programs.json").read_text()).items():
    print(f"<page {page}>", flush=True)
    exec(compile(program, page, "exec"), {"__name__": "__main__"})
"""


@pytest.mark.slow
def test_the_pages_python_runs(finished: Folder, tmp_path: Path) -> None:
    """Each page's blocks one after the other, with names of their own; in one process, as each would load the same libraries."""
    for name, target in {"data/world": ROOT / "data/world", "data/tiny": finished.path / "data/micro"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    shutil.copytree(finished.path / "figures/micro", tmp_path / "figures/tiny")
    blocks = {str(page): [content for language, content in fenced(page) if language == "python"] for page in PAGES}
    programs = {page: "\n".join(contents) for page, contents in blocks.items() if contents}
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    (tmp_path / "each_page.py").write_text(EACH_PAGE)
    done = Folder.existing(tmp_path).call("python", "each_page.py")
    assert done.returncode == 0, done.stderr
    printed = re.split(r"^<page .*>$", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(programs)
    assert all(text.strip() for text in printed)
