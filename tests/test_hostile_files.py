"""Files of strangers that commands read: pipes whose end never comes, folders, forged configurations, cells that are formulas."""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from own_files import write_named_files
from test_rating import saved

from saesteer.core.errors import SettingsError
from saesteer.exchange.imported import imported_texts
from saesteer.figures.save import flat
from saesteer.rating.agreement import read_answers
from saesteer.settings import Experiment, experiment_of, load_experiment
from saesteer.workflow.checks import check_contents, check_files
from saesteer.workflow.new_experiment import write_experiment

ROOT = Path(__file__).parents[1]


@contextmanager
def pipe(path: Path) -> Iterator[None]:
    """A pipe in place of a file; who reads it for 3 seconds comes to its end after all, so that a test ends."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    over = threading.Event()

    def end() -> None:
        while not over.wait(3):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017 (nobody reads it)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def micro(folder: Path) -> Experiment:
    """The shipped experiment with model, SAEs, texts and topics in a folder of a test."""
    for name in ("model", "reference_model", "saes", "oracle"):
        shutil.copytree(ROOT / "data/world" / name, folder / "data/world" / name)
    for name in ("texts.parquet", "topics.json"):
        shutil.copy(ROOT / "data/world" / name, folder / "data/world")
    shutil.copytree(ROOT / "config", folder / "config")
    return load_experiment("micro", folder / "config/experiments")


def check(experiment: Experiment) -> None:
    check_files("micro", experiment)
    check_contents(experiment)


OF_MICRO = (
    "model/config.json", "model/model.safetensors", "reference_model/model.safetensors", "saes/layer_06/cfg.json",
    "saes/layer_06/sae_weights.safetensors", "texts.parquet", "topics.json", "oracle/oracle.json",
)  # fmt: skip


def test_a_pipe_or_a_folder_for_a_file_is_refused_by_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = micro(tmp_path)
    check(experiment)
    for name in (f"data/world/{name}" for name in OF_MICRO):
        Path(name).rename("aside")
        named = re.escape(re.sub(r"(layer_06|world/oracle)/.*", r"\1", name))  # these folders are told by their files
        with pipe(Path(name)), pytest.raises(SettingsError, match=named):
            check(experiment)
        Path(name).unlink()
        Path(name).mkdir()
        with pytest.raises(SettingsError, match=named):
            check(experiment)
        Path(name).rmdir()
        Path("aside").rename(name)
    check(experiment)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("max_activating_examples.texts", "data/world"), ("concepts.topics", "data/world"), ("pmi.texts", "data/world"),
        ("judge.oracle", "data/world/topics.json"), ("model.path", "data/world/topics.json"),
        ("perplexity.model.path", "data/world/topics.json"), ("sweep.prefixes", "data/world"), ("saes.path", "data/world/topics.json"),
    ],
)  # fmt: skip
def test_check_tells_folders_from_files(monkeypatch: pytest.MonkeyPatch, key: str, place: str) -> None:
    monkeypatch.chdir(ROOT)
    values = load_experiment("micro", ROOT / "config/experiments").model_dump(mode="json")
    section = values
    *sections, name = key.split(".")
    for part in sections:
        section = section[part]
    section[name] = place
    with pytest.raises(SettingsError, match=rf"{re.escape(key)}: .*{place}"):
        check(experiment_of(values))


@pytest.mark.parametrize("key", ["texts", "vectors", "ordinary_texts", "prompts"])
@pytest.mark.parametrize("place", ["data/world", "nowhere"])
def test_check_tells_what_a_comparison_lacks(monkeypatch: pytest.MonkeyPatch, key: str, place: str) -> None:
    monkeypatch.chdir(ROOT)
    values = load_experiment("tiny-methods", ROOT / "config/experiments").model_dump(mode="json")
    methods, where = values["methods"], f"methods.{key}"
    if key == "texts":
        methods["concepts"], where = {"kind": "texts", "texts": place, "names": ["tea", "sea"]}, "methods.concepts.texts"
    else:
        methods[key] = place
    methods["methods"] += ["from_file"] if key == "vectors" else []
    with pytest.raises(SettingsError, match=rf"{re.escape(where)}: .*{place}"):
        check(experiment_of(values))


def test_pipes_for_tables_and_answers_are_refused(tmp_path: Path) -> None:
    for name in ("texts.csv", "texts.jsonl", "texts.parquet"):
        with pipe(tmp_path / name), pytest.raises(SettingsError, match=f"{name} cannot be read: it is no file but a pipe or a device"):
            imported_texts(tmp_path / name, 0)


def test_answers_of_a_rater_are_a_file_with_each_key_once(tmp_path: Path) -> None:
    texts, path = pl.DataFrame({"id": ["f" * 16, "e" * 16]}), tmp_path / "answers.json"
    with pipe(path), pytest.raises(SettingsError, match=r"answers\.json cannot be read: it is no file but a pipe or a device"):
        read_answers(path, "tiny", texts)
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read: it is a folder"):
        read_answers(tmp_path, "tiny", texts)
    text = saved(path, "tiny", {"f" * 16: {"concept": 1}}).read_text()
    for twice in (
        text.replace('"concept": 1', '"concept": 1, "concept": 2'),
        text.replace('"answers": {', f'"answers": {{"{"f" * 16}": {{"fluency": 0}}, '),
        text.replace('"experiment"', '"experiment": "other", "experiment"'),
    ):
        path.write_text(twice)
        with pytest.raises(SettingsError, match=r"answers\.json .*: the key '\w+' is given twice"):
            read_answers(path, "tiny", texts)


def test_p1s_texts_with_a_key_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a_instructions.json").write_text('{"20_7": ["Why?"]}')
    (tmp_path / "texts_0_4.json").write_text('{"20_7": ["Why? a"], "20_7": ["Why? b"]}')
    concept = {"concept_id": 0, "concept": "sea", "ref": "https://np/20-x/7", "concept_genres_map": {"sea": ["text"]}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(concept) + "\n")
    with pytest.raises(SettingsError, match=r"texts_0_4\.json: the key '20_7' is given twice"):
        imported_texts(tmp_path, 0)


HOOK = "blocks.4.hook_resid_post"
FORGED: dict[str, str | dict[str, Any]] = {
    "a size with a line break": {"d_in": "2048\nmodel: {path: other}\n#"},
    "a size that is a truth value": {"d_in": True},
    "a size below 1": {"d_sae": -1},
    "a size that is not whole": {"d_sae": 1.5},
    "metadata that is a list": {"metadata": []},
    "a hook that is a number": {"metadata": {"hook_name": 5}},
    "a hook that is a list": {"metadata": {"hook_name": [HOOK]}},
    "a hook with a line break": {"metadata": {"hook_name": f"{HOOK}\nmodel: x"}},
    "a transcoder's hook that is an object": {"metadata": {"hook_name": "blocks.4.hook_mlp_in", "hf_hook_name": {"a": 1}}},
    "a layer of 5000 digits": {"metadata": {"hook_name": HOOK.replace("4", "4" * 5000)}},
    "how its model was loaded as a text": {"metadata": {"hook_name": "blocks.4.attn.hook_z", "model_from_pretrained_kwargs": "x"}},
    "a list": "[]",
    "a number": "5",
    "nested too deeply": "[" * 100_000,
}


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with what `saesteer init` reads of a model and its SAEs."""
    monkeypatch.chdir(tmp_path)
    write_named_files(Path("my"))


