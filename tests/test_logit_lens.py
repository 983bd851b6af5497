"""Top logit-lens tokens against the family's own norm and head, one direction at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_models import FAMILIES, model_and_sae, prompt_of, tiny_model, tiny_sae, tiny_tokenizer
from oracles import plain_hooks
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import saesteer
from saesteer.core.errors import SettingsError
from saesteer.core.tokens import TextTokens
from saesteer.engine.logit_lens import logit_lens_tokens, top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, language_model, prompt_token_ids
from saesteer.engine.output_score import output_scores
from saesteer.settings import load_experiment
from saesteer.steps.step import steps_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("family", [*FAMILIES, "shipped"])
def test_equals_norm_and_head_of_each_row(family: str) -> None:
    lm, sae = model_and_sae(family, 1)
    for sign, (ids, values) in zip((-1, 1), logit_lens_tokens(lm, sae.W_dec[:40], 20), strict=True):
        assert ids.shape == values.shape == (40, 20)
        for feature in range(40):
            expected = plain_hooks.lens_logits(lm.model, sae.W_dec[feature])
            ranked = sorted(
                range(len(lm.tokenizer)), key=lambda token, expected=expected, sign=sign: (sign * expected[token].item(), token)
            )[:20]
            torch.testing.assert_close(values[feature], expected[ranked], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(expected[ids[feature]], values[feature], rtol=1e-5, atol=1e-5)


def test_equal_logits_go_by_token_id() -> None:
    """Tokens 60 to 99 share a head row, so they tie; a zero direction ties all of them."""
    lm = tiny_model("llama", seed=5)
    lm.head.weight.data[60:100] = lm.head.weight.data[60]
    direction = lm.head.weight.data[60:61].clone()
    directions = torch.cat([direction, torch.zeros_like(direction), -direction])
    (ids, values), (suppressed, least) = logit_lens_tokens(lm, directions, 20)
    expected = plain_hooks.lens_logits(lm.model, direction[0])
    assert expected[60] == expected.max()
    assert ids[:2].tolist() == [list(range(60, 80)), list(range(20))]
    assert suppressed[1:].tolist() == [list(range(20)), list(range(60, 80))]
    assert values[1].tolist() == least[1].tolist() == [0.0] * 20


def test_refuses_a_k_that_cannot_be() -> None:
    lm, sae = model_and_sae("llama", 1)
    with pytest.raises(ValueError, match="k is 0, but must lie between 1 and"):
        top_logit_lens_tokens(lm, sae.W_dec, 0)
    assert top_logit_lens_tokens(lm, sae.W_dec[:0], 5)[0].shape == (0, 5)


def with_rows_without_a_token(rows: range = range(338, 341)) -> LanguageModel:
    """The tiny Llama's head ends in three rows without a token (or has others): here they lead in every direction."""
    lm = tiny_model("llama", seed=6)
    assert lm.n_vocab == len(lm.tokenizer) + 3 == 341
    generator = torch.Generator().manual_seed(0)
    lm.head.weight.data[rows.start : rows.stop] = 3 * torch.randn(len(rows), lm.d_model, generator=generator)
    return lm


def test_rows_of_the_head_without_a_token_are_no_tokens_of_the_lens() -> None:
    lm, sae = with_rows_without_a_token(), tiny_sae(1)
    logits = torch.stack([plain_hooks.lens_logits(lm.model, row) for row in sae.W_dec])
    assert (logits.argmax(dim=1) >= 338).any()
    assert (logits.argmin(dim=1) >= 338).any()
    table = saesteer.top_logit_lens_tokens(lm, sae, list(range(96)), k=338)
    for row, of_feature in zip(table.to_dicts(), logits, strict=True):
        # A product of another shape rounds otherwise: neighbours closer than that may change places.
        falling = of_feature[row["token_ids"]]
        torch.testing.assert_close(falling, of_feature[:338].sort(descending=True).values)
        torch.testing.assert_close(of_feature[row["suppressed_token_ids"]], of_feature[:338].sort().values)
        assert sorted(row["token_ids"]) == list(range(338))
        assert sorted(row["tokens"]) == sorted(lm.tokenizer.get_vocab())
    with pytest.raises(ValueError, match="k is 339, but must lie between 1 and the vocabulary's 338 tokens"):
        saesteer.top_logit_lens_tokens(lm, sae, [0], k=339)


