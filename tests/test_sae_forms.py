"""Forms and arithmetic of SAEs beyond JumpReLU on plain residuals: TopK, gated, rescaled inputs, sparsify, dictionary_learning, pickles.

Codes against sae-lens' own encode and the words of each release; steering against the edit of codes in the SAE's units, written out.
"""

# ruff: noqa: F811 (a fixture of another file)

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_fakes
import pytest
import torch
from engine_models import tiny_model, tiny_sae
from hub_server import Hub
from safetensors.torch import load_file, save_file
from test_sae_kinds import hub  # noqa: F401
from torch import Tensor

import saesteer
from saesteer.engine.hook_points import hook_point_of
from saesteer.engine.interventions import ActivationEdit, Addition, ConditionalClamp
from saesteer.engine.models import depth_of, residual_at
from saesteer.engine.sae_convert import convert_sae, fetch_and_convert
from saesteer.engine.sae_read import read
from saesteer.engine.saes import Sae, decode, encode, encode_some, largest_activation, largest_activation_in_file, load_sae, written_size
from saesteer.engine.steering import SteeredRows, steering_of
from saesteer.settings import SaeSettings
from saesteer.sources.hub import Fetched
from saesteer.sources.pins import sae_entry
from saesteer.sources.sae_sources import SaeSource

D, N, LAYER = 16, 64, 3
SPEC = {"layer": LAYER, "hook_point": "resid_post", "d_model": D, "n_features": N}


def rows(scale: float = 3.0, n: int = 40) -> Tensor:
    """Residuals with means of their own."""
    generator = torch.Generator().manual_seed(1)
    return scale * (torch.randn(n, D, generator=generator) + torch.randn(n, 1, generator=generator))


def converted(folder: Path, tmp_path: Path, **spec: Any) -> Sae:
    out = tmp_path / "out" / "sae.safetensors"
    convert_sae(folder, out=out, **SPEC | spec)
    return load_sae(out, "float32", "cpu")


def from_hub(tmp_path: Path, **settings: Any) -> Sae:
    """An SAE of the loopback hub."""
    named = SaeSettings(d_model=D, n_features=N, **settings)
    fetch_and_convert(named, LAYER, tmp_path / "cache", tmp_path / "sae.safetensors")
    return load_sae(tmp_path / "sae.safetensors", "float32", "cpu")


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance * float(theirs.detach().abs().max()))


# sae-lens' own folders: what it saves it loads, and its encode is the truth


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated"])
@pytest.mark.parametrize("folded", [True, False])
def test_codes_equal_sae_lens(architecture: str, normalisation: str, folded: bool, tmp_path: Path) -> None:
    from sae_lens import SAE

    scale = 3.0 if normalisation == "none" else 1.0
    more = {"k": 5, "rescale_acts_by_decoder_norm": not folded} if architecture == "topk" else {}
    folder = tmp_path / "source"
    config = {"architecture": architecture, "normalize_activations": normalisation, "apply_b_dec_to_input": folded, **more}
    hub_fakes.sae_lens_form(folder, D, N, f"blocks.{LAYER}.hook_resid_post", scale=scale, **config)
    weights = load_file(folder / "sae_weights.safetensors")
    if architecture == "gated":
        weights = hub_fakes.gated_weights(D, N, scale=scale)
    elif architecture == "jumprelu":
        weights["threshold"][::5] *= -1  # sae-lens' ReLU comes before the threshold
    else:
        weights["b_enc"] -= hub_fakes.random_weights(D, N, scale=scale)["threshold"]
    weights["W_dec"] = weights["W_dec"] * torch.linspace(0.5, 2, N)[:, None]
    save_file(weights, folder / "sae_weights.safetensors")
    # Small rows, where the input has one size: what is added to a standard deviation then shows.
    ours, theirs, x = converted(folder, tmp_path), SAE.load_from_disk(folder), rows(scale if normalisation == "none" else 0.01)
    codes = encode(ours, x)
    close(codes, theirs.encode(x))
    assert 0.02 < (codes > 0).float().mean() < 0.6
    close(encode_some(ours, x, [3, 60, 7]), codes[:, [3, 60, 7]])
    size = written_size(ours.meta, x)
    close(largest_activation(ours, x), codes.amax(dim=1) * size)
    close(largest_activation(ours, x, block=7), codes.amax(dim=1) * size)
    close(largest_activation_in_file(tmp_path / "out/sae.safetensors", x, block=7), codes.amax(dim=1) * size)
    # What a code writes: the difference that one more of it makes to sae-lens' reconstruction.
    theirs.encode(x)
    plain = theirs.decode(codes)
    theirs.encode(x)
    more_of_7 = theirs.decode(codes + torch.eye(N)[7])
    close(more_of_7 - plain, size[:, None] * ours.W_dec[7], 1e-4)
    if normalisation == "none":
        close(decode(ours, codes), plain)


