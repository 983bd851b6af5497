"""`saesteer recommend`: what is missing is computed, rows go to and fro, and what cannot be answered is refused in a sentence."""

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner
from workflow_folder import Folder, new_rows

from saesteer.cli import app
from saesteer.recommendations.answer import as_sweep
from saesteer.recommendations.derived import _link, _takes_over_inputs
from saesteer.run import open_run
from saesteer.settings.load import load_workflow, read_yaml

pytestmark = pytest.mark.slow


def ask(folder: Folder, *arguments: str) -> tuple[int, str, str]:
    for name in ("Snakefile", "rules", "scripts", "src"):  # a recommendation runs in a clone
        if not (folder.path / name).exists():
            (folder.path / name).symlink_to(folder.root / name)
    done = folder.call("saesteer", "recommend", *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def micro(finished: Folder, tmp_path: Path) -> Folder:
    return finished.copy(tmp_path / "copy")


def labels(folder: Folder) -> list[str]:
    features = pl.read_parquet(folder.path / "data/micro/tables/features.parquet")
    return sorted(features["concept"].drop_nulls().unique())


@dataclass(frozen=True)
class Answered:
    folder: Folder
    concept: str
    parts_before: dict[str, set[Path]]
    said: str


@pytest.fixture(scope="module")
def answered(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """A labelled concept, answered once."""
    folder = finished.copy(tmp_path_factory.mktemp("answered") / "copy")
    concept, before = labels(folder)[0], folder.parts()
    code, said, log = ask(folder, "micro", concept)
    assert code == 0, log
    return Answered(folder, concept, before, said)


def test_a_labelled_concept_needs_ratings_only_and_a_second_time_nothing(answered: Answered):
    folder, concept, said = answered.folder, answered.concept, answered.said
    features = pl.read_parquet(folder.path / "data/micro/tables/features.parquet").filter(concept=concept)
    (file,) = (folder.path / "data/derived").glob("micro-recommend-*.yaml")
    assert not list((folder.path / "config").rglob("*-recommend-*"))
    listed = yaml.safe_load(file.read_text())["features"]["features"]
    assert (
        sorted((layer, feature) for layer, numbers in listed.items() for feature in numbers)
        == features.select("layer", "feature").sort("layer", "feature").rows()
    )
    assert said.startswith(f"micro: {concept}\n")
    assert all(f"\n{layer}/{feature} " in said for layer, feature in features.select("layer", "feature").iter_rows())
    # The derived experiment's texts are the experiment's own; only ratings and concepts are new, and lie in both stores.
    after = folder.parts()
    assert {step for step in after if after[step] != answered.parts_before[step]} == {"concepts", "judge"}
    code, again, log = ask(folder, "micro", concept)
    assert (code, again) == (0, said)
    assert folder.parts() == after
    assert "snakemake" not in (said + log).lower()
    assert not (folder.path / f"logs/{file.stem}").exists(), "a job was started, though no model has to run"


def test_rows_are_those_of_the_workflow_to_the_bit(answered: Answered, tmp_path: Path):
    """Computed in the command's own process, and by Snakemake's jobs."""
    folder = answered.folder.copy(tmp_path / "copy")
    (file,) = (folder.path / "data/derived").glob("micro-recommend-*.yaml")
    made = folder.path / "data" / file.stem
    manifest = made / "judge/layers_02-06.json"
    here = manifest.read_bytes()  # it names parts by the digest of their bytes
    for step in ("concepts", "judge"):
        shutil.rmtree(made / step)
    code, printed = folder.run(str(manifest.relative_to(folder.path)), experiment=file.stem)
    assert code == 0, printed
    assert manifest.read_bytes() == here


@pytest.mark.exhaustive
def test_new_texts_are_written_without_a_job_and_are_those_of_the_workflow(micro: Folder):
    """A factor that was not tried before: its texts are written from the pins, SAEs and examples that are there."""
    micro.edit("micro", sweep={"factors": [0, 2, 3, 4], "n_prefixes": 4})
    before, concept = micro.parts(), labels(micro)[0]
    code, _, log = ask(micro, "micro", concept)
    assert code == 0, log
    assert "generations" in log
    assert not list((micro.path / "logs").glob("micro-recommend-*"))
    written = new_rows(before, micro.parts())["generations"]
    assert set(written["factor"]) == {"3"}
    (file,) = (micro.path / "data/derived").glob("micro-recommend-*.yaml")
    made, steps = micro.path / "data" / file.stem, ("generations", "perplexity", "judge")
    here = {step: micro.table(step, file.stem).drop("seconds", strict=False) for step in steps}
    for step in steps:
        shutil.rmtree(made / step)
    code, printed = micro.run(f"data/{file.stem}/judge/layers_02-06.json", experiment=file.stem)
    assert code == 0, printed
    assert all(micro.table(step, file.stem).drop("seconds", strict=False).equals(table) for step, table in here.items())


def test_a_pin_older_than_its_model_is_not_taken_over(answered: Answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = answered.folder.copy(tmp_path / "copy")
    monkeypatch.chdir(folder.path)
    workflow = load_workflow(read_yaml(Path("config/config.yaml")))
    (file,) = Path("data/derived").glob("micro-recommend-*.yaml")
    source, run = open_run("micro", workflow), open_run(file.stem, workflow)
    assert _takes_over_inputs(source, run)
    moment = os.stat("data/micro/pins/model.json").st_mtime
    os.utime("data/micro/pins/model.json", (0, 0))
    assert not _takes_over_inputs(source, run)
    os.utime("data/micro/pins/model.json", (moment, moment))
    assert _takes_over_inputs(source, run)
    Path("data/micro/saes/layer_02.safetensors").unlink()
    assert not _takes_over_inputs(source, run)


def test_results_on_another_disk_are_copied_once(answered: Answered, tmp_path: Path):
    """As where DVC links them from a cache there. Files of two disks share no bytes, nor do those of some network disks."""
    folder = answered.folder.copy(tmp_path / "copy")
    (derived,) = (folder.path / "data").glob("micro-recommend-*")
    shutil.rmtree(derived)
    with TemporaryDirectory(dir="/dev/shm") as disk:
        (folder.path / "data/micro").symlink_to(shutil.move(folder.path / "data/micro", disk))
        assert ask(folder, "micro", answered.concept)[:2] == (0, answered.said)
        files = [derived / "saes/layer_02.safetensors", *derived.glob("generations/*/layer_*/*.parquet")]
        assert {file.stat().st_dev for file in files} == {folder.path.stat().st_dev} != {Path(disk).stat().st_dev}
        before = [file.stat().st_ino for file in files]
        assert ask(folder, "micro", answered.concept)[:2] == (0, answered.said)
        assert [file.stat().st_ino for file in files] == before


def test_what_is_linked_keeps_its_mode(tmp_path: Path):
    """DVC's cache marks by it what was checked."""
    (tmp_path / "part").write_text("rows")
    (tmp_path / "part").chmod(0o444)
    for text in ("", "older"):
        linked = tmp_path / f"derived/{text or 'new'}"
        linked.parent.mkdir(exist_ok=True)
        if text:
            linked.write_text(text)
        _link(tmp_path / "part", linked)
        assert linked.samefile(tmp_path / "part")
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o444


def test_a_model_is_loaded_once_for_an_answer_and_never_instead_of_another(answered: Answered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(answered.folder.path)
    source = as_sweep(load_workflow(read_yaml(Path("config/config.yaml"))), "micro")
    (file,) = Path("data/derived").glob("micro-recommend-*.yaml")
    derived = replace(open_run(file.stem, source.workflow), loaded=source.loaded)
    assert source.model() is source.model() is derived.model()
    with_bos = source.experiment.model_copy(update={"model": source.experiment.model.model_copy(update={"bos": "always"})})
    assert replace(source, experiment=with_bos).model() is not source.model() is not source.model("perplexity_model")
    assert open_run("micro", source.workflow).model() is not source.model()


def test_what_was_derived_is_an_experiment_like_any_other(answered: Answered):
    (file,) = (answered.folder.path / "data/derived").glob("micro-recommend-*.yaml")
    code, printed = answered.folder.run("-n", experiment=file.stem)
    assert code == 0, printed
    assert answered.folder.call("saesteer", "gc", file.stem).returncode == 1  # its figures were not made
    every = answered.folder.call("saesteer", "gc")
    assert (every.returncode, f"{file.stem} is left out" in every.stderr) == (0, True)


def test_from_python_it_is_the_same_answer(answered: Answered):
    program = f"""
import saesteer
from rich.console import Console
from saesteer.recommendations.presentation import show
answer = saesteer.recommend("micro", {answered.concept!r})
assert answer.recommendation.ordinary_loss.n == 32, answer.recommendation.ordinary_loss
texts, scoring = answer.choosing, answer.scoring
assert texts.height == answer.candidates.height * texts["factor"].n_unique() * texts["prefix_id"].n_unique()
assert (scoring.height, scoring["prefix_id"].n_unique(), answer.recommendation.feature.score.n) == (80, 20, 20)
assert not {{*texts["prefix_id"]}} & {{*scoring["prefix_id"]}}
show(answer, Console())
"""
    (answered.folder.path / "asked.py").write_text(program)
    done = answered.folder.call("python", "asked.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == answered.said


@pytest.mark.exhaustive
def test_under_a_limit_on_damage_a_weaker_strength_is_recommended_and_nothing_is_stored_anew(answered: Answered):
    """The limit is just below the damage of the strength that is recommended without one: of the texts that chose it, or of ordinary
    text."""
    folder, concept = answered.folder, answered.concept
    program = f"""
import saesteer
from saesteer.analysis.recommendation import as_multiple, scored, unsteered_texts
from saesteer.recommendations.presentation import LIMITED, page_of
from saesteer.settings import SelectionSettings
def damage(answer, by):
    best = answer.recommendation.feature
    option = {{name: getattr(best, name) for name in ("kind", "layer", "name", "factor")}}
    of_texts = scored(option, by.choosing, SelectionSettings(thresholds=(0.1,), late_layers_from=6)).perplexity
    return max(of_texts.interval.high, as_multiple(answer.recommendation.ordinary_loss).interval.high)
free = saesteer.recommend("micro", {concept!r})
limit = max(1.0, damage(free, free) * 0.999)
held = saesteer.recommend("micro", {concept!r}, max_damage=limit)
best, before = held.recommendation.feature, free.recommendation.feature
if best is not None:
    assert (best.layer, best.name, best.factor) != (before.layer, before.name, before.factor)
    assert damage(held, held) <= limit
for layer, name, factor in held.choosing.filter(factor=best.factor).select("layer", "name", "factor").unique().rows():
    of_option = dict(kind="feature", layer=layer, name=name, factor=factor)
    assert scored(of_option, held.choosing, SelectionSettings(thresholds=(0.1,), late_layers_from=6)).perplexity.interval.high <= limit
assert "Limited damage" in page_of(held) and "Limited damage" not in page_of(free)
print("chosen" if best else "none")
"""
    before = folder.parts()
    done = folder.call("python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "chosen\n"
    assert folder.parts() == before


def test_what_points_to_no_feature_is_refused_with_the_labels(micro: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(micro.path)
    result = CliRunner().invoke(app, ["recommend", "micro", "zeppelin"])
    assert result.exit_code == 1
    assert "knows its topics only, and 'zeppelin' is none of them" in result.output
    assert labels(micro)[0] in result.output
    for concept in ("", " ", "x" * 500):
        assert CliRunner().invoke(app, ["recommend", "micro", concept]).exit_code == 1
    assert not list(micro.path.glob("data/*-recommend-*")) + list(micro.path.glob("data/derived/*"))


def test_without_a_judge_texts_are_rated_by_words(micro: Folder):
    """One without scores: test_cli_errors.py."""
    micro.edit("micro", judge={"kind": "none"})
    code, said, log = ask(micro, "micro", "sea")
    assert code == 0, log
    assert "score by words" in said
    assert "Rated by words, not by a judge" in said
    (run,) = (micro.path / "data").glob("micro-recommend-*")
    assert not (run / "judge/layers_02-06.json").exists()


@pytest.mark.exhaustive
def test_less_of_a_concept_is_asked_for_on_prompts_that_evoke_it(micro: Folder):
    """Three experiments are derived, and a second time nothing is computed."""
    concept = labels(micro)[0]
    code, said, log = ask(micro, "micro", concept, "--less", "--features", "1")
    assert code == 0, log
    assert said.startswith(f"micro: less of {concept}\n")
    assert "the concept rating falls by" in said
    assert "absence score" in said
    runs = sorted(path.name for path in (micro.path / "data").glob("micro-less-*"))
    assert [re.findall("micro-less-(ablation-|clamp-|)", name) for name in runs] == [["ablation-"], ["clamp-"], [""]]
    experiments = [yaml.safe_load((micro.path / f"data/derived/{name}.yaml").read_text())["sweep"] for name in runs]
    assert experiments[0]["factors"] == ["0", "1"]
    assert [of["factors"] for of in experiments[1:]] == [["0", "-2", "-4", "2"]] * 2
    assert (experiments[1]["edit"], experiments[2].get("edit")) == ("clamp", None)
    prompts = Path(micro.path / experiments[0]["prefixes"]).read_text().splitlines()
    assert len(prompts) == len(set(prompts)) == experiments[0]["n_prefixes"]
    parts = micro.parts()
    assert ask(micro, "micro", concept, "--less", "--features", "1")[:2] == (0, said)
    assert micro.parts() == parts


@pytest.mark.exhaustive
def test_prompting_and_a_vector_are_tried_beside_the_features(micro: Folder):
    concept = labels(micro)[0]
    code, said, log = ask(micro, "micro", concept, "--comparison", "micro-methods", "--words", "boat,tide")
    assert (code, "Rated by words" in said, "prompting from" in said) == (0, True, True), log
    (derived,) = (micro.path / "data").glob("micro-methods-rivals-*")
    assert not (derived / "judge").exists(), "the judge is asked for nothing"
    code, said, log = ask(micro, "micro", concept, "--comparison", "micro-methods", "--output", "answer.md")
    assert (code, said) == (0, ""), log
    page = (micro.path / "answer.md").read_text()
    # A model that continues text is prompted with labelled texts.
    assert re.search(r"^- prompting from \d+ labelled texts at factor \d", page, re.MULTILINE)
    assert re.search(r"^- diffmean from \d+ labelled texts at layer 6, factor \d", page, re.MULTILINE)
