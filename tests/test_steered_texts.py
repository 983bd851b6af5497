"""Texts under interventions against a plain loop: the whole text run anew for every token, one row at a time, with one obvious hook."""

import math
from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, LIKE_OTHERS, tiny_model, tiny_sae
from oracles.plain_hooks import at_hook_point, greedy

from saesteer.core.counter_rng import streams
from saesteer.engine.continuation import Sampling, final_ids
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts, fit_texts, placed
from saesteer.engine.interventions import (
    ActivationEdit,
    Addition,
    ConditionalAddition,
    ConditionalClamp,
    DecayingAddition,
    Nothing,
    Projection,
    ProjectionFloor,
    ScaledComponent,
    packed,
    unpacked,
)
from saesteer.engine.models import LanguageModel, prompt_token_ids, residual_at
from saesteer.engine.saes import Sae, encode
from saesteer.engine.steering import Intervention, steered_model

LAYER = 1
GREEDY = Sampling(max_new_tokens=6, temperature=0.0, stop="")
FACTORS = ("0", "0.8", "3")


def _unit(seed: int, n: int) -> torch.Tensor:
    vector = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def _interventions(sae: Sae) -> list[Intervention]:
    d = sae.meta.d_model
    return [
        Nothing(),
        Addition(_unit(0, d), 4.0),
        Addition(_unit(1, d), None, "last"),
        Addition(_unit(2, d), None),
        Addition(_unit(3, d), 2.5, "last"),
        ActivationEdit(torch.tensor([3, 7]), torch.tensor([5.0, 2.0])),
        ActivationEdit(torch.tensor([11]), torch.tensor([4.0])),
        ConditionalAddition(_unit(4, d), 6.0, _unit(5, d), 0.1, above=True),
        ConditionalAddition(_unit(4, d), 6.0, _unit(5, d), 0.1, above=False),
        ConditionalClamp(torch.tensor([3, 7]), torch.tensor([-5.0, 2.0])),
        Projection(_unit(6, d)),
        Projection(_unit(7, d)),
        ConditionalClamp(torch.tensor([3]), None),
        ConditionalClamp(torch.tensor([11, 7]), None),
        DecayingAddition(_unit(8, d), 6.0, 0.7),
        DecayingAddition(_unit(9, d), 6.0, 0.4),
        DecayingAddition(_unit(13, d), None, 0.7),
        ScaledComponent(_unit(10, d)),
        ProjectionFloor(_unit(11, d), 4.0),
        ProjectionFloor(-_unit(12, d), -0.1),
    ]


def _rows(n_interventions: int, n_prompts: int, seed: int = 0) -> pl.DataFrame:
    cells = [(one, prompt, factor) for one in range(n_interventions) for prompt in range(n_prompts) for factor in FACTORS]
    rows = pl.DataFrame(cells, schema=["intervention", "prompt", "factor"], orient="row").with_row_index("row")
    return rows.with_columns(stream=pl.Series(streams(seed, rows["row"].to_numpy()), dtype=pl.UInt64))


def _slow_similarity(prompt: torch.Tensor, condition: torch.Tensor) -> float:
    """CAST's, of a prompt's residuals, in plain numbers."""
    h, c = prompt.double().mean(dim=0).tolist(), condition.double().tolist()
    length = sum(a * a for a in c)
    projected = [math.tanh(sum(a * b for a, b in zip(h, c, strict=True)) / length * a) for a in c]
    norms = math.sqrt(sum(a * a for a in h)) * math.sqrt(sum(a * a for a in projected))
    return sum(a * b for a, b in zip(h, projected, strict=True)) / norms


