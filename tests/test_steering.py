"""The edit as arithmetic, and the context manager that applies it."""

import pytest
import torch
from engine_models import FAMILIES, model_and_sae, tiny_model
from oracles import plain_hooks
from torch import Tensor, nn

from saesteer.engine.continuation import Steering
from saesteer.engine.hook_points import HookPoint, hook_point_of
from saesteer.engine.interventions import Addition
from saesteer.engine.models import LanguageModel, depth_of, residual_at
from saesteer.engine.saes import Sae
from saesteer.engine.steering import steering_of
from saesteer.engine.structure import Structure

IDS = torch.tensor([[1, 40, 41, 42], [1, 60, 61, 62]] * 16)


def last_positions(sae: Sae, n: int, factor: Tensor, hook_point: HookPoint | None = None) -> Steering:
    """P1's edit of n rows, each by the feature of its own number."""
    additions = [Addition(sae.W_dec[feature], None, "last") for feature in range(n)]
    lm = tiny_model("gemma2")
    return steering_of(lm, additions, torch.arange(n), factor, sae, hook_point or hook_point_of(lm, 0, "resid_post"))


def edited(steering: Steering, residual: Tensor, prompt_length: int = 1) -> Tensor:
    """What a block's output [row seq d_model] becomes."""
    lm = LanguageModel(None, None, Structure(nn.ModuleList([nn.Identity()]), nn.Linear(1, 1), (False,), 1.0, None))
    with steering.installed(lm, 0, prompt_length):
        return lm.blocks[0](residual)


def test_equals_decoding_the_edited_code_and_adding_the_error() -> None:
    _, sae = model_and_sae("llama", 1)
    residual = 3 * torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    steered = edited(last_positions(sae, 20, torch.linspace(0, 10, 20)), residual[:, None])[:, 0]
    for row in range(20):
        expected = plain_hooks.steered(sae, residual[row], row, float(torch.linspace(0, 10, 20)[row]))
        torch.testing.assert_close(steered[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layer", "hook_point"), [(2, "resid_post"), (2, "resid_pre"), (0, "resid_pre")])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_before_the_prompts_last_are_left_alone(family: str, layer: int, hook_point: str) -> None:
    lm, sae = model_and_sae(family, 1)
    depth = depth_of(lm, layer, hook_point)
    before = residual_at(lm, IDS, depth)
    with last_positions(sae, 32, torch.full((32,), 4.0), hook_point_of(lm, layer, hook_point)).installed(lm, 0, 3):
        during = residual_at(lm, IDS, depth)
    assert torch.equal(during[:, :2], before[:, :2])
    assert (during[:, 2:] != before[:, 2:]).any(dim=2).all()
    assert torch.equal(residual_at(lm, IDS, depth), before)
