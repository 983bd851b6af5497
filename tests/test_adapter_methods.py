"""LoRA, LoReFT and fine-tuning: against peft, plain PyTorch loops and separately trained copies of the model."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, shipped_model, tiny_model
from methods_world import problem
from model_families import RUN
from oracles.plain_hooks import at_hook_point
from slow_vectors import slow_batches
from small_adapters import a_change, a_lora, a_loreft, hooks_of, left_as_it_was, model_of, peft_model, projection_of, rows_of, stepped
from torch import Tensor, nn

from saesteer.engine.adapters import (
    LowRankSubspace,
    LowRankWeights,
    WeightChange,
    adapter_layers,
    attention_output,
    changed_weights,
    weights_installed,
)
from saesteer.engine.hook_points import HookPoint
from saesteer.engine.interventions import Nothing, packed, unpacked
from saesteer.engine.models import LanguageModel
from saesteer.engine.steering import Intervention
from saesteer.methods.fit import lora, loreft, reps, sft
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.methods.fit.training import ReadText, losses_behind, token_losses
from saesteer.settings.registry import recipes_of

N_TEXTS = 24


# Where adapters go.


def test_layers_are_the_papers_on_its_model_and_as_deep_elsewhere() -> None:
    assert adapter_layers(26) == (5, 10, 15, 20)
    assert adapter_layers(8) == (2, 3, 5, 6)
    assert adapter_layers(2) == (0, 1)
    assert adapter_layers(1) == (0,)
    assert adapter_layers(42, recipes_of("google/gemma-2-9b-it")["lora"].layers) == (12, 20, 31, 39)


@pytest.mark.parametrize("family", ["shipped", *FAMILIES, *FURTHER_FAMILIES, "phi3", "bamba", "lfm2", "afmoe"])
def test_output_projection_is_found_in_every_family(family: str) -> None:
    """One without is refused: its attention ends in a map of experts."""
    lm = model_of(family)
    for layer in range(lm.n_layers):
        assert attention_output(lm, layer) is lm.model.get_submodule(projection_of(family, layer))
    with pytest.raises(ValueError, match=r"attention of layer 0 does not end in a linear map to 32 .*leave method lora out"):
        attention_output(tiny_model("jetmoe"), 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", [family for family in RUN if family != "jetmoe"])
def test_output_projection_of_every_family_has_its_usual_name(family: str) -> None:
    lm = tiny_model(family)
    names = {id(module): name for name, module in lm.model.named_modules()}
    found = [names[id(attention_output(lm, layer))] for layer in range(lm.n_layers)]
    assert {name.rpartition(".")[2] for name in found} <= {"o_proj", "out_proj", "dense", "c_proj"}
    assert not any("mlp" in name or "feed_forward" in name for name in found)


# LoRA against peft.


@pytest.mark.parametrize("family", ["shipped", "gemma2", "gpt_neox", "gpt2", "qwen3", "qwen3_5_text", "phi3", "bamba"])
@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0])
def test_lora_equals_pefts(family: str, factor: float) -> None:
    lm = model_of(family)
    ids, adapter = rows_of(lm), a_lora(lm)
    with torch.no_grad(), adapter.installed(lm, torch.full((5,), factor)):
        ours = lm.model(ids).logits
    with torch.no_grad():
        theirs = peft_model(lm, adapter, family, factor)(ids).logits
        unchanged = lm.model(ids).logits
    assert (theirs - unchanged).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["shipped", "gpt2", "qwen3_5_text"])
def test_lora_steps_with_a_cache_as_peft_does_without(family: str) -> None:
    """Every position is adapted, in the prompt and after it."""
    lm = model_of(family)
    ids, adapter = rows_of(lm), a_lora(lm)
    logits = stepped(lm, ids, lambda start: adapter.installed(lm, torch.ones(5), start, 6), prompt_length=6)
    with torch.no_grad():
        torch.testing.assert_close(logits, peft_model(lm, adapter, family)(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_trained_lora_is_as_good_as_pefts() -> None:
    """The same recipe in plain PyTorch over peft's module and Hugging Face's own loss."""
    given = problem(n_texts=N_TEXTS)
    generator = given.generator("lora")
    model = peft_model(given.lm, lora.new_adapter(given.lm, adapter_layers(8), generator), "shipped")
    _plain_training(
        model, [weight for weight in model.parameters() if weight.requires_grad], given, generator, rate=9e-4, forwards=2, epochs=24
    )
    ours = _loss(given, lora.fit(given).intervention)
    with torch.no_grad():
        assert float(_their_loss(model, given.positive)) == pytest.approx(ours, abs=2e-3)
    assert ours < _loss(given) - 0.1


# LoReFT against a loop over rows and positions.


def _looped_loreft(lm: LanguageModel, edit: LowRankSubspace, ids: Tensor, factors: Sequence[float], lengths: Sequence[int]) -> Tensor:
    """Each row alone, each position by itself."""
    return torch.stack([_looped_row(lm, edit, *row) for row in zip(ids, factors, lengths, strict=True)])


@torch.no_grad()
def _looped_row(lm: LanguageModel, one: LowRankSubspace, ids: Tensor, factor: float, length: int) -> Tensor:
    positions = sorted({*range(min(one.n_first, length)), *range(max(0, length - one.n_last), length)})

    def edit(h: Tensor, place: int) -> Tensor:
        h = h.clone()
        for position in positions:
            old = h[0, position].clone()
            target = one.W[place] @ old + one.b[place]
            h[0, position] = old + factor * (one.R[place].T @ (target - one.R[place] @ old))
        return h

    with ExitStack() as stack:
        for place, layer in enumerate(one.layers):
            stack.enter_context(at_hook_point(lm.model, layer, "resid_post", partial(edit, place=place)))
        return lm.model(ids[None]).logits[0]


@pytest.mark.parametrize("family", ["shipped", "gemma2_short_window", "gpt_neox", "gpt2", "qwen3_5_text"])
@pytest.mark.parametrize("length", [1, 4, 7, 10, 13])
def test_loreft_edits_the_first_and_last_prompt_positions_once(family: str, length: int) -> None:
    """Of rows with prompts of one length, and of their own."""
    lm = model_of(family)
    ids, edits, factors = rows_of(lm), a_loreft(lm, n_first=2, n_last=3), [1.0, 0.5, 0.0, -1.0, 2.0]
    for lengths in ([length] * 5, [length, 1, 4, 9, 13]):
        with torch.no_grad(), edits.edited(lm, torch.tensor(factors), 0, torch.tensor(lengths)):
            ours = lm.model(ids).logits
        torch.testing.assert_close(ours, _looped_loreft(lm, edits, ids, factors, lengths), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [3, 6, 11])
def test_loreft_steps_with_a_cache_and_leaves_what_follows_the_prompt_alone(length: int) -> None:
    """The prompt in one forward, or its last token in a forward of its own, as generation has it, or more of it token by token."""
    lm = shipped_model()
    ids, one = rows_of(lm), a_loreft(lm)
    wanted = _looped_loreft(lm, one, ids, [1.0] * 5, [length] * 5)
    for first in (length, length - 1, 2):
        logits = stepped(lm, ids, lambda start: one.installed(lm, torch.ones(5), start, length), prompt_length=first)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_loreft_trains_where_the_context_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training edits each text in its own context and scores what follows: its first loss is that of the loop."""
    given, installed, losses, edited = problem(n_texts=6), [], [], LowRankSubspace.edited

    def spied(one: LowRankSubspace, *args: Any) -> Any:
        installed.append(replace(one, R=one.R.detach().clone(), W=one.W.detach().clone(), b=one.b.detach().clone()))
        return edited(one, *args)

    def heard(lm: LanguageModel, hook_point: HookPoint, some: Sequence[ReadText]) -> Tensor:
        losses.append(losses_behind(lm, hook_point, some))
        return losses[-1]

    monkeypatch.setattr(LowRankSubspace, "edited", spied)
    monkeypatch.setattr(loreft, "losses_behind", heard)
    loreft.fit(given)
    parts = []
    for text in given.positive:
        (logits,) = _looped_loreft(given.lm, installed[0], torch.tensor([text.ids]), [1.0], [text.n_context])
        targets = torch.tensor(text.ids[text.n_context :])
        parts.append(nn.functional.cross_entropy(logits[text.n_context - 1 : -1], targets, reduction="none"))
    assert float(losses[0].detach().mean()) == pytest.approx(float(torch.cat(parts).mean()), abs=1e-4)
    assert len(losses) == len(installed) == 24