def test_topk_by_hand(tmp_path: Path) -> None:
    sae = tiny_sae(0, d_model=2, n_features=3)
    arrays = {"W_enc": [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]], "b_enc": [0.0, 0.0, 0.5], "threshold": [0.0, 0.0, 0.0]}
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    sae = replace(sae, **tensors, meta=replace(sae.meta, architecture="topk", k=2))
    residual = torch.tensor([[0.5, 0.5], [3.0, 1.5], [-1.0, 1.0], [-1.0, -1.0]])
    # pre-activations: (.5 .5 .5): a tie, all are kept; (3 1.5 2); (-1 1 -1.5); (-1 -1 .5)
    assert encode(sae, residual).tolist() == [[0.5, 0.5, 0.5], [3, 0, 2], [0, 1, 0], [0, 0, 0.5]]
    assert largest_activation(sae, residual).tolist() == [0.5, 3, 1, 0.5]


def test_a_training_form_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(hook_name=f"blocks.{LAYER}.hook_resid_post")
    trained = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=N, k=5, metadata=metadata))
    trained.topk_threshold += 0.5
    trained.save_model(tmp_path / "training")
    with pytest.raises(ValueError, match="it is the form for training; save it with sae-lens' save_inference_model"):
        converted(tmp_path / "training", tmp_path)
    trained.save_inference_model(tmp_path / "inference")
    ours = converted(tmp_path / "inference", tmp_path)
    assert ours.meta.architecture == "jumprelu"
    assert float(ours.threshold[0]) == 0.5


# sparsify


def test_sparsify_by_its_formula(tmp_path: Path) -> None:
    """EleutherAI's SparseCoder.encode: relu(encoder(x - b_dec)), the k largest; sae-lens 6.54 reads its decoder transposed."""
    folder = hub_fakes.sparsify(tmp_path / "layers.3", D, N, scale=3.0)
    ours, x, t = converted(folder, tmp_path), rows(), load_file(folder / "sae.safetensors")
    pre = torch.nn.functional.linear(x - t["b_dec"], t["encoder.weight"], t["encoder.bias"]).relu()
    top = pre.topk(5, dim=1)
    close(encode(ours, x), torch.zeros_like(pre).scatter(1, top.indices, top.values))
    assert torch.equal(ours.W_dec, t["W_dec"])
    assert (ours.meta.k, ours.meta.architecture) == (5, "topk")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("layers.3", {"signed": True}, "signed is set in its cfg.json"),
        ("layers.3", {"transcode": True}, "transcode is set in its cfg.json"),
        ("layers.3", {"activation": "groupmax"}, "activation 'groupmax' is not supported; supported: topk"),
        ("layers.4", {}, "is at resid_post of layer 4, but resid_post of layer 3 was asked for"),
        ("lm_head", {}, "the folder names no hook point in a model; those of sparsify are called layers.10"),
    ],
)
def test_sparsify_refuses(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = hub_fakes.sparsify(tmp_path / name, D, N, **changes)
    with pytest.raises(ValueError, match=message):
        converted(folder, tmp_path)


# dictionary_learning, against sae-lens


def test_mwhannas_transcoders_equal_sae_lens(hub: Hub, tmp_path: Path) -> None:
    from sae_lens import SAE

    hub_fakes.transcoder_mw(tmp_path / "repo", LAYER, D, N, scale=3.0)
    hub.add("mwhanna/qwen3-4b-transcoders", tmp_path / "repo")
    theirs = SAE.from_pretrained("mwhanna-qwen3-4b-transcoders", f"layer_{LAYER}")
    ours = from_hub(tmp_path, release="mwhanna-qwen3-4b-transcoders", id="layer_{layer}", hook_point="transcoder")
    close(encode(ours, rows()), theirs.encode(rows()))
    assert 0.02 < (encode(ours, rows()) > 0).float().mean() < 0.6
    assert (ours.meta.hook_point, ours.meta.layer, ours.meta.architecture) == ("transcoder", LAYER, "transcoder")


@pytest.mark.parametrize(
    "kind", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"]
)
def test_dictionaries_equal_sae_lens(kind: str, hub: Hub, tmp_path: Path) -> None:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import dictionary_learning_sae_huggingface_loader_1

    hub_fakes.dictionary(tmp_path / "repo/trainer_0", LAYER, D, N, kind, scale=3.0)
    hub.add("someone/dictionaries", tmp_path / "repo")
    theirs = SAE.from_pretrained("someone/dictionaries", "trainer_0", converter=dictionary_learning_sae_huggingface_loader_1)
    ours, x = from_hub(tmp_path, repo="someone/dictionaries", id="trainer_0"), rows()
    close(encode(ours, x), theirs.encode(x))
    assert 0.02 < (encode(ours, x) > 0).float().mean() < 0.6
    assert converted(tmp_path / "repo/trainer_0", tmp_path).meta.sha256 == ours.meta.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dict_class": "CrossCoder"}, "dictionaries of class 'CrossCoder' are not supported; supported: AutoEncoder, "),
        ({"submodule_name": "mlp_out_layer_3"}, "is at mlp_module of layer 3, but resid_post of layer 3 was asked for"),
        ({"submodule_name": "somewhere"}, "reads 'somewhere', which is no known hook point"),
        ({"activation_dim": 24}, "width 24, but the model's width is 16"),
    ],
)
def test_what_sae_lens_would_not_notice_is_refused_before_the_weights(
    changes: dict[str, Any], message: str, hub: Hub, tmp_path: Path
) -> None:
    folder = hub_fakes.dictionary(tmp_path / "repo/trainer_0", LAYER, D, N, **changes)
    hub.add("someone/dictionaries", tmp_path / "repo")
    with pytest.raises(ValueError, match=message):
        from_hub(tmp_path, repo="someone/dictionaries", id="trainer_0")
    assert not any(path.startswith("/cdn/") for _, path, _ in hub.requests)
    with pytest.raises(ValueError, match=message):
        converted(folder, tmp_path)