def assert_refused(named: str) -> None:
    """That `saesteer init` refuses what it reads, by the file's name, and writes nothing."""
    with pytest.raises(SettingsError, match=named):
        write_experiment("own", Path("my/model"), Path("my/saes"), None, Path())
    assert not Path("own.yaml").exists()


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize("forged", FORGED)
def test_init_refuses_a_forged_configuration_of_an_sae(forged: str) -> None:
    shutil.rmtree("my/saes/layer_8")
    shutil.rmtree("my/saes/layer_12")
    file, change = Path("my/saes/layer_4/cfg.json"), FORGED[forged]
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    assert_refused("my/saes/layer_4")


MODELS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: path.write_text('{"num_hidden_layers": "16\\nmodel: x"}'),
    "tokenizer.json": lambda path: path.write_text('{"version": "9"}'),
    "tokenizer_config.json": lambda path: path.write_text('{"bos_token": ["<s>"]}'),
}


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize("name", MODELS)
def test_init_refuses_a_forged_model(name: str) -> None:
    MODELS[name](Path("my/model") / name)
    assert_refused(f"my/model/{name}")


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize("name", ["model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "saes/layer_8/cfg.json"])
def test_init_does_not_wait_for_a_pipe(name: str) -> None:
    with pipe(Path("my") / name):
        assert_refused(f"my/{name}")


@pytest.mark.parametrize("name", ["\N{GRINNING FACE}", "a: b # c", 'a "b"', "\x7f"])
def test_init_writes_names_of_any_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_named_files(Path(name))
    write_experiment("own", Path(name) / "model", Path(name) / "saes", Path(name) / "texts.parquet", Path())
    own = load_experiment("own", tmp_path)
    assert (str(own.model.path), own.saes.path) == (f"{name}/model", f"{name}/saes/layer_{{layer}}")


def test_a_cell_of_a_figures_table_is_no_formula(tmp_path: Path) -> None:
    """A spreadsheet runs a cell that begins with = + - @ or a tab; what is a number stays one."""
    titles = ["=HYPERLINK(1)", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "-0.5", "+1e3", "a=b", "", None]
    table = flat(pl.DataFrame({"title": titles, "tokens": [["=1", "b"]] * 10, "factor": [-1.5] * 10}))
    table.write_csv(tmp_path / "table.csv")
    back = pl.read_csv(tmp_path / "table.csv", schema_overrides={"title": pl.String})
    assert back["title"].to_list() == [*(f"'{title}" for title in titles[:5]), "-0.5", "+1e3", "a=b", "", None]
    assert back["tokens"].to_list() == ["'=1 b"] * 10
    assert back["factor"].to_list() == [-1.5] * 10
