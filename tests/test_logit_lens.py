"""Top logit-lens tokens against the family's own norm and head, one direction at a time."""

import pytest
import torch
from engine_models import FAMILIES, model_and_sae, tiny_model
from oracles import plain_hooks

from saesteer.engine.logit_lens import logit_lens_tokens, top_logit_lens_tokens


@pytest.mark.parametrize("family", [*FAMILIES, "shipped"])
def test_equals_norm_and_head_of_each_row(family: str) -> None:
    lm, sae = model_and_sae(family, 1)
    for sign, (ids, values) in zip((-1, 1), logit_lens_tokens(lm, sae.W_dec[:40], 20), strict=True):
        assert ids.shape == values.shape == (40, 20)
        for feature in range(40):
            expected = plain_hooks.lens_logits(lm.model, sae.W_dec[feature])
            ranked = sorted(range(lm.n_vocab), key=lambda token, expected=expected, sign=sign: (sign * expected[token].item(), token))[:20]
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


def test_refuses_a_k_or_a_block_that_cannot_be() -> None:
    lm, sae = model_and_sae("llama", 1)
    with pytest.raises(ValueError, match="k is 0, but must lie between 1 and"):
        top_logit_lens_tokens(lm, sae.W_dec, 0)
    with pytest.raises(ValueError, match="block is 8, but no forward runs below 32 rows"):
        top_logit_lens_tokens(lm, sae.W_dec, 5, block=8)
    assert top_logit_lens_tokens(lm, sae.W_dec[:0], 5)[0].shape == (0, 5)