def test_loreft_takes_a_texts_beginning_for_a_prompt_where_it_has_none() -> None:
    """By hand: five tokens behind the first, or half of what there is; a prompt of its own stays."""
    texts = tuple(TrainingText(list(range(n)), n_context) for n, n_context in ((20, 1), (9, 1), (2, 1), (20, 3)))
    given = loreft.with_prompts(replace(problem(n_texts=6), positive=texts))
    assert [(len(text.ids), text.n_context) for text in given.positive] == [(20, 6), (9, 5), (2, 1), (20, 3)]


@pytest.mark.parametrize("fit", [loreft.fit, reps.loreft])
def test_edits_are_trained_where_they_act_though_texts_have_no_prompt(
    monkeypatch: pytest.MonkeyPatch, fit: Callable[[Problem], Any]
) -> None:
    given, lengths, edited = problem(n_texts=6), [], LowRankSubspace.edited

    def heard(one: LowRankSubspace, lm: LanguageModel, factor: Tensor, start: int, n_prompt: Tensor) -> Any:
        lengths.extend(n_prompt.tolist())
        return edited(one, lm, factor, start, n_prompt)

    monkeypatch.setattr(LowRankSubspace, "edited", heard)
    fit(replace(given, positive=tuple(replace(text, n_context=1) for text in given.positive)))
    assert min(lengths) > 1


