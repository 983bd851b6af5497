"""Effects of steering against plain hooks, whole forwards and one text at a time, and against themselves in other company."""

from typing import Any

import polars as pl
import pytest
import torch
from engine_models import N_FEATURES, model_and_sae, prompt_of, tiny_sae
from methods_world import texts_of
from oracles import inner_hook_points, plain_hooks, splitmix
from test_inner_hook_points import model_of

from saesteer.core.counter_rng import text_keys
from saesteer.core.tables import validate
from saesteer.engine.hook_points import hook_point_of, width_at
from saesteer.engine.loss_rise import loss_rises, unsteered
from saesteer.engine.models import prompt_token_ids
from saesteer.methods.fit.effects import (
    EffectRun,
    effect_features,
    effect_vectors,
    measured_effects,
    scaled_to_loss_rise,
)
from saesteer.settings.methods import EffectSettings, most_effect_vectors
from saesteer.steps.effects import EFFECTS

SEED = 3


def settings(n_rollouts: int = 2) -> EffectSettings:
    return EffectSettings(n_vectors=8, n_held_out=2, n_rollouts=n_rollouts, max_new_tokens=5, top_k=20, loss_rise=0.5)


def prompts_of(lm: Any, family: str) -> list[list[int]]:
    """The beginning-of-sequence token alone, twice, and two prompts of different lengths."""
    whole = prompt_token_ids(lm, prompt_of(family))
    return [whole[:1], whole, whole[:1], whole[:3]]


def rows_of(*vectors: int) -> pl.DataFrame:
    return pl.DataFrame({"vector": vectors}, schema={"vector": pl.UInt32})


@torch.no_grad()
def slow_loss(lm: Any, layer: int, hook_point: str, vector: torch.Tensor, texts: list[list[int]]) -> float:
    """Mean over all tokens but each text's first, one text at a time."""
    with inner_hook_points.hooked(lm.model, layer, hook_point, lambda _read: vector):
        return float(torch.cat([plain_hooks.token_losses(lm.model, ids) for ids in texts]).mean())


@torch.no_grad()
def slow_text(run: EffectRun, vector: torch.Tensor, prompt: list[int], numbers: list[float]) -> list[int]:
    """Sampled at temperature 1 from the 20 likeliest by an inverse CDF, without a cache, the vector added at every position."""
    ending = run.lm.model.generation_config.eos_token_id
    ids = list(prompt)
    for number in numbers:
        with plain_hooks.at_hook_point(run.lm.model, run.layer, run.sae.meta.hook_point, lambda residual: residual + vector) as model:
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        likeliest = sorted(torch.argsort(logits, descending=True)[:20].tolist())
        running = torch.softmax(logits[likeliest], dim=0).cumsum(dim=0)
        token = likeliest[int((running <= number * running[-1]).sum())]
        if token in (ending if isinstance(ending, list) else [ending]):
            break
        ids.append(token)
    return ids


def slow_mean(run: EffectRun, vector: torch.Tensor, reader: Any) -> tuple[torch.Tensor, int]:
    """Mean over texts of the mean over their tokens but the first of the feature activations of the SAE that reads, without the vector; and
    how many texts have such tokens."""
    means = []
    for number, prompt in enumerate(run.prompts):
        for rollout in range(run.settings.n_rollouts):
            key = int(text_keys([f"{number}/{rollout}"])[0])
            ids = slow_text(run, vector, list(prompt), [splitmix.uniform(SEED, key, step) for step in range(run.settings.max_new_tokens)])
            residuals = plain_hooks.residuals(run.lm.model, ids, reader.meta.layer, reader.meta.hook_point)[1:]
            if len(residuals):
                means.append(torch.stack([plain_hooks.code_of(reader, residual) for residual in residuals]).double().mean(dim=0))
    return torch.stack(means).mean(dim=0), len(means)


