"""Output score against one whole hooked forward, a float64 softmax and a sort per feature."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, WITH_LAYER_NORM, WORLD, model_and_sae, prompt_of
from oracles import plain_hooks
from polars.testing import assert_frame_equal

from saesteer.engine import output_score
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import prompt_token_ids
from saesteer.engine.output_score import output_scores, output_scores_from_file
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.saes import load_sae

PLACES = [(0, "resid_post", False), (2, "resid_post", False), (-1, "resid_post", False)]
PLACES += [(layer, "resid_pre", centred) for layer in (0, 2) for centred in (False, True)]
CASES = [(family, *place) for family in (*FAMILIES, "shipped") for place in PLACES]
CASES += [(family, 2, hook_point, False) for family in FURTHER_FAMILIES for hook_point in ("resid_pre", "resid_post")]


@pytest.mark.parametrize(("family", "layer", "hook_point", "centred"), CASES)
def test_equals_the_papers_formula(family: str, layer: int, hook_point: str, centred: bool) -> None:
    lm, sae = model_and_sae(family, range(8 if family == "shipped" else 4)[layer], hook_point)
    sae = replace(sae, meta=replace(sae.meta, centred=centred))
    of_sae, sae = sae, replace(sae, meta=replace(sae.meta, centred=centred and family in WITH_LAYER_NORM))
    layer %= lm.n_layers
    features = [5, 0, 17, 63, 95]
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[features], 20)
    lens[1:] = torch.roll(lens[1:], 1, dims=0)  # foreign top logit-lens tokens, so that ranks are not all small
    table = output_scores(lm, of_sae, layer, features, lens, prompt_of(family), 10.0)
    assert table["feature"].to_list() == features
    token_ids = prompt_token_ids(lm, prompt_of(family))
    a_max = plain_hooks.code_of(sae, plain_hooks.residuals(lm.model, token_ids, layer, hook_point)[-1]).max()
    for row, tokens in zip(table.to_dicts(), lens.tolist(), strict=True):
        expected = plain_hooks.output_score(lm.model, sae, layer, row["feature"], 10.0, token_ids, tokens, len(lm.tokenizer))
        assert row["min_rank"] == expected["min_rank"]
        assert row["max_prob"] == pytest.approx(expected["max_prob"], abs=1e-6)
        assert row["output_score"] == pytest.approx(expected["output_score"], abs=1e-6)
        assert row["a_max"] == pytest.approx(float(a_max), rel=1e-5)
        change = plain_hooks.delta_token_confidence(lm.model, sae, layer, row["feature"], 10.0, token_ids)
        assert row["delta_token_confidence"] == pytest.approx(change, abs=1e-5)


def test_chunks_of_the_vocabulary_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sae = model_and_sae("gemma2", 1)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec, 20)
    features = list(range(96))
    whole = output_scores(lm, sae, 1, features, lens, "From ba", 10.0)
    monkeypatch.setattr(output_score, "VOCABULARY_CHUNK", 37)
    parts = output_scores(lm, sae, 1, features, lens, "From ba", 10.0)
    assert_frame_equal(parts, whole, rel_tol=1e-6, abs_tol=1e-6)
    assert parts["min_rank"].equals(whole["min_rank"])


def test_no_features() -> None:
    lm, sae = model_and_sae("llama", 1)
    empty = output_scores(lm, sae, 1, [], torch.empty(0, 20, dtype=torch.long), "From ba", 10.0)
    assert empty.schema == output_score.SCHEMA


def test_scores_from_a_file_are_those_of_the_loaded_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All features of the shipped SAE and some in any order; frames come as they are finished."""
    path = tmp_path / "layer_05.safetensors"
    convert_sae(WORLD / "saes" / "layer_05", 5, "resid_post", 128, 1024, path)
    lm, sae, prompt = model_and_sae("shipped", 5)[0], load_sae(path, "float32", "cpu"), prompt_of("shipped")
    lens = torch.arange(1024 * 20).reshape(1024, 20) % lm.n_vocab
    whole = output_scores(lm, sae, 5, range(1024), lens, prompt, 10.0)
    monkeypatch.setattr(output_score, "READ_ROWS", 300)
    monkeypatch.setattr(output_score, "MOST_ROWS", (256, 256))
    frames = list(output_scores_from_file(lm, path, 5, range(1024), lens, prompt, 10.0))
    assert all(0 < len(frame) <= 256 for frame in frames)
    assert_frame_equal(pl.concat(frames), whole, check_exact=True)
    some = [700, 3, 4, 5, 1023]
    assert_frame_equal(pl.concat(output_scores_from_file(lm, path, 5, some, lens[some], prompt, 10.0)), whole[some], check_exact=True)
    assert list(output_scores_from_file(lm, path, 5, [], lens[:0], prompt, 10.0)) == []
    with pytest.raises(ValueError, match="feature 1024 does not exist: layer_05.safetensors has features 0 to 1023"):
        list(output_scores_from_file(lm, path, 5, [1024], lens[:1], prompt, 10.0))


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a batch has a side as long as the vocabulary and more rows than the prompt's forward."""
    lm, sae = model_and_sae("gemma2", 1)
    monkeypatch.setattr(output_score, "VOCABULARY_CHUNK", 50)
    widest: list[tuple[int, ...]] = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.numel() >= 96 * lm.n_vocab:
                widest.append(tuple(out.shape))
            return out

    with Watched():
        output_scores(lm, sae, 1, range(96), torch.zeros(96, 1, dtype=torch.long), "From ba", 10.0)
    assert widest == []
