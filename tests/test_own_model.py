"""A model and SAEs of one's own: what is refused in one sentence before anything runs."""

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import hub_fakes
import numpy as np
import polars as pl
import pytest
import yaml
from own_files import write_named_files
from safetensors.numpy import load_file, save, save_file
from typer.testing import CliRunner
from workflow_folder import ROOT, Folder

from saesteer.cli import app
from saesteer.settings import Experiment, LabelledTexts, Scores, SettingsError, experiment_of, load_experiment, load_workflow
from saesteer.sources.pins import sae_entry
from saesteer.workflow.new_experiment import write_experiment
from saesteer.workflow.preflight import check_experiment
from saesteer.workflow.this_machine import corpus_tokens


@pytest.fixture
def own(tmp_path: Path) -> Experiment:
    """The shipped micro experiment with copies of its two SAEs, whose files a test may change."""
    micro = load_experiment("micro", ROOT / "config/experiments")
    for layer in micro.layers:
        shutil.copytree(ROOT / f"data/world/saes/layer_{layer:02d}", tmp_path / f"saes/{layer}")
    values = json.loads(micro.model_dump_json().replace("data/world/", f"{ROOT}/data/world/").replace("config/", f"{ROOT}/config/"))
    values |= {"extends": None}
    values["saes"]["path"] = f"{tmp_path}/saes/{{layer}}"
    return experiment_of(values)


def change_config(own: Experiment, layer: int, **keys: Any) -> None:
    file = Path(own.saes.path.format(layer=layer)) / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def problems(own: Experiment) -> list[str]:
    """What `saesteer check` calls a problem."""
    workflow = load_workflow({"experiments": ["own"]})
    return [f"{found.about}: {found.text}" for found in check_experiment("own", own, workflow, os.environ) if found.level == "problem"]


def assert_problem(own: Experiment, message: str) -> None:
    """That `saesteer check` says so, as a regular expression."""
    found = problems(own)
    assert any(re.search(message, problem) for problem in found), found


@pytest.fixture
def named_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what `saesteer init` reads of a model and its SAEs."""
    monkeypatch.chdir(tmp_path)
    write_named_files(Path("my"))
    return tmp_path


def test_the_shipped_saes_pass(own: Experiment) -> None:
    assert problems(own) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "batchtopk"}, "architecture 'batchtopk' .*training; save it .*save_inference_model"),
        ({"architecture": "matching_pursuit"}, "architecture 'matching_pursuit' is not supported"),
        ({"metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post"}}, r"layer 3, but .* layer 6 was asked for"),
        ({"metadata": {"sae_lens_version": "6.54.12"}}, "names no hook"),
        ({"d_in": 64}, r"saes/6 is 64 x 1024 .*: correct these two keys, or saes.path"),
        ({"d_sae": 2048}, r"saes/6 is 128 x 2048 .*: correct these two keys, or saes.path"),
    ],
    ids=["training form", "architecture", "another layer", "no hook", "width", "number of features"],
)
def test_what_conversion_refuses_check_refuses(own: Experiment, changed: dict[str, Any], message: str) -> None:
    change_config(own, 6, **changed)
    problem = problems(own)[0]
    assert re.search(message, problem), problem
    assert "\n" not in problem


@pytest.mark.parametrize("file", ["saes/6/sae_weights.safetensors", "model/model.safetensors"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_check_refuses_weights_that_are_not_finite(own: Experiment, tmp_path: Path, file: str, bad: float) -> None:
    shutil.copytree(ROOT / "data/world/model", tmp_path / "model")
    tensors = load_file(tmp_path / file)
    name = next(name for name, values in tensors.items() if values.ndim == 2)
    tensors[name][3, 4] = bad
    save_file(tensors, tmp_path / file, {"format": "pt"})
    (problem,) = problems(own.model_copy(update={"model": own.model.model_copy(update={"path": tmp_path / "model"})}))
    assert re.search(rf"{file}: tensor {name} is not finite in float32 on cpu: fetch or train it again", problem), problem


def test_prompts_that_leave_no_room_are_refused(own: Experiment, tmp_path: Path) -> None:
    """The shipped model takes 64 tokens: the beginning-of-sequence token, three of the first word, 40 more and 20 new ones."""
    file = tmp_path / "prefixes.txt"
    longer = own.model_copy(update={"sweep": own.sweep.model_copy(update={"prefixes": file, "max_new_tokens": 20})})
    others = (ROOT / "config/prefixes.txt").read_text().splitlines()[1 : own.sweep.n_prefixes]
    file.write_text("\n".join(["the " * 40 + "the", *others]))
    assert problems(longer) == []
    file.write_text("\n".join(["the " * 41 + "the", *others]))
    (refused,) = problems(longer)
    assert "prefixes.txt: 'the the " in refused
    assert "has 45 tokens, which with max_new_tokens: 20 are more than the 64 that" in refused


def test_check_takes_seconds_also_for_what_it_refuses(own: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By doing without sae-lens, whose import takes longer than all else."""
    change_config(own, 6, architecture="batchtopk")
    (tmp_path / "own.yaml").write_text(own.model_dump_json(exclude_none=True))
    (tmp_path / "config.yaml").write_text(json.dumps({"experiments": ["own"], "experiments_dirs": [str(tmp_path)]}))
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    done = CliRunner().invoke(app, ["check", "own", "--configfile", str(tmp_path / "config.yaml")])
    assert done.exit_code == 1
    assert "save_inference_model" in done.stdout