def assert_effects(table: pl.DataFrame, run: EffectRun, multiple: float = 1.0, reader: Any = None) -> int:
    """Every row's effect is a slow loop's, its direction times the multiple added; gives how many unsteered texts have tokens."""
    unsteered, n_texts = slow_mean(run, torch.zeros(run.lm.d_model), reader or run.sae)
    for row in table.to_dicts():
        steered, _ = slow_mean(run, multiple * torch.tensor(row["direction"]), reader or run.sae)
        torch.testing.assert_close(torch.tensor(row["effect"]).double(), steered - unsteered, atol=2e-4, rtol=1e-3)
        assert float((steered - unsteered).abs().max()) > 0.01
    return n_texts


@pytest.mark.slow
@pytest.mark.parametrize(("family", "hook_point"), [("gemma2", "resid_post"), ("gpt2", "resid_pre"), ("shipped", "resid_post")])
def test_effects_equal_a_slow_loop(family: str, hook_point: str) -> None:
    lm, sae = model_and_sae(family, 2, hook_point)
    run = EffectRun(lm, sae, 2, prompts_of(lm, family), settings(), SEED)
    table = validate(EFFECTS, EFFECTS.of(pl.concat(measured_effects(run, rows_of(5, 1)))), "test")
    assert table["vector"].to_list() == [1, 5]
    assert_effects(table, run)


