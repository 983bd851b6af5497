"""Loading, the residual hook points and the splice, against whole forwards of Hugging Face's models."""

from pathlib import Path

import pytest
import torch
from engine_models import D_MODEL, FAMILIES, model_and_sae, prompt_of, save_model, tiny_model
from oracles import plain_hooks
from safetensors.torch import load_file, save_file

from saesteer.core.errors import SettingsError
from saesteer.engine import head, models

EMPTY, ROW = models.Prefill((), (), 0), torch.zeros(1, D_MODEL)


@pytest.mark.parametrize("family", [*FAMILIES, "shipped"])
@pytest.mark.parametrize("n_tokens", [1, 2, 7])
def test_spliced_rows_give_the_whole_forwards_logits(family: str, n_tokens: int) -> None:
    """Any row, at any layer and hook point, for prompts shorter and longer than the short sliding window."""
    lm, sae = model_and_sae(family, 1)
    token_ids = (models.prompt_token_ids(lm, prompt_of(family)) * 2)[:n_tokens]
    prompt = models.prefill(lm, token_ids)
    last = lm.n_layers - 1
    for layer, hook_point in ((0, "resid_post"), (1, "resid_post"), (last, "resid_post"), (0, "resid_pre"), (2, "resid_pre")):
        depth = models.depth_of(lm, layer, hook_point)
        rows = models.residual_at(lm, torch.tensor([token_ids]), depth)[:, -1] + 3 * sae.W_dec[:5]
        logits = head.soft_capped(lm, head.raw_logits(lm, models.spliced_hidden(lm, prompt, depth, rows)))
        for row in range(5):
            assert (logits[row] - _logits_with_row(lm, token_ids, layer, hook_point, rows[row])).abs().max() < 2e-5


@torch.no_grad()
def _logits_with_row(lm: models.LanguageModel, token_ids: list[int], layer: int, hook_point: str, row: torch.Tensor) -> torch.Tensor:
    """Next-token logits of a whole forward whose residual at the hook point of that very block is `row` at the last position."""

    def put_in(residual: torch.Tensor) -> torch.Tensor:
        return torch.cat([residual[:, :-1], row[None, None]], dim=1)

    with plain_hooks.at_hook_point(lm.model, layer, hook_point, put_in):
        return lm.model(torch.tensor([token_ids])).logits[0, -1]


def test_blocks_that_are_not_needed_are_not_run() -> None:
    lm = tiny_model("llama")
    prompt = models.prefill(lm, [1, 40, 41])
    ran: list[int] = []
    handles = [
        block.self_attn.register_forward_hook(lambda *_args, number=number: ran.append(number)) for number, block in enumerate(lm.blocks)
    ]
    models.residual_at(lm, torch.tensor([[1, 40, 41]]), 0)
    assert ran == []
    models.residual_at(lm, torch.tensor([[1, 40, 41]]), 2)
    models.spliced_hidden(lm, prompt, 3, torch.zeros(1, lm.d_model))
    models.spliced_hidden(lm, prompt, 0, torch.zeros(1, lm.d_model))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 3, 0, 1, 2, 3]


def test_the_prompts_cache_is_never_written() -> None:
    lm, sae = model_and_sae("gemma2_short_window", 1)
    prompt = models.prefill(lm, models.prompt_token_ids(lm, "From ba be dibo"))
    before = [tensor.clone() for tensor in (*prompt.keys, *prompt.values)]
    for depth in range(lm.n_layers + 1):
        models.spliced_hidden(lm, prompt, depth, sae.W_dec)
    assert all(torch.equal(new, old) for new, old in zip((*prompt.keys, *prompt.values), before, strict=True))


@pytest.mark.parametrize("family", ["gemma2_short_window", "gpt2"])
def test_prompts_run_together_are_as_each_alone(family: str) -> None:
    """Of several lengths, one token included, in an order of their own, more of a length than share a forward."""
    lm = tiny_model(family)
    prompts = [[1, *range(40 + number, 40 + number + number % 4)] for number in range(140)]
    for ids, together in zip(prompts, models.prefills(lm, prompts), strict=True):
        alone = models.prefill(lm, ids)
        assert together.position == alone.position == len(ids) - 1
        assert len(together.keys) == len(together.values) == (lm.n_layers if len(ids) > 1 else 0)
        pairs = zip((*together.keys, *together.values), (*alone.keys, *alone.values), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert models.prefills(lm, []) == []


def test_blocks_get_their_forward_back_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_args: object) -> None:
        raise MemoryError("no memory")

    lm = tiny_model("gemma2")
    before = lm.model(torch.tensor([[1, 40]])).logits
    for depth in (0, 2):
        with pytest.raises(RuntimeError, match="inside"), models.spliced(lm, depth, torch.zeros(1, 1, lm.d_model)):
            raise RuntimeError("inside")
    with monkeypatch.context() as patched:
        patched.setattr(lm.blocks[3].mlp, "forward", failing)
        for run in (lambda: models.residuals_at(lm, torch.tensor([[1, 40]]), [0, 4]), lambda: models.spliced_hidden(lm, EMPTY, 0, ROW)):
            with pytest.raises(MemoryError):
                run()
    assert not any("forward" in block.__dict__ or block._forward_hooks or block._forward_pre_hooks for block in lm.blocks)
    assert torch.equal(lm.model(torch.tensor([[1, 40]])).logits, before)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_load_from_disk(family: str, tmp_path: Path) -> None:
    lm = tiny_model(family)
    loaded = models.load_language_model(save_model(lm, tmp_path / "model"), "float32", "cpu")
    ids = torch.tensor([models.prompt_token_ids(lm, "From ba be")])
    assert loaded.tokenizer("From ba be")["input_ids"] == ids[0].tolist()
    assert torch.equal(loaded.model(ids).logits, lm.model(ids).logits)
    with pytest.raises(SettingsError, match="dtype bfloat16 needs a GPU: .* Set dtype to float32"):
        models.load_language_model(tmp_path / "model", "bfloat16", "cpu")


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    path = save_model(tiny_model("llama"), tmp_path / "model")
    file = path / "model.safetensors"
    tensors = load_file(file)

    nan = {name: tensor.clone() for name, tensor in tensors.items()}
    nan["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(nan, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model: tensor model\.layers\.2\.mlp\.up_proj\.weight is not finite"):
        models.load_language_model(path, "float32", "cpu")

    missing = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
    save_file(missing, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of model\.norm\.weight .* are missing"):
        models.load_language_model(path, "float32", "cpu")

    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
        models.load_language_model(path, "float32", "cpu")

    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors file here"):
        models.load_language_model(path, "float32", "cpu")
