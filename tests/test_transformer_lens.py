"""Our residuals against TransformerLens's own forward, with the weights that its converters make of Hugging Face's.

Its configs are written out here as it writes them for the real models, since it knows only names of those.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import D_MODEL, FAMILIES, N_LAYERS, dense, tiny_model, tiny_sae
from torch import Tensor

import saesteer
from saesteer.core.hook_points import CENTRED_HOOK_POINTS
from saesteer.engine import hook_points, models
from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.interventions import Addition
from saesteer.engine.saes import Sae, encode
from saesteer.engine.steering import SteeredRows, steering_of

pytestmark = pytest.mark.slow  # importing TransformerLens takes several seconds
PROMPT = "From ba be dibo tuda"
HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "hook_z": "blocks.{}.attn.hook_z",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "transcoder_normalized": "blocks.{}.ln2.hook_normalized",
    "embedding": "hook_embed",
}
BEFORE = ((0, "resid_pre"), (0, "embedding"))
WRITTEN = {"transcoder_normalized": "blocks.{}.hook_mlp_out"}
"""Where directions are added, where it is another hook than the one that is read."""


def _settings(family: str, config: Any) -> dict[str, Any]:
    rotary = {"positional_embedding_type": "rotary", "rotary_base": 10000.0, "rotary_adjacent_pairs": False}
    with_gate = {**rotary, "normalization_type": "RMS", "final_rms": True, "gated_mlp": True, "n_key_value_heads": 2, "rotary_dim": 8}
    if family.startswith("gemma2"):
        own = {
            "eps": config.rms_norm_eps,
            "act_fn": "gelu_pytorch_tanh",
            "window_size": config.sliding_window,
            "use_local_attn": True,
            "attn_types": ["local", "global"] * (N_LAYERS // 2),
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "use_normalization_before_and_after": True,
        }
        return {**with_gate, **own}
    if family == "llama":
        return {**with_gate, "eps": config.rms_norm_eps, "act_fn": "silu"}
    if family == "gpt_neox":
        own = {"eps": config.layer_norm_eps, "act_fn": "gelu", "parallel_attn_mlp": True, "rotary_dim": 2}
        return {**rotary, **own, "normalization_type": "LN"}
    return {"eps": config.layer_norm_epsilon, "act_fn": "gelu_new", "normalization_type": "LN"}


@cache
def lens_model(family: str, centred: bool = False) -> Any:
    """TransformerLens's model with the weights of the tiny model of the family, its writing weights centred or not."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    lm = tiny_model(family)
    shape = {"n_layers": N_LAYERS, "d_model": D_MODEL, "n_ctx": 64, "n_heads": 4, "d_head": 8, "d_mlp": 64, "d_vocab": lm.n_vocab}
    config = HookedTransformerConfig(**shape, **_settings(family, lm.model.config), use_attn_scale=True, device="cpu")
    converter = {"gemma2": "gemma", "gemma2_short_window": "gemma", "gpt_neox": "neox"}.get(family, family)
    weights = getattr(weight_conversions, f"convert_{converter}_weights")(lm.model, config)
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        {name: weight.clone() for name, weight in weights.items()},
        fold_ln=False,
        center_writing_weights=centred,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model


def hook_points_of(family: str) -> list[tuple[int, str]]:
    """Every layer's hook points that the family has; there is no hook point at a transcoder's other input, the MLP's."""
    without = {"gpt_neox": "resid_mid", "gpt2": "embedding"}.get(family)
    return [
        (layer, hook_point)
        for layer in range(N_LAYERS)
        for hook_point in HOOKS
        if hook_point != without and (hook_point != "embedding" or layer == 0)
    ]


def lens_rows(model: Any, ids: Tensor, family: str) -> dict[tuple[int, str], Tensor]:
    """What lies at every hook point [row seq d]; heads side by side."""
    with torch.no_grad():
        _, activations = model.run_with_cache(ids)
    rows = {(layer, hook_point): activations[HOOKS[hook_point].format(layer)] for layer, hook_point in hook_points_of(family)}
    return {key: made.flatten(2) for key, made in rows.items()}


