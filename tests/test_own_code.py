"""A folder's Python code is never run, whatever stands at standard input."""

import ast
import io
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.core.errors import SaesteerError
from saesteer.engine.models import load_language_model

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data/world/model"

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

(Path({marker!r})).write_text("ran")


class Lantern(LlamaConfig):
    model_type = "lantern"


class LanternForCausalLM(LlamaForCausalLM):
    config_class = Lantern


class LanternTokenizer(PreTrainedTokenizerFast):
    pass
"""


def with_code(folder: Path, file: str, changes: dict[str, object]) -> Path:
    """A folder of a model that needs code of its own, by what its file says; running it makes folder/marker."""
    copy = folder / "model"
    shutil.copytree(MODEL, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    # Of this family transformers has no tokenizer's class, and so would take the folder's.
    config = AutoConfig.for_model("bloom", vocab_size=2048, hidden_size=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(copy)
    (copy / "lantern.py").write_text(CODE.format(marker=str(folder / "marker")))
    values = json.loads((copy / file).read_text(encoding="utf-8"))
    (copy / file).write_text(json.dumps(values | changes))
    return copy


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        pytest.param(
            "config.json",
            {"model_type": "lantern", "auto_map": {"AutoConfig": "lantern.Lantern", "AutoModelForCausalLM": "lantern.LanternForCausalLM"}},
            id="model",
        ),
        pytest.param(
            "tokenizer_config.json",
            {"tokenizer_class": "LanternTokenizer", "auto_map": {"AutoTokenizer": [None, "lantern.LanternTokenizer"]}},
            id="tokenizer",
        ),
    ],
)
def test_code_in_a_folder_is_not_run(file: str, changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_code(tmp_path, file, changes)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    try:
        with pytest.raises(SaesteerError) as raised:
            load_language_model(folder, "float32", "cpu")
    finally:
        assert not (tmp_path / "marker").exists()
    words = str(raised.value)
    assert words.startswith(f"{folder}: ")
    assert "is never run" in words
    assert "\n" not in words


@pytest.mark.parametrize("folder", ["src", "scripts", "studies", "benchmarks"])
def test_every_load_says_that_code_is_not_trusted(folder: str) -> None:
    without = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        if "tests" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".from_pretrained", ".from_config")):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if given.get("trust_remote_code") != "False":
                    without.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert without == []
