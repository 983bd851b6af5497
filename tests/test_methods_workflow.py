"""The comparison of steering methods as a workflow: finished once, then only what changed is computed again; a new method is one file and
one row."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from gpu_folder import GpuFolder, assert_alike
from job_inputs import summaries_from_their_inputs
from workflow_folder import ALL_STEPS, ROOT, Checkout, Folder, new_rows

from saesteer.core.files import file_digest, text_id
from saesteer.core.tables import read_summary
from saesteer.figures.registry import FIGURES
from saesteer.methods.compare.tables import METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.settings import load_experiment
from saesteer.workflow.outputs import figures

pytestmark = pytest.mark.slow

NAME = "micro-methods"
METHODS = ["unsteered", "diffmean", "prompting", "lora", "sae_label", "sae_ts", "supervised"]
TEXT_STEPS = ("generations", "perplexity", "judge")
N_PROMPTS, N_CONCEPTS = 2, 2
N_STRENGTHS = 1 + 2 + 1 + 1 + 2 + 2 + 2
N_TEXTS = N_STRENGTHS * N_CONCEPTS * N_PROMPTS
"""Factors of all methods together: the grids in the experiment file."""
N_TEXTS_READ = 600
FACTORS = {"addition": [1, 3], "clamp": [1, 4], "adapter": [1], "prompt": [1]}
TOY = re.findall(r"```py\n(from saesteer.*?)```", (ROOT / "docs/methods.md").read_text(encoding="utf-8"), re.DOTALL)[0]
"""The method that the documentation adds."""


LAST_TABLE = f"data/{NAME}/tables/method_equal_cost.parquet"
"""It follows from all steps that keep parts."""
REPORT = f"figures/{NAME}/methods.md"


def run(folder: Folder, *arguments: str, targets: Sequence[str] = ("methods",)) -> str:
    code, output = folder.run(*targets, *arguments, methods=f"[{NAME}]")
    assert code == 0, output
    return output


def computed(folder: Folder, *targets: str) -> dict[str, pl.DataFrame]:
    """Run the comparison to its last table and these files; step -> the rows in the parts that came in."""
    before = folder.parts(NAME, ALL_STEPS)
    run(folder, targets=(LAST_TABLE, *targets))
    return new_rows(before, folder.parts(NAME, ALL_STEPS))


def compare(folder: Folder, **changes: Any) -> None:
    """Write the experiment, with fewer texts than ship, whose activations would take a fifth of the time."""
    pl.read_parquet(ROOT / "data/world/texts.parquet").head(N_TEXTS_READ).write_parquet(folder.path / "few.parquet")
    examples = {"n_examples": 20, "texts": "few.parquet"}
    folder.edit(NAME, max_activating_examples=examples, methods={**SECTION, **changes})


SECTION: dict[str, Any] = {
    "methods": METHODS,
    "concepts": {"topics": ["sea", "chess"]},
    "n_positive": 12,
    "n_negative": 12,
    "learning_rates": [1e-3, 1e-2],
    "n_prompts": N_PROMPTS,
    "max_new_tokens": 8,
    "factors": FACTORS,
    "effects": {"n_vectors": 40, "n_held_out": 8, "n_rollouts": 1, "n_prompts": 4, "max_new_tokens": 8},
    "bootstrap_draws": 200,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose comparison is finished."""
    folder = Checkout(tmp_path_factory.mktemp("methods") / "repo")
    compare(folder)
    run(folder)
    return folder


def test_a_summary_reads_what_its_job_names(compared: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"concept_texts", "method_tables"} <= summaries_from_their_inputs(compared, NAME, tmp_path, monkeypatch)


@pytest.fixture
def restored(compared: Checkout) -> Iterator[Checkout]:
    """The same, its configuration and code as before after the test."""
    table = compared.path / "src/saesteer/settings/methods.csv"
    saved = table.read_bytes()
    yield compared
    table.write_bytes(saved)
    compare(compared)


