"""Sparse codes against each text run alone and encoded token by token; directions of texts against transformers' own hidden states."""

import copy
from dataclasses import replace

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, WITH_LAYER_NORM, WORLD, dense, model_and_sae, shipped_sae, tiny_model, tiny_sae
from oracles import plain_hooks

from saesteer.engine import activations, hook_points
from saesteer.engine.activations import SCHEMA, decoder_cosines, difference_of_means, sparse_activations
from saesteer.engine.models import language_model, load_language_model

PRE = "resid_pre"


def _texts(lengths: list[int], n_vocab: int = 200) -> pl.DataFrame:
    generator = torch.Generator().manual_seed(0)
    ids = [[2, *torch.randint(40, n_vocab, (length - 1,), generator=generator).tolist()] for length in lengths]
    return pl.DataFrame({"text_id": [f"text {number}" for number in range(len(ids))], "token_ids": ids})


@pytest.mark.parametrize("family", [*FAMILIES, "shipped"])
def test_equals_each_text_alone_token_by_token(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes of all layers and hook points come from the same forwards."""
    lm, first = model_and_sae(family, 1)
    (_, second), (_, pre), (_, centred) = (
        model_and_sae(family, layer, hook_point) for layer, hook_point in ((3, "resid_post"), (0, PRE), (2, PRE))
    )
    saes = {3: second, 1: first, 0: pre, 2: replace(centred, meta=replace(centred.meta, centred=True))}
    texts, forwards = _texts([5, 20, 1, 16, 17]), []
    monkeypatch.setattr(activations, "readings", lambda *args: forwards.append(args) or hook_points.readings(*args))
    list(sparse_activations(lm, {1: first}, texts))
    n_forwards = len(forwards)
    table = pl.concat(sparse_activations(lm, saes, texts))
    assert len(forwards) == 2 * n_forwards > 0
    assert table.schema == SCHEMA
    assert table.height == 20
    for layer, sae in saes.items():
        for text_id, token_ids in texts.iter_rows():
            row = table.row(by_predicate=(pl.col("layer") == layer) & (pl.col("text_id") == text_id), named=True)
            residuals = plain_hooks.residuals(lm.model, token_ids, layer, sae.meta.hook_point)
            is_centred = sae.meta.centred and family in WITH_LAYER_NORM
            read = replace(sae, meta=replace(sae.meta, centred=is_centred))
            codes = torch.stack([plain_hooks.code_of(read, residual) for residual in residuals])
            codes[0] = 0
            assert row["n_tokens"] == len(token_ids)
            torch.testing.assert_close(dense(row, codes), codes, rtol=1e-4, atol=2e-3 if family == "shipped" else 2e-4)
            places = list(zip(row["token_index"], row["feature"], strict=True))
            assert places == sorted(places)


def test_special_tokens_inside_texts_do_not_count() -> None:
    """Of packed token ids and of transcripts: those that the tokenizer names or marks as special, and the model's own end of a turn; not an
    added token that is none, nor an id of the vocabulary that a configuration class calls padding by default."""
    lm, sae = tiny_model("llama"), tiny_sae(1)
    lm = language_model(copy.deepcopy(lm.model), copy.deepcopy(lm.tokenizer))
    lm.tokenizer.add_tokens(["<turn>"], special_tokens=True)
    assert lm.tokenizer.all_special_ids == [1, 2, 0]
    lm.tokenizer.add_tokens(["<end>", "<think>"])
    turn, end, think = lm.tokenizer.convert_tokens_to_ids(["<turn>", "<end>", "<think>"])
    lm.model.generation_config.eos_token_id, lm.model.config.pad_token_id = [2, end], 40
    token_ids = [[1, 50, 2, 1, 51, turn, 52, end, 40, think, 0, 53], [60, 2, 1, 0, turn, end], [70, 71]]
    texts = pl.DataFrame({"text_id": ["packed", "none that counts", "ordinary"], "token_ids": token_ids})
    table = pl.concat(sparse_activations(lm, {1: sae}, texts))
    for ids, row in zip(token_ids, table.to_dicts(), strict=True):
        residuals = plain_hooks.residuals(lm.model, ids, 1)
        codes = torch.stack([plain_hooks.code_of(sae, residual) for residual in residuals])
        ordinary = [place > 0 and token not in {0, 1, 2, turn, end} for place, token in enumerate(ids)]
        assert codes[1:][~torch.tensor(ordinary[1:])].count_nonzero() > 0 or all(ordinary[1:])
        codes[~torch.tensor(ordinary)] = 0
        torch.testing.assert_close(dense(row, codes), codes, rtol=1e-4, atol=2e-4)
    assert table["n_ordinary"].to_list() == [1 + 1 + 1 + 1 + 1 + 1, 0, 1]
    assert table["n_tokens"].to_list() == [12, 6, 2]


def test_a_text_without_active_features_keeps_its_row() -> None:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    sae.threshold.fill_(1e6)
    table = pl.concat(sparse_activations(lm, {1: sae}, _texts([4, 1])))
    assert table["token_index"].to_list() == [[], []]
    assert table["n_tokens"].to_list() == [4, 1]


def test_no_texts_and_too_long_a_text() -> None:
    lm, sae = model_and_sae("llama", 1)
    assert list(sparse_activations(lm, {1: sae}, _texts([]).cast({"token_ids": pl.List(pl.Int64)}))) == []
    with pytest.raises(ValueError, match="65 tokens were asked for, but the model takes at most 64"):
        list(sparse_activations(lm, {1: sae}, _texts([65])))


def test_the_direction_of_a_word_is_that_of_the_texts_that_have_it():
    """Against transformers' own hidden states of the shipped model: of all tokens but the first, both means in plain loops."""
    # Not the model that tests share: transformers leaves hooks where it has given hidden states.
    lm, sae = load_language_model(WORLD / "model", "float32", "cpu"), shipped_sae(6)
    texts = pl.read_parquet(WORLD / "texts.parquet", n_rows=14)["token_ids"].to_list()
    groups = texts[:9], texts[9:]
    means = []
    for group in groups:
        rows = [lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[7][0, 1:] for ids in group]
        means.append(torch.cat(rows).mean(dim=0))
    (direction,) = difference_of_means(lm, [hook_points.hook_point_of(lm, 6, "resid_post")], *groups)
    torch.testing.assert_close(direction, means[0] - means[1], rtol=1e-4, atol=1e-5)
    expected = [float(row @ direction / row.norm() / direction.norm()) for row in sae.W_dec[:5]]
    assert decoder_cosines(sae, direction)[:5] == pytest.approx(expected, abs=1e-6)
