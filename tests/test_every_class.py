"""An experiment of each class of SAEs and models that people bring, on small random files of its published form: the workflow's output
scores and greedy texts against whole forwards with plain hooks."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hub_fakes
import polars as pl
import pytest
import torch
from engine_models import WORDS, save_model, tiny_model, tiny_tokenizer
from oracles import inner_hook_points, plain_hooks
from safetensors.torch import load_file
from test_model_families import WITH_IMAGES
from transformers import AutoConfig, AutoModelForImageTextToText
from workflow_folder import Folder

from saesteer.core.files import text_id
from saesteer.engine.models import load_language_model, prompt_token_ids, residual_at
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.saes import load_sae
from saesteer.settings import load_experiment
from saesteer.sources.prefixes import read_prefixes

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
D, N, LAYER = 32, 64, 2


def with_images(family: str, folder: Path) -> None:
    """A checkpoint for images and text, as the hub has Gemma 3 from 4B up and Qwen 3.5."""
    config = AutoConfig.for_model(family, **WITH_IMAGES[family])
    config.text_config.vocab_size = len(tiny_tokenizer())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def text_only(family: str, folder: Path) -> None:
    save_model(tiny_model(family), folder)


@dataclass(frozen=True)
class Case:
    """What is brought: a model and an SAE, written into folders."""

    model: Callable[[Path], Any]
    sae: Callable[[Path], Any]
    hook_point: str = "resid_post"
    saes: str = "layer_{layer}"  # below its folder; by folders' names some forms tell model and layer


scope = partial(hub_fakes.gemma_scope, d_model=D, n_features=N, scale=0.3)
scope_2 = partial(hub_fakes.gemma_scope_2, layer=LAYER, d_model=D, n_features=N, scale=0.3)
CASES = {
    "TopK of sparsify": Case(
        partial(text_only, "llama"), partial(hub_fakes.sparsify, d_model=D, n_features=N, scale=0.3), saes="layers.{layer}"
    ),
    "Gemma Scope's MLP": Case(partial(text_only, "gemma2"), scope, "mlp_out", "gemma-scope-2b-pt-mlp/layer_{layer}/width_16k"),
    "Gemma Scope's attention": Case(partial(text_only, "gemma2"), scope, "hook_z", "gemma-scope-2b-pt-att/layer_{layer}/width_16k"),
    "Gemma Scope 2's transcoder": Case(
        partial(text_only, "gemma3"), partial(scope_2, transcoder=True), "transcoder", "gemma-scope-2-1b-pt/transcoder/layer_{layer}"
    ),
    "Gemma 3 4B": Case(partial(with_images, "gemma3"), scope_2, saes="gemma-scope-2-4b-pt/resid_post/layer_{layer}"),
    "Qwen 3.5": Case(
        partial(with_images, "qwen3_5"),
        partial(hub_fakes.sae_lens_form, d_model=D, n_features=N, hook_name=f"blocks.{LAYER}.hook_resid_post", scale=0.02),
    ),
}


def place(name: str) -> str:
    """The experiment of a case, which is also the folder of its files."""
    return f"mine-{list(CASES).index(name)}"


def written(folder: Folder, name: str) -> None:
    """The files and the experiment of a case."""
    case, mine = CASES[name], place(name)
    case.model(folder.path / mine / "model")
    case.sae(folder.path / mine / case.saes.format(layer=LAYER))
    texts = [" ".join(WORDS[(n * 7 + at * (n % 5 + 1)) % len(WORDS)] for at in range(6 + n % 9)) for n in range(120)]
    pl.DataFrame({"text": texts}).write_parquet(folder.path / mine / "texts.parquet")
    folder.edit(
        mine,
        description="what somebody brings",
        model={"path": f"{mine}/model"},
        saes={"path": f"{mine}/{case.saes}", "hook_point": case.hook_point, "d_model": D, "n_features": N},
        layers=[LAYER],
        features={"kind": "explicit", "features": {LAYER: [0, 7, 31, 40]}},
        max_activating_examples={"kind": "local", "texts": f"{mine}/texts.parquet"},
        concepts={"kind": "none"},
        sweep={"factors": [0, 2, 8], "prefixes": "config/prefixes.txt", "n_prefixes": 2, "max_new_tokens": 5, "temperature": 0.0},
        perplexity={"model": {"path": f"{mine}/model"}},
        selection={"thresholds": [0.001, 0.01], "late_layers_from": 2, "random_draws": 50, "permutations": 50},
        judge={"kind": "none"},
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, str]:
    """A folder with the experiments of all cases, which have run, and what was printed."""
    folder = Folder(tmp_path_factory.mktemp("classes") / "run")
    for name in CASES:
        written(folder, name)
    names = [place(name) for name in CASES]
    targets = [f"data/{name}/{target}" for name in names for target in ("tables/features.parquet", "generations/layers_02-02.json")]
    _, output = folder.run(*targets, "--keep-going", experiment=",".join(names))
    return folder, output


def hooked(case: Case, lm: Any, sae: Any, feature: int, factor: float) -> AbstractContextManager[None]:
    if case.hook_point == "resid_post":
        return plain_hooks.steering_hook(lm.model, sae, LAYER, feature, factor)
    return inner_hook_points.hooked(lm.model, LAYER, case.hook_point, inner_hook_points.amplified(sae, feature, factor))


def test_activations_are_the_k_largest_of_sparsifys_formula(ran: tuple[Folder, str]) -> None:
    folder, mine = ran[0], place("TopK of sparsify")
    files = folder.path / mine
    k = json.loads((files / f"layers.{LAYER}/cfg.json").read_text())["k"]
    t = {name: tensor.float() for name, tensor in load_file(files / f"layers.{LAYER}/sae.safetensors").items()}
    lm = load_language_model(files / "model", "float32", "cpu")
    rows = folder.table("activations", mine)
    for text in pl.read_parquet(files / "texts.parquet")["text"].to_list()[:3]:
        residual = residual_at(lm, torch.tensor([prompt_token_ids(lm, text)] * 32), LAYER + 1)[0, 1:]
        pre = torch.nn.functional.linear(residual - t["b_dec"], t["encoder.weight"], t["encoder.bias"]).relu()
        top = pre.topk(k, dim=1)
        expected = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        (row,) = rows.filter(text_id=text_id(text)).iter_rows(named=True)
        ours = torch.zeros_like(pre)
        ours[torch.tensor(row["token_index"]) - 1, torch.tensor(row["feature"])] = torch.tensor(row["value"])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
        assert max(Counter(row["token_index"]).values()) <= k


@pytest.mark.parametrize("name", CASES)
def test_it_is_scored_and_steered(name: str, ran: tuple[Folder, str], tmp_path: Path) -> None:
    (folder, output), case, mine = ran, CASES[name], place(name)
    features = folder.path / f"data/{mine}/tables/features.parquet"
    assert features.is_file(), output
    lm = load_language_model(folder.path / mine / "model", "float32", "cpu")
    out = tmp_path / "sae.safetensors"
    convert_sae(
        folder.path / mine / case.saes.format(layer=LAYER), layer=LAYER, hook_point=case.hook_point, d_model=D, n_features=N, out=out
    )
    sae = load_sae(out, "float32", "cpu")
    lens = dict(folder.table("logit_lens", mine).select("feature", "token_ids").iter_rows())
    settings = load_experiment(mine, folder.path / "config/experiments").output_score
    ids = prompt_token_ids(lm, settings.prompt)
    scores = folder.table("output_score", mine)
    assert scores.height == 4
    for row in scores.iter_rows(named=True):
        with torch.no_grad(), hooked(case, lm, sae, row["feature"], float(settings.factor)):
            p = torch.softmax(lm.model(torch.tensor([ids])).logits[0, -1].double(), dim=0)
        tokens = lens[row["feature"]]
        known = p[
            [token for token in sorted(lm.tokenizer.get_vocab().values()) if token < len(p)]
        ]  # without rows of the head that have no token
        rank = min(int((known > p[token]).sum()) for token in tokens)
        assert row["output_score"] == pytest.approx((1 - rank / len(known)) * float(p[tokens].max()), abs=1e-5)
    prefixes = read_prefixes(folder.path / "config/prefixes.txt", 2)
    texts = folder.table("generations", mine)
    assert texts.height == 4 * 3 * 2
    assert texts["text"].n_unique() > 6
    for row in texts.iter_rows(named=True):
        prompt = torch.tensor([prompt_token_ids(lm, prefixes[row["prefix_id"]])])
        with torch.no_grad(), hooked(case, lm, sae, row["feature"], float(row["factor"])):
            plain = {"top_k": None, "top_p": None, "temperature": None, "pad_token_id": 0}
            made = lm.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False, **plain)
        assert row["token_ids"] == made[0, prompt.shape[1] :][: row["n_tokens"]].tolist()
    assert pl.read_parquet(features)["input_score"].count() > 0