def test_a_finished_comparison_is_complete_and_has_nothing_to_do(compared: Checkout) -> None:
    assert "Nothing to be done" in run(compared, "-n")
    fits = compared.table("fits", NAME)
    assert sorted(fits["method"].unique()) == sorted(METHODS)
    assert fits.height == len(METHODS) * N_CONCEPTS
    # 12 texts are fewer than the 50 that P3 asks for.
    assert set(fits.filter(pl.col("kind").is_null())["method"]) == {"supervised"}
    assert {step: compared.table(step, NAME).height for step in TEXT_STEPS} == dict.fromkeys(TEXT_STEPS, N_TEXTS)
    folder = compared.path / f"figures/{NAME}"
    assert all((folder / f"methods.{kind}").stat().st_size > 100 for kind in ("pdf", "png", "csv"))
    report = (folder / "methods.md").read_text()
    assert all(title in report for title in ("DiffMean", "LoRA", "SAE-TS", "Supervised selection", "Unsteered"))
    tables = {name: read_summary(table, compared.path / f"data/{NAME}/tables/{name}.parquet") for name, table in METHOD_SUMMARIES.items()}
    assert tables["methods"].height == len(METHODS)
    damage = compared.table("damage", NAME)
    assert damage.height == N_TEXTS // N_PROMPTS
    assert damage.filter(pl.col("divergence").is_null())["method"].unique().to_list() == ["supervised"]
    assert damage.filter(method="unsteered")["divergence"].to_list() == [0.0] * N_CONCEPTS
    equal_cost = read_summary(METHOD_EQUAL_COST, compared.path / LAST_TABLE)
    assert equal_cost.height == 4 * len(METHODS)
    assert "At equal cost" in report
    (abstaining,) = tables["methods"].filter(pl.col("method") == "supervised").to_dicts()
    (unsteered,) = tables["methods"].filter(pl.col("method") == "unsteered").to_dicts()
    assert (abstaining["n_abstaining"], abstaining["score"]) == (N_CONCEPTS, unsteered["score"])


def test_the_rule_and_the_command_make_the_same_report(compared: Checkout) -> None:
    folder = compared.path / f"figures/{NAME}/report"

    def made() -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".snakemake_timestamp"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    run(compared, f"figures/{NAME}/report")
    by_rule = made()
    text = by_rule["data/index.js"].decode().removeprefix('saesteer.piece("index",').removesuffix(");\n")
    index = json.loads(text)
    names = figures(load_experiment(NAME, compared.path / "config/experiments"))
    assert {"methods", "method_curves", "method_differences", "method_damage", "method_equal_cost"} < set(names)
    assert index["figures"] == [[name, FIGURES[name].caption] for name in names]
    assert len(index["methods"]["keys"]) == len(METHODS)
    saesteer(compared, "report", NAME)
    assert made() == by_rule
    assert "Nothing to be done" in run(compared, "-n")


