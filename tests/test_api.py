"""`import saesteer` on the shipped world, against sae-lens, transformers' own forwards and `generate` with plain hooks."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import WORLD, tiny_model, tiny_sae, without_bos
from hub_fakes import random_model
from hub_server import serve_hub, use_hub
from oracles import max_activating_examples as oracle
from oracles import plain_hooks
from workflow_folder import Folder

import saesteer
from saesteer import api
from saesteer.core.errors import SettingsError
from saesteer.core.store import read_rows
from saesteer.core.texts import of_features
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.saes import encode
from saesteer.sources.prefixes import read_prefixes
from saesteer.steps.generations import GENERATIONS

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


def test_importing_is_light_and_every_name_is_there(tmp_path: Path) -> None:
    program = "import sys, saesteer; assert not {'torch', 'polars', 'sae_lens'} & set(sys.modules); print(len(dir(saesteer)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(saesteer.__all__)
    (tmp_path / "names.py").write_text("import saesteer\n[getattr(saesteer, name) for name in saesteer.__all__]\n")
    done = Folder.existing(tmp_path).call("python", "names.py")
    assert done.returncode == 0, done.stderr
    assert all(getattr(saesteer, name).__doc__ for name in saesteer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'steering'"):
        saesteer.steering  # noqa: B018


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
        expected = plain_hooks.output_score(lm.model, sae, LAYER, row["feature"], 10.0, prompt, tokens, len(lm.tokenizer))
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
    with pytest.raises(SettingsError, match="there is no way to take tokens 'retokenized' here. Did you mean 'retokenised'"):
        saesteer.input_scores(lm, sae, table, tokens="retokenized")
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


def test_a_value_given_twice_counts_once_on_every_axis() -> None:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    texts = saesteer.steer(lm, sae, [5, 3, 5], [1, "1.0", 0], ["ba", "be", "ba"], sampling=saesteer.Sampling(max_new_tokens=2))
    assert texts["feature", "factor", "prompt"].rows() == [(f, s, p) for f in (5, 3) for s in (1.0, 0.0) for p in ("ba", "be")]


def test_what_steer_is_not_given_is_refused_by_name(tmp_path: Path) -> None:
    """In a program of its own: the tests' check of types comes before."""
    cases = {
        "features=[-1], prompts=['The']": "feature -1 does not exist: the SAE has features 0 to 1023",
        "features=[0, 10**12], prompts=['The']": "feature 1000000000000 does not exist",
        "features=[0, None], prompts=['The']": "feature None does not exist",
        "features=[1.5], prompts=['The']": "feature 1.5 does not exist",
        "features=[True], prompts=['The']": "feature True does not exist",
        "features=3, prompts=['The']": "features is one number: give a list, features=[3]",
        "features=[0], prompts='The'": "prompts is one string: give a list, prompts=['The']",
        "features=[0], prompts=['The', None]": "prompts: number 2 is None, not a text",
        "features=[0], prompts=[7]": "prompts: number 1 is 7, not a text",
    }
    calls = [f"lambda: saesteer.steer(lm, sae, factors=[1], {case})" for case in cases]
    of_texts = {"['The', None]": "texts: number 2 is None, not a text", "'The'": "texts is one string"}
    calls += [f"lambda: saesteer.max_activating_examples(lm, sae, [1], {texts})" for texts in of_texts]
    program = (
        f"import saesteer; lm = saesteer.load_model({str(WORLD / 'model')!r}, device='cpu')\n"
        f"sae = saesteer.load_sae({str(SAE_FOLDER)!r}, device='cpu')\n"
        f"for call in [{', '.join(calls)}]:\n    try:\n        call()\n    except (TypeError, ValueError) as error:\n        print(error)"
    )
    (tmp_path / "given.py").write_text(program)
    done = Folder.existing(tmp_path).call("python", "given.py")
    assert done.returncode == 0, done.stderr
    for said, message in zip(done.stdout.splitlines(), [*cases.values(), *of_texts.values()], strict=True):
        assert message in said


def test_a_prompt_without_a_token_is_refused_and_a_text_without_one_has_no_activation() -> None:
    lm, sae = without_bos(tiny_model("llama")), tiny_sae(1)
    for prompts in ([""], ["", "ba"]):
        with pytest.raises(ValueError, match="a prompt needs at least one token"):
            saesteer.steer(lm, sae, [1], [1], prompts)
    both, alone = (saesteer.max_activating_examples(lm, sae, range(96), texts) for texts in (["", "ba be di"], ["ba be di"]))
    assert both["examples"].to_list() == alone["examples"].to_list()
    assert both["density"].to_list() == alone["density"].to_list()
    assert saesteer.max_activating_examples(lm, sae, [1], [""])["density"].to_list() == [None]