# Changed weights.


@pytest.mark.parametrize("family", ["shipped", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_changed_weights_equal_a_model_that_has_them(family: str, factor: float) -> None:
    lm, ids = model_of(family), rows_of(model_of(family))
    change = a_change(lm)
    tuned = copy.deepcopy(lm.model)
    weights = {name: weight + factor * change.change[name] for name, weight in lm.model.named_parameters()}
    tuned.load_state_dict(weights, strict=False)
    with left_as_it_was(lm), torch.no_grad():
        before = lm.model(ids).logits
        with weights_installed(lm, changed_weights(lm, change, torch.full((5,), factor))):
            ours = lm.model(ids).logits
        assert torch.equal(lm.model(ids).logits, before)
    assert torch.equal(ours, tuned(ids).logits)
    assert (ours - before).abs().max() > 0.1


def test_weights_return_after_an_error_and_others_are_refused() -> None:
    lm = shipped_model()
    weights = changed_weights(lm, a_change(lm), torch.ones(2))
    with left_as_it_was(lm), pytest.raises(RuntimeError, match="on the way"), weights_installed(lm, weights):
        raise RuntimeError("on the way")
    broken = WeightChange({**a_change(lm).change, "model.norm.weight": torch.zeros(3)})
    with left_as_it_was(lm), pytest.raises(ValueError, match=r"model.norm.weight of shape \(3,\), but the model has \(128,\)"):
        changed_weights(lm, broken, torch.ones(2))
    with pytest.raises(ValueError, match="they belong to another model"):
        changed_weights(lm, WeightChange({"other.weight": torch.zeros(3)}), torch.ones(2))
    for factors in ([1.0, 2.0], []):
        with pytest.raises(ValueError, match=f"must share one factor, but there are {len(factors)}"):
            changed_weights(lm, a_change(lm), torch.tensor(factors))


@pytest.mark.parametrize("adapter", [a_lora, a_loreft])
def test_hooks_go_after_an_error(adapter: Callable[[LanguageModel], Any]) -> None:
    lm = shipped_model()
    before = hooks_of(lm)

    def fails() -> None:
        with installed(lm, adapter(lm), torch.ones(2), torch.tensor([8, 8])):
            assert hooks_of(lm) == before + 4
            raise RuntimeError("on the way")

    with left_as_it_was(lm), pytest.raises(RuntimeError, match="on the way"):
        fails()
    bad = replace(a_lora(lm), layers=(0, 1, 2, 99))
    with left_as_it_was(lm), pytest.raises(IndexError):
        bad.installed(lm, torch.ones(2)).__enter__()


def test_fine_tuning_equals_a_plain_loop() -> None:
    given = problem(n_texts=N_TEXTS)
    model = copy.deepcopy(given.lm.model).requires_grad_(True)
    _plain_training(model, list(model.parameters()), given, given.generator("sft"), rate=4e-5, forwards=4, epochs=8, clip=1.0)
    fitted = sft.fit(given).intervention
    assert set(fitted.change) == {name for name, _ in model.named_parameters()}
    assert not any("lm_head" in name for name in fitted.change)  # tied to the embeddings
    ids = rows_of(given.lm)
    with torch.no_grad(), weights_installed(given.lm, changed_weights(given.lm, fitted, torch.ones(5))):
        ours = given.lm.model(ids).logits
    with torch.no_grad():
        moved = float((model(ids).logits - given.lm.model(ids).logits).norm())
        assert float((ours - model(ids).logits).norm()) < 0.02 * moved


# All of them.


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora, loreft, sft])
def test_training_lowers_the_loss_and_leaves_the_model_alone(method: ModuleType) -> None:
    given = problem(n_texts=N_TEXTS)
    with left_as_it_was(given.lm), torch.no_grad():  # a fit asks for gradients itself
        fitted = method.fit(given).intervention
    before, after = _loss(given), _loss(given, fitted)
    assert after < before
    assert _loss(given, unpacked(fitted.kind, *packed(fitted))) == after
    assert _loss(given, fitted, factor=0.0) == pytest.approx(before, abs=1e-6)
    if isinstance(fitted, LowRankSubspace):
        torch.testing.assert_close(fitted.R @ fitted.R.mT, torch.eye(4).expand(4, 4, 4), rtol=0, atol=1e-5)
        assert (fitted.n_first, fitted.n_last) == (5, 5)


