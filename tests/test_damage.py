"""What steering does to ordinary text: against plain forwards with hooks, and by hand."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import WORLD, shipped_model, shipped_sae
from methods_world import texts_of
from oracles.plain_hooks import at_hook_point
from small_adapters import a_lora, a_loreft, peft_model
from torch import Tensor

from saesteer.core.errors import NotFiniteError
from saesteer.core.tables import validate
from saesteer.core.tokens import load_tokens
from saesteer.engine import divergence
from saesteer.engine.damage import N_CONTEXT, loss_rises, ordinary_texts, with_padding
from saesteer.engine.divergence import text_damage
from saesteer.engine.interventions import ActivationEdit, Addition, Nothing, PromptText, packed
from saesteer.engine.saes import encode
from saesteer.engine.steering import Intervention
from saesteer.methods.compare.damage import method_damage
from saesteer.methods.compare.tables import METHOD_CHOICES, METHODS_TABLE
from saesteer.settings import load_experiment
from saesteer.settings.methods import MethodSettings
from saesteer.steps.damage import DAMAGE
from saesteer.steps.step import steps_of
from saesteer.world.judges import load_judge
from saesteer.world.oracle_judge import concept_rating, load_oracle
from saesteer.world.rating import other_ratings

LAYER = 3
CONCEPT = "0" * 16


def ordinary(n: int = 9) -> list[list[int]]:
    """Texts of several topics, of several lengths."""
    joined = [one.ids + other.ids[1:] for one, other in zip(texts_of("sea", n, seed=3), texts_of("music", n, seed=4), strict=True)]
    return [ids[: 14 + place] for place, ids in enumerate(joined)]


def measured(one: Intervention, factor: str = "1", sae_features: str = "everywhere") -> dict[str, float]:
    tensors, values = packed(one)
    fits = pl.DataFrame(
        {"layer": LAYER, "method": "m", "concept_id": CONCEPT, "kind": one.kind, "tensors": tensors, "values": values},
        schema_overrides={"layer": pl.UInt16},
    )
    rows = fits.select("layer", "method", "concept_id", factor=pl.lit(factor))
    (frame,) = text_damage(shipped_model(), shipped_sae(LAYER), LAYER, rows, fits, ordinary(), sae_features)
    return frame.row(0, named=True)


def slow(change: Any, model: Any = None, added: tuple[int, ...] = ()) -> tuple[float, float]:
    """(mean loss, mean divergence) text by text, unpadded, position by position, in float64."""
    lm = shipped_model()
    losses, divergences = [], []
    for text in ordinary():
        plain = lm.model(torch.tensor([text])).logits[0].double().log_softmax(dim=1)
        ids = text[:1] + list(added) + text[1:]
        with at_hook_point(lm.model, LAYER, "resid_post", lambda residual: change(residual[0])[None]) if change else nullcontext():
            steered = (model or lm.model)(torch.tensor([ids])).logits[0].double().log_softmax(dim=1)
        for place in range(N_CONTEXT, len(text)):
            p, q = steered[place - 1 + len(added)], plain[place - 1]
            losses.append(-float(p[text[place]]))
            divergences.append(float(sum(q.exp() * (q - p))))
    return float(np.mean(losses)), float(np.mean(divergences))


def close(made: dict[str, float], expected: tuple[float, float]) -> None:
    assert made["loss"] == pytest.approx(expected[0], abs=1e-4)
    assert made["divergence"] == pytest.approx(expected[1], abs=1e-4)
    assert made["n_tokens"] == sum(len(text) - N_CONTEXT for text in ordinary())


@torch.no_grad()
def test_a_vector_is_added_at_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    made = measured(Addition(vector, 40.0), "1.5")
    close(made, slow(lambda residual: residual + 60 * vector))
    assert made["divergence"] > 0.1
    assert made["unsteered_loss"] == pytest.approx(slow(None)[0], abs=1e-4)
    (rises,) = loss_rises(shipped_model(), shipped_sae(LAYER), Addition(vector, 40.0), [1.5], ordinary())
    lengths = [len(text) - N_CONTEXT for text in ordinary()]
    assert np.average(rises.tolist(), weights=lengths) == pytest.approx(made["loss"] - made["unsteered_loss"], abs=1e-9)
    monkeypatch.setattr(divergence, "MOST_HELD", 0)  # the unsteered distributions are computed again
    assert measured(Addition(vector, 40.0), "1.5") == made


@torch.no_grad()
def test_p1s_steering_starts_at_the_prompts_last_token() -> None:
    """There each position has its own a_max, and the decoder row its own norm."""
    sae = shipped_sae(LAYER)

    def amplified(residual: Tensor) -> Tensor:
        changed = residual.clone()
        for place in range(N_CONTEXT - 1, len(residual)):
            largest = float(encode(sae, residual[place][None]).max())
            changed[place] = residual[place] + 2 * largest * sae.W_dec[7]
        return changed

    unit = sae.W_dec[7] / sae.W_dec[7].norm()
    close(measured(Addition(unit, 3.0, features=(7,)), "2", "last_position"), slow(amplified))


@torch.no_grad()
def test_codes_are_set() -> None:
    sae = shipped_sae(LAYER)

    def edited(residual: Tensor) -> Tensor:
        codes = encode(sae, residual)
        return residual + (8.0 - codes[:, 7:8]) * sae.W_dec[7]

    close(measured(ActivationEdit(torch.tensor([7]), torch.tensor([4.0])), "2"), slow(edited))


@torch.no_grad()
def test_adapters_and_added_text() -> None:
    lm, lora = shipped_model(), a_lora(shipped_model())
    close(measured(lora, "0.5"), slow(None, peft_model(lm, lora, "shipped", 0.5)))
    added = lm.tokenizer("the sea is wide .", add_special_tokens=False)["input_ids"]
    close(measured(PromptText(("the sea is wide .",))), slow(None, added=tuple(added)))
    assert measured(a_loreft(lm))["divergence"] > 0.01  # it edits the prompt alone, which what follows reads


def test_text_is_added_before_the_first_token_where_no_model_s_own_is_there() -> None:
    """A tokenizer without a beginning-of-sequence token: nothing of a text gives way, and the same tokens count."""
    lm = shipped_model()
    texts, added = [list(range(10, 22)), list(range(30, 41))], [50, 51]
    plain, before = with_padding(lm, texts), with_padding(lm, texts, added)
    assert [ids[: len(text) + 2] for ids, text in zip(before.ids.tolist(), texts, strict=True)] == [[*added, *text] for text in texts]
    counted = [of.ids[of.row, of.at].tolist() for of in (plain, before)]
    assert counted[0] == counted[1] == [*texts[0][N_CONTEXT:], *texts[1][N_CONTEXT:]]


def test_the_model_as_it_is_loses_nothing() -> None:
    made = measured(Nothing())
    assert made["loss"] == made["unsteered_loss"]
    assert made["divergence"] == pytest.approx(0, abs=1e-12)


def of_two(scale: float) -> pl.DataFrame:
    """Of two concepts: one to which a vector of ones is added, and one for which the method abstains."""
    tensors, values = packed(Addition(torch.ones(128), scale))
    columns = {"layer": LAYER, "method": "m", "concept_id": ["a", "b"], "kind": ["addition", None]}
    fits = pl.DataFrame(columns | {"tensors": [tensors, None], "values": [values, None]}, schema_overrides={"layer": pl.UInt16})
    rows = fits.select("layer", "method", "concept_id", factor=pl.lit("1"))
    return pl.concat(text_damage(shipped_model(), shipped_sae(LAYER), LAYER, rows, fits, ordinary(), "everywhere"))


def test_where_a_method_abstains_there_are_no_numbers_and_what_is_not_finite_is_refused() -> None:
    made = validate(DAMAGE, of_two(1.0), "damage")
    assert made["loss"].is_null().to_list() == made["divergence"].is_null().to_list() == [False, True]
    assert made["n_tokens"].to_list() == [sum(len(text) - N_CONTEXT for text in ordinary()), 0]
    with pytest.raises(NotFiniteError, match=rf"layer {LAYER}, m, concept a: text .* not finite in float32 on cpu"):
        of_two(float("inf"))


def test_damage_waits_for_fits_alone_and_nothing_else_for_damage() -> None:
    """So a change of it makes no fit, no text and no rating due, and it can run beside the texts."""
    steps = steps_of(load_experiment("micro-methods", Path("config/experiments")))
    assert set(steps["damage"].inputs) & set(steps) == {"fits"}
    assert not any("damage" in step.inputs for step in steps.values())
    assert set(steps["damage"].table.keys) == {"layer", "method", "concept_id", "factor"}


def test_texts_are_spread_over_the_file() -> None:
    texts = [[number] * (3 if number % 2 else 20 + number) for number in range(128)]  # 64 of them are long enough
    assert [(text[0], len(text)) for text in ordinary_texts(texts, 32, 25)] == [(4 * n, min(25, 20 + 4 * n)) for n in range(32)]
    assert len(ordinary_texts(texts, 99, 25)) == 64
    with pytest.raises(ValueError, match="2 texts have more than 8 tokens"):
        ordinary_texts(texts[:4], 32, 25)


def test_damage_by_hand() -> None:
    """Two concepts. Method a: rises of .1 and .3 at two halves' factors, and .4 at both: (.2 + .4) / 2. Method b abstains for one:
    (0 + 1) / 2."""
    settings = MethodSettings.model_validate(
        {"concepts": {"kind": "published", "concepts": "a", "texts": "b"}, "prompts": "x", "bootstrap_draws": 200}
    )
    damage = pl.DataFrame(
        [
            (3, "a", "one", "1", 2.1, 2.0, 0.5, 9),
            (3, "a", "one", "2", 2.3, 2.0, 0.7, 9),
            (3, "a", "two", "1", 2.4, 2.0, 0.2, 9),
            (3, "b", "two", "4", 3.0, 2.0, 2.0, 9),
        ],
        schema=DAMAGE.schema,
        orient="row",
    )
    chosen = [("a", "one", "0", "1"), ("a", "one", "1", "2"), ("a", "two", "0", "1"), ("a", "two", "1", "1")]
    chosen += [("b", "one", "0", None), ("b", "one", "1", None), ("b", "two", "0", "4"), ("b", "two", "1", "4")]
    empty = dict.fromkeys(METHOD_CHOICES.columns)
    choices = pl.DataFrame(
        [
            empty | {"layer": 3, "method": m, "concept_id": c, "reported_on": half, "factor": f, "abstains": f is None}
            for m, c, half, f in chosen
        ],
        schema=METHOD_CHOICES.schema,
    )
    methods = pl.DataFrame(
        [dict.fromkeys(METHODS_TABLE.columns) | {"layer": 3, "method": m, "title": m, "family": "Vectors", "score": 1.0} for m in "ab"],
        schema=METHODS_TABLE.schema,
    )
    others = pl.DataFrame(
        [
            (3, "a", "one", "1", 0.1),
            (3, "a", "one", "1", 0.3),
            (3, "a", "one", "2", 0.4),
            (3, "a", "two", "1", None),
            (3, "b", "two", "4", 0.5),
            (3, "unsteered", "one", "1", 0.7),
        ],
        schema={**{name: choices.schema[name] for name in ("layer", "method", "concept_id", "factor")}, "other_rating": pl.Float64},
        orient="row",
    )
    a, b = method_damage(damage, others, choices, methods, settings).iter_rows(named=True)
    assert a["other_rating"] == pytest.approx(0.3)  # (.2 + .4) / 2 of concept one; two's texts have nothing to rate
    assert b["other_rating"] == pytest.approx((0.7 + 0.5) / 2)
    (none, _) = method_damage(damage, others.clear(), choices, methods, settings).iter_rows(named=True)
    assert (none["other_rating"], none["loss_rise"]) == (None, a["loss_rise"])
    assert (a["n"], b["n"]) == (2, 2)
    assert a["loss_rise"] == pytest.approx(0.3)
    assert a["divergence"] == pytest.approx((0.6 + 0.2) / 2)
    assert b["loss_rise"] == pytest.approx(0.5)
    assert b["divergence"] == pytest.approx(1.0)
    assert (a["loss_rise_low"], a["loss_rise_high"]) == (None, None)  # on no scale two concepts have no interval
    assert (a["score"], a["unsteered_loss"]) == (1.0, 2.0)


def test_other_topics_are_rated_as_each_by_itself() -> None:
    oracle, topics = load_oracle(WORLD / "oracle"), json.loads((WORLD / "topics.json").read_text())
    texts = pl.DataFrame({"text": [" the captain moored the boat .", " the captain played the violin .", "", None], "concept": ["sea"] * 4})
    ratings = other_ratings(texts, load_judge(WORLD / "oracle", load_tokens(WORLD / "model")), topics).to_list()
    ids = [load_tokens(WORLD / "model").retokenise([text])[0] for text in texts["text"][:2]]
    for rating, text in zip(ratings[:2], ids, strict=True):
        each = [concept_rating(oracle, text, number) for number, name in enumerate(topics) if name != "sea"]
        assert rating == pytest.approx(sum(each) / 31)
    assert ratings[1] > ratings[0]
    assert ratings[2:] == [None, None]