def test_only_tokens_of_the_latin_script_are_in_the_lens() -> None:
    pieces = ["<pad>", "<bos>", "<0x0A>", "a", "▁the", "é", "1", ".", "▁", "я", "▁日本", "मि", "a\ufffd", "😀", "<td>", "ñandú"]
    plain = tiny_model("llama", seed=6)
    vocab = {piece: number for number, piece in enumerate(pieces)} | {
        f"x{number}": number for number in range(len(pieces), plain.n_vocab - 3)
    }
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="?", continuing_subword_prefix=""))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>", additional_special_tokens=["<td>"])
    lm = replace(language_model(plain.model, fast), lens_tokens="latin")
    left_out = {pieces.index(piece) for piece in ("<pad>", "<bos>", "<0x0A>", "я", "▁日本", "मि", "a\ufffd", "<td>")}
    in_lens = sorted(set(range(plain.n_vocab - 3)) - left_out)
    assert lm.in_lens.nonzero().flatten().tolist() == in_lens
    sae = tiny_sae(1)
    promoted, _ = logit_lens_tokens(lm, sae.W_dec, 20)
    for ids, row in zip(promoted.ids.tolist(), sae.W_dec, strict=True):
        logits = plain_hooks.lens_logits(lm.model, row)
        assert ids == sorted(in_lens, key=lambda token, logits=logits: (-logits[token].item(), token))[:20]
    with pytest.raises(ValueError, match=f"between 1 and the vocabulary's {len(in_lens)} tokens"):
        logit_lens_tokens(lm, sae.W_dec, len(in_lens) + 1)


def test_the_rule_for_tokens_counts_where_it_is_not_the_papers() -> None:
    micro = load_experiment("micro", ROOT / "config/experiments")
    latin = micro.model_copy(update={"model": micro.model.model_copy(update={"lens_tokens": "latin"})})
    assert steps_of(latin)["logit_lens"].settings == steps_of(micro)["logit_lens"].settings | {"tokens": "latin"}
    assert "lens_tokens" not in micro.model.model_dump(mode="json")  # what was stored before keeps its fingerprint


def test_rows_without_a_token_have_no_rank() -> None:
    """min_rank counts tokens, of 338; the probability is the model's own, of 341 rows."""
    lm, sae, ids = with_rows_without_a_token(), tiny_sae(1), [3, 17, 40, 90]
    lens = torch.tensor([[40, 41, 42], [60, 61, 62], [7, 8, 90], [100, 101, 102]])
    token_ids, above = prompt_token_ids(lm, prompt_of("llama")), 0
    for row, tokens in zip(output_scores(lm, sae, 1, ids, lens, prompt_of("llama"), 10.0).to_dicts(), lens.tolist(), strict=True):
        probabilities = plain_hooks.steered_next_logits(lm.model, sae, 1, row["feature"], 10.0, token_ids).double().softmax(dim=0)
        best = max(tokens, key=lambda token: float(probabilities[token]))
        rank = int((probabilities[:338] > probabilities[best]).sum())
        above += int((probabilities[338:] > probabilities[best]).sum())
        assert row["min_rank"] == rank
        assert row["output_score"] == pytest.approx((1 - rank / 338) * float(probabilities[best]), rel=1e-4)
    assert above > 0


def test_a_hole_in_the_vocabulary_is_no_token_either() -> None:
    pieces = {piece: number for piece, number in tiny_tokenizer().get_vocab().items() if number not in (100, 101)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="?", continuing_subword_prefix=""))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    lm = language_model(with_rows_without_a_token(range(100, 102)).model, fast)
    ids = top_logit_lens_tokens(lm, tiny_sae(1).W_dec, 20)[0]
    assert not set(ids.flatten().tolist()) & {100, 101, 338, 339, 340}


def test_an_id_without_a_token_has_no_string() -> None:
    with pytest.raises(SettingsError, match=r"the tiny one: 339 is no token of its vocabulary .*of another tokenizer"):
        TextTokens(tiny_tokenizer().backend_tokenizer, source="the tiny one").strings([5, 339])
