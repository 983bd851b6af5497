"""`import saesteer` on the shipped world, against sae-lens, transformers' own forwards and `generate` with plain hooks."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import WORLD
from hub_fakes import random_model
from hub_server import serve_hub, use_hub
from oracles import max_activating_examples as oracle
from oracles import plain_hooks
from workflow_folder import Folder

import saesteer
from saesteer import api
from saesteer.core.errors import SettingsError
from saesteer.core.store import read_rows
from saesteer.core.tables import GENERATIONS, of_features
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.saes import encode
from saesteer.sources.prefixes import read_prefixes

LAYER, FEATURES = 6, [27, 182, 818]
SAE_FOLDER = WORLD / f"saes/layer_{LAYER:02d}"


@pytest.fixture(scope="module")
def lm() -> saesteer.LanguageModel:
    return saesteer.load_model(WORLD / "model", device="cpu")


@pytest.fixture(scope="module")
def sae() -> saesteer.Sae:
    return saesteer.load_sae(SAE_FOLDER, device="cpu")


@pytest.fixture(scope="module")
def sae_lens_sae() -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(SAE_FOLDER, device="cpu", dtype="float32")


def test_importing_is_light_and_every_name_is_there() -> None:
    program = (
        "import sys, saesteer; assert not {'torch', 'polars', 'sae_lens'} & set(sys.modules); print(len(dir(saesteer)));"
        "[getattr(saesteer, name) for name in saesteer.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(saesteer.__all__)
    assert all(getattr(saesteer, name).__doc__ for name in saesteer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'steered'"):
        saesteer.steered  # noqa: B018


def test_an_sae_from_a_folder_and_as_an_object_are_sae_lens_s(sae: saesteer.Sae, sae_lens_sae: Any, tmp_path: Path) -> None:
    rows = 5 * torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    given = saesteer.load_sae(sae_lens_sae, device="cpu")
    for ours in (sae, given):
        torch.testing.assert_close(encode(ours, rows), sae_lens_sae.encode(rows).detach(), rtol=1e-5, atol=1e-5)
    assert (encode(sae, rows) > 0).any()
    converted = convert_sae(SAE_FOLDER, LAYER, "resid_post", 128, 1024, tmp_path / "sae.safetensors")
    assert sae.meta == converted
    assert replace(given.meta, source=converted.source, source_digest=converted.source_digest) == converted


def test_a_model_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = random_model(tmp_path / "model", "gpt2", 32)
    with serve_hub() as hub:
        use_hub(monkeypatch, hub.url)
        hub.add("someone/small", folder)
        lm = saesteer.load_model("someone/small", device="cpu", bos="always", cache_dir=tmp_path / "cache")
    ids = torch.arange(10, 50)[None]
    torch.testing.assert_close(lm.model(ids).logits, AutoModelForCausalLM.from_pretrained(folder)(ids).logits.detach())
    assert lm.bos == "always"


def test_a_loaded_model_is_taken_with_its_tokenizer(lm: saesteer.LanguageModel) -> None:
    taken = saesteer.load_model(lm.model, tokenizer=lm.tokenizer, bos="always")
    assert (taken.model, taken.tokenizer, taken.bos) == (lm.model, lm.tokenizer, "always")
    with pytest.raises(ValueError, match=r"a loaded model \(\w+\) needs its tokenizer"):
        saesteer.load_model(lm.model)


@pytest.mark.parametrize("source", ["there/is/none", "./gone", "model/gone", Path("owner/name")])
def test_a_missing_folder_is_no_name_of_the_hub(source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="there is no folder .*: correct the path, or name a model of the hub as owner/name"):
        saesteer.load_model(source)


def test_a_text_in_place_of_a_list_is_refused(lm: saesteer.LanguageModel, sae: saesteer.Sae) -> None:
    with pytest.raises(TypeError, match=r"prompts is one string: give a list, prompts=\['Once upon a time'\]"):
        saesteer.steer(lm, sae, FEATURES, [1], "Once upon a time")
    with pytest.raises(TypeError, match="texts is one string"):
        saesteer.max_activating_examples(lm, sae, FEATURES, "Once upon a time")


def test_top_logit_lens_tokens_are_those_of_the_norm_and_the_head(lm: saesteer.LanguageModel, sae: saesteer.Sae, sae_lens_sae: Any) -> None:
    table = saesteer.top_logit_lens_tokens(lm, sae, FEATURES, k=5)
    for row in table.to_dicts():
        values, ids = plain_hooks.lens_logits(lm.model, sae_lens_sae.W_dec[row["feature"]]).topk(5)
        assert row["token_ids"] == ids.tolist()
        assert row["tokens"] == lm.tokenizer.convert_ids_to_tokens(ids.tolist())
        assert row["logits"] == pytest.approx(values.tolist(), rel=1e-5)
    assert table["layer"].to_list() == [LAYER] * 3


def test_output_scores_are_those_of_a_hooked_forward(lm: saesteer.LanguageModel, sae: saesteer.Sae) -> None:
    lens = saesteer.top_logit_lens_tokens(lm, sae, FEATURES)["token_ids"].to_list()
    prompt = lm.tokenizer("From my experience,")["input_ids"]
    for row, tokens in zip(saesteer.output_scores(lm, sae, FEATURES).to_dicts(), lens, strict=True):
        expected = plain_hooks.output_score(lm.model, sae, LAYER, row["feature"], 10.0, prompt, tokens)
        assert row["output_score"] == pytest.approx(expected["output_score"], rel=1e-5)  # float32
        assert row["min_rank"] == expected["min_rank"]


@pytest.mark.parametrize("mark", ["", "<eos><bos>"])
def test_input_scores_of_ones_own_texts(lm: saesteer.LanguageModel, sae: saesteer.Sae, sae_lens_sae: Any, mark: str) -> None:
    """Against transformers' own hidden states, sae-lens' codes and P1's sentence in plain Python; also of texts with special tokens inside,
    at which features are active."""
    texts = pl.read_parquet(WORLD / "texts.parquet", n_rows=120)["text"].to_list()
    texts = [f" {mark} ".join([text[:30], text[30:]]) if mark else text for text in texts]
    ids = {text: lm.tokenizer(text)["input_ids"][:40] for text in dict.fromkeys(texts)}
    hidden = {text: lm.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[LAYER + 1][0] for text, tokens in ids.items()}
    codes = {text: sae_lens_sae.encode(rows) for text, rows in hidden.items()}
    special = {text: torch.isin(torch.tensor(tokens), torch.tensor(lm.tokenizer.all_special_ids)) for text, tokens in ids.items()}
    at_special = torch.stack([(codes[text] * special[text][:, None])[1:].amax(0) for text in ids]).amax(0)
    features = at_special.topk(40).indices.tolist() if mark else list(range(40))
    assert bool((at_special[features] > 0).all()) == bool(mark)
    dense = {api.text_id(text): torch.where(special[text][:, None], 0, codes[text]).tolist() for text in ids}
    n_ordinary = sum(int((~special[text][1:]).sum()) for text in ids)
    token_ids = {api.text_id(text): tokens for text, tokens in ids.items()}
    lens = dict(saesteer.top_logit_lens_tokens(lm, sae, features)["feature", "token_ids"].iter_rows())
    table = saesteer.max_activating_examples(lm, sae, features, texts, n_examples=8, max_tokens=40)
    for row in table.to_dicts():
        kept = oracle.max_activating_examples(dense, row["feature"], 8)
        assert [(example["text_id"], example["token_index"]) for example in row["examples"]] == [each[:2] for each in kept]
        assert row["density"] == sum(code[row["feature"]] > 0 for rows in dense.values() for code in rows[1:]) / n_ordinary
        assert sum(row["histogram_counts"] or []) == round(row["density"] * n_ordinary)
    scores = saesteer.input_scores(lm, sae, table, min_examples=3, tokens="ids")
    for row in scores.to_dicts():
        kept = oracle.max_activating_examples(dense, row["feature"], 8)
        assert row["n_examples"] == len(kept)
        at_maximum = [token_ids[text][position] for text, position, _ in kept]
        assert row["input_score"] == oracle.input_score(at_maximum, lens[row["feature"]], 3)
    assert mark or scores["input_score"].null_count() not in (0, 40)
    assert (scores["input_score"] > 0).any()


def test_greedy_texts_are_those_of_generate_with_a_hook(lm: saesteer.LanguageModel, sae: saesteer.Sae) -> None:
    prompts, greedy = ["I believe that", "The"], saesteer.Sampling(max_new_tokens=8, temperature=0.0, stop="")
    table = saesteer.steer(lm, sae, FEATURES, [3, 0, -2], prompts, sampling=greedy)
    keys = [(feature, factor, prompt) for feature in FEATURES for factor in (3.0, 0.0, -2.0) for prompt in prompts]
    assert table["feature", "factor", "prompt"].rows() == keys
    for row in table.to_dicts():
        prompt = lm.tokenizer(row["prompt"])["input_ids"]
        ending = [lm.model.generation_config.eos_token_id]
        expected = plain_hooks.generated(lm.model, sae, LAYER, row["feature"], row["factor"], prompt, 8, ending)
        assert row["token_ids"] == expected
        assert row["text"].strip() == lm.tokenizer.decode(expected, skip_special_tokens=True).strip()


@pytest.mark.slow
def test_sampled_texts_are_those_of_the_experiment(lm: saesteer.LanguageModel, sae: saesteer.Sae, finished: Folder) -> None:
    prompts = read_prefixes(finished.path / "config/prefixes.txt", 4)
    texts = saesteer.steer(lm, sae, FEATURES, ["4", "0", 2.0], list(prompts.values()))
    rows = of_features(read_rows(GENERATIONS, sorted((finished.path / "data/micro/generations").glob("layers_*.json")), [LAYER]))
    rows = rows.with_columns(pl.col("factor").cast(pl.Float64), prompt=pl.col("prefix_id").replace_strict(prompts))
    both = texts.join(rows, on=["feature", "factor", "prompt", "sample"], suffix="_of_the_experiment")
    assert both.height == texts.height == 3 * 3 * 4
    assert both["text"].to_list() == both["text_of_the_experiment"].to_list()


def test_refusals(lm: saesteer.LanguageModel, sae: saesteer.Sae, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"layer 6 of a model of width 128 at resid_post, but .* has 4 layers of width 32: give the SAE's own model"
    ):
        saesteer.top_logit_lens_tokens(saesteer.load_model(random_model(tmp_path, "gpt2", 32), device="cpu"), sae, [0])
    for call in (saesteer.top_logit_lens_tokens, saesteer.output_scores):
        with pytest.raises(ValueError, match="feature 1024 does not exist: the SAE has features 0 to 1023"):
            call(lm, sae, [0, 1024])
    with pytest.raises(ValueError, match=r"a factor is a number from -10000 to 10000, not nan"):
        saesteer.steer(lm, sae, [0], [float("nan")], ["The"])
    with pytest.raises(ValueError, match=r"a factor is a number from -10000 to 10000, not inf"):
        saesteer.output_scores(lm, sae, [0], factor=float("inf"))
    with pytest.raises(ValueError, match="nothing to steer: give a feature"):
        saesteer.steer(lm, sae, [], [1], ["The"])
    with pytest.raises(ValueError, match="sae-lens knows no release 'gpt2-smal-res-jb'. Did you mean 'gpt2-small-res-jb'"):
        saesteer.load_sae("gpt2-smal-res-jb", "blocks.6.hook_resid_pre")