def installed(lm: LanguageModel, adapter: Intervention, factor: Tensor, lengths: Tensor | None = None) -> AbstractContextManager[None]:
    if isinstance(adapter, LowRankWeights):
        return adapter.installed(lm, factor)
    if isinstance(adapter, LowRankSubspace):
        return adapter.edited(lm, factor, 0, lengths)
    return weights_installed(lm, changed_weights(lm, adapter, factor)) if isinstance(adapter, WeightChange) else nullcontext()


@torch.no_grad()
def _loss(given: Problem, adapter: Intervention = Nothing(), factor: float = 1.0) -> float:  # noqa: B008
    """The loss of the positive texts' outputs, under an intervention, each text's prompt its own."""
    lengths = torch.tensor([text.n_context for text in given.positive])
    with installed(given.lm, adapter, torch.full((len(lengths),), factor), lengths):
        return float(token_losses(given.lm, given.positive).mean())


def _their_loss(model: Any, texts: Sequence[TrainingText]) -> Tensor:
    """Hugging Face's own loss, the context's labels masked."""
    width = max(len(text.ids) for text in texts)
    ids = torch.tensor([text.ids + [0] * (width - len(text.ids)) for text in texts])
    labels = torch.tensor([[-100] * t.n_context + t.ids[t.n_context :] + [-100] * (width - len(t.ids)) for t in texts])
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def _plain_training(
    model: Any,
    parameters: list[nn.Parameter],
    given: Problem,
    generator: torch.Generator,
    rate: float,
    forwards: int,
    epochs: int,
    clip: float | None = None,
) -> None:
    """AdamW over batches of 18, a step every `forwards` of them or at an epoch's end, its rate falling to 0."""
    model.eval()
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    steps = slow_batches(given.positive, 18 * forwards, epochs, generator)
    for number, texts in enumerate(steps):
        parts = [texts[start : start + 18] for start in range(0, len(texts), 18)]
        for group in optimizer.param_groups:
            group["lr"] = rate * (len(steps) - number) / len(steps)
        optimizer.zero_grad()
        torch.stack([_their_loss(model, part) for part in parts]).mean().backward()
        if clip is not None:
            norm = torch.stack([weight.grad.norm() for weight in parameters if weight.grad is not None]).norm()
            for weight in parameters:
                if weight.grad is not None:
                    weight.grad *= min(1.0, clip / float(norm))
        optimizer.step()


def test_a_text_whose_first_token_nothing_predicts_is_refused() -> None:
    with pytest.raises(ValueError, match="a text without context"):
        token_losses(tiny_model("gemma2"), [TrainingText([1, 2], 1), TrainingText([1, 2], 0)])