# Pickled files


class _Runs:
    """What a pickle can do: call any function when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    write: Callable[[Any, Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = hub_fakes.dictionary(tmp_path / "source", LAYER, D, N), tmp_path / "it ran"
    state = torch.load(folder / "ae.pt", weights_only=True)
    write(state | {"bias": _Runs(ran)}, folder / "ae.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # with which torch.load would open anything, unless told otherwise
    with pytest.raises(ValueError, match=r"source: .*(its pickled weights hold more than tensors|cannot read it)") as caught:
        converted(folder, tmp_path)
    assert "\n" not in str(caught.value)
    assert not ran.exists()
    torch.load(folder / "ae.pt", weights_only=False) if write is torch.save else pickle.loads((folder / "ae.pt").read_bytes())  # noqa: S301
    assert ran.exists(), "the file is harmless: the test shows nothing"
    torch.save(torch.nn.Linear(D, N), folder / "ae.pt")
    with pytest.raises(ValueError, match=r"hold more than tensors \(torch\.nn\.modules\.linear\.Linear\), which can run code"):
        converted(folder, tmp_path)


def _one_file(loader: str, file: Path) -> None:
    weights = hub_fakes.random_weights(D, N, scale=3.0)
    weights["b_enc"] -= weights["threshold"]
    names = {"qwen_scope": ("W_enc", "W_dec", "b_enc", "b_dec")}
    names["goodfire"] = ("encoder_linear.weight", "decoder_linear.weight", "encoder_linear.bias", "decoder_linear.bias")
    names["deepseek_r1"] = ("encoder.weight", "decoder.weight", "encoder.bias", "decoder.bias")
    tensors = (weights["W_enc"].T, weights["W_dec"].T, weights["b_enc"], weights["b_dec"])
    torch.save(dict(zip(names[loader], map(Tensor.contiguous, tensors), strict=True)), file)


@pytest.mark.parametrize(
    ("loader", "repo", "file", "layer"),
    [
        ("qwen_scope", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "layer7.sae.pt", 7),
        ("goodfire", "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", 19),
        ("deepseek_r1", "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", 19),
    ],
)
def test_pickled_files_of_a_release_equal_the_formula(loader: str, repo: str, file: str, layer: int, tmp_path: Path) -> None:
    """sae-lens knows their sizes by name, so smaller ones are given as its list's corrections would be."""
    from saesteer.engine.sae_convert import plain

    _one_file(loader, tmp_path / file)
    sizes = {"d_in": D, "d_sae": N, "activation_fn_kwargs": {"k": 5}}
    source = SaeSource(repo, file, loader, "a release", "an id", None, overrides=sizes)
    made = plain(source.name, read(source, Fetched(tmp_path, repo, "", {file: ""})), None)
    ours = Sae(**made.tensors, meta=replace(tiny_sae(0).meta, d_model=D, n_features=N, k=made.k))
    weights, x = hub_fakes.random_weights(D, N, scale=3.0), rows()
    pre = (x @ weights["W_enc"] + weights["b_enc"] - weights["threshold"]).relu()
    if loader == "qwen_scope":
        pre = pre * (pre >= pre.topk(5, dim=1).values[:, -1:])
    close(encode(ours, x), pre)
    assert (made.spec.layer, made.spec.hook_point, made.k) == (layer, "resid_post", 5 if loader == "qwen_scope" else None)