def _edited(one: Intervention, factor: float, sae: Sae, prompt_length: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The residual [1 seq d_model] of a whole text, position by position from the formula."""

    def edit(residual: torch.Tensor) -> torch.Tensor:
        out = residual.clone()
        if isinstance(one, ConditionalAddition):
            meets = _slow_similarity(residual[0, 1:prompt_length], one.condition) > one.threshold
            return out + factor * one.scale * one.vector if meets == one.above else out
        for place in range(residual.shape[1]):
            h = residual[0, place]
            is_of_codes = isinstance(one, ActivationEdit) or getattr(one, "scale", 0.0) is None
            codes = encode(sae, h[None])[0] if is_of_codes else h
            if isinstance(one, Addition) and (one.positions == "all" or place >= prompt_length - 1):
                scale = float(codes.max()) if one.scale is None else one.scale
                out[0, place] = h + factor * scale * one.vector
            if isinstance(one, DecayingAddition) and place >= prompt_length - 1:
                scale = float(codes.max()) if one.scale is None else one.scale
                out[0, place] = h + factor * scale * one.decay ** (place - prompt_length + 1) * one.vector
            if isinstance(one, ScaledComponent):
                along = torch.outer(one.vector, one.vector)
                out[0, place] = h - along @ h + (1 + factor) * along @ h
            if isinstance(one, ProjectionFloor):
                out[0, place] = h + max(factor * one.scale - float(h @ one.vector), 0.0) * one.vector
            if isinstance(one, Projection):
                out[0, place] = h - factor * float(h @ one.vector) * one.vector
            if isinstance(one, ActivationEdit):
                values = [float(codes.max())] * len(one.features) if one.values is None else one.values.tolist()
                for feature, value in zip(one.features.tolist(), values, strict=True):
                    if isinstance(one, ConditionalClamp) and codes[feature] == 0:
                        continue
                    out[0, place] = out[0, place] + (factor * value - codes[feature]) * sae.W_dec[feature]
        return out

    return edit


def _slow(lm: LanguageModel, sae: Sae, one: Intervention, factor: float, prompt: list[int]) -> list[int]:
    with at_hook_point(lm.model, LAYER, "resid_post", _edited(one, factor, sae, len(prompt))):
        return greedy(lm.model, prompt, GREEDY.max_new_tokens, final_ids(lm))


def _prompts(lm: LanguageModel) -> list[list[int]]:
    return [prompt_token_ids(lm, text) for text in ("From ba", "ba be di do", "do")]


@pytest.mark.slow
@pytest.mark.parametrize(  # the first is the second's with a window wider than any text here
    "family", [pytest.param(family, marks=pytest.mark.exhaustive if family in LIKE_OTHERS else ()) for family in FAMILIES[1:]]
)
def test_greedy_texts_equal_a_plain_loop_row_by_row(family: str) -> None:
    lm, sae = tiny_model(family), tiny_sae(LAYER)
    interventions, prompts = _interventions(sae), _prompts(lm)
    rows = _rows(len(interventions), len(prompts))
    made = pl.concat(steered_texts(lm, sae, LAYER, rows, interventions, prompts, GREEDY)).sort("row")
    for row, cell in zip(made.to_dicts(), rows.to_dicts(), strict=True):
        one, prompt = interventions[cell["intervention"]], prompts[cell["prompt"]]
        assert row["token_ids"] == _slow(lm, sae, one, float(cell["factor"]), prompt), cell
    assert made["token_ids"].n_unique() > 6


def test_a_condition_is_each_prompts_own() -> None:
    """Steered like an addition where it is met, left alone elsewhere; in the same batch."""
    lm, sae = tiny_model("gemma2"), tiny_sae(LAYER)
    prompts, condition = [*_prompts(lm), [lm.tokenizer.bos_token_id]], _unit(5, sae.meta.d_model)
    values = [_slow_similarity(residual_at(lm, torch.tensor([ids] * 32), LAYER + 1)[0, 1:], condition) for ids in prompts[:3]]
    threshold = sorted(values)[1] - 1e-4
    given = [Nothing(), Addition(_unit(4, 32), 40.0)] + [
        ConditionalAddition(_unit(4, 32), 40.0, condition, threshold, b) for b in (True, False)
    ]
    rows = _rows(4, 4).filter(pl.col("factor") == "3")
    texts = pl.concat(steered_texts(lm, sae, LAYER, rows, given, prompts, GREEDY)).join(rows, on="row").sort("intervention", "prompt")
    plain, added, above, below = (texts.filter(intervention=place)["token_ids"].to_list() for place in range(4))
    assert all(one != other for one, other in zip(plain, added, strict=True))
    met = [value > threshold for value in values]
    assert sum(met) == 2
    assert above == [added[place] if one else plain[place] for place, one in enumerate([*met, False])]
    assert below == [plain[place] if one else added[place] for place, one in enumerate([*met, True])]


@pytest.mark.parametrize(("edit", "factor"), [("ablation", "1"), ("projection", "0.8"), ("clamp", "-2")])
def test_a_sweep_may_ablate_project_out_or_clamp_and_its_factor_0_is_the_unsteered_model(edit: str, factor: str) -> None:
    lm, sae, name = tiny_model("gemma2"), tiny_sae(LAYER), "0" * 16
    sae = replace(sae, W_dec=sae.W_dec * 3)
    cells = [{"feature": 11, "factor": of, "prefix_id": name, "sample": 0} for of in ("0", factor)]
    rows = pl.DataFrame(cells, schema_overrides={"feature": pl.UInt32, "sample": pl.UInt32})
    made = pl.concat(feature_texts(lm, sae, LAYER, rows, {name: "ba be di do"}, GREEDY, 0, edit=edit)).sort(pl.col("factor") != "0")
    features = torch.tensor([11])
    ablation, projection = ActivationEdit(features, torch.tensor([0.0])), Projection(sae.W_dec[11] / 3)
    one = {"ablation": ablation, "projection": projection, "clamp": ConditionalClamp(features, None)}[edit]
    prompt = prompt_token_ids(lm, "ba be di do")
    assert made["token_ids"].to_list() == [_slow(lm, sae, of, float(factor), prompt) for of in (Nothing(), one)]
    assert made["token_ids"].n_unique() == 2


@torch.no_grad()
def _residual(one: Intervention, factor: float) -> torch.Tensor:
    """What lies at the hook point under an intervention, of the same three texts."""
    lm, sae = tiny_model("llama"), tiny_sae(LAYER)
    ids = torch.randint(3, 90, (3, 9), generator=torch.Generator().manual_seed(1))
    with steered_model(lm, sae, LAYER, one, factor):
        return residual_at(lm, ids, LAYER + 1)


def test_nothing_is_left_along_a_vector_that_is_projected_out() -> None:
    """And the rest stays; at half the factor half of it is left."""
    vector = _unit(6, 32)
    plain, half, out = (_residual(Projection(vector), factor) for factor in (0.0, 0.5, 1.0))
    assert (plain @ vector).abs().max() > 0.5
    assert (out @ vector).abs().max() < 1e-5
    torch.testing.assert_close(half @ vector, (plain @ vector) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out + (plain @ vector)[..., None] * vector, plain, rtol=1e-5, atol=1e-5)


def test_a_clamp_leaves_positions_alone_where_the_feature_is_not_active() -> None:
    """At factor 0 it is ablation: features that are not active have an activation of 0 already."""
    sae, features, values = tiny_sae(LAYER), torch.tensor([3, 7]), torch.tensor([-5.0, 2.0])
    plain = _residual(Projection(_unit(6, 32)), 0.0)
    active = encode(sae, plain.flatten(0, 1))[:, features].reshape(3, 9, 2).any(dim=2)
    assert 0 < active.sum() < active.numel()
    changed = (_residual(ConditionalClamp(features, values), 1.0) != plain).any(dim=2)
    assert torch.equal(changed, active)
    edits = (kind(features, values) for kind in (ConditionalClamp, ActivationEdit))
    clamped, ablated = (_residual(edit, 0.0) for edit in edits)
    torch.testing.assert_close(clamped, ablated, rtol=0, atol=0)


@pytest.mark.parametrize("place", range(1, 19))
def test_an_intervention_is_the_same_after_it_was_stored(place: int) -> None:
    one = _interventions(tiny_sae(LAYER))[place]
    again = unpacked(one.kind, *packed(one))
    assert packed(again) == packed(one)
    assert type(again) is type(one)


@pytest.mark.parametrize("norm", [1.0, 3.0])
def test_at_the_last_position_a_method_adds_the_decoder_row_that_p1s_sweep_adds(norm: float) -> None:
    """The row as it is: of an SAE whose rows have norm 3, not the unit vector that the method's fit holds."""
    lm, sae = tiny_model("gemma2"), tiny_sae(LAYER)
    sae = replace(sae, W_dec=sae.W_dec * norm)
    unit_row = sae.W_dec[7] / sae.W_dec[7].norm()
    tensors, values = packed(Addition(unit_row, 4.0, features=(7,)))
    keys = {"layer": LAYER, "method": "sae_label", "concept_id": "0" * 16}
    fits = pl.DataFrame([keys | {"kind": "addition", "tensors": tensors, "values": values}], schema_overrides={"layer": pl.UInt16})
    prompts = {f"{number:016x}": text for number, text in enumerate(("From ba", "ba be di do", "do"))}
    cells = [{"factor": factor, "prefix_id": prompt, "sample": 0} for factor in FACTORS for prompt in prompts]
    rows = pl.DataFrame(cells, schema_overrides={"sample": pl.UInt32})
    of_fit = rows.with_columns(*(pl.lit(value).alias(name) for name, value in keys.items())).cast({"layer": pl.UInt16})
    made = pl.concat(fit_texts(lm, sae, LAYER, of_fit, fits, prompts, GREEDY, 0, "last_position"))
    swept = pl.concat(feature_texts(lm, sae, LAYER, rows.with_columns(feature=pl.lit(7, pl.UInt32)), prompts, GREEDY, 0))
    on = ["factor", "prefix_id"]
    assert made.sort(on)["token_ids"].to_list() == swept.sort(on)["token_ids"].to_list()
    assert swept["token_ids"].n_unique() > 3
    away = placed(Addition(-unit_row, 4.0, features=(7,)), sae, "last_position")
    assert isinstance(away, Addition)
    assert torch.equal(away.vector, -sae.W_dec[7]), "a method that steers away with a feature still does"
