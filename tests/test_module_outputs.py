"""SAEs of what a block's attention or MLP module itself puts out, as sparsify and dictionary_learning train them: a norm may be behind it
(Gemma 2), or the residual in it (Bloom). Against a plain hook on the module, and sparsify's formula."""

from pathlib import Path

import hub_fakes
import polars as pl
import pytest
import torch
from engine_models import D_MODEL, N_FEATURES, dense, tiny_model
from hub_server import serve_hub, use_hub
from model_families import RUN
from oracles.plain_hooks import family_parts
from safetensors.torch import load_file
from torch import Tensor

import saesteer
from saesteer.engine.activations import sparse_activations
from saesteer.engine.models import LanguageModel
from saesteer.engine.sae_convert import convert_sae, fetch_and_convert
from saesteer.settings import SaeSettings, load_experiment
from saesteer.workflow.checks import check_model_config

ROOT = Path(__file__).parents[1]

TEXTS = [[1, 40, 60, 41, 70], [1, 71, 72]]
NAMES = {
    "attention": ("self_attn", "attention", "attn", "self_attention", "linear_attn", "conv"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
}
FEW = ["gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4", "llama", "bloom", "mpt", "gpt_neox", "opt"]
NO_MLP_MODULE = ("biogpt", "opt", "xglm")
SCALED = ("doge", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared")


def seen(lm: LanguageModel, which: str, ids: list[int], layer: int = 1) -> Tensor:
    """What a plain hook on the block's module sees [seq d_model]."""
    children, rows = dict(family_parts(lm.model)[0][layer].named_children()), []
    module = next(children[name] for name in NAMES[which] if name in children)
    handle = module.register_forward_hook(lambda _m, _a, output: rows.append((output[0] if isinstance(output, tuple) else output).clone()))
    with torch.no_grad():
        lm.model(torch.tensor([ids]))
    handle.remove()
    return rows[0].reshape(len(ids), -1)


def codes(folder: Path, rows: Tensor) -> Tensor:
    """sparsify's activations: the 5 largest of relu((x - b_dec) W + b)."""
    t = {name: tensor.double() for name, tensor in load_file(folder / "sae.safetensors").items()}
    pre = ((rows.double() - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    top = pre.topk(5, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def assert_read(lm: LanguageModel, sae: saesteer.Sae, which: str, folder: Path) -> None:
    texts = pl.DataFrame({"text_id": [str(number) for number in range(len(TEXTS))], "token_ids": TEXTS})
    for row in pl.concat(sparse_activations(lm, {1: sae}, texts)).to_dicts():
        expected = codes(folder, seen(lm, which, TEXTS[int(row["text_id"])]))
        expected[0] = 0
        torch.testing.assert_close(dense(row, expected), expected, rtol=1e-4, atol=1e-4)
        assert (expected > 0).any()


@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("family", [*FEW, *(pytest.param(one, marks=pytest.mark.exhaustive) for one in sorted(RUN) if one not in FEW)])
def test_activations_are_those_of_what_a_plain_hook_on_the_module_sees(family: str, which: str, tmp_path: Path) -> None:
    lm = tiny_model(family)
    folder = hub_fakes.sparsify(tmp_path / {"attention": "layers.1.self_attn", "mlp": "layers.1.mlp"}[which], D_MODEL, N_FEATURES)
    sae = saesteer.load_sae(folder, device="cpu")
    if family in (*SCALED, *(NO_MLP_MODULE if which == "mlp" else ()), "opt"):
        with pytest.raises(ValueError, match=r"cannot be made out|can be made out in layer 1"):
            list(sparse_activations(lm, {1: sae}, pl.DataFrame({"text_id": ["a"], "token_ids": [TEXTS[0]]})))
        return
    assert_read(lm, sae, which, folder)


@pytest.mark.parametrize(
    ("which", "module"),
    [
        ("mlp", "mlp_out_layer_1"),
        ("attention", "attn_out_layer_1"),
        ("attention", "attention_out_layer_1"),
        ("mlp", "layers.1.mlp"),
        ("attention", "layers_1.attention"),
    ],
)
def test_a_module_that_dictionary_learning_names_is_read_itself(which: str, module: str, tmp_path: Path) -> None:
    lm = tiny_model("gemma2")
    hub_fakes.dictionary(tmp_path / "sae_1", 1, D_MODEL, N_FEATURES, "AutoEncoder", submodule_name=module)
    sae = saesteer.load_sae(tmp_path / "sae_1", device="cpu")
    (table,) = sparse_activations(lm, {1: sae}, pl.DataFrame({"text_id": ["a"], "token_ids": [TEXTS[0]]}))
    expected = (seen(lm, which, TEXTS[0]) @ sae.W_enc + sae.b_enc).relu()
    expected[0] = 0
    assert float(expected.sum()) == pytest.approx(sum(table["value"][0]), rel=1e-4)
    assert float(expected.sum()) > 0


@pytest.mark.parametrize(("folder", "hook_point"), [("layers.{layer}.mlp", "mlp_out"), ("layers.{layer}.self_attn", "attn_out")])
def test_an_experiment_reads_the_module_that_its_saes_name(
    folder: str, hook_point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_fakes.sparsify(tmp_path / "repo" / folder.format(layer=1), D_MODEL, N_FEATURES)
    sizes = {"d_model": D_MODEL, "n_features": N_FEATURES}
    local = convert_sae(tmp_path / "repo" / folder.format(layer=1), 1, hook_point, **sizes, out=tmp_path / "a.safetensors")
    settings, out = SaeSettings(repo="someone/saes", id=folder, hook_point=hook_point, **sizes), tmp_path / "b.safetensors"
    with serve_hub() as hub:
        use_hub(monkeypatch, hub.url)
        hub.add("someone/saes", tmp_path / "repo")
        fetched = fetch_and_convert(settings, 1, tmp_path / "cache", out)
        written = out.stat().st_mtime_ns
        assert fetch_and_convert(settings, 1, tmp_path / "cache", out) == fetched
        assert out.stat().st_mtime_ns == written
    assert local.hook_point == fetched.hook_point == hook_point.replace("_out", "_module")
    with pytest.raises(ValueError, match=r"is at (mlp|attn)_module of layer 1, but resid_post of layer 1 was asked for"):
        convert_sae(tmp_path / "repo" / folder.format(layer=1), 1, "resid_post", **sizes, out=tmp_path / "c.safetensors")


def test_no_family_is_refused_by_its_folders_names() -> None:
    micro = load_experiment("micro", ROOT / "config/experiments")
    saes = micro.saes.model_copy(update={"path": "my/saes/layers.{layer}.mlp", "hook_point": "mlp_out"})
    config = {"text_config": {"model_type": "gemma3_text", "hidden_size": saes.d_model, "num_hidden_layers": 8}}
    check_model_config("own", micro.model_copy(update={"saes": saes}), config, "my/model")
