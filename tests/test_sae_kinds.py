"""Every published kind of SAE, in its published form on a loopback hub, against sae-lens' own encode and the formula written out."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hub_fakes
import numpy as np
import pytest
import torch
from hub_server import Hub, serve_hub, use_hub
from safetensors.torch import load_file, save_file
from torch import Tensor

import saesteer
from saesteer.engine.sae_convert import convert_sae, fetch_and_convert
from saesteer.engine.saes import SaeMeta, decode, encode, load_sae, read_meta
from saesteer.settings import SaeSettings
from saesteer.sources.hub import HubError
from saesteer.sources.sae_sources import SaeSource, sae_source

D_MODEL, N_FEATURES = 16, 64


@dataclass(frozen=True)
class Kind:
    """A published kind: how an experiment names it, the maker of its fake, and the size of its residuals."""

    release: str  # of sae-lens' list, or a repository OWNER/NAME
    id: str
    layer: int
    make: Callable[..., Path]
    scale: float = 1.0
    hook_point: str = "resid_post"
    centred: bool = False
    factor: bool = False
    named: bool = True  # whether the maker is told the layer
    rows: str | None = None  # how rows are made alike in size before encoding


SCOPE, SCOPE_2 = hub_fakes.gemma_scope, hub_fakes.gemma_scope_2
SCOPE_2_TRANSCODER = functools.partial(SCOPE_2, transcoder=True)
OWN = functools.partial(hub_fakes.res_sm, hook_point="resid_post")
POST, PRE = "blocks.{layer}.hook_resid_post", "blocks.{layer}.hook_resid_pre"
CANONICAL, L0_54 = "layer_{layer}/width_16k/canonical", "layer_{layer}/width_16k/average_l0_54"
AFFINE = "layer_{layer}_width_16k_l0_big_affine"
SAE_BENCH = "sae_bench_pythia70m_sweep_topk_ctx128_0730"
KINDS = {
    "gemma_scope": Kind("gemma-scope-2b-pt-res-canonical", CANONICAL, 20, SCOPE, 7.0, named=False),
    "gemma_scope_2": Kind("gemma-scope-2-1b-pt-res-all", "layer_{layer}_width_16k_l0_small", 5, SCOPE_2, 30.0),
    "gemma_scope_att": Kind("gemma-scope-2b-pt-att-canonical", CANONICAL, 3, SCOPE, hook_point="hook_z", named=False),
    "gemma_scope_2_transcoder": Kind("gemma-scope-2-4b-pt-transcoders-all", AFFINE, 5, SCOPE_2_TRANSCODER, 20.0, "transcoder"),
    "llama_scope": Kind("llama_scope_lxr_8x", "l{layer}r_8x", 20, hub_fakes.llama_scope, 0.4, factor=True),
    "llama_scope_r1": Kind("llama_scope_r1_distill", "l{layer}r_800m_slimpajama", 3, hub_fakes.llama_scope_r1, 0.3, factor=True),
    "res_jb": Kind("gpt2-small-res-jb", PRE, 8, hub_fakes.res_jb, 3.0, "resid_pre", centred=True),
    "res_sm": Kind("pythia-70m-deduped-res-sm", POST, 3, hub_fakes.res_sm),
    "gemma_scope_1_transcoder": Kind("gemma-scope-2b-pt-transcoders", L0_54, 3, SCOPE, 2.0, "transcoder_normalized", named=False),
    "openai_v5": Kind("gpt2-small-resid-post-v5-32k", POST, 4, hub_fakes.openai_v5, 5.0, rows="layer_norm"),
    "mistral_wg": Kind("mistral-7b-res-wg", PRE, 16, hub_fakes.mistral_wg, 5.0, "resid_pre", rows="norm"),
    "gated_jh": Kind("llama-3-8b-it-res-jh", POST, 25, hub_fakes.gated_jh, 2.0),
    "saebench_topk": Kind(SAE_BENCH, POST + "__trainer_0", 3, hub_fakes.dictionary, 2.0),
    "own": Kind("someone/saes", "layer_{layer}", 2, OWN),
}


def settings_of(kind: Kind, **changes: Any) -> SaeSettings:
    source = {"repo" if "/" in kind.release else "release": kind.release, "id": kind.id, "hook_point": kind.hook_point}
    return SaeSettings(**({"d_model": D_MODEL, "n_features": N_FEATURES} | source | changes))


def made(kind: Kind, folder: Path) -> SaeSource:
    """The fake in a folder that stands for the repository."""
    source = sae_source(settings_of(kind), kind.layer)
    more: dict[str, Any] = {"layer": kind.layer} if kind.named else {}
    if kind.factor:
        more["factor"] = source.norm_scaling_factor
    kind.make(folder / source.folder, d_model=D_MODEL, n_features=N_FEATURES, scale=kind.scale, **more)
    return source


def convert(kind: Kind, tmp_path: Path, **changes: Any) -> SaeMeta:
    """Fetch and convert an SAE of a kind to tmp_path/sae.safetensors."""
    return fetch_and_convert(settings_of(kind, **changes), kind.layer, tmp_path / "cache", tmp_path / "sae.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serve_hub() as hub:
        use_hub(monkeypatch, hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "sae_lens"))  # sae-lens' own downloads
        yield hub


def by_sae_lens(source: SaeSource, folder: Path) -> Any:
    """sae-lens' SAE, downloaded by itself; Gemma Scope's guessed width is replaced, since the fake is smaller than any published one."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import gemma_2_sae_huggingface_loader, gemma_2_transcoder_huggingface_loader

    guessing = {"gemma_2": gemma_2_sae_huggingface_loader, "gemma_2_transcoder": gemma_2_transcoder_huggingface_loader}

    def small(cfg_overrides: dict[str, Any], **options: Any) -> Any:
        sizes = {"d_in": D_MODEL, "d_sae": N_FEATURES} | ({"d_out": D_MODEL} if source.loader == "gemma_2_transcoder" else {})
        return guessing[str(source.loader)](cfg_overrides=cfg_overrides | sizes, **options)

    converter = small if source.loader in guessing else None
    sae, _, _ = SAE.from_pretrained_with_cfg_and_sparsity(source.release, source.id, converter=converter)
    sae.turn_off_forward_pass_hook_z_reshaping()  # heads come side by side
    return sae.to(torch.float64)