def tokens_of(lm: models.LanguageModel) -> Tensor:
    return torch.tensor([models.prompt_token_ids(lm, PROMPT)])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_at_every_hook_point(family: str) -> None:
    lm = tiny_model(family)
    ids = tokens_of(lm)
    for (layer, hook_point), expected in lens_rows(lens_model(family), ids, family).items():
        ours = hook_points.reading(lm, ids, hook_points.hook_point_of(lm, layer, hook_point)).read
        assert (ours - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_with_centred_writing_weights_it_is_ours_less_its_means_where_they_write(family: str) -> None:
    lm = tiny_model(family)
    ids = tokens_of(lm)
    for (layer, hook_point), expected in lens_rows(lens_model(family, centred=True), ids, family).items():
        ours = hook_points.reading(lm, ids, hook_points.hook_point_of(lm, layer, hook_point)).read
        if hook_point in CENTRED_HOOK_POINTS:
            assert (ours - expected).norm() > 1e-3 * expected.norm()
            ours = ours - ours.mean(dim=-1, keepdim=True)
        assert (ours - expected).norm() < 1e-5 * expected.norm()


def _steering(model: Any, layer: int, sae: Sae, feature: int, factor: float, first: int) -> list[tuple[str, Callable[..., Tensor]]]:
    """Hooks that steer every position from `first` on in TransformerLens's own forward."""
    read: list[Tensor] = []

    def kept(rows: Tensor, hook: Any) -> None:
        read.append(rows.flatten(2)[0, first:])

    def steer(rows: Tensor, hook: Any) -> Tensor:
        a_max = torch.relu(encode(sae, read.pop())).amax(dim=1)
        changed = rows.flatten(2).clone()
        changed[0, first:] += factor * a_max[:, None] * sae.W_dec[feature]
        return changed.reshape(rows.shape)

    hook = HOOKS[sae.meta.hook_point]
    return [(hook.format(layer), kept), (WRITTEN.get(sae.meta.hook_point, hook).format(layer), steer)]


FAMILIES_STEERED = ("gpt2", "gpt_neox", "llama", "gemma2")


def is_short(family: str, hook_point: str) -> bool:
    """Whether a case is among those that each change is tried on: a family for each hook point."""
    return hook_point in {
        "gemma2": ("hook_z", "transcoder_normalized"),
        "llama": ("attn_out", "embedding"),
        "gpt2": ("mlp_out", "resid_mid"),
    }.get(family, ()) or (hook_point in ("resid_pre", "resid_post") and family != "gemma2")


@pytest.mark.parametrize(
    ("family", "layer", "hook_point"),
    [
        pytest.param(family, layer, hook_point, marks=() if is_short(family, hook_point) else pytest.mark.exhaustive)
        for family in FAMILIES_STEERED
        for layer, hook_point in hook_points_of(family)
        if layer == 2 or (layer, hook_point) in BEFORE
    ],
)
def test_steering_gives_the_logits_and_texts_of_steering_there(family: str, layer: int, hook_point: str) -> None:
    """With LayerNorm: raw residuals, a centred SAE and no more here; centred writing weights and the SAE as it is there."""
    lm, centred = tiny_model(family), family in ("gpt2", "gpt_neox")
    ours, theirs = (
        tiny_sae(layer, hook_point=hook_point, centred=centred and hook_point in CENTRED_HOOK_POINTS),
        tiny_sae(layer, hook_point=hook_point),
    )
    # Random decoder rows have a mean, which centring removes along the way: trained on centred residuals or not, it must not matter.
    assert ours.W_dec.mean(dim=1).abs().max() > 0.05
    ids, model = tokens_of(lm), lens_model(family, centred)
    with torch.no_grad():
        for feature, factor in ((7, 0.0), (7, 3.0), (50, 10.0)):
            addition = Addition(ours.W_dec[feature], None, "last")
            at = hook_points.sae_hook_point(lm, layer, ours.meta)
            steering = steering_of([addition], SteeredRows(lm, torch.tensor([0]), torch.tensor([factor]), ours, at))
            with steering.installed(lm, 0, ids.shape[1]):
                logits = lm.model(ids).logits[0, -1]
            hooks = _steering(model, layer, theirs, feature, factor, ids.shape[1] - 1)
            torch.testing.assert_close(logits, model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1], rtol=1e-4, atol=1e-4)
    row = pl.DataFrame({"feature": [50], "factor": ["3"], "prefix_id": ["0" * 16], "sample": [0]})
    (table,) = feature_texts(lm, ours, layer, row, {"0" * 16: PROMPT}, Sampling(6, 0.0, stop=""), 0)
    hooks = _steering(model, layer, theirs, 50, 3.0, ids.shape[1] - 1)
    with torch.no_grad():
        for token in table["token_ids"][0].to_list():
            assert token == int(model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1].argmax())
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
@pytest.mark.parametrize("hook_point", ["resid_pre", "attn_out", "mlp_out"])
def test_codes_of_a_centred_sae_are_those_of_the_centred_model(family: str, hook_point: str) -> None:
    """TransformerLens centres no model with RMSNorm."""
    lm, ours, theirs = tiny_model(family), tiny_sae(2, hook_point=hook_point, centred=True), tiny_sae(2, hook_point=hook_point)
    ids = tokens_of(lm)
    (table,) = sparse_activations(lm, {2: ours}, pl.DataFrame({"text_id": ["a"], "token_ids": ids.tolist()}))
    expected = encode(theirs, lens_rows(lens_model(family, centred=True), ids, family)[2, hook_point][0])
    expected[0] = 0
    torch.testing.assert_close(dense(table.row(0, named=True), expected), expected, rtol=1e-4, atol=1e-4)
    addition = Addition(ours.W_dec[7], None, "last")  # by a_max of what it reads there
    at = hook_points.sae_hook_point(lm, 2, ours.meta)
    with steering_of([addition], SteeredRows(lm, torch.tensor([0]), torch.tensor([3.0]), ours, at)).installed(lm, 0, ids.shape[1]):
        logits = lm.model(ids).logits[0, -1]
    hooks = _steering(lens_model(family, centred=True), 2, theirs, 7, 3.0, ids.shape[1] - 1)
    torch.testing.assert_close(logits, lens_model(family, centred=True).run_with_hooks(ids, fwd_hooks=hooks)[0, -1], rtol=1e-4, atol=1e-4)


def test_a_hooked_transformer_is_no_model_of_transformers() -> None:
    with pytest.raises(ValueError, match="HookedTransformer is no model of transformers: load a causal language model"):
        saesteer.load_model(lens_model("llama"), tokenizer=tiny_model("llama").tokenizer)
