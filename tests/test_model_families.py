"""Tiny random models of every family, against plain hooks and transformers' own generation; docs/models/families.csv holds the outcome."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_models
import polars as pl
import pytest
import torch
from engine_models import FURTHER_FAMILIES, tiny_model, tiny_tokenizer
from family_table import HEADER, TABLE, row
from model_families import REFUSED, RUN
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from saesteer.engine import models
from saesteer.engine.perplexity import continuation_nll
from saesteer.engine.weights import load_weights
from saesteer.settings import SettingsError, load_experiment
from saesteer.workflow import families
from saesteer.workflow.checks import check_model_config

ROWS = list(csv.reader(TABLE.read_text(encoding="utf-8").splitlines()))
WRITE = "run `python tests/family_table.py`"


def test_the_table_has_every_family_that_is_tried_and_none_that_is_refused() -> None:
    assert ROWS[0] == HEADER, WRITE
    assert [family for family, *_ in ROWS[1:]] == list(RUN), WRITE
    assert {tuple(row[-2:]) for row in ROWS[1:]} == {("at most 1e-6", "24 of 24")}
    assert not set(RUN) & set(families.REFUSED)
    assert set(REFUSED) <= set(families.REFUSED)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in (*FURTHER_FAMILIES, "gemma3_text") else pytest.mark.exhaustive) for name in RUN]
)
def test_every_family_scores_and_steers_as_plain_hooks_do(family: str) -> None:
    assert row(family) in ROWS, WRITE


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in ("mamba", "hyperclovax") else pytest.mark.exhaustive) for name in REFUSED]
)
def test_the_engine_refuses_what_check_refuses(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine_models.RUN, family, REFUSED[family])
    with pytest.raises(ValueError, match=r"\w+: (its|keeps|expected|a token's residual)|uses cache of its own"):
        tiny_model(family, seed=1)


def test_a_model_is_tried_as_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are scaled in an unknown way, a block that runs twice, a stream that is changed between blocks: each is refused."""
    model, tokenizer = tiny_model("llama").model, tiny_tokenizer()
    block = model.model.layers[1]
    with monkeypatch.context() as patched:
        patched.setattr(type(model), "forward", _doubled(type(model).forward))
        with pytest.raises(ValueError, match="LlamaForCausalLM: its logits are not its head's outputs, scaled by 1.0 and capped at None"):
            models.language_model(model, tokenizer)
    with monkeypatch.context() as patched:
        twice = model.model.layers[0]
        patched.setattr(block, "forward", lambda hidden, **kwargs: twice(hidden, **kwargs | {"past_key_values": None}))
        with pytest.raises(ValueError, match="does not run each decoder block once"):
            models.language_model(model, tokenizer)
    handle = block.register_forward_pre_hook(lambda _module, args: (2 * args[0], *args[1:]))
    with pytest.raises(ValueError, match="a decoder block is not given the residual that the block before it puts out"):
        models.language_model(model, tokenizer)
    handle.remove()
    handle = model.lm_head.register_forward_hook(lambda _module, _args, output: output.roll(1, dims=-1))
    with pytest.raises(ValueError, match="its head puts out something else than the product with its weights: take hooks off it"):
        models.language_model(model, tokenizer)
    handle.remove()
    assert models.language_model(model, tokenizer).n_layers == 4


