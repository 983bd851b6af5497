"""Code is edited, or added as CONTRIBUTING.md says: what is due is what depends on it. (A new method: test_methods_workflow.py.)"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from run_records import LAST_STEPS, due, run_measured
from workflow_folder import Checkout, Folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the finished experiment, whose code can be edited."""
    twin = Checkout(tmp_path_factory.mktemp("checkout") / "repo")
    for name in ("data/micro", "figures/micro", "logs", ".snakemake"):
        shutil.copytree(finished.path / name, twin.path / name, dirs_exist_ok=True)
    assert due(twin) == {}
    return twin


@pytest.fixture
def code(checkout: Checkout) -> Iterator[Callable[[str, str, str], None]]:
    """A function that replaces text in a module of the checkout; it is as before when the test ends."""
    before: dict[Path, str] = {}

    def edit(module: str, old: str, new: str) -> None:
        path = checkout.path / "src/saesteer" / module
        text = path.read_text()
        before.setdefault(path, text)
        assert old in text
        path.write_text(text.replace(old, new, 1))

    yield edit
    for path, text in before.items():
        path.write_text(text)


def test_what_changes_no_result_makes_nothing_due(checkout: Checkout, code: Callable[[str, str, str], None]) -> None:
    """Words: docstrings and comments of ten modules, what columns of a step and of a summary mean, a figure's caption. What settings may
    say: the values that tables and figures depend on are in params. A module of a step whose version is the same: `make check`, `record`
    and `push` refuse such an edit, until somebody says that no row changes or raises the version (test_algorithms)."""
    package = checkout.path / "src/saesteer"
    modules = sorted(path.relative_to(package) for path in package.rglob("*.py") if '"""' in path.read_text())
    for module in random.Random(0).sample(modules, 10):
        code(str(module), '"""', '"""Reworded: ')
        code(str(module), '"""\n', '"""\n# A comment.\n')
    code("core/tables.py", "decoder layer, 0-based", "the layer")
    code("steps/max_activating_examples.py", '"the feature is never active"', '"no text activates the feature"')
    code("analysis/tables.py", '"mean fluency rating"', '"the texts\' mean fluency rating"')
    code("figures/pmi_by_threshold.py", 'caption="', 'caption="Reworded: ')
    code("settings/steps.py", "class SelectionSettings", "OTHER = 1\n\n\nclass SelectionSettings")
    code("settings/load.py", "def load_workflow", "OTHER = 1\n\n\ndef load_workflow")
    for module, line in {"analysis/gen_success.py": "ALGORITHM_VERSION = 3", "judge/rubric.py": "import hashlib"}.items():
        code(module, f"\n{line}\n", f"\n{line}\nUNUSED = 1\n")
    assert due(checkout) == {}


def test_one_figures_style_is_for_that_figure(checkout: Checkout, code: Callable[[str, str, str], None]) -> None:
    code("figures/pmi_by_threshold.py", "legend_columns=2", "legend_columns=1")
    assert due(checkout) == {"figure": [f"figures/micro/pmi_by_threshold.{kind}" for kind in ("pdf", "png", "csv")]}


def test_the_style_of_all_figures_is_for_figures(checkout: Checkout, code: Callable[[str, str, str], None]) -> None:
    code("figures/style.py", '"font.size": 9', '"font.size": 10')
    files = due(checkout)
    assert set(files) == {"figure"}
    assert len(files["figure"]) == 10 * 3


def test_a_module_of_a_table_is_for_that_table_and_what_reads_it(checkout: Checkout, code: Callable[[str, str, str], None]) -> None:
    code("analysis/pmi.py", "N_TOP = ", "UNUSED = 1\nN_TOP = ")
    assert set(due(checkout)) == {"pmi", "figure"}


NEW_FIGURE = """
import polars as pl

from saesteer.figures.definition import FigureDefinition
from saesteer.figures.style import PAGE, Figure, new_figure


def data(tables, options):
    return tables["outcomes"].group_by("layer").agg(n=pl.col("feature").n_unique()).sort("layer")


def draw(data):
    figure = new_figure(PAGE, 3, counts(data))
    figure.subplots().bar(data["layer"], data["n"])
    return figure


def counts(data):
    return f"n = {data['n'].sum()} features."


FIGURE = FigureDefinition(position=15, tables=("outcomes",), caption="Features by layer.", data=data, draw=draw, counts=counts)
"""


