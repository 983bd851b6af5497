"""The programs that make what ships of the public models, on the grammar's model: texts, residuals, SAEs in eight bits, and their card."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import shipped_model, shipped_sae
from sae_lens.saes.batchtopk_sae import BatchTopK

from saesteer.engine.sae_convert import sae_from_folder
from saesteer.engine.saes import decode, encode
from studies import ROOT
from studies.public import activations, train
from studies.public.__main__ import compared_concepts
from studies.public.card import MODELS, card, gate_faults
from studies.public.measure import loss_with_sae, losses_without_sae, quality
from studies.public.texts import SAMPLING, SUBJECTS, Prompt, cleaned, fault, prompts, requests, sampled_parts, whole_sentences
from studies.public.train import WEIGHTS, rounded, save_rounded

GOOD = "After a while, the two friends decided to walk back to the old house by the river, because it was getting dark."
LAYER = 3
SHORT = replace(SAMPLING, max_new_tokens=4)


def test_whole_sentences_end_at_the_last_full_stop():
    assert whole_sentences('He said "no." She left.\n\nThen the') == 'He said "no." She left.'
    assert whole_sentences("It costs 3.50 and") == ""
    assert whole_sentences("One.  Two!") == "One. Two!"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("", "no whole sentence"),
        ("It was late.", "few words"),
        (GOOD + " See <b>this</b>.", "markup"),
        (GOOD + " 日本 is far.", "other scripts"),
        (GOOD + " Call 555 123 4567 8901 or 555 987 6543.", "digits"),
        ("Le chat noir mange une souris grise dans le jardin pendant que le chien dort sous la table.", "other languages and lists"),
        ("The sea and the sea and the sea and the sea and the sea and the sea.", "loops"),
    ],
)  # fmt: skip
def test_what_does_not_ship(text: str, reason: str | None):
    assert fault(text) == reason


def test_a_text_that_repeats_an_earlier_one_does_not_ship():
    near = GOOD.replace("dark", "late")
    sampled = pl.DataFrame({"opening": ["", "", "", "After a while,"], "text": [GOOD, near, GOOD + " And", GOOD[len("After a while,") :]]})
    texts, left_out = cleaned(sampled.with_columns(concept=pl.Series(["a house", None, None, None])))
    assert texts.select("text", "concept").rows() == [(GOOD, "a house")]
    assert left_out == {"repeats": 3}


def test_prompts_are_the_models_own_forms():
    plain = prompts("<bos>", answers=False)
    assert Prompt("<bos>", "") in plain
    assert Prompt("<bos>After a while,", "After a while,") in plain
    turns = [prompt for prompt in prompts("<|im_start|>", answers=True) if not prompt.opening]
    assert {prompt.subject for prompt in turns} == set(SUBJECTS)
    assert [(one.subject, one.opening) for one in requests(["law"])] == [("law", "")] * 3
    assert "law" in compared_concepts()
    assert all(prompt.text.startswith("<|im_start|>user\n") and prompt.text.endswith("<|im_start|>assistant\n") for prompt in turns)


def test_a_text_depends_on_its_row_alone_and_finished_parts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lm, choices = shipped_model(), [Prompt("<bos>", ""), Prompt("<bos>The", "The")]
    monkeypatch.setattr("studies.public.texts.ROWS_OF_A_PART", 4)
    some = pl.concat(sampled_parts(lm, choices, 10, 0, tmp_path / "a", SHORT))
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()}
    assert sorted(before) == ["rows_000000.parquet", "rows_000004.parquet", "rows_000008.parquet"]
    (tmp_path / "a" / "rows_000004.parquet").unlink()
    assert pl.concat(sampled_parts(lm, choices, 10, 0, tmp_path / "a", SHORT)).equals(some)
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["rows_000004.parquet"]
    monkeypatch.setattr("studies.public.texts.ROWS_OF_A_PART", 5)
    assert pl.concat(sampled_parts(lm, choices, 10, 0, tmp_path / "b", SHORT)).equals(some)
    assert some["opening"].to_list() == ["", "The"] * 5


def test_stored_residuals_are_transformers_own(tmp_path: Path):
    lm = shipped_model()
    rows = activations.text_rows(lm, ["the moon was full.", "the sea", "a star rose."])
    activations.store(lm, rows, [LAYER, 5], tmp_path)
    with torch.no_grad():
        hidden = lm.model(input_ids=torch.from_numpy(rows.ids), output_hidden_states=True).hidden_states
    for layer in (LAYER, 5):
        stored = activations.read(tmp_path, layer)
        assert torch.allclose(stored.float(), hidden[layer + 1][torch.from_numpy(rows.used)], rtol=4e-3, atol=2e-3)
    file = tmp_path / "layer_03" / "shard_0000.npy"
    before = file.stat().st_mtime_ns
    activations.store(lm, rows, [LAYER, 5], tmp_path)
    assert file.stat().st_mtime_ns == before


MEASURED = {"explained_variance": 0.8, "median_explained": 0.6, "loss_recovered": 0.95, "dead": 0.01, "l0": 64.0, "tokens": 1000}


@pytest.mark.parametrize(
    ("changed", "cost", "fault"),
    [
        ({}, 0.001, []),
        ({"explained_variance": 0.7499}, 0.001, ["explained variance 0.750"]),
        ({"loss_recovered": 0.89}, 0.001, ["loss recovered 0.890"]),
        ({"dead": 0.05}, 0.001, ["5.0% dead"]),
        ({}, 0.0021, ["rounding costs 0.0021"]),
    ],
)
def test_an_sae_that_misses_a_requirement_is_named(changed: dict[str, float], cost: float, fault: list[str]):
    assert gate_faults(MEASURED | changed, cost) == fault


@pytest.mark.parametrize("model", MODELS)
def test_the_card_is_in_step_with_its_metrics_and_says_which_layers_miss_what(model: str):
    folder = ROOT / "data/public" / model
    numbers, read = json.loads((folder / "metrics.json").read_text()), pl.read_csv(folder / "read.csv")
    page = card(model, numbers, read)
    assert page == (folder / "README.md").read_text(encoding="utf-8")
    assert "dead features. All do." in page
    layer, measured = next(iter(numbers["layers"].items()))
    measured["rounded"]["dead"] = 0.08
    assert f"Not reached: layer {layer} (8.0% dead)." in card(model, numbers, None)


def test_rounding_errs_by_half_a_step():
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    rows[7] = 0
    integers, scale = rounded(rows)
    assert (integers.float() * scale[:, None] - rows).abs().amax() <= scale.max() * 0.501
    assert integers.abs().amax(1).tolist() == [127] * 7 + [0] + [127] * 42


@pytest.mark.parametrize("shift", [0.0, -2.0, -6.0])
def test_the_largest_of_a_batch_are_sae_lens_own(shift: float):
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) + shift
    x[:, 3] += 40  # in every sixteenth column alone
    assert torch.equal(train.BatchTopK(8)(x), BatchTopK(8)(x))


@pytest.mark.parametrize("architecture", train.ARCHITECTURES)
def test_an_sae_is_trained_rounded_and_measured(architecture: str, tmp_path: Path):
    lm = shipped_model()
    texts = [f"the {noun} was {adjective}." for noun in ("moon", "sea", "star", "dog") for adjective in ("full", "old", "cold")] * 20
    rows = activations.text_rows(lm, texts)
    activations.store(lm, rows, [LAYER], tmp_path)
    x = activations.read(tmp_path, LAYER)
    recipe = train.Recipe(architecture, d_sae=64, k=8, l0_coefficient=0.1, tokens=64 * 60, batch=64, learning_rate=3e-3, warm_up=5)
    train.train_sae(x, recipe, LAYER, "grammar", 0, tmp_path / "full")
    again = tmp_path / "again"
    train.train_sae(x, recipe, LAYER, "grammar", 0, again)
    before = (again / WEIGHTS).stat().st_mtime_ns
    train.train_sae(x, recipe, LAYER, "grammar", 0, again)
    assert (again / WEIGHTS).stat().st_mtime_ns == before  # what is finished is not trained again
    assert (again / WEIGHTS).read_bytes() == (tmp_path / "full" / WEIGHTS).read_bytes()
    save_rounded(tmp_path / "full", tmp_path / "rounded")
    full, eight = (sae_from_folder(tmp_path / form, "float32", "cpu") for form in ("full", "rounded"))
    assert torch.allclose(full.W_dec.norm(dim=1), torch.ones(64), atol=1e-5)
    assert (eight.W_dec - full.W_dec).abs().max() < 0.01
    measured = quality(full, x)
    with torch.no_grad():
        code = encode(full, x.float())
        error = (x.float() - decode(full, code)).double().square().sum()
    by_hand = 1 - error / (x.double() - x.double().mean(0)).square().sum()
    assert measured.explained_variance == pytest.approx(float(by_hand), abs=1e-6)
    of_each = 1 - (x.float() - decode(full, code)).double().square().mean(0) / x.double().var(0, correction=0)
    assert measured.median_explained == pytest.approx(float(of_each.median()), abs=1e-6)
    assert measured.l0 == pytest.approx(float((code > 0).sum(1).double().mean()))
    assert measured.dead == float((code > 0).any(0).logical_not().double().mean())
    assert measured.explained_variance > 0.3


def test_the_recovered_loss_is_by_plain_hooks():
    lm, sae = shipped_model(), shipped_sae(LAYER)
    rows = activations.text_rows(lm, ["the moon was full.", "a star rose.", "the old dog was cold."])
    without, reconstructed = losses_without_sae(lm, LAYER, rows), loss_with_sae(lm, sae, rows)

    def loss(change) -> float:
        def hook(_module, _inputs, output):
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            hidden[:, 1:] = change(hidden[:, 1:])

        handle = lm.blocks[LAYER].register_forward_hook(hook)
        try:
            with torch.no_grad():
                logits = lm.model(input_ids=torch.from_numpy(rows.ids), use_cache=False).logits.log_softmax(-1)
        finally:
            handle.remove()
        nll = [-logits[row, place, rows.ids[row, place + 1]].item() for row, place in np.argwhere(rows.used[:, 1:] & rows.used[:, :-1])]
        return float(np.mean(nll))

    by_hooks = [loss(change) for change in (lambda x: x, lambda x: decode(sae, encode(sae, x)), torch.zeros_like)]
    assert [without.plain, reconstructed, without.zeros] == pytest.approx(by_hooks, abs=1e-4)
    of_hooks = (by_hooks[2] - by_hooks[1]) / (by_hooks[2] - by_hooks[0])
    assert without.recovered(reconstructed) == pytest.approx(of_hooks, abs=1e-3)