def residuals(scale: float) -> Tensor:
    """Rows with a mean of their own, so that centring them shows."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5, 7, D_MODEL, generator=generator, dtype=torch.float64)
    return scale * (rows + torch.randn(5, 7, 1, generator=generator, dtype=torch.float64))


def written_out(name: str, folder: Path, factor: float | None, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Codes and decoder from the published tensors and the words of each release, without sae-lens."""
    if name in ("openai_v5", "saebench_topk"):
        file = folder / ("sae_weights.safetensors" if name == "openai_v5" else "ae.pt")
        t = {key: value.double() for key, value in (load_file(file) if name == "openai_v5" else torch.load(file)).items()}
        if name == "openai_v5":
            centred = x - x.mean(dim=-1, keepdim=True)
            x = centred / (centred.std(dim=-1, keepdim=True) + 1e-5)
        else:
            t |= {"W_enc": t["encoder.weight"].T, "b_enc": t["encoder.bias"], "W_dec": t["decoder.weight"].T}
        pre = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
        rank = (pre[..., None, :] > pre[..., None]).sum(dim=-1)  # how many are larger
        return pre.relu() * (rank < (7 if name == "openai_v5" else 6)), lambda codes: codes @ t["W_dec"] + t["b_dec"]
    if name == "gated_jh":
        t = {key: value.double() for key, value in load_file(folder / "sae_weights.safetensors").items()}
        z = (x - t["b_dec"]) @ t["W_enc"]
        return (z + t["b_gate"] > 0) * (z * t["r_mag"].exp() + t["b_mag"]).relu(), lambda codes: codes @ t["W_dec"] + t["b_dec"]
    if name == "mistral_wg":
        x = x * (D_MODEL**0.5 / x.norm(dim=-1, keepdim=True))
    if name.startswith("gemma_scope"):
        tensors = dict(np.load(folder / "params.npz")) if (folder / "params.npz").exists() else load_file(folder / "params.safetensors")
        t = {key.lower(): torch.as_tensor(value).double() for key, value in tensors.items()}
        pre = x @ t["w_enc"] + t["b_enc"]
        return pre * (pre > t["threshold"]), lambda codes: codes @ t["w_dec"] + t["b_dec"]
    if factor:
        file = "checkpoints/final.safetensors" if name == "llama_scope" else "sae_weights.safetensors"
        t = {key: value.double() for key, value in load_file(folder / file).items()}
        if name == "llama_scope":  # one threshold, in units of the raw residual
            threshold: Any = factor * json.loads((folder / "hyperparams.json").read_text())["jump_relu_threshold"]
        else:
            threshold = t["log_jumprelu_threshold"].exp()
        pre = (factor * x) @ t["encoder.weight"].T + t["encoder.bias"]
        return pre * (pre > threshold), lambda codes: (codes @ t["decoder.weight"].T + t["decoder.bias"]) / factor
    t = {key: value.double() for key, value in load_file(folder / "sae_weights.safetensors").items()}
    return ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu(), lambda codes: codes @ t["W_dec"] + t["b_dec"]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("name", KINDS)
