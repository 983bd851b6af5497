"""Converted SAEs against sae-lens' own, and one clear message for each thing that can be wrong with a file."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub_fakes
import pytest
import torch
from engine_models import WORLD, narrow, shipped_sae, tiny_model, tiny_sae
from oracles import plain_hooks
from safetensors.torch import load_file, save_file

from saesteer.engine import saes
from saesteer.engine.hook_points import sae_hook_point
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.saes import (
    Sae,
    checked_meta,
    decode,
    decoder_blocks,
    encode,
    largest_activation,
    load_sae,
    read_meta,
)

D_IN, D_SAE, LAYER = 16, 48, 3


def write_source(folder: Path, architecture: str = "jumprelu", **changes: Any) -> Path:
    """A random SAE in sae-lens' format, written without sae-lens."""
    return hub_fakes.sae_lens_form(folder, D_IN, D_SAE, f"blocks.{LAYER}.hook_resid_post", architecture=architecture, **changes)


def convert(source: Path, **changes: Any) -> Path:
    expected = {"layer": LAYER, "hook_point": "resid_post", "d_model": D_IN, "n_features": D_SAE} | changes
    out = source.parent / "converted" / "layer_03.safetensors"
    convert_sae(source, out=out, **expected)
    return out


def test_the_shipped_saes_convert_and_equal_sae_lens(tmp_path: Path) -> None:
    from sae_lens import SAE

    source = WORLD / "saes" / "layer_05"
    meta = convert_sae(source, 5, "resid_post", 128, 1024, tmp_path / "sae.safetensors")
    ours, theirs = load_sae(tmp_path / "sae.safetensors", "float32", "cpu"), SAE.load_from_disk(source, device="cpu", dtype="float32")
    residual = 20 * torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(encode(ours, residual), theirs.encode(residual))
    assert all(torch.equal(getattr(ours, name), getattr(shipped_sae(5), name)) for name in saes.TENSORS)
    assert (meta.layer, meta.hook_point, meta.architecture, meta.n_features) == (5, "resid_post", "jumprelu", 1024)


def test_matrices_in_eight_bits_are_read_in_full_and_refused_by_sae_lens(tmp_path: Path) -> None:
    from sae_lens import SAE

    source = write_source(tmp_path / "source")
    full = load_file(source / "sae_weights.safetensors")
    stored = {name: full[name] for name in ("b_enc", "threshold", "b_dec")}
    for name, rows in {"W_enc": full["W_enc"].T, "W_dec": full["W_dec"]}.items():
        scale = rows.abs().amax(1) / 127
        stored |= {f"{name}.int8": (rows / scale[:, None]).round().to(torch.int8).contiguous(), f"{name}.scale": scale}
    save_file(stored, source / "sae_weights.safetensors")
    read = load_sae(convert(source, d_model=D_IN), "float32", "cpu")
    for feature in range(D_SAE):  # by the form's definition, a feature at a time
        for name, row in {"W_enc": read.W_enc[:, feature], "W_dec": read.W_dec[feature]}.items():
            assert torch.equal(row, stored[f"{name}.int8"][feature].float() * stored[f"{name}.scale"][feature])
            whole = full[name][:, feature] if name == "W_enc" else full[name][feature]
            assert (row - whole).abs().max() <= stored[f"{name}.scale"][feature] * 0.501
    with pytest.raises(Exception, match="W_enc"):
        SAE.load_from_disk(source, device="cpu", dtype="float32")