OWN = {"extends": "tiny", "description": "x", "model": {"path": "my/model"}}
GIVEN = {
    "saes": {"path": "my/saes/{layer}"},
    "max_activating_examples": {"texts": "my/texts.parquet"},
    "perplexity": {"model": {"path": "my/model"}},
    "concepts": {"kind": "none"},
    "judge": {"kind": "none"},
}


def loaded(folder: Path, values: dict[str, Any]) -> Experiment:
    shutil.copy(ROOT / "config/experiments/tiny.yaml", folder)
    (folder / "own.yaml").write_text(json.dumps(values))
    return load_experiment("own", folder)


def test_what_belongs_to_the_shipped_model_is_not_inherited_by_another(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError,
        match="saes.path, max_activating_examples.texts, concepts.topics, perplexity.model.path, judge.oracle would be tiny's",
    ):
        loaded(tmp_path, OWN)
    for section in GIVEN:
        with pytest.raises(SettingsError, match=rf"but {section}\.[\w.]+ would be tiny's .*kind: none"):
            loaded(tmp_path, OWN | {name: given for name, given in GIVEN.items() if name != section})
    own = loaded(tmp_path, OWN | GIVEN)
    assert (own.seed_of_world, own.sweep.n_prefixes) == (None, 20)
    fine_tuned = loaded(tmp_path, OWN | GIVEN | {"perplexity": {"model": {"path": "data/world/reference_model"}}})
    assert str(fine_tuned.perplexity.model.path) == "data/world/reference_model"  # as in tiny, but said
    assert loaded(tmp_path, OWN | {"model": {"dtype": "bfloat16"}}).seed_of_world == 0


def test_what_scores_do_not_read_of_the_shipped_model_is_not_handed_on(tmp_path: Path) -> None:
    read = {name: GIVEN[name] for name in ("saes", "max_activating_examples", "concepts")}
    own = loaded(tmp_path, OWN | read | {"kind": "scores"})
    assert isinstance(own, Scores)
    assert own.seed_of_world is None
    with pytest.raises(SettingsError, match=r"saes.path, max_activating_examples.texts, concepts.topics would be tiny's"):
        loaded(tmp_path, OWN | {"kind": "scores"})
    loaded(tmp_path, OWN | read | {"kind": "scores"})
    shutil.move(tmp_path / "own.yaml", tmp_path / "scored.yaml")
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, {"extends": "scored", "kind": "sweep"})
    missing = [f"{section}: this key is missing; add it" for section in ("perplexity", "judge")]
    assert [line.strip() for line in str(refused.value).splitlines()[1:]] == missing


def test_concepts_that_are_left_out_follow_the_examples(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "config/experiments/tiny.yaml").read_text()) | {"judge": {"kind": "none"}}
    del values["concepts"]
    assert loaded(tmp_path, values).concepts.kind == "none"
    assert loaded(tmp_path, values | {"max_activating_examples": {"kind": "neuronpedia", "source": "a/b"}}).concepts.kind == "explanations"