def test_activations_equal_sae_lens_and_the_formula(name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, folder, out = KINDS[name], tmp_path / "repo", tmp_path / "sae.safetensors"
    source = made(kind, folder)
    (folder / source.folder / "decoy.pt").write_bytes(b"not wanted")
    commit = hub.add(source.repo, folder)
    theirs = by_sae_lens(source, folder)
    n_before = len(hub.requests)
    meta = convert(kind, tmp_path)
    ours, x = load_sae(out, "float64", "cpu"), residuals(kind.scale)
    read = x - x.mean(dim=-1, keepdim=True) if kind.centred else x
    codes = encode(ours, read)
    close(codes, theirs.encode(read))
    if kind.rows is None:  # else sae-lens gives back the size and the mean that it took
        close(decode(ours, codes), theirs.decode(codes))
    written, decoder = written_out(name, folder / source.folder, source.norm_scaling_factor, read)
    close(codes, written)
    close(decode(ours, codes), decoder(codes))
    assert 0.05 < (codes > 0).double().mean() < 0.5
    assert (meta.hook_point, meta.layer, meta.centred) == (kind.hook_point, kind.layer, kind.centred or kind.rows == "layer_norm")
    assert (meta.k, meta.scale) == (
        {"openai_v5": 7, "saebench_topk": 6}.get(name),
        {"layer_norm": "std", "norm": "rms", None: None}[kind.rows],
    )
    assert meta.source == f"{source.repo}@{commit}/{source.folder}"
    assert meta == read_meta(out)
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.float32}
    if "/" not in kind.release:
        assert saesteer.load_sae(source.release, source.id, device="cpu", cache_dir=tmp_path / "cache").meta == meta
    assert not any(path.endswith(("/decoy.pt", "/sparsity.safetensors")) for _, path, _ in hub.requests[n_before:])
    use_hub(monkeypatch, hub.url, offline=True)
    before = out.rename(tmp_path / "before")
    assert convert(kind, tmp_path) == meta
    assert out.read_bytes() == before.read_bytes()


