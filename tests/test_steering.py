"""The edit as arithmetic, and the context manager that applies it."""

import pytest
import torch
from engine_models import FAMILIES, model_and_sae, tiny_model
from oracles import plain_hooks
from torch import Tensor, nn

from saesteer.engine.amplify import amplify
from saesteer.engine.continuation import Steering
from saesteer.engine.interventions import Addition
from saesteer.engine.models import LanguageModel, depth_of, residual_at, residual_changed
from saesteer.engine.saes import Sae
from saesteer.engine.sites import Site, site_of
from saesteer.engine.steering import steering_of
from saesteer.engine.structure import Structure

IDS = torch.tensor([[1, 40, 41, 42], [1, 60, 61, 62]] * 16)


def last_positions(sae: Sae, n: int, factor: Tensor, site: Site | None = None) -> Steering:
    """P1's edit of n rows, each by the feature of its own number."""
    additions = [Addition(sae.W_dec[feature], None, "last") for feature in range(n)]
    lm = tiny_model("gemma2")
    return steering_of(lm, additions, torch.arange(n), factor, sae, site or site_of(lm, 0, "resid_post"))


def edited(steering: Steering, residual: Tensor, prompt_length: int = 1) -> Tensor:
    """What a block's output [row seq d_model] becomes."""
    lm = LanguageModel(None, None, Structure(nn.ModuleList([nn.Identity()]), nn.Linear(1, 1), (False,), 1.0, None))
    with steering.installed(lm, 0, prompt_length):
        return lm.blocks[0](residual)


def test_amplify_by_hand() -> None:
    residual = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    direction = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    steered = amplify(residual, direction, torch.tensor([2.0, 10.0]), torch.tensor([3.0, 0.5]))
    assert steered.tolist() == [[7.0, 2.0], [5.5, -1.0]]


def test_equals_decoding_the_edited_code_and_adding_the_error() -> None:
    _, sae = model_and_sae("llama", 1)
    residual = 3 * torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    steered = edited(last_positions(sae, 20, torch.linspace(0, 10, 20)), residual[:, None])[:, 0]
    for row in range(20):
        expected = plain_hooks.steered(sae, residual[row], row, float(torch.linspace(0, 10, 20)[row]))
        torch.testing.assert_close(steered[row], expected, rtol=1e-5, atol=1e-5)


def test_a_max_is_each_rows_own() -> None:
    """Neighbours do not enter, unlike in the authors' program, which takes the maximum over the batch too."""
    _, sae = model_and_sae("llama", 1)
    residual = 3 * torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    residual[0] *= 100
    factor = torch.full((40,), 10.0)
    steering = last_positions(sae, 40, factor)
    apart = edited(steering.take(torch.arange(1, 40)), residual[1:, None])
    assert torch.equal(edited(steering, residual[:, None])[1:], apart)


def test_factor_0_changes_nothing_exactly() -> None:
    _, sae = model_and_sae("llama", 1)
    residual = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(edited(last_positions(sae, 40, torch.zeros(40)), residual[:, None])[:, 0], residual)


@pytest.mark.parametrize(("layer", "site"), [(2, "resid_post"), (2, "resid_pre"), (0, "resid_pre")])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_before_the_prompts_last_are_left_alone(family: str, layer: int, site: str) -> None:
    lm, sae = model_and_sae(family, 1)
    depth = depth_of(lm, layer, site)
    before = residual_at(lm, IDS, depth)
    with last_positions(sae, 32, torch.full((32,), 4.0), site_of(lm, layer, site)).installed(lm, 0, 3):
        during = residual_at(lm, IDS, depth)
    assert torch.equal(during[:, :2], before[:, :2])
    assert (during[:, 2:] != before[:, 2:]).any(dim=2).all()
    assert torch.equal(residual_at(lm, IDS, depth), before)


class _TupleBlock(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        return hidden, "attention"


def test_a_block_may_put_out_a_tuple() -> None:
    block, hidden = _TupleBlock(), torch.zeros(2, 3, 4)
    lm = LanguageModel(None, None, Structure(nn.ModuleList([block]), nn.Linear(4, 4), (False,), 1.0, None, n_extras=1))
    with residual_changed(lm, 1, lambda residual: residual + 1):
        output, extra = block(hidden)
    assert extra == "attention"
    assert (output == 1).all()
    assert hidden.abs().max() == 0


@pytest.mark.parametrize("depth", [0, 2])
def test_the_hook_is_gone_after_an_exception_inside_and_in_the_edit(depth: int) -> None:
    lm = tiny_model("gemma2")
    before = lm.model(IDS).logits

    def broken(_residual: Tensor) -> Tensor:
        raise RuntimeError("in the edit")

    with pytest.raises(RuntimeError, match="in the edit"), residual_changed(lm, depth, broken):
        lm.model(IDS)
    with pytest.raises(KeyboardInterrupt), residual_changed(lm, depth, lambda residual: residual + 1):
        raise KeyboardInterrupt
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in lm.blocks)
    assert torch.equal(lm.model(IDS).logits, before)