def saesteer(folder: Checkout, *arguments: str) -> str:
    done = folder.call("saesteer", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_results_in_axbenchs_form_come_back_as_the_same_scores(compared: Checkout) -> None:
    """By the ratings in the file, and by those that the judge gives once more."""
    saesteer(compared, "axbench", NAME, "out")
    table = pl.read_parquet(compared.path / "out/layer_06/steering_data.parquet")
    assert table.height == N_CONCEPTS * N_PROMPTS * 2  # factors 1 and 3
    texts = compared.table("generations", NAME).filter(pl.col("method") == "diffmean")["text"]
    assert sorted(table["DiffMean_steered_generation"]) == sorted(texts)
    source, keys = "out/layer_06/steering_data.parquet", ["method", "concept"]
    here = pl.read_parquet(compared.path / f"data/{NAME}/tables/method_scores.parquet").sort(keys)
    for options in ((), ("--judge", NAME)):
        lines = saesteer(compared, "import", source, "back", "--layer", "6", "--protocol", NAME, *options).splitlines()
        back = pl.read_parquet(compared.path / "back/tables/method_scores.parquet").sort(keys)
        columns = ["layer", *keys, "score", "factors", "abstains", "n", "n_missing", "concept_rating", "fluency_rating"]
        assert back.select(columns).equals(here.select(columns))
        (abstaining,) = (line for line in lines if "Supervised selection" in line)
        assert f"abstains for {N_CONCEPTS}" in abstaining
        made = json.loads((compared.path / "back/import.json").read_text())
        assert made["files"] == {"steering_data.parquet": file_digest(compared.path / source)}
    means = pl.read_parquet(compared.path / "back/tables/methods.parquet").sort("method")
    table = pl.read_parquet(compared.path / f"data/{NAME}/tables/methods.parquet").sort("method")
    columns = ["method", "title", "family", "score", "score_low", "score_high", "rank", "n_abstaining", "n_texts"]
    assert means.select(columns).equals(table.select(columns))
    assert all((compared.path / f"back/{name}.pdf").stat().st_size > 100 for name in ("methods", "method_curves", "method_differences"))


@pytest.mark.exhaustive
def test_vectors_go_out_and_come_in_as_a_method_that_writes_the_same_texts(restored: Checkout) -> None:
    saesteer(restored, "vectors", NAME, "diffmean", "--layer", "6", "--output", "vectors.safetensors")
    compare(restored, methods=[*METHODS, "from_file"], vectors="vectors.safetensors")
    run(restored, targets=[f"data/{NAME}/generations/layers_06-06.json"])
    texts = restored.table("generations", NAME)
    keys = ["concept_id", "factor", "prefix_id", "sample"]
    own, trained_elsewhere = (texts.filter(pl.col("method") == name).sort(keys)["text"] for name in ("diffmean", "from_file"))
    assert own.equals(trained_elsewhere)


def of_fits(n_fits: int, n_texts: int) -> dict[str, int]:
    """How many rows of each step new fits and their texts are; damage is measured of each fit and factor, as its texts are."""
    return ({"fits": n_fits} if n_fits else {}) | dict.fromkeys(TEXT_STEPS, n_texts) | {"damage": n_texts // N_PROMPTS}


@pytest.mark.exhaustive
def test_a_new_method_is_one_file_and_one_row(restored: Checkout) -> None:
    others = restored.table("generations", NAME).filter(pl.col("method").is_in(METHODS)).drop("seconds")
    (restored.path / "src/saesteer/methods/fit/toy.py").write_text(TOY)
    with (restored.path / "src/saesteer/settings/methods.csv").open("a") as table:
        table.write("toy,Toy,a test,toy.fit,,texts,choice,addition,1\n")
    compare(restored, methods=[*METHODS, "toy"])
    rows = computed(restored, REPORT)
    n = N_CONCEPTS * N_PROMPTS * len(FACTORS["addition"])
    assert {step: frame.height for step, frame in rows.items()} == of_fits(N_CONCEPTS, n)
    assert all(set(frame["method"]) == {"toy"} for frame in rows.values())
    assert restored.table("generations", NAME).filter(pl.col("method") != "toy").drop("seconds").equals(others)
    assert "| Toy |" in (restored.path / REPORT).read_text()


@pytest.mark.exhaustive
def test_one_more_factor_computes_its_texts(restored: Checkout) -> None:
    compare(restored, factors={**FACTORS, "addition": [1, 2, 3]})
    rows = computed(restored)
    n_additions = 3  # diffmean, sae_label, sae_ts
    assert {step: frame.height for step, frame in rows.items()} == of_fits(0, n_additions * N_CONCEPTS * N_PROMPTS)
    assert all(set(frame["factor"]) == {"2"} for frame in rows.values())


@pytest.mark.exhaustive
def test_one_more_concept_computes_its_fits_and_texts(restored: Checkout) -> None:
    compare(restored, concepts={"topics": ["sea", "chess", "garden"]})
    rows = computed(restored)
    assert {step: frame.height for step, frame in rows.items()} == of_fits(len(METHODS), N_TEXTS // N_CONCEPTS)
    assert all(set(frame["concept_id"]) == {text_id("garden")} for frame in rows.values())


@pytest.mark.exhaustive
def test_labelled_texts_of_ones_own_are_learnt_from(restored: Checkout) -> None:
    """The same texts of the concepts as a file; a concept's negative ones are the other's."""
    tables = restored.path / f"data/{NAME}/tables"
    names = pl.read_parquet(tables / "compared_concepts.parquet").select("concept_id", "concept")
    texts = pl.read_parquet(tables / "concept_texts.parquet").filter("positive").join(names, on="concept_id")
    own = texts.select("concept", text="output", opener="input")
    own.write_csv(restored.path / "own.csv")
    compare(restored, concepts={"kind": "texts", "texts": "own.csv", "names": ["sea", "chess"]}, methods=["unsteered", "diffmean"])
    rows = computed(restored)
    assert rows["fits"].height == 2 * N_CONCEPTS
    learnt = pl.read_parquet(tables / "concept_texts.parquet").join(names, on="concept_id")
    for name, positive in (("sea", True), ("chess", False)):
        kept = learnt.filter(concept="sea", positive=positive)
        assert sorted(kept["output"]) == sorted(own.filter(concept=name)["text"])


@pytest.mark.exhaustive
def test_a_bootstrap_setting_computes_no_row(restored: Checkout) -> None:
    compare(restored, bootstrap_draws=300)
    assert computed(restored) == {}


def test_p1s_rule_of_choice_counts_top_logit_lens_tokens_and_runs_no_model(restored: Checkout) -> None:
    compare(restored, factor_rule="gen_success")
    rows = computed(restored, REPORT, f"data/{NAME}/tables/method_halves.parquet")
    assert {step: frame.height for step, frame in rows.items()} == {"gen_success": N_TEXTS}
    halves = read_summary(METHOD_SUMMARIES["method_halves"], restored.path / f"data/{NAME}/tables/method_halves.parquet")
    counted = halves.filter(pl.col("gen_success_20").is_not_null())
    assert set(counted["method"]) >= {"sae_label"}
    assert not set(counted["method"]) & {"diffmean", "lora", "prompting", "unsteered"}
    assert "GenSuccess@20 over perplexity" in (restored.path / REPORT).read_text()


@pytest.mark.exhaustive
def test_a_raised_version_computes_that_method(restored: Checkout) -> None:
    table = restored.path / "src/saesteer/settings/methods.csv"
    changed = [f"{line.rpartition(',')[0]},2" if line.startswith("diffmean,") else line for line in table.read_text().splitlines()]
    table.write_text("\n".join(changed) + "\n")
    rows = computed(restored)
    n = N_CONCEPTS * N_PROMPTS * len(FACTORS["addition"])
    assert {step: frame.height for step, frame in rows.items()} == of_fits(N_CONCEPTS, n)
    assert all(set(frame["method"]) == {"diffmean-2"} for frame in rows.values())


@pytest.mark.exhaustive
def test_on_a_gpu_it_gives_the_same_tables(restored: Checkout, tmp_path: Path) -> None:
    folder = GpuFolder(tmp_path / "repo")
    compare(folder)
    for one in (folder, restored):
        run(one, targets=[LAST_TABLE])
    rules = ("activations", "logit_lens", "output_score", "effects", "fits", "generations", "perplexity", "damage")
    logs = [(folder.path / f"logs/{NAME}/{rule}/layers_06-06.log").read_text() for rule in rules]
    assert [rule for rule, log in zip(rules, logs, strict=True) if "on cuda" not in log] == []
    assert_alike(folder, restored, NAME, set(ALL_STEPS) - {"damage", "explanations", "gen_success", "pilot"})


def test_an_unknown_method_is_refused_by_name(restored: Checkout) -> None:
    compare(restored, methods=["unsteered", "difmean"])
    code, output = restored.run("methods", "-n", methods=f"[{NAME}]")
    assert code != 0
    assert "difmean" in output
    assert "diffmean" in output


def test_the_shipped_comparison_has_every_method_and_16_topics() -> None:
    """Every method that needs no file."""
    from saesteer.settings.registry import METHODS as ROWS

    settings = load_experiment("tiny-methods", Path(__file__).parents[1] / "config/experiments").methods
    assert settings is not None
    assert set(settings.methods) == {row.name for row in ROWS if "file" not in row.needs}
    assert len(settings.concepts.topics) == 16
