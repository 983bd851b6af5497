"""Continuation likelihoods against one text at a time, with the prefix's end found by adding up token texts."""

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, shipped_model, tiny_model, without_bos
from oracles import plain_hooks
from polars.testing import assert_frame_equal

from saesteer.engine import cache, head, perplexity
from saesteer.engine.models import LanguageModel
from saesteer.engine.perplexity import SCHEMA, continuation_nll


def _rows(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame({"row": range(len(pairs)), "prefix": [p for p, _ in pairs], "text": [t for _, t in pairs]}).cast({"row": pl.UInt32})


def _as_one_at_a_time(lm: LanguageModel, pairs: list[tuple[str, str]]) -> pl.DataFrame:
    table = continuation_nll(lm, _rows(pairs))
    assert table.schema == SCHEMA
    for row, (prefix, text) in zip(table.to_dicts(), pairs, strict=True):
        mean, n_scored = plain_hooks.continuation_nll(lm.model, lm.tokenizer, prefix, text)
        whole = plain_hooks.whole_text_nll(lm.model, lm.tokenizer, prefix + text)
        assert row["n_scored"] == n_scored
        assert row["mean_nll"] == (None if mean is None else pytest.approx(mean, rel=1e-5))
        assert row["whole_text_nll"] == (None if whole is None else pytest.approx(whole, rel=1e-5))
    return table


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_text_at_a_time(family: str) -> None:
    """A text without tokens is missing, not zero; with its prefix it is a text, if that has a token that something precedes."""
    pairs = [("From ba be", " di do tuda."), ("From ba be", ""), ("", "ba"), ("ba", "be be be"), ("ba ", "be!"), ("From ba b", "e di")]
    table = _as_one_at_a_time(tiny_model(family), [*pairs, ("", "")])
    assert table.select("mean_nll", "n_scored").row(1) == table.select("mean_nll", "n_scored").row(6) == (None, 0)
    assert table["whole_text_nll"].is_null().to_list() == [False] * 6 + [True]


def test_the_first_token_is_not_scored_when_nothing_precedes_it() -> None:
    table = _as_one_at_a_time(without_bos(tiny_model("llama")), [("", "ba be di"), ("", "ba"), ("ba", " be")])
    assert table["n_scored"].to_list() == [2, 0, 1]


def test_the_shipped_model_and_a_text_it_finds_likely() -> None:
    lm, prefix = shipped_model(), "From my experience,"
    table = _as_one_at_a_time(lm, [(prefix, " the sea is calm."), (prefix, " sea the calm is. .")])
    assert table["mean_nll"][0] < table["mean_nll"][1]


def test_no_texts() -> None:
    assert continuation_nll(tiny_model("llama"), _rows([]).cast({"prefix": pl.String, "text": pl.String})).schema == SCHEMA


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_of_the_vocabulary_lose_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, generator = tiny_model(family), torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(300, lm.d_model, generator=generator), torch.arange(300) % lm.n_vocab
    whole = head.token_nll(lm, hidden, targets, 300)
    monkeypatch.setattr("saesteer.engine.head.PIECE", ((512, 7), (512, 7)))
    pieces = head.piecewise_nll(lm, hidden, targets, 300)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)
    for n_rows in (32, 61, 299):
        assert torch.equal(head.piecewise_nll(lm, hidden, targets, n_rows), pieces)


def test_what_texts_begin_with_is_run_once_and_held_only_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, run = tiny_model("llama"), list[list[int]]()
    prefills = cache.prefills
    monkeypatch.setattr(cache, "prefills", lambda lm, prompts: run.extend(prompts) or prefills(lm, prompts))
    rows = _rows([(prefix, " ba" * n) for n in range(1, 20) for prefix in ("From ba be", "From", "tuda be ba do", "From di do", "do ba")])
    table = continuation_nll(lm, rows)
    assert len(run) == 5
    for module in (cache, perplexity):
        monkeypatch.setattr(module, "MOST_PREFIXES", 2)
    assert_frame_equal(continuation_nll(lm, rows), table, check_exact=True)
    assert len(run) > 10


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens were asked for, but the model takes at most 64"):
        continuation_nll(tiny_model("llama"), _rows([("ba", " ba" * 70)]))
