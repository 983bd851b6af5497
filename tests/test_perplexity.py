"""Continuation likelihoods against one text at a time, with the prefix's end found by adding up token texts."""

import polars as pl
import pytest
from engine_models import FAMILIES, model_and_sae, tiny_model, without_bos
from oracles import plain_hooks
from polars.testing import assert_frame_equal
from test_invariance import perplexity_step

from saesteer.engine.perplexity import SCHEMA, continuation_nll


def _rows(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame({"row": range(len(pairs)), "prefix": [p for p, _ in pairs], "text": [t for _, t in pairs]}).cast({"row": pl.UInt32})


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_text_at_a_time(family: str) -> None:
    lm = tiny_model(family)
    pairs = [("From ba be", " di do tuda."), ("From ba be", ""), ("", "ba"), ("ba", "be be be"), ("ba ", "be!"), ("From ba b", "e di")]
    table = continuation_nll(lm, _rows(pairs))
    assert table.schema == SCHEMA
    for row, (prefix, text) in zip(table.to_dicts(), pairs, strict=True):
        mean, n_scored = plain_hooks.continuation_nll(lm.model, lm.tokenizer, prefix, text)
        assert row["n_scored"] == n_scored
        assert row["mean_nll"] == (None if mean is None else pytest.approx(mean, rel=1e-5))
        assert row["whole_text_nll"] == pytest.approx(plain_hooks.whole_text_nll(lm.model, lm.tokenizer, prefix + text), rel=1e-5)


def test_the_first_token_is_not_scored_when_nothing_precedes_it() -> None:
    lm = without_bos(tiny_model("llama"))
    pairs = [("", "ba be di"), ("", "ba"), ("ba", " be")]
    for row, (prefix, text) in zip(continuation_nll(lm, _rows(pairs)).to_dicts(), pairs, strict=True):
        mean, n_scored = plain_hooks.continuation_nll(lm.model, lm.tokenizer, prefix, text)
        whole = plain_hooks.whole_text_nll(lm.model, lm.tokenizer, prefix + text)
        assert (row["n_scored"], row["mean_nll"]) == (n_scored, None if mean is None else pytest.approx(mean, rel=1e-5))
        assert row["whole_text_nll"] == (None if whole is None else pytest.approx(whole, rel=1e-5))


def test_the_shipped_model_and_a_text_it_finds_likely() -> None:
    lm, _ = model_and_sae("shipped", 1)
    pairs = [("From my experience,", " the sea is calm."), ("From my experience,", " sea the calm is. ."), ("I believe that", " …?")]
    table = continuation_nll(lm, _rows(pairs))
    for row, (prefix, text) in zip(table.to_dicts(), pairs[:2], strict=False):
        mean, n_scored = plain_hooks.continuation_nll(lm.model, lm.tokenizer, prefix, text)
        whole = pytest.approx(plain_hooks.whole_text_nll(lm.model, lm.tokenizer, prefix + text), rel=1e-5)
        assert row == {"row": row["row"], "mean_nll": pytest.approx(mean, rel=1e-5), "n_scored": n_scored, "whole_text_nll": whole}
    assert table["mean_nll"][0] < table["mean_nll"][1]


def test_a_text_without_tokens_is_missing_not_zero() -> None:
    lm = tiny_model("llama")
    table = continuation_nll(lm, _rows([("From ba", ""), ("", "")]))
    whole = pytest.approx(plain_hooks.whole_text_nll(lm.model, lm.tokenizer, "From ba"), rel=1e-5)
    assert table["mean_nll"].to_list() == [None, None]
    assert table["n_scored"].to_list() == [0, 0]
    assert table["whole_text_nll"].to_list() == [whole, None]  # with its prefix the first is a text
    assert continuation_nll(tiny_model("llama"), _rows([]).cast({"prefix": pl.String, "text": pl.String})).schema == SCHEMA


def test_logits_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    step, rows = perplexity_step("gemma2"), list(range(100))
    whole = step.run(rows, None)
    monkeypatch.setattr("saesteer.engine.head.LOGITS_AT_A_TIME", (50 * tiny_model("gemma2").n_vocab, 0))
    assert_frame_equal(step.run(rows, None), whole, check_exact=True)


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens were asked for, but the model takes at most 64"):
        continuation_nll(tiny_model("llama"), _rows([("ba", " ba" * 70)]))
