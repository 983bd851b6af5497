"""Sites inside of a decoder block: what is read there, output scores, texts, code edits and methods, against plain hooks by the families'
own names (oracles.inner_sites)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import D_MODEL, N_LAYERS, narrow, rows_of_grid, tiny_model, tiny_sae, tiny_tokenizer
from methods_world import problem
from oracles import inner_sites
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.core.sites import SITES
from saesteer.engine import head, sites
from saesteer.engine.activations import sparse_codes
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts
from saesteer.engine.interventions import Addition, CodeEdit
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.models import LanguageModel, language_model, prompt_token_ids, residuals_at
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae
from saesteer.methods.fit import fits, sae_ablation, sae_gradient_input
from saesteer.methods.fit.effects import loss_rises
from saesteer.methods.fit.problem import Problem, Text
from saesteer.settings.registry import METHODS

PROMPT = "From ba be dibo tuda"
PREFIXES = {f"{number:016x}": text for number, text in enumerate([PROMPT, "ba", "tuda be"])}
FAMILIES = ("gemma2", "llama", "gpt2", "gpt_neox", "qwen3", "wide_heads")
INNER = tuple(site for site in SITES if site not in ("resid_pre", "resid_post"))
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
    pytest.param(family, site, marks=() if (family, site) in FEW else pytest.mark.exhaustive)
    for family in FAMILIES
    for site in INNER
    if (family, site) not in (("gpt_neox", "resid_mid"), ("gpt2", "embedding"))
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


def given(family: str, site: str, layer: int | None = None) -> tuple[LanguageModel, Sae, int]:
    """A model, an SAE for the site and the layer; two layers before the end, so that what is behind it counts."""
    lm = model_of(family)
    layer = (0 if site == "embedding" else 1) if layer is None else layer
    sae = tiny_sae(layer, site=site, d_model=sites.width_at(lm, layer, site))
    usual = inner_sites.read(lm.model, prompt_token_ids(lm, PROMPT), layer, site)[1:].norm(dim=1).mean()
    return lm, replace(sae, threshold=sae.threshold * usual / D_MODEL**0.5), layer  # some features are active


@pytest.mark.parametrize(("family", "site"), CASES)
def test_codes_are_those_of_what_a_plain_hook_reads(family: str, site: str) -> None:
    lm, sae, layer = given(family, site)
    texts = pl.DataFrame({"text_id": ["a", "b"], "token_ids": [[1, 40, 60, 41], [1, 70, 71, 72, 73, 90]]})
    for text_id, n_tokens, places, features, values in (
        pl.concat(sparse_codes(lm, {layer: sae}, texts)).select("text_id", "n_tokens", "token_index", "feature", "value").iter_rows()
    ):
        (ids,) = texts.filter(text_id=text_id)["token_ids"].to_list()
        expected = inner_sites.codes(sae, inner_sites.read(lm.model, ids, layer, site))
        expected[0] = 0
        dense = torch.zeros_like(expected)
        dense[places, features] = torch.tensor(values, dtype=torch.float64)
        assert n_tokens == len(ids)
        assert (expected > 0).any()
        torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "site"), CASES)
def test_output_score_equals_a_whole_forward_with_a_plain_hook(family: str, site: str) -> None:
    lm, sae, layer = given(family, site)
    features, ids = [5, 0, 17], prompt_token_ids(lm, PROMPT)
    lens = torch.tensor([[40, 41, 42], [60, 61, 62], [7, 8, 90]])
    table = output_scores(lm, sae, layer, features, lens, PROMPT, 10.0)
    with torch.no_grad():
        unsteered = torch.softmax(lm.model(torch.tensor([ids])).logits[0, -1].double(), dim=0)
    a_max = inner_sites.codes(sae, inner_sites.read(lm.model, ids, layer, site)[-1:]).max()
    for row, tokens in zip(table.to_dicts(), lens.tolist(), strict=True):
        with torch.no_grad(), inner_sites.hooked(lm.model, layer, site, inner_sites.amplified(sae, row["feature"], 10.0)):
            p = torch.softmax(lm.model(torch.tensor([ids])).logits[0, -1].double(), dim=0)
        rank = min(int((p > p[token]).sum()) for token in tokens)
        assert row["min_rank"] == rank
        assert row["a_max"] == pytest.approx(float(a_max), rel=1e-5)
        assert row["output_score"] == pytest.approx((1 - rank / len(p)) * max(float(p[token]) for token in tokens), abs=1e-5)
        assert row["delta_token_confidence"] == pytest.approx(float(unsteered.max().log() - p.max().log()), abs=1e-4)
        assert (p - unsteered).abs().max() > 1e-4


@pytest.mark.parametrize(("family", "site"), CASES)
def test_greedy_texts_equal_generate_with_a_plain_hook(family: str, site: str) -> None:
    lm, sae, layer = given(family, site)
    table = pl.concat(feature_texts(lm, sae, layer, ROWS, PREFIXES, Sampling(6, 0.0, stop=""), 3))
    texts = set()
    for row in table.to_dicts():
        ids = torch.tensor([prompt_token_ids(lm, PREFIXES[row["prefix_id"]])])
        with torch.no_grad(), inner_sites.hooked(lm.model, layer, site, inner_sites.amplified(sae, row["feature"], float(row["factor"]))):
            plain = {"top_k": None, "top_p": None, "temperature": None, "pad_token_id": 0, "eos_token_id": [2]}
            out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, **plain)
        assert row["token_ids"] == out[0, ids.shape[1] :].tolist()
        texts.add(tuple(row["token_ids"]))
    assert len(texts) > 3


@pytest.mark.parametrize(
    ("family", "site"), [("gemma2", "mlp_out"), ("llama", "transcoder"), ("wide_heads", "hook_z"), ("gpt2", "attn_out")]
)
def test_a_code_edit_reads_its_site_and_writes_where_its_decoder_does(family: str, site: str) -> None:
    lm, sae, layer = given(family, site)
    edit = CodeEdit(torch.tensor([3, 50]), torch.tensor([4.0, 9.0]))
    ids = prompt_token_ids(lm, PROMPT)
    rows = pl.DataFrame(
        {"row": [0], "intervention": [0], "prompt": [0], "factor": ["0.5"], "stream": [0]}, schema_overrides={"stream": pl.UInt64}
    )
    (made,) = steered_texts(lm, sae, layer, rows.cast({"row": pl.UInt32}), [edit], [ids], Sampling(8, 0.0, stop=""))

    def delta(x: Tensor) -> Tensor:
        code = inner_sites.codes(sae, x)[..., edit.features]
        return ((0.5 * edit.values.double() - code) @ sae.W_dec[edit.features].double()).float()

    written = list(ids)
    for _ in range(8):
        with torch.no_grad(), inner_sites.hooked(lm.model, layer, site, delta):
            written.append(int(lm.model(torch.tensor([written])).logits[0, -1].argmax()))
    expected = written[len(ids) :]
    assert made["token_ids"][0].to_list() == expected[: made["n_tokens"][0]]


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_an_sae_of_rows_of_one_size_writes_in_units_of_the_rows_that_it_reads(site: str) -> None:
    """Not of those that it is added to."""
    lm, sae, layer = given("gemma2", site)
    sae = replace(sae, threshold=sae.threshold / 10, meta=replace(sae.meta, scale="rms"))
    ids = prompt_token_ids(lm, PROMPT)
    row = inner_sites.read(lm.model, ids, layer, site)[-1]
    size = row.square().mean().sqrt()
    table = output_scores(lm, sae, layer, [5], torch.tensor([[40, 41]]), PROMPT, 10.0)
    assert table["a_max"][0] == pytest.approx(float(size * inner_sites.codes(sae, row / size).max()), rel=1e-5)


@pytest.mark.parametrize(("family", "site"), CASES)
def test_factor_0_changes_no_bit(family: str, site: str) -> None:
    lm, _, layer = given(family, site)
    ids = torch.tensor([[1, 40, 41, 42]] * 32)
    plain = residuals_at(lm, ids, [N_LAYERS])[N_LAYERS]
    with sites.steered(lm, sites.site_of(lm, layer, site), lambda value, _read: value + 0 * value.sum()):
        assert torch.equal(residuals_at(lm, ids, [N_LAYERS])[N_LAYERS], plain)


@pytest.mark.parametrize(("family", "site"), CASES)
def test_a_splice_of_the_unsteered_value_gives_the_models_own_logits(family: str, site: str) -> None:
    lm, _, layer = given(family, site)
    one, ids = sites.site_of(lm, layer, site), torch.tensor([[1, 40, 41, 42], [1, 60, 61, 62]] * 16)
    made = sites.reading(lm, ids, one)
    hidden = sites.hidden_after(lm, one.place, made.value, made.past)
    with torch.no_grad():
        expected = lm.model(ids).logits
    logits = head.soft_capped(lm, head.raw_logits(lm, hidden.flatten(0, 1)))
    torch.testing.assert_close(logits, expected.flatten(0, 1), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "wide_heads"])
def test_lens_tokens_of_heads_go_through_the_output_map_and_the_norm_behind_it(family: str) -> None:
    lm, sae, layer = given(family, "hook_z")
    ids, logits = lens_tokens(lm, sae.W_dec[:7], 5, to_residual=sites.to_residual(lm, layer, "hook_z"))
    weight = inner_sites.part(lm.model, layer, "heads").weight
    rows = sae.W_dec[:7] @ (weight if family == "gpt2" else weight.T)
    if family != "gpt2":
        rows = inner_sites.part(lm.model, layer, "attention")(rows)
    expected = lens_tokens(lm, rows.detach(), 5)
    assert torch.equal(ids, expected[0])
    torch.testing.assert_close(logits, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_in_bfloat16_a_blocks_parts_are_the_same(family: str) -> None:
    lm = model_of(family)
    names = {module: name for name, module in lm.model.named_modules()}
    small = narrow(lm)
    small_names = {module: name for name, module in small.model.named_modules()}
    for site in (str(case.values[1]) for case in CASES if case.values[0] == family):
        layer = 0 if site == "embedding" else 1
        one, other = sites.site_of(lm, layer, site), sites.site_of(small, layer, site)
        assert (names.get(one.place.module), one.place.depth) == (small_names.get(other.place.module), other.place.depth)
        assert (one.read is None) == (other.read is None)
        assert one.read is None or names[one.read.module] == small_names[other.read.module]


def test_what_a_model_has_not_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="has no resid_mid: its MLP does not read what attention adds"):
        sites.site_of(tiny_model("gpt_neox"), 1, "resid_mid")
    with pytest.raises(ValueError, match="adds positions to its embedding"):
        sites.site_of(tiny_model("gpt2"), 0, "embedding")
    with pytest.raises(ValueError, match="name layer 0"):
        sites.site_of(tiny_model("llama"), 1, "embedding")
    with pytest.raises(ValueError, match="site 'resid_late' does not exist"):
        sites.site_of(tiny_model("llama"), 1, "resid_late")
    with pytest.raises(ValueError, match="layer 4 does not exist"):
        sites.site_of(tiny_model("llama"), 4, "mlp_out")
    scaled = copy.deepcopy(tiny_model("llama").model)
    for block in scaled.model.layers:  # what attention adds is no module's output
        block.forward = scaled_block(block)
    with pytest.raises(ValueError, match="what attention and the MLP add to the residual cannot be made out in layer 1"):
        sites.site_of(language_model(scaled, tiny_tokenizer()), 1, "mlp_out")


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

    for name in SITES:
        with pytest.raises(RuntimeError, match="in the edit"), sites.steered(lm, sites.site_of(lm, 0, name), broken):
            lm.model(torch.tensor([[1, 2]]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


@contextmanager
def slow_addition(lm: LanguageModel, layer: int, site: str, vector: Tensor) -> Iterator[None]:
    with torch.no_grad(), inner_sites.hooked(lm.model, layer, site, lambda _read: vector):
        yield


def slow_loss(lm: LanguageModel, texts: list[list[int]]) -> float:
    """Mean -log p over every token but each text's first."""
    losses = []
    for ids in texts:
        log_p = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=1)
        losses += [-float(log_p[place - 1, ids[place]]) for place in range(1, len(ids))]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("family", "site"), [("gemma2", "mlp_out"), ("gpt2", "resid_mid"), ("wide_heads", "hook_z"), ("gpt_neox", "attn_out")]
)
def test_the_loss_under_vectors_equals_whole_forwards_with_a_hook(family: str, site: str) -> None:
    lm, _, layer = given(family, site)
    texts = [[1, 40, 50, 60, 70, 80], [1, 33, 34], [1, 99, 98, 97]]
    vectors = torch.randn(3, sites.width_at(lm, layer, site), generator=torch.Generator().manual_seed(0))
    rises = loss_rises(lm, sites.site_of(lm, layer, site), vectors, texts)
    losses = []
    for vector in (torch.zeros_like(vectors[0]), *vectors):
        with slow_addition(lm, layer, site, vector):
            losses.append(slow_loss(lm, texts))
    torch.testing.assert_close(rises, torch.tensor(losses[1:]).double() - losses[0], atol=1e-4, rtol=1e-4)