def test_activations_by_hand() -> None:
    sae = tiny_sae(0, d_model=2, n_features=3)
    arrays = {"W_enc": [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]], "b_enc": [0.0, -1.0, 0.5], "threshold": [0.5, 0.0, 2.0]}
    sae = Sae(**{name: torch.tensor(array) for name, array in arrays.items()}, W_dec=sae.W_dec, b_dec=sae.b_dec, meta=sae.meta)
    residual = torch.tensor([[0.5, 0.5], [3.0, 1.5], [-1.0, 1.0]])
    # pre-activations: (.5 -.5 .5), (3 .5 2), (-1 0 -1.5); an activation must exceed its threshold, not equal it
    assert encode(sae, residual).tolist() == [[0, 0, 0], [3, 0.5, 0], [0, 0, 0]]
    assert largest_activation(sae, residual).tolist() == [0, 3, 0]
    assert largest_activation(sae, residual, block=2).tolist() == [0, 3, 0]
    assert torch.equal(encode(sae, residual[1]), plain_hooks.code_of(sae, residual[1]))


@pytest.mark.parametrize("hook_name", ["blocks.3.hook_resid_post", "model.layers.3", "gpt_neox.layers.3", "transformer.h.3"])
def test_spellings_of_a_hook(hook_name: str, tmp_path: Path) -> None:
    assert read_meta(convert(write_source(tmp_path / "source", metadata={"hook_name": hook_name}))).layer == 3


