"""A comparison's pilot: every fit's factor 1 is where steering raises the loss of ordinary texts by so much."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import shipped_model, shipped_sae
from methods_world import problem
from small_adapters import a_lora, a_loreft
from test_damage import LAYER, ordinary

from saesteer.core.errors import SettingsError
from saesteer.engine import fit_pilot
from saesteer.engine.adapters import WeightChange
from saesteer.engine.damage import loss_rises
from saesteer.engine.fit_pilot import at_pilot_factor, pilot_factor
from saesteer.engine.interventions import ActivationEdit, Addition, ConditionalAddition, Nothing, Projection, PromptText, packed, unpacked
from saesteer.engine.steering import Intervention
from saesteer.methods.fit.fits import fitted_rows
from saesteer.settings import load_experiment
from saesteer.settings.load import experiment_of
from saesteer.settings.registry import key_of
from saesteer.steps.step import steps_of

ROOT = Path(__file__).parents[1]
LM, SAE = shipped_model(), shipped_sae(LAYER)


def kinds() -> dict[str, Intervention]:
    name, weight = next((name, weight) for name, weight in LM.model.named_parameters() if name.endswith("down_proj.weight"))
    return {
        "addition": Addition(torch.nn.functional.normalize(torch.ones(LM.d_model), dim=0), 4.0),
        "feature": Addition(SAE.W_dec[548] / SAE.W_dec[548].norm(), 8.0, features=(548,)),
        "edit": ActivationEdit(torch.tensor([548]), torch.tensor([8.0])),
        "lora": a_lora(LM),
        "loreft": a_loreft(LM),
        "weights": WeightChange({name: 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))}),
    }


@pytest.mark.parametrize("kind", kinds())
def test_at_factor_1_the_loss_of_ordinary_texts_has_risen_by_the_target(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_pilot, "HALVINGS", 10)
    target = 0.03 if kind == "weights" else 0.25  # no change of this one matrix costs more than .06
    made = at_pilot_factor(LM, SAE, kinds()[kind], ordinary(), target)
    rises = loss_rises(LM, SAE, made, [0.5, 1.0], ordinary())
    counted = torch.tensor([len(text) - 8 for text in ordinary()]).double()
    half, whole = ((rise * counted).sum() / counted.sum() for rise in rises)
    assert float(whole) == pytest.approx(target, rel=0.05)
    assert float(half) < 0.9 * target
    again = unpacked(made.kind, *packed(made))
    assert torch.equal(loss_rises(LM, SAE, again, [1.0], ordinary()), rises[1:])


def test_what_has_no_strength_stays_and_what_never_breaks_text_gets_the_end_of_the_range() -> None:
    for plain in (Nothing(), PromptText(("a",)), Projection(torch.ones(LM.d_model)), Addition(torch.ones(LM.d_model), None)):
        assert plain.scaled(2.0) is None
        assert at_pilot_factor(LM, SAE, plain, ordinary(), 1.0) is plain
    addition = kinds()["addition"]
    assert isinstance(addition, Addition)
    assert pilot_factor(LM, SAE, replace(addition, scale=0.0), ordinary(), 1.0) == 64
    assert pilot_factor(LM, SAE, replace(addition, scale=1e5), ordinary(), 0.1) == 1 / 64


@pytest.mark.parametrize("threshold", [-1.0, 2.0])
def test_a_condition_that_ordinary_texts_do_not_meet_does_not_make_the_addition_stronger(threshold: float) -> None:
    addition = kinds()["addition"]
    assert isinstance(addition, Addition)
    gated = ConditionalAddition(addition.vector, addition.scale, addition.vector, threshold, above=True)
    made = at_pilot_factor(LM, SAE, gated, ordinary(), 0.25)
    plain = at_pilot_factor(LM, SAE, addition, ordinary(), 0.25)
    assert isinstance(made, ConditionalAddition)
    assert isinstance(plain, Addition)
    assert made.scale == plain.scale


def test_a_fit_without_a_unit_keeps_its_bytes() -> None:
    plain = a_loreft(LM)
    assert '"unit"' not in packed(plain)[1]
    doubled = plain.scaled(2.0)
    assert doubled is not None
    rises = (loss_rises(LM, SAE, one, [factor], ordinary()) for one, factor in ((plain, 2.0), (doubled, 1.0)))
    assert torch.equal(*rises)


def comparison(**methods: Any) -> Any:
    plain = load_experiment("micro-methods", ROOT / "config/experiments")
    values = plain.model_dump(mode="json", exclude_unset=True)
    return experiment_of(values | {"methods": values["methods"] | methods})


def test_the_pilot_is_a_setting_of_the_fits_alone() -> None:
    plain, piloted = (steps_of(comparison(**more)) for more in ({}, {"pilot": {}}))
    assert "pilot" not in plain["fits"].settings
    assert {name for name in plain if plain[name].settings != piloted[name].settings} == {"fits"}
    assert set(piloted["fits"].inputs) - set(plain["fits"].inputs) == {"texts"}
    with pytest.raises(SettingsError, match="a strength is a multiple of a_max: set methods.pilot to null"):
        comparison(pilot={}, sae_features="last_position")


def test_fits_of_a_comparison_with_a_pilot_are_scaled() -> None:
    keys = pl.DataFrame(
        {"layer": [5, 5], "method": [key_of("diffmean"), "unsteered"], "concept_id": ["sea"] * 2}, schema_overrides={"layer": pl.UInt16}
    )
    given = problem("sea")
    texts = tuple(ordinary())
    with_pilot = replace(given, ordinary_texts=texts, loss_rise=0.5)
    plain, piloted = (pl.concat(fitted_rows(one, keys, ordinary()[:2])) for one in (given, with_pilot))
    before, after = (unpacked(*rows.select("kind", "tensors", "values").row(0)) for rows in (plain, piloted))
    assert isinstance(before, Addition)
    assert isinstance(after, Addition)
    assert after.scale == before.scale * pilot_factor(LM, given.sae, before, texts, 0.5)
    assert torch.equal(before.vector, after.vector)
    assert plain.row(1)[:6] == piloted.row(1)[:6]