def test_a_pinned_revision_is_what_is_converted(hub: Hub, tmp_path: Path) -> None:
    """sae-lens itself would take the newest files. What is current is not converted again."""
    kind, out = KINDS["res_sm"], tmp_path / "sae.safetensors"
    source = made(kind, tmp_path / "old")
    old = hub.add(source.repo, tmp_path / "old")
    hub_fakes.res_sm(tmp_path / "new" / source.folder, kind.layer, D_MODEL, N_FEATURES, seed=1)
    new = hub.add(source.repo, tmp_path / "new")
    pinned = convert(kind, tmp_path, revision=old)
    expected = load_file(tmp_path / "old" / source.folder / "sae_weights.safetensors")["W_dec"]
    assert torch.equal(load_file(out)["W_dec"], expected)
    written = out.stat().st_mtime_ns
    assert convert(kind, tmp_path, revision=old) == pinned
    assert out.stat().st_mtime_ns == written
    newest = convert(kind, tmp_path)
    assert (pinned.source, newest.source) == tuple(f"{source.repo}@{commit}/{source.folder}" for commit in (old, new))
    assert not torch.equal(load_file(out)["W_dec"], expected)


def test_a_folder_and_a_repository_of_ones_own_convert_alike(hub: Hub, tmp_path: Path) -> None:
    hub_fakes.sae_lens_form(
        tmp_path / "repo" / "layer_02",
        D_MODEL,
        N_FEATURES,
        "blocks.2.hook_resid_pre",
        metadata={"model_from_pretrained_kwargs": {"center_writing_weights": True}},
    )
    hub.add("someone/saes", tmp_path / "repo")
    common = {"d_model": D_MODEL, "n_features": N_FEATURES, "hook_point": "resid_pre"}
    own = SaeSettings(repo="someone/saes", id="layer_{layer:02d}", **common)
    fetched = fetch_and_convert(own, 2, tmp_path, tmp_path / "a.safetensors")
    local = convert_sae(tmp_path / "repo/layer_02", 2, "resid_pre", D_MODEL, N_FEATURES, tmp_path / "b.safetensors")
    assert (fetched.sha256, fetched.centred, fetched.architecture) == (local.sha256, local.centred, local.architecture)
    assert fetched.centred
    assert local.source == f"{tmp_path}/repo/layer_02"


