"""Effects at multiples of their scale and at later layers, against a slow loop."""

import polars as pl
import pytest
import torch
from engine_models import model_and_sae, tiny_sae
from test_effects import SEED, assert_effects, prompts_of, rows_of, settings

from saesteer.core.tables import validate
from saesteer.methods.fit.effects import EffectRun, measured_effects
from studies.questions.further_effects import effects_at_later_layers, effects_at_multiples
from studies.questions.tables import EFFECTS_AT_LATER_LAYERS, EFFECTS_AT_MULTIPLES


@pytest.mark.slow
def test_effects_at_multiples_equal_a_slow_loop() -> None:
    lm, sae = model_and_sae("gemma2", 2)
    run = EffectRun(lm, sae, 2, prompts_of(lm, "gemma2"), settings(), SEED)
    table = pl.concat(measured_effects(run, rows_of(5, 1)))
    again = validate(EFFECTS_AT_MULTIPLES, pl.concat(effects_at_multiples(run, table, (1.0, 3.0))), "test")
    assert again.select("multiple", "vector").rows() == [(1, 1), (1, 5), (3, 1), (3, 5)]
    for column in ("direction", "effect"):
        same = torch.tensor(again.filter(multiple=1)[column].to_list())
        torch.testing.assert_close(same, torch.tensor(table[column].to_list()), atol=2e-4, rtol=1e-3)
    assert_effects(again.filter(multiple=3).with_columns(table["direction"]), run, multiple=3.0)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "hook_point"), [("gemma2", "resid_post"), ("gpt2", "resid_pre")])
def test_effects_at_later_layers_equal_a_slow_loop(family: str, hook_point: str) -> None:
    lm, sae = model_and_sae(family, 1, hook_point)
    readers = {2: tiny_sae(2, seed=5, n_features=40, hook_point=hook_point), 3: tiny_sae(3, seed=6, hook_point=hook_point)}
    run = EffectRun(lm, sae, 1, prompts_of(lm, family), settings(), SEED)
    table = pl.concat(measured_effects(run, rows_of(5, 1)))
    later = validate(EFFECTS_AT_LATER_LAYERS, pl.concat(effects_at_later_layers(run, readers, table)), "test")
    assert later.select("vector", "read_layer").rows() == [(1, 2), (5, 2), (1, 3), (5, 3)]
    for layer, reader in readers.items():
        assert_effects(later.filter(read_layer=layer), run, reader=reader)