@pytest.mark.parametrize("family", [("gemma3_text", {"use_bidirectional_attention": True}), ("bert-generation", {"is_decoder": False})])
def test_a_model_that_looks_ahead_is_refused(family: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding after a text, caches of prompts and splices all need that nothing does."""
    name, config = family
    monkeypatch.setitem(engine_models.OWN, "ahead", RUN.get(name, {}) | {"model_type": name} | config)
    with pytest.raises(ValueError, match="a token's residual depends on the tokens after it: load a causal language model"):
        tiny_model("ahead")


def test_a_splice_keeps_its_rows_where_a_model_changes_its_embeddings_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTRL's are multiplied where they stand, which the spliced residual must not share."""
    monkeypatch.setitem(engine_models.OWN, "scaling", {"model_type": "ctrl"})
    lm = tiny_model("scaling")
    ids = torch.tensor([[1, 40, 60, 41, 50, 45, 52]])
    rows = models.residual_at(lm, ids, 2)[:, -1]
    before = rows.clone()
    hidden = models.spliced_hidden(lm, models.prefill(lm, ids[0].tolist()), 2, rows)
    assert torch.equal(rows, before)
    with torch.no_grad():
        torch.testing.assert_close(lm.head(hidden[0]), lm.model(input_ids=ids).logits[0, -1], rtol=1e-5, atol=1e-5)


def test_rotations_that_depend_on_the_longest_text_limit_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the length of training Phi-3.5 rotates all rows of a forward by its longest one."""
    rotations = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    length = {"original_max_position_embeddings": 12}
    monkeypatch.setitem(engine_models.OWN, "rotated", RUN["phi3"] | length | {"model_type": "phi3", "rope_parameters": rotations | length})
    assert tiny_model("rotated").n_positions == 12
    assert tiny_model("llama").n_positions == 64


def _doubled(forward: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output

    return doubled


TEXT = {"vocab_size": 203, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "head_dim": 8}
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28, "patch_size": 14}
WITH_IMAGES = {
    "gemma3": {"vision_config": VISION, "text_config": TEXT | RUN["gemma3_text"], "mm_tokens_per_image": 4},
    "qwen3_5": {
        "vision_config": VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16},
        "text_config": TEXT | RUN["qwen3_5_text"],
    },
    "mistral3": {
        "vision_config": VISION | {"model_type": "pixtral"},
        "text_config": TEXT | RUN["mistral"] | {"model_type": "mistral"},
    },
    "smolvlm": {"vision_config": VISION, "text_config": TEXT | RUN["llama"] | {"model_type": "llama"}},
}


@pytest.mark.parametrize("tied", ["everywhere", "in the settings of the whole", "nowhere"])
@pytest.mark.parametrize("family", WITH_IMAGES)
def test_the_text_part_of_a_model_for_images_and_text_is_loaded_whole(family: str, tied: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **WITH_IMAGES[family], tie_word_embeddings=tied != "nowhere")
    config.get_text_config(decoder=True).tie_word_embeddings = tied == "everywhere"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    lm = models.load_language_model(tmp_path, "float32", "cpu")
    ids = torch.tensor([[1, 40, 50, 60, 45, 44]])
    torch.testing.assert_close(lm.model(input_ids=ids).logits, whole(input_ids=ids).logits, rtol=1e-5, atol=1e-6)
    assert (lm.n_layers, lm.d_model) == (4, 32)
    assert sum(weight.numel() for weight in lm.model.parameters()) < sum(weight.numel() for weight in whole.parameters())
    assert families.refusal(json.loads((tmp_path / "config.json").read_text())) is None


def test_a_text_model_that_cannot_be_loaded_alone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Not in the names of all classes that transformers has."""
    AutoConfig.for_model("qwen2_5_vl").save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match=r"has no class for its text model alone, so it cannot run here$"):
        load_weights(tmp_path, "float32", "cpu")


@pytest.mark.parametrize("family", ["falcon", "bloom", "gptj", "gpt_neo", "mpt", "opt"])
def test_check_reads_every_familys_width_and_depth(family: str) -> None:
    config = tiny_model(family).model.config.to_dict()
    assert (families.size(config, *families.WIDTH), families.size(config, *families.DEPTH)) == (32, 4)