def test_a_text_without_tokens_is_left_out_and_the_ending_token_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With half the vocabulary ending a text, some have nothing but the beginning-of-sequence token."""
    lm, sae = model_and_sae("llama", 1)
    ending = set(range(2, lm.n_vocab, 2))
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", sorted(ending))
    run = EffectRun(lm, sae, 1, prompts_of(lm, "llama"), settings(n_rollouts=4), SEED)
    table = pl.concat(measured_effects(run, rows_of(0)))
    assert assert_effects(table, run) < 16


@pytest.mark.parametrize(
    ("family", "layer", "hook_point"),
    [
        ("gemma2_short_window", 1, "resid_post"),
        ("gpt2", 0, "resid_pre"),
        ("llama", 3, "resid_post"),
        ("gemma2", 1, "mlp_out"),
        ("gpt2", 1, "resid_mid"),
        ("wide_heads", 1, "hook_z"),
        ("gpt_neox", 1, "attn_out"),
        ("qwen3", 1, "transcoder"),
        ("gemma2", 1, "transcoder_normalized"),
        ("llama", 0, "embedding"),
        ("gemma2", 1, "attn_module"),
        ("olmo2", 1, "mlp_module"),
    ],
)
def test_the_loss_equals_whole_forwards_with_a_hook(family: str, layer: int, hook_point: str) -> None:
    """From the embeddings to the last block, and inside of blocks, through texts of several lengths."""
    lm = model_of(family)
    texts = [[1, 40, 50, 60, 70, 80], [1, 33, 34], [1, 99, 98, 97]]
    vectors = torch.randn(3, width_at(lm, layer, hook_point), generator=torch.Generator().manual_seed(0))
    at = hook_point_of(lm, layer, hook_point)
    rises = loss_rises(lm, at, vectors, unsteered(lm, at, texts))
    before = slow_loss(lm, layer, hook_point, torch.zeros_like(vectors[0]), texts)
    expected = [slow_loss(lm, layer, hook_point, vector, texts) - before for vector in vectors]
    torch.testing.assert_close(rises, torch.tensor(expected).double(), atol=1e-4, rtol=1e-4)


def test_vectors_are_scaled_to_the_same_rise_of_the_loss() -> None:
    """By a slow loss; directions that have to be scaled differently."""
    lm, sae = model_and_sae("shipped", 5)
    texts = [text.ids for topic in ("sea", "chess", "law") for text in texts_of(topic, 2)]
    directions = effect_vectors(sae, 6, 0, 5)
    scales = scaled_to_loss_rise(lm, hook_point_of(lm, 5, "resid_post"), directions, texts, 1.0)
    before = slow_loss(lm, 5, "resid_post", torch.zeros(lm.d_model), texts)
    for direction, scale in zip(directions, scales.tolist(), strict=True):
        assert slow_loss(lm, 5, "resid_post", scale * direction, texts) - before == pytest.approx(1.0, abs=0.1)
    assert float(scales.max() / scales.min()) > 1.1


def test_a_rise_out_of_reach_gets_the_end_of_the_range() -> None:
    lm, sae = model_and_sae("shipped", 5)
    texts = [prompt_token_ids(lm, "From my experience, the ship sails.")]
    direction = effect_vectors(sae, 1, 0, 5)
    norm = plain_hooks.residuals(lm.model, texts[0], 5)[:-1].norm(dim=1).mean()  # the last position predicts nothing
    low, high = (float(scaled_to_loss_rise(lm, hook_point_of(lm, 5, "resid_post"), direction, texts, rise)[0]) for rise in (-1e6, 1e6))
    assert (low, high) == (pytest.approx(float(norm) / 4, rel=1e-5), pytest.approx(4 * float(norm), rel=1e-5))


def test_vectors_are_a_nested_sample_without_replacement() -> None:
    drawn = effect_features(N_FEATURES, N_FEATURES, seed=4, layer=1)
    assert sorted(drawn) == [(feature,) for feature in range(N_FEATURES)]
    assert effect_features(N_FEATURES, 10, seed=4, layer=1) == drawn[:10]
    assert effect_features(N_FEATURES, 10, seed=5, layer=1) != drawn[:10] != effect_features(N_FEATURES, 10, seed=4, layer=2)
    sae = tiny_sae(1)
    sae.W_dec.mul_(3)
    torch.testing.assert_close(effect_vectors(sae, 10, 4, 1), sae.W_dec[[feature for (feature,) in drawn[:10]]] / 3)


@pytest.mark.parametrize("n_features", [5, 6])
def test_beyond_the_width_every_pair_comes_once(n_features: int) -> None:
    """Of 5 features all 10 pairs; of 6 all but the 3 that lie opposite each other."""
    most = most_effect_vectors(n_features)
    drawn = effect_features(n_features, most, seed=0, layer=2)
    assert drawn[:n_features] == effect_features(n_features, n_features, seed=0, layer=2)
    pairs = [frozenset(pair) for pair in drawn[n_features:]]
    assert len(pairs) == len(set(pairs)) == {5: 10, 6: 12}[n_features]
    assert all(len(pair) == 2 for pair in pairs)
    assert {sum(feature in pair for pair in pairs) for feature in range(n_features)} == {4}


def test_a_pairs_vector_is_the_sum_of_its_unit_rows() -> None:
    """Vectors below the width are the same to the bit, however many there are."""
    sae = tiny_sae(1)
    sae.W_dec.mul_(torch.linspace(1, 4, N_FEATURES)[:, None])
    vectors, drawn = effect_vectors(sae, N_FEATURES + 9, 4, 1), effect_features(N_FEATURES, N_FEATURES + 9, 4, 1)
    assert torch.equal(vectors[:N_FEATURES], effect_vectors(sae, N_FEATURES, 4, 1))
    assert torch.equal(vectors[: N_FEATURES + 3], effect_vectors(sae, N_FEATURES + 3, 4, 1))
    for vector, (one, other) in zip(vectors[N_FEATURES:], drawn[N_FEATURES:], strict=True):
        total = sae.W_dec[one] / sae.W_dec[one].norm() + sae.W_dec[other] / sae.W_dec[other].norm()
        torch.testing.assert_close(vector, total / total.norm())


def test_what_cannot_be_measured_is_refused() -> None:
    lm, sae = model_and_sae("llama", 1)
    with pytest.raises(ValueError, match="no prompt has a token besides the first"):
        list(measured_effects(EffectRun(lm, sae, 1, [[1], [1]], settings(), 0), rows_of(0)))
    sae.W_dec[3] = 0
    with pytest.raises(ValueError, match="zeros"):
        effect_vectors(sae, 96, 0, 1)