@pytest.mark.parametrize("name", KINDS)
def test_an_sae_of_another_shape_is_refused_with_both(name: str, hub: Hub, tmp_path: Path) -> None:
    kind = KINDS[name]
    source = made(kind, tmp_path / "repo")
    hub.add(source.repo, tmp_path / "repo")
    for changes, message in (
        ({"d_model": 24}, r"width 16, but the model's width is 24 \(W_enc is 16 x 64, the experiment's SAE is 24 x 64\)"),
        ({"n_features": 48}, r"64 features, but 48 were asked for \(W_enc is 16 x 64, the experiment's SAE is 16 x 48\)"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(kind, tmp_path, **changes)
    assert not (tmp_path / "sae.safetensors").exists()
    if source.loader in ("sae_lens", "llama_scope", "llama_scope_r1_distill"):
        assert not any(path.startswith("/cdn/") for _, path, _ in hub.requests)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'; fold it into the weights"),
        ({"normalize_activations": "expected_average_only_in"}, "the constant that residuals are multiplied by is not published with it"),
        ({"architecture": "abstopk", "k": 5}, "architecture 'abstopk' is not supported; its activations have signs"),
        ({"architecture": "matryoshka_batchtopk", "k": 5}, "it is the form for training; save it with sae-lens' save_inference_model"),
        ({"architecture": "temporal"}, "its activations depend on the tokens before"),
        ({"metadata": {"hook_name": "blocks.2.hook_mlp_out"}}, "is at mlp_out of layer 2, but resid_post of layer 2 was asked for"),
        ({"metadata": {"hook_name": "blocks.2.hook_mlp_in"}}, "reads 'blocks.2.hook_mlp_in', which is none of the hook points"),
        ({"metadata": {"hook_name": "blocks.2.mlp.hook_in"}}, "reads 'blocks.2.mlp.hook_in' and writes to 'the same place'; supported are"),
        (
            {"metadata": {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}},
            "writes to 'blocks.3.hook_mlp_out'; supported are SAEs of one place, and transcoders from an MLP's input",
        ),
        (
            {"metadata": {"hook_name": "blocks.2.hook_resid_mid", "hook_name_out": "blocks.2.hook_mlp_out"}},
            "reads 'blocks.2.hook_resid_mid' and writes to 'blocks.2.hook_mlp_out'",
        ),
        (
            {"metadata": {"hook_name": "blocks.2.attn.hook_z", "model_from_pretrained_kwargs": {"fold_value_biases": True}}},
            "loaded with fold_value_biases, which changes what blocks.2.attn.hook_z is",
        ),
        ({"metadata": {"hook_name": "blocks.4.hook_resid_post"}}, "is at resid_post of layer 4, but resid_post of layer 2 was asked for"),
        ({"metadata": {"hook_name": None}}, "names no hook"),
        ({"activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu' is not supported"),
        ({"architecture": "magic"}, "architecture 'magic' is not supported"),
    ],
)
def test_what_the_configuration_tells_is_refused_before_the_weights(
    changes: dict[str, Any], message: str, hub: Hub, tmp_path: Path
) -> None:
    hub_fakes.sae_lens_form(tmp_path / "repo" / "layer_2", D_MODEL, N_FEATURES, "blocks.2.hook_resid_post", **changes)
    hub.add("someone/saes", tmp_path / "repo")
    with pytest.raises(ValueError, match=message):
        convert(KINDS["own"], tmp_path)
    assert not any(path.startswith("/cdn/") for _, path, _ in hub.requests)


def npz_with_a_pickle(folder: Path) -> None:
    tensors = dict(np.load(folder / "params.npz")) | {"b_dec": np.array([{"any": "object"}], dtype=object)}
    np.savez(folder / "params.npz", **tensors)


def factor_of_each_feature(folder: Path) -> None:
    """Early sae-lens files may hold a scaling_factor after fine-tuning; sae-lens 6 reads it only where it is 1."""
    file = folder / "sae_weights.safetensors"
    save_file(load_file(file) | {"scaling_factor": torch.full((N_FEATURES,), 1.5)}, file)


def no_weights(folder: Path) -> None:
    (folder / "checkpoints/final.safetensors").unlink()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("res_jb", factor_of_each_feature, "sae-lens cannot read it .*is it an SAE of this form"),
        ("gemma_scope", npz_with_a_pickle, "sae-lens cannot read it .*allow_pickle=False"),
        ("llama_scope", no_weights, r"has no \S*/checkpoints/final\.safetensors, which an SAE of this form \(llama_scope\) consists of"),
    ],
)
def test_files_that_cannot_be_used_are_refused(name: str, change: Callable[[Path], None], message: str, hub: Hub, tmp_path: Path) -> None:
    source = made(KINDS[name], tmp_path / "repo")
    change(tmp_path / "repo" / source.folder)
    hub.add(source.repo, tmp_path / "repo")
    with pytest.raises((ValueError, HubError), match=message):
        convert(KINDS[name], tmp_path)


def test_gemma_scope_2_is_read_without_its_configuration_and_leaves_sae_lens_as_it_was(hub: Hub, tmp_path: Path) -> None:
    """Some of its folders have none; sae-lens then goes by the folder's name."""
    from huggingface_hub import hf_hub_download
    from sae_lens.loading import pretrained_sae_loaders as loaders

    kind = KINDS["gemma_scope_2"]
    source = made(kind, tmp_path / "repo")
    (tmp_path / "repo" / source.folder / "config.json").unlink()
    hub.add(source.repo, tmp_path / "repo")
    assert convert(kind, tmp_path).architecture == "jumprelu"
    assert loaders.hf_hub_download is hf_hub_download
    assert loaders.get_safetensors_tensor_shapes.__module__ == loaders.__name__