def test_check_refuses_by_name_what_cannot_run() -> None:
    experiment = load_experiment("tiny", Path(__file__).parents[1] / "config/experiments")
    sizes = {"hidden_size": experiment.saes.d_model, "num_hidden_layers": 24}
    check_model_config("tiny", experiment, {"model_type": "llama"} | sizes, "me/model")
    refused = {
        r"me/model: models of the family mamba cannot run: its layers keep a state": {"model_type": "mamba"} | sizes,
        r"family qwen3_vl cannot run: transformers has no class": {"model_type": "qwen3_vl", "text_config": sizes},
        r"family paligemma cannot run: it reads a prompt in both": {"model_type": "paligemma", "text_config": sizes},
        r"family t5 cannot run: it is no decoder": {"model_type": "t5"} | sizes,
        r"family new_t5 cannot run: it is no decoder": {"model_type": "new_t5", "is_encoder_decoder": True} | sizes,
        r"family gemma3n_text cannot run": {"model_type": "other", "text_config": {"model_type": "gemma3n_text"} | sizes},
        r"num_kv_shared_layers": {"model_type": "gemma4", "text_config": {"num_kv_shared_layers": 3} | sizes},
        r"word_embed_proj_dim": {"model_type": "opt", "word_embed_proj_dim": 5} | sizes,
        r"does not say how wide and deep": {"model_type": "llama"},
    }
    for message, config in refused.items():
        with pytest.raises(SettingsError, match=message):
            check_model_config("tiny", experiment, config, "me/model")


@pytest.mark.parametrize("family", ["jamba", "qwen3_5_text"])
@torch.no_grad()
def test_likelihoods_where_layers_keep_states_are_those_of_whole_texts(family: str) -> None:
    lm = tiny_model(family)
    losses = continuation_nll(lm, pl.DataFrame({"row": [0, 1], "prefix": ["From ba di ba", "From be"], "text": [" do ba do", " di"]}))
    for text, n_scored, own in (("From ba di ba do ba do", 3, losses.row(0, named=True)), ("From be di", 1, losses.row(1, named=True))):
        ids = lm.tokenizer(text, return_tensors="pt")["input_ids"]
        whole = lm.model(input_ids=ids).logits[0, :-1].log_softmax(dim=1).gather(1, ids[0, 1:, None])
        assert own["mean_nll"] == pytest.approx(-float(whole[-n_scored:].mean()), abs=1e-4)
        assert own["whole_text_nll"] == pytest.approx(-float(whole.mean()), abs=1e-4)


def test_a_prompts_states_are_shared_where_layers_attend_linearly() -> None:
    """Splices behind linear layers' states, at each depth, against whole forwards: these take another way to the same states, in float32,
    which leaves logits of 7 some 1e-4 apart."""
    lm, ids = tiny_model("qwen3_5_text"), [1, 40, 60, 41, 50, 45]
    generator = torch.Generator().manual_seed(0)
    for token_ids in (ids, ids[:1], ids[:2]):
        prompt = models.prefill(lm, token_ids)
        before = [state.clone() for state in (*prompt.keys, *prompt.values)]
        for depth in range(lm.n_layers + 1):
            rows = models.residual_at(lm, torch.tensor([token_ids]), depth)[:, -1] + torch.randn(40, lm.d_model, generator=generator)
            hidden = models.spliced_hidden(lm, prompt, depth, rows)
            for place in (0, 39):
                with models.residual_changed(lm, depth, _with_last(rows[place])):
                    whole = lm.model(input_ids=torch.tensor([token_ids])).logits[0, -1]
                torch.testing.assert_close(lm.head(hidden[place]), whole, rtol=0, atol=1e-3)
        assert all(torch.equal(one, other) for one, other in zip((*prompt.keys, *prompt.values), before, strict=True))


def _with_last(row: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda residual: torch.cat([residual[:, :-1], row[None, None]], dim=1)


def test_a_checkpoint_without_a_causal_model_is_refused(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", vocab_size=203, hidden_size=32, num_hidden_layers=2)).save_pretrained(
        tmp_path
    )
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="MambaForCausalLM: keeps the states of linear layers only"):
        models.load_language_model(tmp_path, "float32", "cpu")
