"""Hook points inside of a decoder block: what is read there, output scores, texts, activation edits and methods, against plain hooks by
the families' own names (oracles.inner_hook_points)."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import D_MODEL, N_LAYERS, dense, narrow, rows_of_grid, tiny_model, tiny_sae, tiny_tokenizer
from family_table import WHOLE_FORWARDS
from methods_world import problem
from oracles import inner_hook_points, plain_hooks
from test_every_method import fit
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.core.hook_points import HOOK_POINTS, MODULE_OUTPUTS
from saesteer.engine import hook_points
from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts
from saesteer.engine.interventions import ActivationEdit, Addition
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, language_model, prompt_token_ids, residuals_at
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae
from saesteer.methods.fit import fits, sae_ablation, sae_gradient_input
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.settings.registry import METHODS

PROMPT = "From ba be dibo tuda"
PREFIXES = {f"{number:016x}": text for number, text in enumerate([PROMPT, "ba", "tuda be"])}
FAMILIES = ("gemma2", "llama", "gpt2", "gpt_neox", "qwen3", "wide_heads")
INNER = tuple(hook_point for hook_point in HOOK_POINTS if hook_point not in ("resid_pre", "resid_post"))
FEW = (
    ("gemma2", "resid_mid"),
    ("gpt2", "attn_out"),
    ("wide_heads", "hook_z"),
    ("gpt_neox", "mlp_out"),
    ("qwen3", "transcoder"),
    ("gemma2", "transcoder_normalized"),
    ("llama", "embedding"),
)
CASES = [
    pytest.param(family, hook_point, marks=() if (family, hook_point) in FEW else pytest.mark.exhaustive)
    for family in FAMILIES
    for hook_point in INNER
    if (family, hook_point) not in (("gpt_neox", "resid_mid"), ("gpt2", "embedding"))
]
FEW_MODULES = (
    ("gemma2", "attn_module"),
    ("olmo2", "mlp_module"),
    ("bloom", "attn_module"),
    ("bloom", "mlp_module"),
    ("llama", "mlp_module"),
)
CASES += [
    pytest.param(family, hook_point, marks=() if (family, hook_point) in FEW_MODULES else pytest.mark.exhaustive)
    for family in ("gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4", "bloom", "mpt", "llama", "gpt2", "gpt_neox", "qwen3")
    for hook_point in ("attn_module", "mlp_module")
]
ROWS = rows_of_grid((feature, factor, prefix_id, 0) for feature in (0, 17, 40) for factor in ("0", "0.8", "10") for prefix_id in PREFIXES)


@cache
def model_of(family: str) -> LanguageModel:
    """The tiny model of a family; wide_heads: a Gemma-2 whose heads are together twice as wide as the residual."""
    if family != "wide_heads":
        return tiny_model(family)
    base = tiny_model("gemma2").model
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**base.config.to_dict(), "head_dim": 16}))
        for weight in model.parameters():
            weight.data = weight.data + 0.2 * torch.randn_like(weight.data)
    return language_model(model, tiny_tokenizer())


def given(family: str, hook_point: str, layer: int | None = None) -> tuple[LanguageModel, Sae, int]:
    """A model, an SAE for the hook point and the layer; two layers before the end, so that what is behind it counts."""
    lm = model_of(family)
    layer = (0 if hook_point == "embedding" else 1) if layer is None else layer
    sae = tiny_sae(layer, hook_point=hook_point, d_model=hook_points.width_at(lm, layer, hook_point))
    usual = inner_hook_points.read(lm.model, prompt_token_ids(lm, PROMPT), layer, hook_point)[1:].norm(dim=1).mean()
    return lm, replace(sae, threshold=sae.threshold * usual / D_MODEL**0.5), layer  # some features are active


@pytest.mark.parametrize(("family", "hook_point"), CASES)
def test_codes_are_those_of_what_a_plain_hook_reads(family: str, hook_point: str) -> None:
    lm, sae, layer = given(family, hook_point)
    texts = pl.DataFrame({"text_id": ["a", "b"], "token_ids": [[1, 40, 60, 41], [1, 70, 71, 72, 73, 90]]})
    for row in pl.concat(sparse_activations(lm, {layer: sae}, texts)).to_dicts():
        (ids,) = texts.filter(text_id=row["text_id"])["token_ids"].to_list()
        expected = inner_hook_points.codes(sae, inner_hook_points.read(lm.model, ids, layer, hook_point))
        expected[0] = 0
        assert row["n_tokens"] == len(ids)
        assert (expected > 0).any()
        # What a module puts out before a norm has larger numbers, and so larger roundings, than the residual.
        torch.testing.assert_close(dense(row, expected), expected, rtol=3e-5 if hook_point in MODULE_OUTPUTS else 1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "hook_point"), CASES)
def test_output_score_equals_a_whole_forward_with_a_plain_hook(family: str, hook_point: str) -> None:
    lm, sae, layer = given(family, hook_point)
    features, ids = [5, 0, 17], prompt_token_ids(lm, PROMPT)
    lens = torch.tensor([[40, 41, 42], [60, 61, 62], [7, 8, 90]])
    table = output_scores(lm, sae, layer, features, lens, PROMPT, 10.0)
    a_max = inner_hook_points.codes(sae, inner_hook_points.read(lm.model, ids, layer, hook_point)[-1:]).max()
    for row, tokens in zip(table.to_dicts(), lens.tolist(), strict=True):
        steering = (lm.model, sae, layer, row["feature"], 10.0, ids)
        expected = plain_hooks.output_score(*steering, tokens, len(lm.tokenizer))
        assert row["min_rank"] == expected["min_rank"]
        assert row["a_max"] == pytest.approx(float(a_max), rel=1e-5)
        assert row["output_score"] == pytest.approx(expected["output_score"], abs=1e-5)
        assert row["delta_token_confidence"] == pytest.approx(plain_hooks.delta_token_confidence(*steering), abs=1e-4)
        assert row["delta_token_confidence"] != 0


@torch.no_grad()
def whole_forwards(model: Any, sae: Sae, layer: int, feature: int, factor: float, ids: list[int], n_new: int) -> list[int]:
    """Greedy tokens without a cache: each step runs the whole text, steered from the last prompt position on."""
    raised = inner_hook_points.amplified(sae, feature, factor)

    def delta(read: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(read[:, : len(ids) - 1]), *(raised(part) for part in read[:, len(ids) - 1 :].split(1, 1))], 1)

    with inner_hook_points.hooked(model, layer, sae.meta.hook_point, delta):
        return plain_hooks.greedy(model, ids, n_new)


@pytest.mark.parametrize(("family", "hook_point"), CASES)
def test_greedy_texts_equal_generate_with_a_plain_hook(family: str, hook_point: str) -> None:
    lm, sae, layer = given(family, hook_point)
    table = pl.concat(feature_texts(lm, sae, layer, ROWS, PREFIXES, Sampling(6, 0.0, stop=""), 3))
    for row in table.to_dicts():
        ids = prompt_token_ids(lm, PREFIXES[row["prefix_id"]])
        steering = (lm.model, sae, layer, row["feature"], float(row["factor"]), ids)
        expected = whole_forwards(*steering, 6) if family in WHOLE_FORWARDS else plain_hooks.generated(*steering, 6, [2])
        assert row["token_ids"] == expected
    assert table["token_ids"].n_unique() > 3


@pytest.mark.parametrize(
    ("family", "hook_point"), [("gemma2", "mlp_out"), ("llama", "transcoder"), ("wide_heads", "hook_z"), ("gpt2", "attn_out")]
)
def test_a_code_edit_reads_its_hook_point_and_writes_where_its_decoder_does(family: str, hook_point: str) -> None:
    lm, sae, layer = given(family, hook_point)
    edit = ActivationEdit(torch.tensor([3, 50]), torch.tensor([4.0, 9.0]))
    ids = prompt_token_ids(lm, PROMPT)
    rows = pl.DataFrame(
        {"row": [0], "intervention": [0], "prompt": [0], "factor": ["0.5"], "stream": [0]}, schema_overrides={"stream": pl.UInt64}
    )
    (made,) = steered_texts(lm, sae, layer, rows.cast({"row": pl.UInt32}), [edit], [ids], Sampling(8, 0.0, stop=""))

    def delta(x: Tensor) -> Tensor:
        code = inner_hook_points.codes(sae, x)[..., edit.features]
        return ((0.5 * edit.values.double() - code) @ sae.W_dec[edit.features].double()).float()

    with inner_hook_points.hooked(lm.model, layer, hook_point, delta):
        expected = plain_hooks.greedy(lm.model, ids, 8)
    assert made["token_ids"][0].to_list() == expected[: made["n_tokens"][0]]


@pytest.mark.parametrize("hook_point", ["attn_out", "mlp_out"])
def test_an_sae_of_rows_of_one_size_writes_in_units_of_the_rows_that_it_reads(hook_point: str) -> None:
    """Not of those that it is added to."""
    lm, sae, layer = given("gemma2", hook_point)
    sae = replace(sae, threshold=sae.threshold / 10, meta=replace(sae.meta, scale="rms"))
    ids = prompt_token_ids(lm, PROMPT)
    row = inner_hook_points.read(lm.model, ids, layer, hook_point)[-1]
    size = row.square().mean().sqrt()
    table = output_scores(lm, sae, layer, [5], torch.tensor([[40, 41]]), PROMPT, 10.0)
    assert table["a_max"][0] == pytest.approx(float(size * inner_hook_points.codes(sae, row / size).max()), rel=1e-5)


@pytest.mark.parametrize(("family", "hook_point"), CASES)
def test_factor_0_changes_no_bit(family: str, hook_point: str) -> None:
    lm, _, layer = given(family, hook_point)
    ids = torch.tensor([[1, 40, 41, 42]] * 32)
    plain = residuals_at(lm, ids, [N_LAYERS])[N_LAYERS]
    with hook_points.steered(lm, hook_points.hook_point_of(lm, layer, hook_point), lambda value, _read: value + 0 * value.sum()):
        assert torch.equal(residuals_at(lm, ids, [N_LAYERS])[N_LAYERS], plain)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "wide_heads"])
def test_top_logit_lens_tokens_of_heads_go_through_the_output_map_and_the_norm_behind_it(family: str) -> None:
    lm, sae, layer = given(family, "hook_z")
    ids, logits = top_logit_lens_tokens(lm, sae.W_dec[:7], 5, to_residual=hook_points.to_residual(lm, layer, "hook_z"))
    weight = inner_hook_points.part(lm.model, layer, "heads").weight
    rows = sae.W_dec[:7] @ (weight if family == "gpt2" else weight.T)
    if family != "gpt2":
        rows = inner_hook_points.part(lm.model, layer, "attention")(rows)
    expected = top_logit_lens_tokens(lm, rows.detach(), 5)
    assert torch.equal(ids, expected[0])
    torch.testing.assert_close(logits, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hook_point", ["attn_module", "mlp_module"])
@pytest.mark.parametrize("family", ["gemma2", "olmo2", "bloom", "llama"])
def test_top_logit_lens_tokens_of_a_modules_output_go_through_the_norm_behind_it(family: str, hook_point: str) -> None:
    lm, sae, layer = given(family, hook_point)
    name = {"attn_module": "post_attention_layernorm", "mlp_module": "post_feedforward_layernorm"}[hook_point]
    norm = lm.blocks[layer].get_submodule(name) if family in ("gemma2", "olmo2") else torch.nn.Identity()
    ids, _ = top_logit_lens_tokens(lm, sae.W_dec[:7], 5, to_residual=hook_points.to_residual(lm, layer, hook_point))
    assert torch.equal(ids, top_logit_lens_tokens(lm, norm(sae.W_dec[:7]).detach(), 5)[0])


@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_in_bfloat16_a_blocks_parts_are_the_same(family: str) -> None:
    lm = model_of(family)
    names = {module: name for name, module in lm.model.named_modules()}
    small = narrow(lm)
    small_names = {module: name for name, module in small.model.named_modules()}
    for hook_point in (str(case.values[1]) for case in CASES if case.values[0] == family):
        layer = 0 if hook_point == "embedding" else 1
        one, other = hook_points.hook_point_of(lm, layer, hook_point), hook_points.hook_point_of(small, layer, hook_point)
        assert (names.get(one.place.module), one.place.depth) == (small_names.get(other.place.module), other.place.depth)
        assert (one.read is None) == (other.read is None)
        assert one.read is None or names[one.read.module] == small_names[other.read.module]


def test_what_a_model_has_not_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="has no resid_mid: its MLP does not read what attention adds"):
        hook_points.hook_point_of(tiny_model("gpt_neox"), 1, "resid_mid")
    with pytest.raises(ValueError, match="adds positions to its embedding"):
        hook_points.hook_point_of(tiny_model("gpt2"), 0, "embedding")
    with pytest.raises(ValueError, match="name layer 0"):
        hook_points.hook_point_of(tiny_model("llama"), 1, "embedding")
    with pytest.raises(ValueError, match="hook point 'resid_late' does not exist"):
        hook_points.hook_point_of(tiny_model("llama"), 1, "resid_late")
    with pytest.raises(ValueError, match="layer 4 does not exist"):
        hook_points.hook_point_of(tiny_model("llama"), 4, "mlp_out")
    scaled = copy.deepcopy(tiny_model("llama").model)
    for block in scaled.model.layers:  # what attention adds is no module's output
        block.forward = scaled_block(block)
    with pytest.raises(ValueError, match="what attention and the MLP add to the residual cannot be made out in layer 1"):
        hook_points.hook_point_of(language_model(scaled, tiny_tokenizer()), 1, "mlp_out")


def scaled_block(block: Any) -> Any:
    """Granite's block: what attention and the MLP put out is scaled before it is added."""

    def forward(hidden: Tensor, **kwargs: Any) -> Tensor:
        hidden = hidden + 0.3 * block.self_attn(hidden_states=block.input_layernorm(hidden), **kwargs)[0]
        return hidden + 0.3 * block.mlp(block.post_attention_layernorm(hidden))

    return forward