def test_topics_without_labelled_texts_are_refused(own: Experiment, tmp_path: Path) -> None:
    for columns, message in ((["text"], "no column text_id and no token_ids and no token_topics"), (["text_id"], "neither a column text")):
        texts = tmp_path / "texts.parquet"
        pl.DataFrame({column: ["a text"] for column in columns}).write_parquet(texts)
        values = own.model_dump(mode="json") | {"max_activating_examples": {"kind": "local", "texts": str(texts)}}
        assert_problem(experiment_of(values), message)
    texts.write_text("no Parquet")
    assert_problem(experiment_of(values), "texts.parquet is not readable as Parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["one text"] * 3}, "texts.parquet holds 1 text: max-activating"),
        ({"text": ["a text", " ", "another"]}, r"texts.parquet, row 1 \(counted from 0\): text is empty"),
        ({"text": ["a text", None]}, r"texts.parquet, row 1 \(counted from 0\): text is empty"),
        ({"text": [1, 2]}, "the column text holds Int64, not texts"),
        ({"text_id": ["a", "b"], "token_ids": [1, 2]}, "token_ids holds Int64, not lists of integers"),
        ({"text_id": ["a", "b"], "token_ids": [["x"], ["y"]]}, "not lists of integers"),
        ({"text_id": ["a", "b"], "token_ids": [[1, 2], [1, None]]}, r"row 1 \(counted from 0\): token_ids has an empty or a negative"),
        ({"text_id": ["a", "b"], "token_ids": [[-1], [1]]}, r"row 0 \(counted from 0\): token_ids has an empty or a negative"),
        ({"text_id": ["a", "a"], "token_ids": [[1], [2]]}, r"row 0 \(counted from 0\): text_id is missing, or another row has it"),
        ({"text_id": ["a", None], "token_ids": [[1], [2]]}, r"row 1 \(counted from 0\): text_id is missing"),
        ({"text_id": ["a", "b"], "token_ids": [[1], [2, 900_000]]}, "token_ids has 900000, but .* has tokens 0 to"),
    ],
)
def test_check_reads_the_texts(own: Experiment, tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = tmp_path / "texts.parquet"
    pl.DataFrame(columns).write_parquet(path)
    values = {"max_activating_examples": {"kind": "local", "texts": str(path)}, "concepts": {"kind": "none"}, "judge": {"kind": "none"}}
    assert_problem(experiment_of(own.model_dump(mode="json") | values), message)


def test_check_reads_the_judges_folder(own: Experiment) -> None:
    judge = own.judge.model_copy(update={"oracle": ROOT / "data/world/model"})
    assert_problem(own.model_copy(update={"judge": judge}), r"judge.oracle: .* has neither oracle.json")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_check_reads_the_prompts(own: Experiment, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "prefixes.txt"
    path.write_bytes("\n".join(f"für {number}" for number in range(own.sweep.n_prefixes)).encode(encoding))
    assert_problem(own.model_copy(update={"sweep": own.sweep.model_copy(update={"prefixes": path})}), f"^files: {path} is no text in UTF-8")


VECTORS, LABELLED = "vectors.safetensors", "texts.csv"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (VECTORS, save({"tea": np.ones(5, dtype=np.float32)}), r"tensor 'tea' has the shape \[5\], but saes.d_model is 128"),
        (VECTORS, b"no tensors", "cannot be read as safetensors"),
        (LABELLED, b"concept,text\ntea,hot\nsea,\n", "row 2: a concept or a text is empty"),
        (LABELLED, b"concept;text\ntea;hot\n", "separate its columns by commas"),
        (LABELLED, b"concept,text\ntea,hot\nsea,wet\n", "has 1 positive texts, but methods.n_positive asks for"),
    ],
    ids=["width", "no vectors", "empty", "semicolons", "one text"],
)
def test_check_reads_the_files_of_a_comparison(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    compared = load_experiment("tiny-methods", ROOT / "config/experiments")
    listed = {"vectors": path} if name == VECTORS else {"concepts": LabelledTexts(kind="texts", texts=path, names=("tea", "sea"))}
    assert_problem(compared.model_copy(update={"methods": compared.methods.model_copy(update=listed)}), message)


def test_the_disk_that_check_names_holds_the_activations(own: Experiment) -> None:
    """By hand: two layers of the shipped texts' 98,514 tokens."""
    workflow = load_workflow({"experiments": ["own"]})
    (disk,) = (found.text for found in check_experiment("own", own, workflow, os.environ) if found.about == "disk")
    assert f"activations {2 * 98_514 * 50 / 2**20:.0f} MiB" in disk
    assert corpus_tokens(own) == 98_514


def test_the_norm_of_each_decoder_row_is_noted(tmp_path: Path) -> None:
    """By hand: rows of lengths 5 and 13, and of one length alone."""
    meta = {"sha256": "0", "hook_point": "resid_post", "centred": False, "k": None, "scale": None}
    for rows, norms in (([[3.0, 4.0], [5.0, 12.0]], [5.0, 13.0]), ([[0.6, 0.8], [-1.0, 0.0]], 1.0)):
        save_file({"W_dec": np.array(rows, dtype=np.float32)}, tmp_path / "sae.safetensors")
        assert sae_entry(meta, tmp_path / "sae.safetensors")["decoder_norm"] == norms


def test_init_fills_in_what_the_files_say(named_files: Path) -> None:
    """The file in the documentation is what `init` writes."""
    written = write_experiment("my-model", Path("my/model"), Path("my/saes"), Path("my/texts.parquet"), Path()).read_text()
    assert written == (ROOT / "docs/my-model.yaml").read_text()
    own = load_experiment("my-model", named_files)
    assert (own.saes.path, own.saes.hook_point) == ("my/saes/layer_{layer}", "resid_post")
    assert (own.saes.d_model, own.saes.n_features) == (2048, 16384)
    assert (own.layers, own.model.bos, own.input_score.tokens) == ((4, 8, 12), "always", "retokenised")
    with pytest.raises(SettingsError, match=r"my-model\.yaml is there already"):
        write_experiment("my-model", Path("my/model"), Path("my/saes"), None, Path())
    assert Path("my-model.yaml").read_text() == written


@pytest.mark.parametrize(
    ("folders", "given", "pattern"),
    [
        (["layer_03", "layer_11"], "saes", "saes/layer_{layer:02d}"),
        (["v2/3/16k", "v2/11/16k"], "saes", "saes/v2/{layer}/16k"),
        (["3/small", "11/small", "3/large"], "saes/{layer}/small", "saes/{layer}/small"),
        (["best"], "saes", "saes/best"),
        (["layer_3", "layer_11", "layer_3_trainingform"], "saes/layer_{layer}", "saes/layer_{layer}"),
    ],
)
def test_init_finds_the_pattern_of_the_saes(named_files: Path, folders: list[str], given: str, pattern: str) -> None:
    for folder in folders:
        layer = int((re.search(r"(?<!v)\d+", folder) or ["3"])[0])
        config = {"d_in": 2048, "d_sae": 64, "metadata": {"hook_name": f"blocks.{layer}.hook_resid_pre"}}
        Path("saes", folder).mkdir(parents=True)
        Path("saes", folder, "cfg.json").write_text(json.dumps(config))
    write_experiment("own", Path("my/model"), Path(given), None, Path())
    own = load_experiment("own", named_files)
    assert (own.saes.path, own.saes.hook_point) == (pattern, "resid_pre")
    assert own.layers == ((3,) if folders == ["best"] else (3, 11))


@pytest.mark.parametrize("name", ["downloads", "derived"])
def test_an_experiment_takes_no_folder_that_keeps_other_things(name: str) -> None:
    with pytest.raises(SettingsError, match=f"'{name}' cannot name an experiment"):
        write_experiment(name, Path("my/model"), Path("my/saes"), None, Path())


@pytest.mark.usefixtures("named_files")
def test_init_refuses_saes_of_several_kinds() -> None:
    shutil.copytree("my/saes/layer_4", "my/saes/layer_4_again")
    with pytest.raises(SettingsError, match=r"holds 4 SAEs of 3 layers \(resid_post 2048 x 16384\): name one a layer"):
        write_experiment("own", Path("my/model"), Path("my/saes"), None, Path())


@pytest.mark.parametrize(
    ("folder", "hook_point"), [("layers.{}", "resid_post"), ("layers.{}.mlp", "mlp_out"), ("layers.{}.self_attn", "attn_out")]
)
def test_init_reads_sparsifys_folders(folder: str, hook_point: str, named_files: Path) -> None:
    for layer in (3, 11):
        hub_fakes.sparsify(named_files / "saes" / folder.format(layer), 32, 96)
    write_experiment("own", Path("my/model"), Path("saes"), None, Path())
    own = load_experiment("own", named_files)
    assert (own.saes.path, own.saes.hook_point) == (f"saes/{folder.format('{layer}')}", hook_point)
    assert (own.layers, own.saes.d_model, own.saes.n_features) == ((3, 11), 32, 96)


def test_a_new_project_names_its_experiment_and_copies_no_shipped_model(named_files: Path) -> None:
    """Inputs are copied before anything is refused, such as a model without weights."""
    misspelt = CliRunner().invoke(app, ["init", "own", "--model", "my/modell", "--saes", "my/saes"])
    assert misspelt.exit_code == 1
    assert [path.name for path in Path().iterdir()] == ["my"]
    done = CliRunner().invoke(app, ["init", "own", "--model", "my/model", "--saes", "my/saes", "--texts", "my/texts.parquet"])
    assert done.exit_code == 0, done.output
    named = yaml.safe_load(Path("config/config.yaml").read_text())
    assert (named["experiments"], named["methods"]) == (["own"], [])
    shutil.copyfile(ROOT / "config/config.yaml", "config/config.yaml")  # of a project that was made without a name
    refused = Folder.existing(named_files).call("saesteer", "run", "own", "-n", "--quiet")
    assert "there are no .safetensors weights in my/model" in refused.stderr + refused.stdout
    assert not Path("data/world").exists()