def test_an_own_folder_of_plain_safetensors_needs_few_keys(tmp_path: Path) -> None:
    weights = hub_fakes.random_weights(D, N, scale=3.0)
    (tmp_path / "own").mkdir()
    save_file(weights, tmp_path / "own/sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": D, "d_sae": N, "apply_b_dec_to_input": False, "hook_name": "blocks.3.hook_resid_post"}
    (tmp_path / "own/cfg.json").write_text(json.dumps(config))
    ours, x = converted(tmp_path / "own", tmp_path), rows()
    pre = x @ weights["W_enc"] + weights["b_enc"]
    close(encode(ours, x), pre * (pre > weights["threshold"]))
    assert saesteer.load_sae(tmp_path / "own", device="cpu").meta.sha256 == ours.meta.sha256


def test_a_folder_of_no_form_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    save_file({"W_enc": torch.zeros(2, 3)}, tmp_path / "own/weights.safetensors")
    with pytest.raises(
        ValueError, match=r"own is no SAE in a form that is known here: it lacks own/cfg\.json and own/sae_weights\.safetensors"
    ):
        converted(tmp_path / "own", tmp_path)


# Steering


def special(k: int | None, scale: str | None) -> Sae:
    sae = tiny_sae(2, n_features=96)
    return replace(sae, meta=replace(sae.meta, k=k, scale=scale, centred=scale == "std"))


def codes_in_its_units(sae: Sae, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n_features] of one residual and its size, written out."""
    size, z = torch.tensor(1.0), residual
    if sae.meta.scale == "std":
        z = z - z.mean()
        size = (z.square().sum() / (len(z) - 1)).sqrt()
        z = z / (size + 1e-5)
    if sae.meta.scale == "rms":
        size = z.square().mean().sqrt()
        z = z / size
    pre = z @ sae.W_enc + sae.b_enc
    codes = pre * (pre > sae.threshold)
    if sae.meta.k:
        codes[codes.argsort(descending=True)[sae.meta.k :]] = 0
    return codes, size


KINDS = [(3, None), (None, "std"), (None, "rms"), (3, "std")]


@pytest.mark.parametrize(("k", "scale"), KINDS)
def test_additions_and_code_edits_are_in_units_of_the_residuals_size(k: int | None, scale: str | None) -> None:
    lm, sae = tiny_model("llama"), special(k, scale)
    residual = residual_at(lm, torch.tensor([[1, 5, 9, 4]] * 32), depth_of(lm, 2, "resid_post"))
    features = torch.tensor([4, int(encode(sae, residual[0, 3]).argmax()), 50])
    edit = ActivationEdit(features, torch.tensor([2.0, 0.5, 1.0]))
    which, factor = torch.zeros(32, dtype=torch.long), torch.full((32,), 1.5)
    rows = SteeredRows(lm, which, factor, sae, hook_point_of(lm, 2, "resid_post"))
    edited, clamped = (steering_of([one], rows).changed(residual, residual) for one in (edit, ConditionalClamp(features, None)))
    added = steering_of([Addition(sae.W_dec[7], None, "last")], rows)._added(residual, residual, 0)
    for position in range(4):
        codes, size = codes_in_its_units(sae, residual[0, position])
        change = sum((1.5 * float(value) - codes[f]) * size * sae.W_dec[f] for f, value in zip(features, edit.values, strict=True))
        close(edited[0, position] - residual[0, position], change, 1e-4)
        active = [f for f in features if codes[f] != 0]
        change = sum(((1.5 * codes.max() - codes[f]) * size * sae.W_dec[f] for f in active), torch.zeros(()))
        close(clamped[0, position], residual[0, position] + change, 1e-4)
        close(added[0, position] - residual[0, position], 1.5 * codes.max() * size * sae.W_dec[7], 1e-4)


def test_the_same_bytes_read_otherwise_are_another_sae(tmp_path: Path) -> None:
    sae, file = tiny_sae(0), tmp_path / "sae.safetensors"
    save_file({"W_dec": sae.W_dec}, file)
    entries = [vars(sae.meta) | changes for changes in ({}, {"k": 5}, {"scale": "std"}, {"centred": True})]
    assert len({sae_entry(one, file)["fingerprint"] for one in entries}) == 4