@pytest.mark.parametrize(
    ("expected", "changes", "message"),
    [
        ({"d_model": 128}, {}, "residuals of width 16, but the model's width is 128"),
        ({}, {"metadata": {"hook_name": "blocks.3.hook_resid_pre"}}, "is at resid_pre of layer 3, but resid_post of layer 3 was asked for"),
        ({"hook_point": "resid_late"}, {}, "is at resid_post of layer 3, but resid_late of layer 3 was asked for"),
        ({}, {"reshape_activations": "something"}, "reshape_activations is 'something'"),
    ],
)
def test_convert_refuses(expected: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        convert(source, **expected)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_convert_refuses_damaged_weights(bad: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    weights = source / "sae_weights.safetensors"
    sound = load_file(weights)
    for name in sound:
        damaged = {key: tensor.clone() for key, tensor in sound.items()}
        damaged[name].view(-1)[3] = float(bad)
        save_file(damaged, weights)
        with pytest.raises(ValueError, match=r"source: tensor \w+ is not finite in float32"):
            convert(source)
    save_file(sound, weights)
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors: not a readable safetensors file"):
        convert(source)
    weights.unlink()
    with pytest.raises(
        ValueError, match=r"source is no SAE in a form that is known here: it lacks source/sae_weights\.safetensors \(sae_lens\) or"
    ):
        convert(source)


def _rewrite_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_was_not_converted_is_refused(tmp_path: Path) -> None:
    """By whatever reads it: the whole SAE, some decoder rows, or its description before it is read in blocks."""
    out = convert(write_source(tmp_path / "source"))
    note, tensors, sound = out.with_suffix(".json"), load_file(out), out.read_bytes()
    assert checked_meta(out) == read_meta(out) == load_sae(out, "float32", "cpu").meta
    readers = (checked_meta, lambda path: load_sae(path, "float32", "cpu"))

    def refused(message: str) -> None:
        for reader in readers:
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                reader(out)

    for changed in (tensors["b_dec"] + 1, torch.full((D_IN,), float("nan"))):
        save_file(tensors | {"b_dec": changed}, out)
        refused(r"layer_03\.safetensors: its SHA-256 is .*; the file was changed")
    save_file(tensors | {"W_dec": tensors["W_dec"][:5].clone()}, out)
    refused(r"tensor W_dec has shape \(5, 16\), its JSON says \(48, 16\)")
    save_file({name: tensor for name, tensor in tensors.items() if name != "threshold"}, out)
    refused("tensor threshold is missing")
    out.write_bytes(sound[:-5])
    refused("not a readable safetensors file")
    out.unlink()
    refused(r"layer_03\.safetensors: no such file")
    out.write_bytes(sound)
    _rewrite_json(note, lambda content: content.pop("hook_point"))
    refused(r"layer_03\.json: keys must be")
    note.write_text("{")
    refused(r"layer_03\.json: not readable as JSON")
    note.unlink()
    refused(r"layer_03\.json: no such file; convert the SAE first")


@pytest.mark.parametrize("features", [list(range(48)), [47, 0, 1, 2, 5, 5, 4], list(range(0, 48, 3)), []])
@pytest.mark.parametrize("block", [1, 5, 48, 100])
def test_decoder_rows_in_blocks_are_the_rows(features: list[int], block: int, tmp_path: Path) -> None:
    out = convert(write_source(tmp_path / "source"))
    blocks = list(decoder_blocks(out, features, torch.device("cpu"), block))
    assert [len(rows) for rows in blocks] == [len(features[start : start + block]) for start in range(0, len(features), block)]
    expected = load_sae(out, "float32", "cpu").W_dec[features]
    assert torch.equal(torch.cat([torch.empty(0, D_IN), *blocks]), expected)


def test_the_thread_that_reads_ahead_ends_with_its_reader(tmp_path: Path) -> None:
    blocks = decoder_blocks(convert(write_source(tmp_path / "source")), range(48), torch.device("cpu"), 4)
    next(blocks)
    assert any(thread.name.startswith("decoder rows") for thread in threading.enumerate())
    blocks.close()
    assert not any(thread.name.startswith("decoder rows") for thread in threading.enumerate())


def test_decoder_rows_of_unit_norm_leave_the_sae_what_it_is(tmp_path: Path) -> None:
    """Against sae-lens' own folding of the decoder's norms."""
    from sae_lens import SAE

    source = write_source(tmp_path / "source")
    tensors = load_file(source / "sae_weights.safetensors")
    lengths = torch.linspace(0.5, 3, len(tensors["W_dec"]))
    save_file(tensors | {"W_dec": tensors["W_dec"] * lengths[:, None]}, source / "sae_weights.safetensors")
    folded = SAE.load_from_disk(source, device="cpu")
    folded.fold_W_dec_norm()
    unit = load_sae(convert(source, decoder_rows="unit"), "float32", "cpu")
    plain = load_sae(convert(source), "float32", "cpu")
    residual = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(D_SAE))
    with torch.no_grad():
        torch.testing.assert_close(encode(unit, residual), folded.encode(residual), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(decode(unit, encode(unit, residual)), decode(plain, encode(plain, residual)), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(largest_activation(unit, residual), largest_activation(plain, residual))
    assert (unit.meta.decoder_rows, plain.meta.decoder_rows) == ("unit", "as_trained")
    with pytest.raises(ValueError, match="TopK SAE would keep other activations .*set saes.decoder_rows to as_trained"):
        convert(write_source(tmp_path / "topk", "topk", k=4), decoder_rows="unit")


LAYER_NORM = ("bloom", "codegen", "falcon", "gpt2", "gpt_neo", "gpt_neox", "opt", "phi", "starcoder2")
RMS_NORM = ("gemma2", "gemma3_text", "glm4", "llama", "mistral", "olmo2", "phi3", "qwen3")


def test_a_centred_sae_is_given_rows_without_their_mean_where_the_model_has_layer_norm() -> None:
    residual = 3 * torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1)) + 5
    by_hand = residual - residual.sum(dim=-1, keepdim=True) / 32
    # A mean far larger than what is around it costs a bfloat16 residual nothing more than its own rounding.
    shifted = (residual + 100).bfloat16()
    exact = shifted.double() - shifted.double().mean(dim=-1, keepdim=True)
    for family in (*LAYER_NORM, *RMS_NORM):
        centred = sae_hook_point(tiny_model(family), 1, tiny_sae(1, centred=True).meta)
        assert centred.centred == (family in LAYER_NORM), family
        if centred.centred:
            torch.testing.assert_close(centred.given(residual), by_hand, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(centred.given(shifted).double(), exact, rtol=1e-4, atol=1e-4)
    for family in ("gpt2", "llama"):
        assert sae_hook_point(tiny_model(family), 1, tiny_sae(1).meta).given(residual) is residual
        assert sae_hook_point(narrow(tiny_model(family)), 1, tiny_sae(1, centred=True).meta).centred == (family == "gpt2")
