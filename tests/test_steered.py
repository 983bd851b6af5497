"""`saesteer.steered` on twelve families against plain hooks, in whole forwards and in `generate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, tiny_model, tiny_sae
from oracles import plain_hooks
from small_adapters import hooks_of
from torch import Tensor

import saesteer

IDS = torch.tensor([[1, 5, 9, 7, 12], [1, 8, 6, 11, 4]])
FACTORS = {3: 2.0, 7: -1.5}


@contextmanager
def by_plain_hooks(model: Any, sae: saesteer.Sae, factors: dict[int, float], every_position: bool) -> Iterator[Any]:
    """The model with the formula of P1, section 3, in a hook: the sum over features, each by the a_max of the unsteered residual."""

    def change(residual: Tensor) -> Tensor:
        changed = residual.clone()
        for row in range(len(residual)):
            for position in range(residual.shape[1]) if every_position else [residual.shape[1] - 1]:
                before = residual[row, position]
                parts = [plain_hooks.steered(sae, before, feature, factor) - before for feature, factor in factors.items()]
                changed[row, position] = before + sum(parts)
        return changed

    with plain_hooks.at_hook_point(model, sae.meta.layer, sae.meta.hook_point, change):
        yield model


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
def test_logits_are_those_of_plain_hooks(family: str, positions: str) -> None:
    lm = tiny_model(family)
    sae, before = tiny_sae(1), hooks_of(lm)
    with torch.no_grad():
        unsteered = lm.model(IDS).logits
        with by_plain_hooks(lm.model, sae, FACTORS, positions == "all"):
            expected = lm.model(IDS).logits
        with saesteer.steered(lm.model, sae, FACTORS, positions=positions) as model:
            assert model is lm.model
            logits = model(IDS).logits
        assert torch.equal(lm.model(IDS).logits, unsteered)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (logits[:, -1] - unsteered[:, -1]).abs().max() > 0.01
    assert torch.equal(logits[:, :-1], unsteered[:, :-1]) is (positions == "last")
    assert hooks_of(lm) == before


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "qwen3"])
def test_generated_tokens_are_those_of_plain_hooks(family: str) -> None:
    lm = tiny_model(family)
    sae, greedy = tiny_sae(1), {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with by_plain_hooks(lm.model, sae, FACTORS, every_position=False) as model:
        expected = model.generate(IDS, **greedy)
    with saesteer.steered(lm, sae, FACTORS) as model:
        assert torch.equal(model.generate(IDS, **greedy), expected)
    assert not torch.equal(lm.model.generate(IDS, **greedy), expected)


def test_contexts_nest_over_layers() -> None:
    lm = tiny_model("llama")
    first, second = tiny_sae(0), tiny_sae(1)
    with torch.no_grad():
        with by_plain_hooks(lm.model, first, {3: 2.0}, True), by_plain_hooks(lm.model, second, {5: 1.0}, True):
            expected = lm.model(IDS).logits
        with saesteer.steered(lm.model, first, {3: 2.0}, positions="all") as outer:
            with saesteer.steered(outer, second, {5: 1.0}, positions="all") as model:
                torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
            with by_plain_hooks(lm.model, first, {3: 2.0}, True):
                pass
            inner_gone = outer(IDS).logits
        with by_plain_hooks(lm.model, first, {3: 2.0}, True):
            torch.testing.assert_close(inner_gone, lm.model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_hooks_go_with_an_exception_and_the_model_stays_as_it_is() -> None:
    lm = tiny_model("gemma2")
    sae, before = tiny_sae(1), hooks_of(lm)
    lm.model.requires_grad_(True)

    def interrupted() -> None:
        with saesteer.steered(lm.model, sae, FACTORS) as model:
            assert hooks_of(lm) > before
            assert all(weight.requires_grad for weight in model.parameters())
            model(IDS).logits.sum().backward()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interrupted()
    assert hooks_of(lm) == before
    assert lm.model.get_input_embeddings().weight.grad is not None


@pytest.mark.parametrize(
    ("features", "positions", "why"),
    [({}, "last", "nothing to steer with"), ({3: 1}, "first", "must be last or all"), ({9999: 1}, "last", "9999"), ({3: "x"}, "all", "x")],
)
def test_what_cannot_be_meant_is_refused(features: dict[int, Any], positions: str, why: str) -> None:
    lm = tiny_model("llama")
    with pytest.raises(ValueError, match=why), saesteer.steered(lm, tiny_sae(1), features, positions=positions):
        pass