def test_models_that_are_no_causal_language_models_of_transformers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    import accelerate
    import peft
    from transformers import AutoModel, T5Config, T5ForConditionalGeneration

    lm = tiny_model("llama")
    tuned_prompt = peft.get_peft_model(copy.deepcopy(lm.model), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"PeftModelForCausalLM: a model with an adapter: give load_model its merge_and_unload\(\)"):
        saesteer.load_model(tuned_prompt, tokenizer=lm.tokenizer)
    for config in (peft.LoraConfig(target_modules=["q_proj"]), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")):
        wrapped = peft.get_peft_model(copy.deepcopy(lm.model), config)
        with pytest.raises(ValueError, match=r"PeftModel.*: a model with an adapter: give load_model its merge_and_unload\(\)"):
            saesteer.load_model(wrapped, tokenizer=lm.tokenizer)
        with pytest.raises(ValueError, match=r"LlamaForCausalLM: \S+q_proj has an adapter: give load_model .* merge_and_unload\(\)"):
            saesteer.load_model(wrapped.base_model.model, tokenizer=lm.tokenizer)
        assert saesteer.load_model(wrapped.merge_and_unload(), tokenizer=lm.tokenizer).n_layers == 4
    no_head = "has no language-model head: load a causal language model with AutoModelForCausalLM"
    small = T5Config(d_model=32, num_layers=2, num_heads=2, d_kv=8, d_ff=32)
    offloaded = "weights are offloaded: load it whole, without offloading"
    for model, message in (
        (AutoModel.from_config(lm.model.config), no_head),
        (T5ForConditionalGeneration(small), "is an encoder with a decoder"),
        (torch.nn.Linear(2, 2), "Linear is no model of transformers: load a causal language model with AutoModelForCausalLM"),
        (torch.compile(copy.deepcopy(lm.model)), "OptimizedModule is no model of transformers"),
        (accelerate.cpu_offload(copy.deepcopy(lm.model)), offloaded),
        (accelerate.disk_offload(copy.deepcopy(lm.model), tmp_path), offloaded),
    ):
        with pytest.raises(ValueError, match=message):
            saesteer.load_model(model, tokenizer=lm.tokenizer)
    with pytest.raises(ValueError, match=r"the tokenizer given is a str: give a fast tokenizer"):
        saesteer.load_model(lm.model, tokenizer="data/world/model")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("there/is/none", r"there is no folder there/is/none: correct the path, or name a release .*one of its SAEs \(sae_id\)"),
        ("gemma-scope-2b-pt-res-canonical", r"is a release of sae-lens: name one of its SAEs as sae_id, e\.g\. 'layer_0/width_16k"),
        ("gpt2-small-res-jbb", "Did you mean 'gpt2-small-res-jb'"),
        ("file.safetensors", r"file\.safetensors is a file: give the folder that it lies in"),
        (None, r"an SAE is a folder, a release with sae_id, or an sae_lens\.SAE, not a NoneType"),
        ({"W_enc": 1}, r"or an sae_lens\.SAE, not a dict"),
    ],
)
def test_what_is_no_sae_is_said_in_a_sentence(source: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as refused:
        saesteer.load_sae(source)
    assert "params.npz" not in str(refused.value)


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        (("cfg.json", "sae_weights.safetensors"), "{", r"sae/cfg\.json is not readable as JSON"),
        (("cfg.json", "sae.safetensors"), "[1]", r"sae/cfg\.json holds no settings, but a list"),
        (("config.json", "ae.pt"), "\udcff", r"sae/config\.json is not readable as JSON"),
        (("hyperparams.json", "checkpoints/final.safetensors"), "[" * 10**5, r"sae/hyperparams\.json is not readable as JSON"),
        (("cfg.json", "sae_weights.safetensors"), '{"metadata": {"sae_lens_version": "6.1"}}', "lacks architecture, d_in, d_sae"),
    ],
)
def test_a_broken_configuration_is_named(files: tuple[str, str], content: str, message: str, tmp_path: Path) -> None:
    for name, data in zip(files, (content.encode("utf-8", "surrogateescape"), b""), strict=True):
        (tmp_path / "sae" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sae" / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        saesteer.load_sae(tmp_path / "sae")