def test_a_new_figure_is_one_file(checkout: Checkout) -> None:
    """The plan, the rule and its script find it; nothing else is due."""
    module = checkout.path / "src/saesteer/figures/features_by_layer.py"
    files = [f"figures/micro/features_by_layer.{kind}" for kind in ("pdf", "png", "csv")]
    module.write_text(NEW_FIGURE)
    try:
        assert due(checkout) == {"figure": files}
        assert run_measured(checkout).jobs == {"figure": 1}
        assert pl.read_csv(checkout.path / files[-1]).rows() == [(2, 4), (6, 4)]
    finally:
        for path in (module, *(checkout.path / file for file in files)):
            path.unlink(missing_ok=True)
    assert due(checkout) == {}


NEW_FORMULA = '''
"""Letters of a token."""

import polars as pl

ALGORITHM_VERSION = 1


def token_length(features: pl.DataFrame) -> pl.DataFrame:
    """Letters of each feature's first top logit-lens token."""
    return features.select("layer", "feature", token_length=pl.col("tokens").list.first().str.len_chars())
'''
NEW_STEP = '''
"""How many letters a feature's first top logit-lens token has."""

from collections.abc import Iterator

import polars as pl

from saesteer.analysis.token_length import token_length
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.step import Step, every_feature, layers_of

TOKEN_LENGTH = Table("token_length", FEATURE_KEYS, {**OF_FEATURE, "token_length": Column(pl.UInt32, "letters")})


def step(experiment: Experiment) -> Step | None:
    modules = ("analysis.token_length",)
    return Step(TOKEN_LENGTH, every_feature(experiment), {}, ("logit_lens",), modules, compute)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    lens = run.rows(LOGIT_LENS, layers_of(missing), ["tokens"])
    yield from token_length(missing.join(lens, on=["layer", "feature"], maintain_order="left")).partition_by("layer")
'''
NEW_RULE = """

localrules:
    token_length,


rule token_length:
    input:
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/token_length/{{layers}}.json",
    params:
        **rows_of("token_length"),
    log:
        "logs/{experiment}/token_length/{layers}.log",
    benchmark:
        "logs/{experiment}/token_length/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    script:
        "../scripts/step.py"
"""


@pytest.fixture
def new_step(checkout: Checkout) -> Iterator[Path]:
    """A formula, a step and a rule, in three files; gives the rule's."""
    formula, step = (checkout.path / f"src/saesteer/{room}/token_length.py" for room in ("analysis", "steps"))
    rules = checkout.path / "rules/scores.smk"
    text = rules.read_text()
    formula.write_text(NEW_FORMULA)
    step.write_text(NEW_STEP)
    rules.write_text(text + NEW_RULE)
    yield rules
    formula.unlink()
    step.unlink()
    rules.write_text(text)
    shutil.rmtree(checkout.path / "data/micro/token_length", ignore_errors=True)


def test_a_new_step_is_three_files(checkout: Checkout, new_step: Path) -> None:
    """The plan has it, its rows are computed once, and nothing else is due."""
    manifest = "data/micro/token_length/layers_02-06.json"
    assert due(checkout) == {"token_length": [manifest]}
    assert run_measured(checkout, manifest).jobs == {"token_length": 1}
    (part,) = (checkout.path / "data/micro/token_length").glob("*/layer_06/*.parquet")
    assert pl.read_parquet(part)["token_length"].min() > 0
    assert due(checkout) == {}


@pytest.mark.exhaustive
def test_a_new_score_is_three_files(checkout: Checkout, new_step: Path) -> None:
    """The table of features takes over its column, and the rule of that table, which is in the same file as the score's, reads its rows."""
    step = checkout.path / "src/saesteer/steps/token_length.py"
    step.write_text(f"{step.read_text()}\n\nSCORE = TOKEN_LENGTH\n")
    reads = '        output_score=manifests("output_score"),\n'
    new_step.write_text(new_step.read_text().replace(reads, f'{reads}        token_length=manifests("token_length"),\n', 1))
    assert {"token_length", "features_table"} <= set(due(checkout))
    table = "data/micro/tables/features.parquet"
    done = run_measured(checkout, table)
    assert {"token_length", "features_table"} <= set(done.jobs)
    assert done.n_rows == {}, "no step's row is computed again"
    assert pl.read_parquet(checkout.path / table)["token_length"].min() > 0


@pytest.mark.exhaustive
def test_a_raised_algorithm_version_computes_that_step_and_later(checkout: Checkout, code: Callable[[str, str, str], None]) -> None:
    # The last test of the checkout, whose tables are those of the raised version from here on.
    code("engine/logit_lens.py", "ALGORITHM_VERSION = 3", "ALGORITHM_VERSION = 4")
    done = run_measured(checkout, *LAST_STEPS)
    assert done.n_rows == dict.fromkeys(("logit_lens", "input_score", "output_score"), 8) | {"gen_success": 96}
    assert done.gpu_jobs == done.model_jobs == {"logit_lens", "output_score"}
