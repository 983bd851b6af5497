"""Everything that is read of a folder with a model is in its pin (test_surroundings.py: and makes the pin due when it changes)."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from workflow_folder import ROOT

from saesteer.run import Run, open_run
from saesteer.settings import ModelSource, SettingsError, Workflow
from saesteer.sources.hub import SMALL_FILES
from saesteer.sources.pins import check_model_is_pinned, converted_sae, pin, pin_of_fetched, pinned_files, pinned_path
from saesteer.world.books.judge import load_text_judge

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SMALL = {
    "chat_template.jinja": TEMPLATE,
    "additional_chat_templates/default.jinja": TEMPLATE,
    "special_tokens_map.json": "{}",
    "added_tokens.json": "{}",
    "vocab.json": "{}",
    "vocab.txt": "a\n",
    "merges.txt": "#version: 0.2\n",
    "tokenizer.model": "a",
}
"""Further files of a model's folder that transformers knows."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The shipped model with everything that transformers might read beside it, and what it never reads."""
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "data/world/model", folder)
    for name, text in SMALL.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "README.md").write_text("A card.")
    return folder


@pytest.mark.parametrize("name", [*SMALL, "generation_config.json", "tokenizer_config.json"])
def test_an_edited_file_of_a_model_changes_its_digest(model: Path, name: str) -> None:
    before = pin(model)["digest"]
    (model / "README.md").write_text("Another card, which nothing reads.")
    assert pin(model)["digest"] == before
    with (model / name).open("a") as file:
        file.write("\n")
    assert pin(model)["digest"] != before
    assert model / name in pinned_files(model)


def test_the_shipped_model_keeps_its_digest() -> None:
    """Rows were computed from this pin: files of kinds that a folder lacks change nothing."""
    assert pin(ROOT / "data/world/model")["digest"] == "2518dc7647374b64e2e7082200c5129309ae196deec1cc22154f1f9f86e1e7fc"


@pytest.mark.slow
def test_every_file_that_is_opened_is_pinned(model: Path, opened: set[Path]) -> None:
    """Also of a later transformers."""
    from saesteer.engine.models import load_language_model

    load_language_model(model, "float32", "cpu", prompt_format="chat")
    read = {path for path in opened if path.is_relative_to(model)}
    assert {model / "chat_template.jinja", model / "additional_chat_templates/default.jinja"} <= read
    assert read <= set(pinned_files(model))


@pytest.mark.parametrize("shard", ["below/model-2.safetensors", "../model-2.safetensors", "model-2.safetensors"])
def test_weights_elsewhere_are_refused(model: Path, shard: str) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SettingsError, match=rf"model\.safetensors\.index\.json names {shard}, which is not in the folder itself"):
        pin(model)
    (model / "model-2.safetensors").touch()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": "model-2.safetensors"}}))
    assert "model-2.safetensors" in pin(model)["files"]


def test_every_file_that_is_fetched_would_be_pinned(tmp_path: Path) -> None:
    for name in SMALL_FILES:
        (tmp_path / name).touch()
    assert {path.name for path in pinned_files(tmp_path)} == set(SMALL_FILES)


def test_every_file_of_a_world_s_judge_is_pinned(opened: set[Path]) -> None:
    folder = ROOT / "data/topic-judge/judge"
    load_text_judge(folder)
    assert folder / "words.txt" in opened
    assert {path for path in opened if path.is_relative_to(folder)} <= set(pinned_files(folder))


_OPENED: set[Path] = set()


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | Path):
        _OPENED.add(Path(arguments[0]))


@pytest.fixture(scope="module")
def _watched() -> None:
    """Python's own record of opened files; it cannot be taken back."""
    sys.addaudithook(_hook)


@pytest.fixture
def opened(_watched: None) -> set[Path]:
    """The files that are opened from here on."""
    _OPENED.clear()
    return _OPENED


@pytest.mark.parametrize("how", ["replaced by an older file", "another folder is named"])
def test_a_model_that_is_no_longer_the_results_is_refused(model: Path, tmp_path: Path, how: str) -> None:
    """Snakemake goes by a large file's time, which a move, a copy with its times or an unpacked archive keeps."""
    weights, digests = model / "model.safetensors", tmp_path / "digests"
    os.utime(weights, (1e9, 1e9))
    pinned = tmp_path / "pin.json"
    pinned.write_text(json.dumps(pin(model)))
    for _ in range(2):
        check_model_is_pinned(ModelSource(path=model), pinned, digests)
    noted = {path.name for path in digests.iterdir()}
    other = tmp_path / "other"
    shutil.copytree(model, other)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    (other / weights.name).write_bytes(data)
    os.utime(other / weights.name, (1e9, 1e9))
    if how == "replaced by an older file":
        (other / weights.name).rename(weights)
    with pytest.raises(SettingsError, match="is not that of the results .*`touch` the new files and run the workflow"):
        check_model_is_pinned(ModelSource(path=other if "folder" in how else model), pinned, digests)
    assert noted < {path.name for path in digests.iterdir()}


READERS: dict[str, Callable[[Run], object]] = {"model": lambda run: run.model(), "texts": lambda run: run.corpus(16)}


@pytest.mark.parametrize("name", READERS)
def test_a_run_reads_no_other_model_or_corpus_than_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)
    run = open_run("micro", Workflow(experiments=("micro",), data_dir=tmp_path / "data"))
    path, pinned = pinned_path(run.experiment, name), run.data / f"pins/{name}.json"
    assert path is not None
    pinned.parent.mkdir(parents=True)
    pinned.write_text(json.dumps(pin(path)))
    READERS[name](run)
    pinned.write_text(pinned.read_text().replace('"digest": "', '"digest": "f'))
    with pytest.raises(SettingsError, match=f"{path.name} is not that of the results"):
        READERS[name](run)


def test_a_fetched_model_is_the_results_by_its_name(tmp_path: Path) -> None:
    pinned = tmp_path / "pin.json"
    pinned.write_text(json.dumps(pin_of_fetched("someone/small", "a" * 40, {})))
    check_model_is_pinned(ModelSource(repo="someone/small"), pinned, tmp_path)
    with pytest.raises(SettingsError, match="someone/large is not that of the results"):
        check_model_is_pinned(ModelSource(repo="someone/large"), pinned, tmp_path)


def test_a_shared_sae_that_another_project_made_anew_is_refused(tmp_path: Path) -> None:
    manifest, place = tmp_path / "layers_01-01.json", tmp_path / "place.json"
    manifest.write_text(json.dumps({"step": "saes", "layers": {"1": {"file": "layer_01.safetensors"}}}))
    place.write_text(json.dumps({"folder": str(tmp_path), "layers": {"1": {"sha256": "a"}}}))
    file = tmp_path / "layer_01.safetensors"
    file.touch()
    file.with_suffix(".json").write_text(json.dumps({"sha256": "a"}))
    assert converted_sae(manifest, place, 1) == file
    file.with_suffix(".json").write_text(json.dumps({"sha256": "b"}))
    with pytest.raises(SettingsError, match="by a project that shares the folder: delete"):
        converted_sae(manifest, place, 1)