def problem_at(site: str) -> Problem:
    """A concept with texts, features and their records, at an SAE of the site; half of its features fire, whatever it reads."""
    made = problem(n_texts=6)
    assert sites.width_at(made.lm, made.layer, site) == made.sae.meta.d_model
    zero = torch.zeros_like(made.sae.b_enc)
    return replace(made, sae=replace(made.sae, b_enc=zero, threshold=zero, meta=replace(made.sae.meta, site=site)))


def test_methods_without_the_sae_work_where_its_directions_are_added() -> None:
    at_post, at_mlp, at_mid = (problem_at(site) for site in ("resid_post", "mlp_out", "attn_out"))
    diffmean = fits.fit_of(next(row for row in METHODS if row.key == "diffmean"))
    assert torch.equal(diffmean(at_mlp).vector, diffmean(at_post).vector)
    assert not torch.equal(at_mlp.positive_tokens.read, at_mlp.positive_tokens.residual)
    text = at_mid.positive[0]
    middle = inner_sites.read(at_mid.lm.model, text.ids, at_mid.layer, "resid_mid")[text.n_context :]
    torch.testing.assert_close(at_mid.positive_tokens.by_text()[0], middle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", ["mlp_out", "transcoder", "resid_mid", "hook_z"])
def test_ablation_and_gradients_equal_plain_hooks(site: str) -> None:
    made = problem_at(site)
    texts = made.positive[:2]
    codes = torch.cat([inner_sites.codes(made.sae, inner_sites.read(made.lm.model, text.ids, made.layer, site)) for text in texts])
    features = codes.sum(dim=0).topk(3).indices.tolist()
    measured = sae_ablation.measured_rise(made, texts, features)
    estimated = sae_gradient_input.first_order_rise(made, texts)[features].cpu()
    for place, feature in enumerate(features):
        assert float(measured[place]) == pytest.approx(rise(made, site, texts, feature, 1.0), abs=2e-5)
        slope = (rise(made, site, texts, feature, 1e-2) - rise(made, site, texts, feature, -1e-2)) / 2e-2
        assert float(estimated[place]) == pytest.approx(slope, rel=2e-2, abs=2e-4)


def rise(made: Problem, site: str, texts: tuple[Text, ...], feature: int, share: float) -> float:
    """Rise of the mean loss of what texts say when a share of what a feature writes there is taken away."""
    total, counted = 0.0, 0
    for text in texts:

        def removed(x: Tensor, text: Text = text) -> Tensor:
            code = inner_sites.codes(made.sae, x)[..., feature]
            code[:, : text.n_context] = 0
            return (-share * code[..., None] * made.sae.W_dec[feature].double()).float()

        for sign, delta in ((-1, lambda x: torch.zeros(())), (1, removed)):
            with torch.no_grad(), inner_sites.hooked(made.lm.model, made.layer, site, delta):
                log_p = made.lm.model(torch.tensor([text.ids])).logits[0].double().log_softmax(dim=1)
            places = range(text.n_context, len(text.ids))
            total += sign * sum(-float(log_p[place - 1, text.ids[place]]) for place in places)
        counted += len(text.ids) - text.n_context
    return total / counted


@pytest.mark.exhaustive
@pytest.mark.parametrize("site", INNER)
def test_every_method_that_adds_or_edits_fits_at_every_site(site: str) -> None:
    """But for those that need the effects of steering, vectors from a file, many texts or a feature that promotes the concept's words."""
    made = problem_at(site) if site != "embedding" else replace(problem_at("embedding"), layer=0)
    for row in METHODS:
        if "effects" in row.needs or row.key in ("from_file", "supervised", "supervised_random", "sae_logits"):
            continue
        fitted = fits.intervention_of(fits.fit_of(row)(made))
        change, norm = fits.residual_change(made, fitted, [[1, 40, 41, 42]])
        assert norm > 0
        if isinstance(fitted, Addition | CodeEdit):
            assert change is not None
            assert change > 0