def test_hooks_are_gone_after_an_exception() -> None:
    lm = tiny_model("gemma2")

    def broken(*_args: Tensor) -> Tensor:
        raise RuntimeError("in the edit")

    for name in HOOK_POINTS:
        with pytest.raises(RuntimeError, match="in the edit"), hook_points.steered(lm, hook_points.hook_point_of(lm, 0, name), broken):
            lm.model(torch.tensor([[1, 2]]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def problem_at(hook_point: str) -> Problem:
    """A concept with texts, features and their max-activating examples, at an SAE of the hook point; half of its features fire, whatever
    it reads."""
    made = problem(n_texts=6)
    assert hook_points.width_at(made.lm, made.layer, hook_point) == made.sae.meta.d_model
    zero = torch.zeros_like(made.sae.b_enc)
    return replace(made, sae=replace(made.sae, b_enc=zero, threshold=zero, meta=replace(made.sae.meta, hook_point=hook_point)))


def test_methods_without_the_sae_work_where_its_directions_are_added() -> None:
    at_post, at_mlp, at_mid = (problem_at(hook_point) for hook_point in ("resid_post", "mlp_out", "attn_out"))
    diffmean = fits.fit_of(next(row for row in METHODS if row.key == "diffmean"))
    assert torch.equal(diffmean(at_mlp).vector, diffmean(at_post).vector)
    assert not torch.equal(at_mlp.positive_tokens.read, at_mlp.positive_tokens.residual)
    text = at_mid.positive[0]
    middle = inner_hook_points.read(at_mid.lm.model, text.ids, at_mid.layer, "resid_mid")[text.n_context :]
    torch.testing.assert_close(at_mid.positive_tokens.by_text()[0], middle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook_point", ["mlp_out", "transcoder", "resid_mid", "hook_z"])
def test_ablation_and_gradients_equal_plain_hooks(hook_point: str) -> None:
    made = problem_at(hook_point)
    texts = made.positive[:2]
    codes = torch.cat(
        [inner_hook_points.codes(made.sae, inner_hook_points.read(made.lm.model, text.ids, made.layer, hook_point)) for text in texts]
    )
    features = codes.sum(dim=0).topk(3).indices.tolist()
    measured = sae_ablation.measured_rise(made, texts, features)
    estimated = sae_gradient_input.first_order_rise(made, texts)[features].cpu()
    for place, feature in enumerate(features):
        assert float(measured[place]) == pytest.approx(rise(made, hook_point, texts, feature, 1.0), abs=2e-5)
        slope = (rise(made, hook_point, texts, feature, 1e-2) - rise(made, hook_point, texts, feature, -1e-2)) / 2e-2
        assert float(estimated[place]) == pytest.approx(slope, rel=2e-2, abs=2e-4)


def rise(made: Problem, hook_point: str, texts: tuple[TrainingText, ...], feature: int, share: float) -> float:
    """Rise of the mean loss of what texts say when a share of what a feature writes there is taken away."""
    total, counted = 0.0, 0
    for text in texts:

        def removed(x: Tensor, text: TrainingText = text) -> Tensor:
            code = inner_hook_points.codes(made.sae, x)[..., feature]
            code[:, : text.n_context] = 0
            return (-share * code[..., None] * made.sae.W_dec[feature].double()).float()

        for sign, delta in ((-1, lambda x: torch.zeros(())), (1, removed)):
            with torch.no_grad(), inner_hook_points.hooked(made.lm.model, made.layer, hook_point, delta):
                total += sign * float(plain_hooks.token_losses(made.lm.model, text.ids, text.n_context).sum())
        counted += len(text.ids) - text.n_context
    return total / counted


@pytest.mark.exhaustive
@pytest.mark.parametrize("hook_point", INNER)
def test_every_method_that_adds_or_edits_fits_at_every_hook_point(hook_point: str) -> None:
    """But for those that need the effects of steering, vectors from a file, many texts or a feature that promotes the concept's words;
    trained for one epoch."""
    made = problem_at(hook_point) if hook_point != "embedding" else replace(problem_at("embedding"), layer=0)
    recipes = {name: replace(recipe, epochs=1) for name, recipe in made.training.recipes.items()}
    made = replace(made, training=replace(made.training, recipes=recipes))
    for row in METHODS:
        if "effects" in row.needs or row.key in ("from_file", "supervised", "supervised_random", "sae_logits"):
            continue
        fitted = fit(row.name, made)
        change, norm = fits.residual_change(made, fitted, [[1, 40, 41, 42]])
        assert norm > 0
        if type(fitted) in (Addition, ActivationEdit):  # a conditional clamp changes nothing where its feature is not active
            assert change is not None
            assert change > 0
